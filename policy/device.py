"""Where a process that works alone computes."""

import logging
from functools import cache

import torch

logger = logging.getLogger(__name__)


def one_device() -> torch.device:
    """The first GPU, else the CPU."""
    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        say_one_gpu()
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


@cache
def say_one_gpu() -> None:
    """Log, once, that one GPU of several is used."""
    logger.warning(
        "%d GPUs are visible and one process was started: it uses the first. accelerate launch uses them all.",
        torch.cuda.device_count(),
    )
