"""Items bought by the same users: the untuned baseline that many published tables do not beat."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from implicit.nearest_neighbours import CosineRecommender
from implicit.utils import ParameterWarning
from scipy import sparse
from torch import Tensor

from collaborative.base import flatten


@dataclass(frozen=True)
class ItemKNN:
    """Scores an item by its similarity to the items of the history.

    score[b, i] = sum over events j of history b of decay ** age(j) * similarity[j, i],  age 0 = newest event

    similarity: `[items, items]` CSR, non-negative; row j holds the nearest neighbours of item j and not j itself.
    decay: weight that an event loses per step into the past, in (0, 1]; 1 counts all events alike.
    """

    similarity: sparse.csr_matrix
    decay: float = 1.0

    @classmethod
    def fit(
        cls, interactions: sparse.csr_matrix, neighbours: int = 100, decay: float = 1.0, seed: int = 0
    ) -> "ItemKNN":
        """Keeps the `neighbours` largest cosines between the columns of `interactions`, `[users, items]`.

        Few users share an item, so many neighbours are equally near, and the search keeps some of these by their
        position. `seed` shuffles the positions, since item numbers may tell the order of the log.
        """
        order = np.random.default_rng(seed).permutation(interactions.shape[1])  # [items]
        model = CosineRecommender(K=neighbours + 1)  # one more: the nearest neighbour of an item is itself
        with warnings.catch_warnings():
            # The library warns about its own intermediate format, whatever it is given.
            warnings.simplefilter("ignore", ParameterWarning)
            model.fit(interactions[:, order].astype(np.float64), show_progress=False)
        place = np.argsort(order)  # [items]
        similarity = model.similarity[place][:, place].tocsr()
        return cls((similarity - sparse.diags(similarity.diagonal())).tocsr(), decay)

    def score(self, histories: Sequence[Sequence[int]]) -> Tensor:
        """Summed similarities, `[B, items]` float32; 0 where no event has the item as a neighbour."""
        items, lengths = flatten(histories)
        age = np.repeat(lengths.cumsum(), lengths) - 1 - np.arange(len(items))  # [events]
        rows = np.repeat(np.arange(len(histories)), lengths)  # [events]
        shape = (len(histories), self.similarity.shape[0])
        weights = sparse.csr_matrix((self.decay**age, (rows, items)), shape=shape)  # [B, items]
        return torch.from_numpy((weights @ self.similarity).toarray().astype(np.float32))
