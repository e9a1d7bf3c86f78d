"""A penalty for misses that the policy thought likely."""

import torch
from torch import Tensor

from catalog import PADDING, Catalog, Trajectories
from interactions.prompts import PromptBatch
from rewards.hit import Hit


class Rank:
    """The rank penalty of MiniOneRec (arXiv 2510.24431): the likelier a miss was, the more it costs.

    r[b, k] = -d(i) / sum_{j < K'} d(j) for a miss,  0 for a hit,  d(i) = 1 / log2(i + 2)

    i = 0, 1, ... is the trajectory's place among the K' of the prompt's slots that are not empty, by descending
    probability under the policy that drew them. Those that no policy drew come behind all others, in the order of their
    slots. A hit has the target's semantic ID. Where no trajectory of a prompt hits, all have 0, as empty slots do.
    """

    signed = True
    """Values lie below 0, see `Reward`."""

    def __init__(self, catalog: Catalog) -> None:
        self.hit = Hit(catalog)

    def __call__(self, batch: PromptBatch, trajectories: Trajectories) -> Tensor:
        mask = trajectories.source != PADDING  # [B, K]
        discount = (_places(trajectories.log_pf.sum(-1), mask) + 2).log2().reciprocal() * mask
        hit = self.hit(batch, trajectories).bool() & mask
        costs = mask & ~hit & hit.any(1, keepdim=True)
        return (-discount / discount.sum(1, keepdim=True)).where(costs, 0.0)


def _places(log_p: Tensor, mask: Tensor) -> Tensor:
    """The place of each slot by descending log_p [B, K], NaN behind all numbers, empty slots behind these: [B, K]."""
    drawn = mask & ~log_p.isnan()
    by_log_p = log_p.where(drawn, -torch.inf).argsort(dim=1, descending=True, stable=True)
    group = mask.long() + drawn.long()  # 2 drawn, 1 given, 0 empty
    by_group = group.gather(1, by_log_p).argsort(dim=1, descending=True, stable=True)
    return by_log_p.gather(1, by_group).argsort(dim=1)
