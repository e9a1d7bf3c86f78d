"""How sure a recommender is of one user's next item, and the weights of a mixture that follow it."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from datasets import Dataset
from torch import Tensor

from recommenders.base import Recommender, rows_at_once
from recommenders.top import Top


class Shares(NamedTuple):
    """Of each part the weight, and how its share grows with its confidence: see `Mixture`."""

    weights: dict[str, float]
    slopes: dict[str, float]


def confidence(probabilities: Tensor) -> Tensor:
    """1 - entropy / log(items), `[B, items] -> [B]`: 0 where all items are alike, 1 where one has all."""
    return 1 - torch.special.entr(probabilities).sum(-1) / math.log(max(2, probabilities.shape[-1]))


def confidence_of_top(top: Top, items: int) -> Tensor:
    """The same [B] of a recommender's best ones among `items`, as if the others shared the rest of the mass evenly."""
    rest = (1 - top.probabilities.sum(-1)).clamp(min=0)
    others = max(1, items - top.items.shape[-1])
    entropy = torch.special.entr(top.probabilities).sum(-1) + torch.special.entr(rest / others) * others
    return 1 - entropy / math.log(max(2, items))


def fit_shares(parts: Mapping[str, Recommender], held_out: Dataset, *, by_confidence: bool) -> Shares:
    """The shares that give the held-out targets the highest likelihood, by confidence or without (slopes 0).

    held_out: rows of `history` and `target`, all of which are read. A target that no part thinks possible decides
    nothing. As in arXiv 2603.19809 a model weighs more for users of whom it is sure, but how much more is fitted.
    """
    chances, sure = _asked(parts, held_out)  # [rows, parts] each
    log_weights = torch.zeros(len(parts), dtype=torch.float64, requires_grad=True)
    slopes = torch.zeros(len(parts), dtype=torch.float64, requires_grad=True)
    fitted = [log_weights, slopes] if by_confidence else [log_weights]
    search = torch.optim.LBFGS(fitted, max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        likelihood = ((log_weights + slopes * sure).softmax(1) * chances).sum(1)
        value = -likelihood.clamp(min=1e-12).log().mean()
        value.backward()
        return value

    search.step(loss)
    weights = log_weights.detach().softmax(0)
    return Shares(dict(zip(parts, weights.tolist(), strict=True)), dict(zip(parts, slopes.tolist(), strict=True)))


def _asked(parts: Mapping[str, Recommender], held_out: Dataset) -> tuple[Tensor, Tensor]:
    """The probability of each row's target and the confidence of each part, `[rows, parts]` float64."""
    chances, sure = [], []
    rows = held_out.select_columns(["history", "target"])
    items = max(part.probabilities(rows["history"][:1]).shape[1] for part in parts.values())
    for batch in rows.iter(rows_at_once(items)):
        target = torch.tensor(batch["target"]).unsqueeze(1)
        answers = [part.probabilities(batch["history"]).cpu() for part in parts.values()]
        chances.append(torch.cat([answer.gather(1, target) for answer in answers], 1))
        sure.append(torch.stack([confidence(answer) for answer in answers], 1))
    return torch.cat(chances).double(), torch.cat(sure).double()
