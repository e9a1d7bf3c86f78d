"""The shared-prefix forward against its plain twin."""

from torch import Tensor

from catalog.errors import RunError
from interactions.prompts import PromptBatch
from policy.base import TriePolicy, inference


def check_shared_prefix(policy: TriePolicy, prompts: PromptBatch, items: Tensor, tolerance: float) -> float:
    """The largest difference between the two forwards' log-probabilities.

    Raises RunError above `tolerance`: the backbone then misreads the mask, and every loss would be wrong.
    """
    with inference(policy.model):
        shared = policy.log_probs(prompts, items).log_pf
        gap = (shared - policy.naive_log_probs(prompts, items)).abs().max().item()
    if not gap <= tolerance:
        raise RunError(
            f"The shared-prefix forward differs from the naive one by {gap:.2e} in log-probability (at most "
            f"{tolerance:.0e} is rounding).",
            remedy="This backbone does not honour 4-D attention masks; try attn_implementation='eager' or another "
            "backbone.",
        )
    return gap
