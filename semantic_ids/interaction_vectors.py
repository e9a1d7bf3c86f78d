"""Item vectors from interactions alone, for catalogs without text."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

from catalog.errors import InputError
from interactions import Splits, training_sequences
from recommenders.base import flatten
from recommenders.factors import ALS
from recommenders.sasrec import SASRec


def cooccurrence_vectors(
    histories: Sequence[Sequence[int]], items: int, *, dimensions: int = 64, window: int = 10, decay: float = 0.8
) -> np.ndarray:
    """Unit item vectors [items, dimensions]: items are near each other if users take them soon after one another.

    A truncated SVD of the positive pointwise mutual information of items at most `window` places apart in a history, a
    pair j places apart counting decay ** (j - 1); scaled as in Levy and Goldberg, NeurIPS 2014. Items that occur
    nowhere get the zero vector. Raises InputError unless dimensions < items.
    """
    if dimensions >= items:
        raise InputError(f"{dimensions} dimensions for {items} items.", remedy="Ask for fewer dimensions than items.")
    counts = _nearby(histories, items, window, decay).tocoo()
    total, margin = counts.sum(), np.asarray(counts.sum(1)).ravel()
    pmi = np.log(counts.data * total / (margin[counts.row] * margin[counts.col]))
    positive = sparse.csr_matrix((pmi.clip(min=0), (counts.row, counts.col)), counts.shape)
    left, singular, _ = svds(positive, dimensions, random_state=0)
    vectors = left * np.sqrt(singular)
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _nearby(histories: Sequence[Sequence[int]], items: int, window: int, decay: float) -> sparse.csr_matrix:
    """Symmetric decayed co-occurrence counts [items, items]."""
    flat, lengths = flatten(histories)
    user = np.repeat(np.arange(len(lengths)), lengths)
    counts = sparse.csr_matrix((items, items))
    for lag in range(1, window + 1):
        same = user[lag:] == user[:-lag]
        pairs = flat[:-lag][same], flat[lag:][same]
        counts += sparse.csr_matrix((np.full(len(pairs[0]), decay ** (lag - 1)), pairs), (items, items))
    return counts + counts.T


def _cooccurrence(splits: Splits, items: int, seed: int) -> np.ndarray:
    training = training_sequences(splits)["history"]
    return cooccurrence_vectors(training, items, dimensions=min(64, items - 1))


def _als(splits: Splits, items: int, seed: int) -> np.ndarray:
    return ALS.from_splits(splits, items, ALS.Settings(seed=seed)).factors.numpy()


def _sasrec(splits: Splits, items: int, seed: int) -> np.ndarray:
    model = SASRec.from_splits(
        splits, items, SASRec.Settings(max_length=20, learning_rate=1e-3, dropout=0.5, seed=seed)
    )
    return model.network.item.weight[:items].detach().cpu().numpy()


INTERACTION_VECTORS: dict[str, Callable[[Splits, int, int], np.ndarray]] = {
    "cooccurrence": _cooccurrence,
    "als": _als,
    "sasrec": _sasrec,
}
"""Name -> (splits, items, seed) -> vectors [items, d] from the training interactions."""
