"""Items bought by the same users: the untuned baseline that many published tables do not beat."""

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from catalog.extras import extra
from interactions import Splits, training_matrix
from recommenders.base import Histories, occurrences, proportional


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
        order = np.random.default_rng(seed).permutation(taken.shape[1])  # [items]
        model = CosineRecommender(K=neighbors + 1)  # one more: the nearest neighbor of an item is itself
        with warnings.catch_warnings():
            # The library warns about its own intermediate format, whatever it is given.
            warnings.simplefilter("ignore", ParameterWarning)
            model.fit(taken[:, order], show_progress=False)
        place = np.argsort(order)  # [items]
        similarity = model.similarity[place][:, place].tocsr()
        users = np.asarray(taken.sum(axis=0)).ravel()
        scale = sparse.diags(np.sqrt(users))
        cooccurrence = scale @ (similarity - sparse.diags(similarity.diagonal())) @ scale
        return cls(cooccurrence.rint().tocsr(), users, decay)

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
        weights = occurrences(histories, len(self.users), self.decay)  # [B, items]
        own = np.zeros(weights.shape)
        scale = np.tile(_inverse_root(self.users), (len(histories), 1))  # [B, items]
        if without is not None:
            taken = occurrences(without, len(self.users)).nonzero()
            own[taken] = 1
            scale[taken] = _inverse_root(self.users[taken[1]] - 1)
        weights = weights.multiply(scale).tocsr()
        pairs = (self.cooccurrence != 0).astype(np.float64)
        shared = weights @ self.cooccurrence - (weights.multiply(own).tocsr() @ pairs).multiply(own)
        return torch.from_numpy((shared.toarray() * scale).astype(np.float32))

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


def _inverse_root(counts: np.ndarray) -> np.ndarray:
    """1 / sqrt(count), 0 for a count of 0."""
    return np.power(counts, -0.5, out=np.zeros_like(counts), where=counts > 0)
