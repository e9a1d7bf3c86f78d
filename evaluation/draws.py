"""What a few independent draws from the policy show a user, in expectation: no draw is made."""

import torch
from torch import Tensor

DRAWS = 10
"""How many draws stand for what a user is shown."""


def chance_to_show(log_prob: Tensor, draws: int = DRAWS) -> Tensor:
    """Probability that at least one of the draws is what has this log-probability, 1 - (1 - p)^draws; any shape."""
    return -(draws * torch.log1p(-log_prob.exp().clamp(max=1.0))).expm1()


def draw_metrics(log_target: Tensor, log_first: Tensor) -> dict[str, Tensor]:
    """What the draws of each user show, [B] each.

    log_target [B], log P_F of the target's semantic ID; log_first [B, C], log P_F of every first code, -inf where there
    is none.
    """
    return {
        f"drawn_recall@{DRAWS}": chance_to_show(log_target),
        f"drawn_first_codes@{DRAWS}": chance_to_show(log_first).sum(-1),
    }
