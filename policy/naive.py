"""The forward that everybody writes first, kept as the twin that the shared-prefix forward is checked against."""

import torch
from torch import Tensor

from interactions.prompts import PromptBatch
from policy.causal import CausalPolicy, inference
from policy.tree import prompt_positions


def naive_log_probs(policy: CausalPolicy, prompts: PromptBatch, items: Tensor) -> Tensor:
    """log_pf [B, K, L] of items [B, K] from K full rows per prompt: K (P + L - 1) tokens, plain causal attention."""
    (batch, count), trie = items.shape, policy.trie
    path = trie.path(items)
    branch = policy.tokens[path[..., 1:-1]].flatten(0, 1)  # [B * K, L - 1]
    mask = torch.cat([prompts.attention_mask.repeat_interleave(count, 0), torch.ones_like(branch)], 1)
    logits = policy.model(
        input_ids=torch.cat([prompts.input_ids.repeat_interleave(count, 0), branch], 1),
        attention_mask=mask,
        position_ids=prompt_positions(mask),
        logits_to_keep=trie.levels,
        use_cache=False,
    ).logits
    return policy.along(logits.unflatten(0, (batch, count)).unbind(-2), path)[0]


def check_shared_prefix(policy: CausalPolicy, prompts: PromptBatch, items: Tensor, tolerance: float) -> float:
    """The largest difference between the two forwards' log-probabilities.

    Raises RuntimeError above `tolerance`: the backbone then misreads the mask, and every loss would be wrong.
    """
    with inference(policy.model):
        shared = policy.log_probs(prompts, items).log_pf
        gap = (shared - naive_log_probs(policy, prompts, items)).abs().max().item()
    if not gap <= tolerance:
        raise RuntimeError(
            f"The shared-prefix forward differs from the naive one by {gap:.2e} in log-probability (at most "
            f"{tolerance:.0e} is rounding). This backbone does not honour 4-D attention masks; try "
            "attn_implementation='eager' or another backbone."
        )
    return gap
