"""What every classical recommender offers, and how its scores become a distribution or a ranking."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Protocol

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

ENTRIES = 16_000_000
"""Numbers [rows, items] that are computed at once."""

AT_ONCE = 1024
"""Histories that are scored at once where the catalog is small."""

FITTED_ENTRIES, BINS = 100_000_000, 4096
"""Up to how many scores a temperature is fitted to them as they are; beyond, each row's are counted in so many bins."""


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
    histories, targets = rows["history"][:], torch.tensor(rows["target"][:])
    if len(rows) * model.score(histories[:1]).shape[1] > FITTED_ENTRIES:
        loss = _binned_loss(model, histories, targets)
    else:
        scores = model.score(histories).cpu()

        def loss(temperature: float) -> float:
            return F.cross_entropy(scores / temperature, targets).item()

    found = minimize_scalar(lambda log: loss(math.exp(log)), bounds=(-10.0, 10.0), method="bounded")
    return math.exp(found.x)


def _binned_loss(model: Recommender, histories: Histories, targets: Tensor) -> Callable[[float], float]:
    """The cross-entropy at a temperature, of the mean and the count of each row's scores in `BINS` even bins.

    With bins of the width w a row's log sum of exp(score / T) differs by less than (w / T)^2 / 8.
    """
    parts, start = [], 0
    for some, scores in scored(model, histories):
        of_target = scores.gather(1, targets[start : start + len(some)].to(scores.device).unsqueeze(1))
        low, high = scores.aminmax(dim=1, keepdim=True)
        bins = ((scores - low) / (high - low).clamp(min=1e-30) * BINS).long().clamp(max=BINS - 1)
        place = (bins + BINS * torch.arange(len(some), device=bins.device).unsqueeze(1)).flatten()
        count, total = (place.bincount(weights, BINS * len(some)) for weights in (None, scores.flatten()))
        parts.append((of_target[:, 0], (total / count.clamp(min=1)).view(-1, BINS), count.view(-1, BINS).log()))
        start += len(some)
    of_targets, means, log_counts = (torch.cat(column).cpu().double() for column in zip(*parts, strict=True))

    def loss(temperature: float) -> float:
        return ((means / temperature + log_counts).logsumexp(1) - of_targets / temperature).mean().item()

    return loss


def scored(model: Any, histories: Histories) -> Iterator[tuple[Histories, Any]]:
    """Some histories at a time and their scores `[b, items]`, so many that they fit into memory.

    The scores are sparse where the recommender has `sparse_scores` of the same arguments.
    """
    if hasattr(model, "sparse_scores"):
        score, rows = model.sparse_scores, AT_ONCE
    else:
        score, rows = model.score, rows_at_once(model.score(histories[:1]).shape[1])
    for start in range(0, len(histories), rows):
        some = histories[start : start + rows]
        yield some, score(some)


def rows_at_once(items: int) -> int:
    """How many rows of all items are computed at once."""
    return min(AT_ONCE, max(1, ENTRIES // items))


def rank(scores: Tensor | sparse.csr_matrix, exclude: Histories, k: int, seed: int = 0) -> np.ndarray:
    """The k best items of every row from best to worst, `[B, k]` int64, -1 where candidates run out.

    Equal scores are ordered by one random permutation of the items, drawn from `seed` and the same for all rows:
    item numbers can follow the order of the log, test part included, and must not decide a place. A row's ranking
    does not depend on the other rows.

    Args:
        scores: `[B, items]`; -inf marks an item that may not be recommended, and what a sparse matrix does not store is
            0.
        exclude: B lists of items that are not ranked, such as the user's history; `[[]] * B` excludes nothing.
        k: length of the lists.
        seed: of the permutation.

    Raises:
        InputError: `exclude` has another number of rows, or a score is NaN.
    """
    rows, items = scores.shape
    if len(exclude) != rows:
        raise InputError(f"{rows} rows of scores need as many lists to exclude, not {len(exclude)}.")
    stored = torch.from_numpy(scores.data) if sparse.issparse(scores) else scores
    if stored.isnan().any():
        raise InputError("A score is NaN, so its place is undefined.", remedy="Check that the recommender was fitted.")
    tie_order = np.random.default_rng(seed).permutation(items)  # [items]
    if sparse.issparse(scores):
        best = _best_of_sparse(scores, exclude, min(k, items), tie_order)
    else:
        best = _best(scores, exclude, min(k, items), torch.from_numpy(tie_order)).numpy()
    return np.pad(best, ((0, 0), (0, k - best.shape[1])), constant_values=-1)


def _best(scores: Tensor, exclude: Histories, k: int, tie_order: Tensor) -> Tensor:
    """The k best of `[B, items]`, -1 for what is excluded: `[B, k]`."""
    rows, items = scores.shape
    seen, lengths = flatten(exclude)
    masked = scores.detach().to("cpu", torch.float32, copy=True)  # [B, items]
    masked[np.repeat(np.arange(rows), lengths), seen] = -torch.inf
    value, item = masked.topk(min(k + 1, items))
    order = _sortable(value[:, :k], tie_order[item[:, :k]]).argsort(1, descending=True)
    best = item.gather(1, order)
    if items > k and (tied := (value[:, k - 1] == value[:, k]) & (value[:, k] > -torch.inf)).any():
        best[tied] = _sortable(masked[tied], tie_order).topk(k).indices  # topk chose among equal ones at will
    return best.masked_fill(masked.gather(1, best) == -torch.inf, -1)


def _best_of_sparse(scores: sparse.csr_matrix, exclude: Histories, k: int, tie_order: np.ndarray) -> np.ndarray:
    """`_best` of sparse scores: of the items that are not stored, those that come first among equal ones are enough."""
    by_tie = np.argsort(-tie_order)
    best = np.full((scores.shape[0], k), -1)
    for row, seen in enumerate(exclude):
        part = slice(scores.indptr[row], scores.indptr[row + 1])
        stored, values = scores.indices[part], scores.data[part]
        others = by_tie[: k + len(stored) + len(seen)]
        items = np.concatenate([stored, others[~np.isin(others, stored)]])
        value = np.concatenate([values, np.zeros(len(items) - len(stored), values.dtype)])
        allowed = ~np.isin(items, np.asarray(seen, np.int64)) & (value > -np.inf)
        items, value = items[allowed], value[allowed]
        first = np.lexsort((-tie_order[items], -value))[:k]
        best[row, : len(first)] = items[first]
    return best


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
