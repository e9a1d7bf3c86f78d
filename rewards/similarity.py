"""Partial match: how far does the trajectory follow the target's semantic ID?"""

import torch
from torch import Tensor

from catalog import Catalog, Trajectories
from interactions.prompts import PromptBatch


class SharedPrefix:
    """Levels from the root that a trajectory shares with the target, as a share of L: 0, 1/L, ..., 1 for the target."""

    def __init__(self, catalog: Catalog) -> None:
        self.trie = catalog.trie

    def __call__(self, batch: PromptBatch, trajectories: Trajectories) -> Tensor:
        return self._shared(batch, trajectories.items)

    def catalog(self, batch: PromptBatch) -> Tensor:
        """[B, items]"""
        return self._shared(batch, torch.arange(self.trie.items, device=batch.target.device).expand(len(batch), -1))

    def _shared(self, batch: PromptBatch, items: Tensor) -> Tensor:
        trie = self.trie.to(items.device)
        same = trie.path(items)[..., 1:] == trie.path(batch.target)[:, None, 1:]  # [B, K, L]; equal nodes, equal prefix
        return same.float().mean(-1)
