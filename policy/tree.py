"""Attention over a prompt and the branches that grow from it."""

import torch
from torch import Tensor
from transformers import PreTrainedConfig


def additive_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What each query may read, [B, Q, T] bool, as a 4-D mask [B, 1, Q, T] that is added to the scores.

    Additive because eager attention silently misreads a boolean one.
    """
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill(~visible, torch.finfo(dtype).min).unsqueeze(1)


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
    real = torch.cat([attention_mask.bool(), attention_mask.new_ones(batch, total - prompt, dtype=torch.bool)], 1)
    # a padding token reads itself, or its softmax would be empty
    return (causal & same & real.unsqueeze(1)) | torch.eye(total, dtype=torch.bool, device=column.device)


def check_backbone(config: PreTrainedConfig, longest: int, branches: int, length: int) -> None:
    """Raise ValueError where this backbone would read a 4-D mask silently wrong.

    longest: tokens of the longest prompt, with `branches` branches of `length` tokens each behind it, all at the same
    positions. Sliding-window layers pass a 4-D mask through unchanged, so a row must fit the window; recurrent and
    linear layers take no mask; flash attention takes none of this shape.
    """
    row, last = longest + branches * length, longest + length
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    sliding = "sliding_attention" in kinds or (not kinds and getattr(config, "use_sliding_window", window is not None))
    if sliding and window is not None and row > window:
        raise ValueError(
            f"{config.model_type} has attention windows of {window} tokens but a row of {row}: branches that share "
            "a prompt would read the wrong tokens. Lower max_history or choose a backbone with full attention."
        )
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise ValueError(f"{config.model_type} has {sorted(unknown)} layers, which take no mask of shared prompts.")
    if config._attn_implementation not in ("sdpa", "eager"):
        raise ValueError(
            f"attn_implementation={config._attn_implementation!r} takes no mask of shared prompts. Set it to 'sdpa'."
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and last > positions:
        raise ValueError(
            f"A prompt and its branches need {last} positions; {config.model_type} has {positions}. "
            "Lower max_history or raise the backbone's positions."
        )
