"""The same items for everybody: what a recommender must at least beat."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from scipy import sparse
from torch import Tensor

from interactions import Splits, training_matrix
from recommenders.base import Histories, flatten, occurrences, proportional
from recommenders.top import Top


@dataclass(frozen=True)
class Popularity:
    """Scores an item by how often it occurs in training. `counts` is `[items]` float32."""

    counts: Tensor

    @dataclass(frozen=True)
    class Settings:
        """There is nothing to set."""

    @classmethod
    def fit(cls, interactions: sparse.csr_matrix) -> "Popularity":
        """Counts the training interactions, `[users, items]`."""
        return cls(torch.as_tensor(interactions.sum(axis=0), dtype=torch.float32).flatten())

    @classmethod
    def from_splits(cls, splits: Splits, items: int, settings: Settings) -> "Popularity":
        return cls.fit(training_matrix(splits, items))

    def score(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """The training counts less those of `without`, `[B, items]`; the same for every history."""
        counts = self.counts.expand(len(histories), -1)  # [B, items]
        if without is None:
            return counts
        return counts - torch.from_numpy(occurrences(without, counts.shape[1]).toarray()).float()

    def probabilities(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """Shares of the counts."""
        return proportional(self.score(histories, without))

    def top(self, histories: Histories, k: int, without: Histories | None = None) -> Top:
        """The k items with the largest `probabilities`: k and as many more as a list of `without` may lower."""
        lists = [[]] * len(histories) if without is None else without
        spare = max(map(len, lists), default=0)
        items = self._order[: k + spare].expand(len(histories), -1)  # [B, k + spare]
        flat, lengths = flatten(lists)
        removed = torch.full((len(histories), spare), -1)
        removed[torch.arange(spare) < torch.from_numpy(lengths).unsqueeze(1)] = torch.from_numpy(flat)
        counts = self.counts[items] - (items.unsqueeze(2) == removed.unsqueeze(1)).sum(2)
        total = self.counts.sum() - torch.from_numpy(lengths).unsqueeze(1)
        best, place = (counts / total).topk(min(k, items.shape[1]))
        return Top(items.gather(1, place), best, torch.zeros(len(histories)))

    @cached_property
    def _order(self) -> Tensor:
        """The items by their counts, the most frequent first."""
        return self.counts.argsort(descending=True, stable=True)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"counts": self.counts}, {}

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> "Popularity":
        return cls(**tensors)
