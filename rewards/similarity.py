"""Partial match: how much of the target's semantic ID does a trajectory have?"""

from functools import reduce

import torch
from torch import Tensor

from catalog import Catalog, Trajectories
from interactions.prompts import PromptBatch


class MatchedCodes:
    """r_sim of GFlowGR (arXiv 2506.16114): the share of levels with the target's code, wherever they stand.

    r_sim[b, k] = |{l : t_l = t'_l}| / L,  1 for the target    (the paper's count, divided by L)

    Below the first level, equal codes mean similar items only where all nodes of a level share one codebook, as in a
    residual quantizer; with a hierarchical one take `SharedPrefix`. A last level may merely number the children of each
    node, to tell apart items of equal codes. Such a level counts only where all codes before it agree, since most items
    have the code 0 there.
    """

    def __init__(self, catalog: Catalog) -> None:
        trie = catalog.trie
        self.codes = trie.codes(torch.arange(trie.items))  # [items, L]
        leaves = trie.nodes_at(trie.levels)
        first_sibling = trie.first_child[trie.parent(leaves)]
        self.numbered = bool((trie.code(leaves) == leaves - first_sibling).all())

    def __call__(self, batch: PromptBatch, trajectories: Trajectories) -> Tensor:
        return self._matched(batch, trajectories.items)

    def catalog(self, batch: PromptBatch) -> Tensor:
        """[B, items]"""
        return self._matched(batch, torch.arange(len(self.codes), device=batch.history.device).unsqueeze(0))

    def _matched(self, batch: PromptBatch, items: Tensor) -> Tensor:
        codes = self.codes.to(items.device)
        theirs, target = codes[items].unbind(-1), codes[batch.target].unsqueeze(1).unbind(-1)  # L of [B, K], [B, 1]
        same = [code == wanted for code, wanted in zip(theirs, target, strict=True)]  # a level at a time: [B, K]
        if self.numbered:
            same[-1] = reduce(torch.logical_and, same)
        return reduce(torch.add, (level.float() for level in same)) / len(same)


class SharedPrefix:
    """Levels from the root that a trajectory shares with the target, as a share of L: 0, 1/L, ..., 1 for the target."""

    def __init__(self, catalog: Catalog) -> None:
        self.trie = catalog.trie

    def __call__(self, batch: PromptBatch, trajectories: Trajectories) -> Tensor:
        return self._shared(batch, trajectories.items)

    def catalog(self, batch: PromptBatch) -> Tensor:
        """[B, items]"""
        return self._shared(batch, torch.arange(self.trie.items, device=batch.history.device).unsqueeze(0))

    def _shared(self, batch: PromptBatch, items: Tensor) -> Tensor:
        trie = self.trie.to(items.device)
        same = trie.path(items)[..., 1:] == trie.path(batch.target)[:, None, 1:]  # [B, K, L]; equal nodes, equal prefix
        return same.float().mean(-1)
