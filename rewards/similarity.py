"""Partial match: how much of the target's semantic ID does a trajectory have?"""

from functools import cached_property, reduce

import torch
from torch import Tensor

from catalog import Catalog, SparseReward, Trajectories
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
        self.trie = trie = catalog.trie
        leaves = trie.nodes_at(trie.levels)
        first_sibling = trie.first_child[trie.parent(leaves)]
        self.numbered = bool((trie.code(leaves) == leaves - first_sibling).all())

    def __call__(self, batch: PromptBatch, trajectories: Trajectories) -> Tensor:
        self.trie = self.trie.to(batch.history.device)
        return self._matched(batch, self.trie.codes(trajectories.items))

    def catalog(self, batch: PromptBatch) -> Tensor:
        """[B, items]"""
        self.trie = self.trie.to(batch.history.device)
        return self._matched(batch, self._codes.to(batch.history.device))

    def sparse(self, batch: PromptBatch) -> SparseReward:
        """The subtrees below every node that has the target's code at its level.

        A share of 1 / codes of the nodes of a level, so it is exact and grows with the catalog, if slowly.
        """
        trie = self.trie = self.trie.to(batch.history.device)
        path = trie.path(batch.target)  # [B, L + 1]
        target = trie.code(path[:, 1:])  # [B, L]
        nodes = [
            path[:, -1:] if self.numbered and level == trie.levels else self._with_code(level, target[:, level - 1])
            for level in range(1, trie.levels + 1)
        ]
        values = [self._shares(part, target[:, :level]) for level, part in enumerate(nodes, start=1)]
        rest = torch.zeros(len(batch), device=target.device)
        return SparseReward.from_nodes(torch.cat(nodes, 1), torch.cat(values, 1), rest)

    def _with_code(self, level: int, code: Tensor) -> Tensor:
        """The nodes of a level that have each row's code [B]: [B, n], -1 behind the last."""
        nodes, start = self.trie.nodes_by_code[level - 1]
        first, end = start[code].unsqueeze(1), start[code + 1].unsqueeze(1)
        place = first + torch.arange(int((end - first).max()), device=code.device)
        return nodes[place.clamp(max=len(nodes) - 1)].where(place < end, -1)

    def _shares(self, nodes: Tensor, target: Tensor) -> Tensor:
        """The share of all levels at which nodes [B, n] and those above them have the codes of target [B, depth]."""
        same, node = torch.zeros(nodes.shape, device=nodes.device), nodes.clamp(min=1)
        for code in target.T.flip(0):
            same += self.trie.code(node) == code.unsqueeze(1)
            node = self.trie.parent(node)
        return same / self.trie.levels

    @cached_property
    def _codes(self) -> Tensor:
        """[1, items, L]"""
        return self.trie.codes(torch.arange(self.trie.items, device=self.trie.key.device)).unsqueeze(0)

    def _matched(self, batch: PromptBatch, codes: Tensor) -> Tensor:
        """codes [B or 1, K, L] -> [B, K]"""
        theirs, target = codes.unbind(-1), self.trie.codes(batch.target).unsqueeze(1).unbind(-1)  # L of [B, K], [B, 1]
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

    def sparse(self, batch: PromptBatch) -> SparseReward:
        """The subtrees below the nodes on the target's path."""
        trie = self.trie = self.trie.to(batch.history.device)
        nodes = trie.path(batch.target)[:, 1:]  # [B, L]
        values = torch.arange(1, trie.levels + 1, device=nodes.device) / trie.levels
        return SparseReward.from_nodes(nodes, values.expand(nodes.shape), torch.zeros_like(nodes[:, 0]).float())

    def _shared(self, batch: PromptBatch, items: Tensor) -> Tensor:
        trie = self.trie = self.trie.to(items.device)
        same = trie.path(items)[..., 1:] == trie.path(batch.target)[:, None, 1:]  # [B, K, L]; equal nodes, equal prefix
        return same.float().mean(-1)
