"""Exact hit: is the trajectory the item that the user took next?"""

import torch
from torch import Tensor

from catalog import Catalog, SparseReward, Trajectories
from interactions.prompts import PromptBatch


class Hit:
    """1 for the target and 0 for everything else.

    Items are compared by semantic ID: where a leaf holds several items, each of them is a hit.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.trie, self.leaf = catalog.trie, catalog.trie.leaf_number

    def __call__(self, batch: PromptBatch, trajectories: Trajectories) -> Tensor:
        return self._same(batch, trajectories.items)

    def catalog(self, batch: PromptBatch) -> Tensor:
        """[B, items]"""
        return self._same(batch, torch.arange(len(self.leaf), device=batch.history.device).unsqueeze(0))

    def sparse(self, batch: PromptBatch) -> SparseReward:
        """The target's leaf."""
        self.trie = self.trie.to(batch.history.device)
        leaf = self.trie.leaf_of_item[batch.target].long().unsqueeze(1)  # [B, 1]
        return SparseReward.from_nodes(leaf, torch.ones_like(leaf).float(), torch.zeros_like(leaf[:, 0]).float())

    def _same(self, batch: PromptBatch, items: Tensor) -> Tensor:
        leaf = self.leaf.to(items.device)
        return (leaf[items] == leaf[batch.target].unsqueeze(1)).float()
