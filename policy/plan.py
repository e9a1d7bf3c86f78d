"""Which trie nodes must be read for the exact distribution, in chunks that fit one forward."""

from dataclasses import dataclass

import torch
from torch import Tensor

from catalog import Trie

CHUNK = 512
"""Nodes per forward. Only a subtree below one first code that is larger makes a larger chunk."""


@dataclass(frozen=True)
class TriePlan:
    """chunks: (nodes [n], their depth below the root minus one [n], who is an ancestor of whom or itself [n, n] bool).

    Left out are nodes without a choice at or below them: every step from there has log-probability 0.
    """

    chunks: list[tuple[Tensor, Tensor, Tensor]]

    @classmethod
    def from_trie(cls, trie: Trie) -> "TriePlan":
        wanted = trie.open.clone()  # [nodes]
        depth = torch.zeros(trie.nodes, dtype=torch.long, device=trie.key.device)
        first = torch.arange(trie.nodes, device=trie.key.device)  # the level-1 ancestor
        for level in range(2, trie.levels + 1):
            nodes = trie.nodes_at(level)
            depth[nodes], first[nodes] = level - 1, first[trie.parent(nodes)]
        wanted[0] = False
        nodes = wanted.nonzero().squeeze(1)
        nodes = nodes[first[nodes].argsort(stable=True)]  # subtree after subtree, parents before children
        sizes = first[nodes].unique_consecutive(return_counts=True)[1].tolist()
        return cls([(part, depth[part], _ancestors(trie, part)) for part in nodes.split(_packed(sizes))])


def _packed(sizes: list[int]) -> list[int]:
    """Join neighboring subtrees while their sizes sum to at most CHUNK."""
    packed: list[int] = []
    for size in sizes:
        if not packed or packed[-1] + size > CHUNK:
            packed.append(0)
        packed[-1] += size
    return packed


def _ancestors(trie: Trie, nodes: Tensor) -> Tensor:
    """visible [n, n]: whether node j is node i or above it; nodes [n] hold the ancestors of each but the root."""
    visible = torch.eye(len(nodes), dtype=torch.bool, device=nodes.device)
    above = nodes
    for _ in range(trie.levels - 1):
        above = torch.where(above > 0, trie.parent(above.clamp(min=1)), 0)
        visible |= above.unsqueeze(1) == nodes
    return visible
