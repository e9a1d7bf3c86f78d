"""What every classical recommender offers, and how its scores become a ranking."""

from collections.abc import Sequence
from itertools import chain
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Recommender(Protocol):
    """A fitted model that scores the whole catalogue for any history, also for users it never saw."""

    def score(self, histories: Sequence[Sequence[int]]) -> Tensor:
        """Score of every item, `[B, items]` float32, higher is better; the scale is the model's own.

        histories: B lists of items, oldest first; a list may be empty.
        """
        ...


def flatten(histories: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """All items of B lists in one array, and how many each list holds: `[events]`, `[B]`."""
    lengths = np.fromiter(map(len, histories), dtype=np.int64, count=len(histories))  # [B]
    items = np.fromiter(chain.from_iterable(histories), dtype=np.int64, count=lengths.sum())  # [events]
    return items, lengths


def rank(scores: Tensor, exclude: Sequence[Sequence[int]], k: int, seed: int = 0) -> np.ndarray:
    """The k best items of every row from best to worst, `[B, k]` int64, -1 where candidates run out.

    Equal scores are ordered by one random permutation of the items, drawn from `seed` and the same for all rows:
    item numbers can follow the order of the log, test part included, and must not decide a place. A row's ranking
    does not depend on the other rows.

    Args:
        scores: `[B, items]`; -inf marks an item that may not be recommended.
        exclude: B lists of items that are not ranked, such as the user's history; `[[]] * B` excludes nothing.
        k: length of the lists.
        seed: of the permutation.

    Raises:
        ValueError: `exclude` has another number of rows, or a score is NaN.
    """
    if len(exclude) != len(scores):
        raise ValueError(f"{len(scores)} rows of scores need as many lists to exclude, not {len(exclude)}.")
    if scores.isnan().any():
        raise ValueError("A score is NaN, so its place is undefined. Check that the recommender was fitted.")
    rows, items = scores.shape
    seen, lengths = flatten(exclude)
    masked = scores.detach().to("cpu", torch.float32, copy=True)  # [B, items]
    masked[np.repeat(np.arange(rows), lengths), seen] = -torch.inf
    tie_order = torch.from_numpy(np.random.default_rng(seed).permutation(items))  # [items]
    best = _sortable(masked, tie_order).topk(min(k, items)).indices  # [B, min(k, items)]
    best[masked.gather(1, best) == -torch.inf] = -1
    return np.pad(best.numpy(), ((0, 0), (0, k - best.shape[1])), constant_values=-1)


def _sortable(scores: Tensor, tie_order: Tensor) -> Tensor:
    """Distinct integers that sort like (score, tie_order), `[B, items]` int64.

    `topk` leaves the order of equal values open; with no equal values there is nothing left open.
    """
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0, its equal
    # The bits of positive floats sort like integers; those of negative ones sort in reverse until flipped.
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # [B, items]
    return (ordered.long() << 32) + tie_order
