"""How much memory there is, for what is refused before it starts."""

import psutil
import torch


def memory_left(device: torch.device) -> int:
    """Free bytes of a GPU, or of main memory."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
