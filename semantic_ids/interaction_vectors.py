"""Item vectors from interactions alone, for catalogs without text."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from scipy import sparse
from scipy.sparse.linalg import svds

from catalog.errors import InputError
from interactions import Splits, training_sequences
from interactions.rows import arrow_column
from recommenders.base import flatten
from recommenders.factors import ALS
from recommenders.sasrec import SASRec

EXACT_ITEMS = 50_000
"""Up to so many items vectors of co-occurrence come from an exact SVD."""


def cooccurrence_vectors(
    histories: Sequence[Sequence[int]] | pa.ListArray,
    items: int,
    *,
    dimensions: int = 64,
    window: int = 10,
    decay: float = 0.8,
) -> np.ndarray:
    """Unit item vectors [items, dimensions]: items are near each other if users take them soon after one another.

    A truncated SVD of the positive pointwise mutual information of items at most `window` places apart in a history, a
    pair j places apart counting decay ** (j - 1); scaled as in Levy and Goldberg, NeurIPS 2014. Up to `EXACT_ITEMS` it
    is ARPACK's; beyond, that of Halko et al., SIAM Review 2011, from random vectors and two power iterations. Items
    that occur nowhere get the zero vector. Raises InputError unless dimensions < items.
    """
    if dimensions >= items:
        raise InputError(f"{dimensions} dimensions for {items} items.", remedy="Ask for fewer dimensions than items.")
    counts = _nearby(histories, items, window, decay)
    twice = 1.0 + (counts.row == counts.col)
    margin = np.bincount(counts.row, counts.data, items) + np.bincount(counts.col, counts.data, items)
    pmi = np.log(counts.data * twice * margin.sum() / (margin[counts.row] * margin[counts.col]))
    kept = pmi > 0
    half = sparse.csr_matrix(((pmi / twice)[kept], (counts.row[kept], counts.col[kept])), counts.shape)
    left, singular = (_exact_svd if items <= EXACT_ITEMS else _random_svd)(half, dimensions)
    vectors = left * np.sqrt(singular)
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _exact_svd(half: sparse.csr_matrix, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest singular values [d] of half + half.T [items, items], and their vectors [items, d]."""
    left, singular, _ = svds(half + half.T, dimensions, random_state=0)
    return left, singular


def _random_svd(half: sparse.csr_matrix, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """The same, nearly."""
    half = half.astype(np.float32)
    span = np.random.default_rng(0).standard_normal((half.shape[0], dimensions + 16), np.float32)
    for _ in range(3):
        span, _ = np.linalg.qr(half @ span + half.T @ span)
    values, turned = np.linalg.eigh(span.T @ (half @ span + half.T @ span))
    largest = np.abs(values).argsort()[-dimensions:]
    return span @ turned[:, largest], np.abs(values[largest])


def _nearby(
    histories: Sequence[Sequence[int]] | pa.ListArray, items: int, window: int, decay: float
) -> sparse.coo_matrix:
    """Decayed counts of pairs of items [items, items], the smaller number of a pair first."""
    if isinstance(histories, pa.ListArray):
        flat, lengths = histories.flatten().to_numpy().astype(np.int64), histories.value_lengths().to_numpy()
    else:
        flat, lengths = flatten(histories)
    user = np.repeat(np.arange(len(lengths)), lengths)
    bits = max(window - 1, 1).bit_length()
    sizes = [int((lengths - lag).clip(0).sum()) for lag in range(1, window + 1)]
    keys, filled = np.empty(sum(sizes), np.int64), 0
    for lag, size in enumerate(sizes, 1):
        same = user[lag:] == user[:-lag]
        one, other = flat[:-lag][same], flat[lag:][same]
        pair = np.minimum(one, other) * items + np.maximum(one, other)
        keys[filled : filled + size] = (pair << bits) + lag - 1
        filled += size
    keys.sort()
    weight = decay ** np.arange(1 << bits)
    first = np.flatnonzero(np.diff(keys >> bits, prepend=-1))
    counts = np.add.reduceat(weight[keys & (1 << bits) - 1], first) if len(first) else np.zeros(0)
    row, column = np.divmod(keys[first] >> bits, items)
    return sparse.coo_matrix((counts, (row, column)), (items, items))


def _cooccurrence(splits: Splits, items: int, seed: int) -> np.ndarray:
    training = arrow_column(training_sequences(splits), "history")
    return cooccurrence_vectors(training, items, dimensions=min(64, items - 1))


def _als(splits: Splits, items: int, seed: int) -> np.ndarray:
    return ALS.from_splits(splits, items, ALS.Settings(seed=seed)).factors.numpy()


def _sasrec(splits: Splits, items: int, seed: int) -> np.ndarray:
    model = SASRec.from_splits(splits, items, SASRec.Settings(seed=seed))
    return model.network.item.weight[:items].detach().cpu().numpy()


INTERACTION_VECTORS: dict[str, Callable[[Splits, int, int], np.ndarray]] = {
    "cooccurrence": _cooccurrence,
    "als": _als,
    "sasrec": _sasrec,
}
"""Name -> (splits, items, seed) -> vectors [items, d] from the training interactions."""
