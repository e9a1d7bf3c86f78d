"""What every classical recommender offers, and how its scores become a distribution or a ranking."""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Protocol

import numpy as np
import torch
from datasets import Dataset
from scipy import sparse
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from catalog.errors import InputError

Histories = Sequence[Sequence[int]]
"""B lists of items, oldest first; a list may be empty."""


class Recommender(Protocol):
    """A fitted model that scores the whole catalog for any history, also for users it never saw.

    `without` names what a model that counts must not have counted: B lists, the whole training sequence of the user
    behind each history, once. Counts over users contain the answer to every training history, and without the share of
    its user they do not. Models that count nothing ignore it.

    One that finds its best items without a row of all of them also has `top(histories, k, without) -> Top`; for others
    `recommenders.top.find_top` takes the best of the probabilities.
    """

    def score(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """Score of every item, `[B, items]` float32, higher is better; the scale is the model's own."""
        ...

    def probabilities(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """Probability that an item is the next one, `[B, items]` float32; rows sum to 1."""
        ...


def flatten(histories: Histories) -> tuple[np.ndarray, np.ndarray]:
    """All items of B lists in one array, and how many each list holds: `[events]`, `[B]`."""
    lengths = np.fromiter(map(len, histories), dtype=np.int64, count=len(histories))  # [B]
    items = np.fromiter(chain.from_iterable(histories), dtype=np.int64, count=lengths.sum())  # [events]
    return items, lengths


def occurrences(histories: Histories, items: int, decay: float = 1.0) -> sparse.csr_matrix:
    """How often each history holds each item, `[B, items]`; an event counts decay ** age, and the newest has age 0."""
    flat, lengths = flatten(histories)
    age = np.repeat(lengths.cumsum(), lengths) - 1 - np.arange(len(flat))  # [events]
    rows = np.repeat(np.arange(len(histories)), lengths)  # [events]
    return sparse.csr_matrix((decay**age, (rows, flat)), shape=(len(histories), items))


def proportional(scores: Tensor) -> Tensor:
    """Scores >= 0 as probabilities, `[B, items]`: each one's share of its row; all alike in a row of zeros."""
    total = scores.sum(-1, keepdim=True)  # [B, 1]
    return torch.where(total > 0, scores / total, 1 / scores.shape[-1])


def fit_temperature(model: Recommender, held_out: Dataset, users: int = 2000) -> float:
    """The T > 0 for which softmax(score / T) gives the held-out targets the highest likelihood.

    held_out: rows of `history` and `target`; at most `users` of them are read, evenly spaced.
    """
    rows = held_out.select(np.linspace(0, len(held_out) - 1, min(users, len(held_out)), dtype=int))
    scores, targets = model.score(rows["history"][:]).cpu(), torch.tensor(rows["target"][:])

    def loss(log_temperature: float) -> float:
        return F.cross_entropy(scores / math.exp(log_temperature), targets).item()

    return math.exp(minimize_scalar(loss, bounds=(-10.0, 10.0), method="bounded").x)


def rank(scores: Tensor, exclude: Histories, k: int, seed: int = 0) -> np.ndarray:
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
        InputError: `exclude` has another number of rows, or a score is NaN.
    """
    if len(exclude) != len(scores):
        raise InputError(f"{len(scores)} rows of scores need as many lists to exclude, not {len(exclude)}.")
    if scores.isnan().any():
        raise InputError("A score is NaN, so its place is undefined.", remedy="Check that the recommender was fitted.")
    rows, items = scores.shape
    seen, lengths = flatten(exclude)
    masked = scores.detach().to("cpu", torch.float32, copy=True)  # [B, items]
    masked[np.repeat(np.arange(rows), lengths), seen] = -torch.inf
    tie_order = torch.from_numpy(np.random.default_rng(seed).permutation(items))  # [items]
    best = _sortable(masked, tie_order).topk(min(k, items)).indices  # [B, min(k, items)]
    best[masked.gather(1, best) == -torch.inf] = -1
    return np.pad(best.numpy(), ((0, 0), (0, k - best.shape[1])), constant_values=-1)


def _sortable(scores: Tensor, tie_order: Tensor) -> Tensor:
    """Distinct integers that sort like (score, tie_order): `[B, items]` int64, for `topk`, which orders ties at will.

    The score is the upper half of each integer and the tie order the lower half. Read as integers, the bits of positive
    floats sort as the floats do. Those of negative floats sort in reverse, until all bits but the sign are flipped.
    """
    without_minus_zero = scores + 0.0  # -0.0 equals 0.0, but has other bits
    bits = without_minus_zero.view(torch.int32)
    all_but_sign = torch.iinfo(torch.int32).max
    flipped = bits.bitwise_xor(all_but_sign)
    upper = bits.where(bits >= 0, flipped).long()  # [B, items]
    return upper * 2**32 + tie_order
