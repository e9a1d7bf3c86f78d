"""The same items for everybody: what a recommender must at least beat."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy import sparse
from torch import Tensor


@dataclass(frozen=True)
class Popularity:
    """Scores an item by how often it occurs in training. `counts` is `[items]` float32."""

    counts: Tensor

    @classmethod
    def fit(cls, interactions: sparse.csr_matrix) -> "Popularity":
        """Counts the training interactions, `[users, items]`."""
        return cls(torch.as_tensor(interactions.sum(axis=0), dtype=torch.float32).flatten())

    def score(self, histories: Sequence[Sequence[int]]) -> Tensor:
        """The training counts for every history, `[B, items]`, a read-only view."""
        return self.counts.expand(len(histories), -1)
