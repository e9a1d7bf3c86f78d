"""Items bought by the same users: the untuned baseline that many published tables do not beat."""

import warnings
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from catalog.extras import extra
from interactions import Splits, training_matrix
from recommenders.base import Histories, flatten, occurrences, proportional
from recommenders.top import Top


@dataclass(frozen=True)
class ItemKNN:
    """Scores an item by its similarity to the items of the history.

    score[b, i] = sum over events j of history b of decay ** age(j) * similarity[j, i],  age 0 = newest event
    similarity[j, i] = cooccurrence[j, i] / sqrt(users[j] users[i])

    cooccurrence: `[items, items]` CSR; row j holds how many users have both j and i, for the nearest neighbors i of j.
    users: `[items]`, how many users have the item.
    decay: the factor in the weight of an event for each step into the past, in (0, 1]; 1 counts all events alike.
    """

    cooccurrence: sparse.csr_matrix
    users: np.ndarray
    decay: float = 1.0

    @dataclass(frozen=True)
    class Settings:
        """See `fit`."""

        neighbors: int = 100
        decay: float = 1.0
        seed: int = 0

    @classmethod
    def fit(cls, interactions: sparse.csr_matrix, neighbors: int = 100, decay: float = 1.0, seed: int = 0) -> "ItemKNN":
        """Keeps the `neighbors` largest cosines between the columns of `interactions > 0`, `[users, items]`.

        Few users share an item, so many neighbors are equally near, and the search keeps some of these by their
        position. `seed` shuffles the positions, since item numbers may tell the order of the log.
        Raises SetupError without the library that searches.
        """
        with extra("recommenders", "Fitting item-kNN"):
            from implicit.nearest_neighbours import CosineRecommender
            from implicit.utils import ParameterWarning

        taken = (interactions > 0).astype(np.float64).tocsr()
        users = np.asarray(taken.sum(axis=0)).ravel()
        order = np.random.default_rng(seed).permutation(taken.shape[1])
        order = order[users[order] > 0]  # [n]: the library holds K numbers for each item, also for one nobody took
        model = CosineRecommender(K=neighbors + 1)  # one more: the nearest neighbor of an item is itself
        with warnings.catch_warnings():
            # The library warns about its own intermediate format, whatever it is given.
            warnings.simplefilter("ignore", ParameterWarning)
            model.fit(taken[:, order], show_progress=False)
        pairs = _rows_of(model.similarity[np.argsort(order)].tocsr(), users > 0)
        del model  # as large as the pairs, of which there are n x neighbors
        pairs.indices = order.astype(pairs.indices.dtype)[pairs.indices]
        pairs.has_sorted_indices = False
        pairs.sort_indices()
        row = np.repeat(np.arange(len(users), dtype=np.int32), np.diff(pairs.indptr))
        pairs.data *= np.sqrt(users)[row]
        pairs.data *= np.sqrt(users)[pairs.indices]
        np.rint(pairs.data, out=pairs.data)
        pairs.data[row == pairs.indices] = 0
        pairs.eliminate_zeros()
        return cls(pairs, users, decay)

    @classmethod
    def from_splits(cls, splits: Splits, items: int, settings: Settings) -> "ItemKNN":
        return cls.fit(training_matrix(splits, items), **asdict(settings))

    @property
    def similarity(self) -> sparse.csr_matrix:
        """Cosines of the kept pairs, `[items, items]` CSR; row j does not hold j itself."""
        scale = sparse.diags(_inverse_root(self.users))
        return (scale @ self.cooccurrence @ scale).tocsr()

    def score(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """Summed similarities, `[B, items]` float32; 0 where no event has the item as a neighbor.

        Each row counts as if its list of `without` had never been a user: exactly so on the kept pairs, while which
        pairs are kept stays as it is.
        """
        rows = self.sparse_scores(histories, without)
        return torch.from_numpy(rows.toarray())

    def top(self, histories: Histories, k: int, without: Histories | None = None) -> Top:
        """The k items with the largest `probabilities`, from the neighbors of the histories' items alone."""
        scores = self.sparse_scores(histories, without)
        items = np.full((len(histories), k), -1)
        chances = np.zeros((len(histories), k), np.float32)
        rest = np.zeros(len(histories), np.float32)
        for row, (start, stop) in enumerate(zip(scores.indptr[:-1], scores.indptr[1:], strict=True)):
            values, places = scores.data[start:stop], scores.indices[start:stop]
            best = np.argsort(-values, kind="stable")[:k]
            best = best[values[best] > 0]
            if not len(best):  # all items alike, as in `proportional`
                rest[row] = 1 / len(self.users)
                continue
            items[row, : len(best)] = places[best]
            chances[row, : len(best)] = values[best] / values.sum()
        return Top(*map(torch.from_numpy, (items, chances, rest)))

    def sparse_scores(self, histories: Histories, without: Histories | None = None) -> sparse.csr_matrix:
        """`score` of the neighbors of the histories' items, `[B, items]` float32; others have 0.

        Rows and columns of other items are left out before anything is multiplied, so the catalog costs nothing.
        """
        rows = len(histories)
        weights = occurrences(histories, len(self.users), self.decay)  # [B, items]
        weights.sum_duplicates()
        seen, event = np.unique(weights.indices, return_inverse=True)  # [s]
        near = self.cooccurrence[seen]  # [s, items]
        columns, column = np.unique(near.indices, return_inverse=True)  # [c]
        near = sparse.csr_matrix((near.data, column, near.indptr), (len(seen), len(columns)))  # [s, c]
        taken_seen, taken = (_holds(items, without, rows) for items in (seen, columns))  # [B, s], [B, c]
        place = (np.repeat(np.arange(rows), np.diff(weights.indptr)), event)
        scaled = weights.data * self._scales(seen, taken_seen)[place]
        shared = sparse.csr_matrix((scaled, event, weights.indptr), (rows, len(seen))) @ near
        if without is not None:
            own = sparse.csr_matrix((scaled * taken_seen[place], event, weights.indptr), (rows, len(seen)))
            both = own @ sparse.csr_matrix((np.ones(len(near.data)), near.indices, near.indptr), near.shape)
            both.data *= taken[_entries(both)]
            shared = shared - both
        shared.data *= self._scales(columns, taken)[_entries(shared)]
        found = (shared.data.astype(np.float32), columns[shared.indices], shared.indptr)
        return sparse.csr_matrix(found, (rows, len(self.users)))

    def _scales(self, items: np.ndarray, taken: np.ndarray) -> np.ndarray:
        """1 / sqrt(users) of some items, one user less where a row has taken them, `[B, n]` bool: `[B, n]`."""
        return np.where(taken, self._scale_less[items], self._scale[items])

    @cached_property
    def _scale(self) -> np.ndarray:
        return _inverse_root(self.users)

    @cached_property
    def _scale_less(self) -> np.ndarray:
        """With one user less of every item."""
        return _inverse_root(self.users - 1)

    def probabilities(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """Shares of the scores."""
        return proportional(self.score(histories, without))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        arrays = {name: getattr(self.cooccurrence, name) for name in ("data", "indices", "indptr")} | {
            "users": self.users
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}, {"decay": self.decay}

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> "ItemKNN":
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        users = arrays["users"]
        pairs = (arrays["data"], arrays["indices"], arrays["indptr"])
        return cls(sparse.csr_matrix(pairs, (len(users), len(users))), users, **numbers)


def _holds(items: np.ndarray, lists: Histories | None, rows: int) -> np.ndarray:
    """Whether each list holds each of some items in ascending order: `[B, n]` bool; none without lists."""
    found = np.zeros((rows, len(items)), bool)
    if lists is not None and len(items):
        flat, lengths = flatten(lists)
        place = np.searchsorted(items, flat).clip(max=len(items) - 1)
        held = items[place] == flat
        found[np.repeat(np.arange(rows), lengths)[held], place[held]] = True
    return found


def _entries(matrix: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each stored number."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)), matrix.indices


def _rows_of(matrix: sparse.csr_matrix, there: np.ndarray) -> sparse.csr_matrix:
    """A matrix [items, items] with the rows of [n, n] at the n places that are `there`, bool [items], others empty."""
    length = np.zeros(len(there), np.int64)
    length[there] = np.diff(matrix.indptr)
    start = np.append(0, length.cumsum())
    return sparse.csr_matrix((matrix.data, matrix.indices, start), (len(there), len(there)))


def _inverse_root(counts: np.ndarray) -> np.ndarray:
    """1 / sqrt(count), 0 for a count of 0."""
    return np.power(counts, -0.5, out=np.zeros_like(counts), where=counts > 0)
