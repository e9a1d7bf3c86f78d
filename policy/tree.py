"""Attention over a prompt and the branches that grow from it."""

import torch
from torch import Tensor


def additive_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What each query may read, [B, Q, T] bool, as a 4-D mask [B, 1, Q, T] that is added to the scores.

    Additive because eager attention silently misreads a boolean one. Its rows lie 8 numbers or a multiple apart, or a
    GPU's attention would copy it in every layer to make them.
    """
    columns = visible.shape[-1]
    mask = torch.zeros(*visible.shape[:-1], -(-columns // 8) * 8, dtype=dtype, device=visible.device)[..., :columns]
    return mask.masked_fill_(~visible, torch.finfo(dtype).min).unsqueeze(1)


def prompt_positions(attention_mask: Tensor) -> Tensor:
    """Position ids of left-padded prompts: [B, P] -> [B, P], 0 on padding and on the first token."""
    return (attention_mask.cumsum(1) - 1).clamp(min=0)


def branch_visibility(attention_mask: Tensor, branches: int, length: int) -> Tensor:
    """Who reads whom in rows [prompt | branch 1 | ... | branch K], each branch `length` tokens: [B, T, T] bool.

    attention_mask [B, P]; T = P + K * length. The prompt is causal; a branch reads the prompt and itself.
    """
    batch, prompt = attention_mask.shape
    total = prompt + branches * length
    column = torch.arange(total, device=attention_mask.device)
    branch = torch.where(column < prompt, -1, (column - prompt) // max(length, 1))  # [T], -1 in the prompt
    causal = column.unsqueeze(1) >= column
    same = (branch.unsqueeze(1) == branch) | (branch == -1)
    mask = torch.cat([attention_mask.bool(), attention_mask.new_ones(batch, total - prompt, dtype=torch.bool)], 1)
    # a padding token reads itself, or its softmax would be empty
    return (causal & same & mask.unsqueeze(1)) | torch.eye(total, dtype=torch.bool, device=column.device)
