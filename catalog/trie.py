"""The catalogue as a tree of codes, held in one sorted array.

Nodes are numbered level by level and, inside a level, by (parent, code), so the edge into node n is row n - 1 of `key`,
the children of a node are consecutive numbers, and `key` is sorted: no pointers, no dictionaries, and every method is
a handful of tensor operations on whatever device the tensors live on.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from catalog.sorting import stable_argsort


class Groups(NamedTuple):
    """How consecutive rows of one level make those of the level above.

    first [n]: the first row of each group; several [g]: the groups of more than one; members [m]: the rows of those;
    sizes [g]: how many each has.
    """

    first: Tensor
    several: Tensor
    members: Tensor
    sizes: Tensor

    @classmethod
    def from_offsets(cls, offsets: Tensor) -> "Groups":
        """Groups of the rows offsets[i] .. offsets[i + 1] - 1, none of them empty."""
        offsets = offsets.long() - offsets[0]
        sizes = offsets.diff()
        several = (sizes > 1).nonzero().squeeze(1)
        members = (sizes > 1).repeat_interleave(sizes).nonzero().squeeze(1)
        return cls(offsets[:-1], several, members, sizes[several])


@dataclass(frozen=True)
class Trie:
    """A prefix tree over semantic IDs of equal length.

    key [nodes - 1] int64, parent * width + code of the edge into node 1, 2, ...; first_child [nodes + 1] int32, the
    children of n are first_child[n] .. first_child[n + 1] - 1; leaf_of_item [items] int32; leaf_items [items] int32,
    items grouped by leaf; leaf_start [leaves + 1] int32, where each leaf's group begins; level_start, the first node of
    each level, L + 2 long; sizes, the number of codes of each level, L long.
    """

    key: Tensor
    first_child: Tensor
    leaf_of_item: Tensor
    leaf_items: Tensor
    leaf_start: Tensor
    level_start: tuple[int, ...]
    sizes: tuple[int, ...]

    TENSORS = ("key", "first_child", "leaf_of_item", "leaf_items", "leaf_start")

    @classmethod
    def build(cls, codes: np.ndarray, sizes: tuple[int, ...]) -> "Trie":
        """The trie of the semantic IDs `codes` [items, L]; row i is item i and 0 <= codes[:, l] < sizes[l]."""
        width, items = max(sizes), len(codes)
        if math.prod(map(int, sizes)) < 2**63:
            order = stable_argsort(np.ravel_multi_index(tuple(codes.T), sizes))
        else:
            order = np.lexsort(codes.T[::-1])
        keys, children, level_start = [], [], [0, 1]
        node = np.zeros(items, np.int32)  # of the items in order: how far each has come
        begins = np.zeros(items, bool)  # whether another node begins there
        begins[:1] = True
        for level in range(codes.shape[1]):
            code = codes[order, level]
            parents = np.flatnonzero(begins)
            begins[1:] |= code[1:] != code[:-1]
            first = np.flatnonzero(begins)
            keys.append(node[first] * np.int64(width) + code[first])
            children.append(level_start[-1] + np.searchsorted(first, parents))
            node = np.cumsum(begins, dtype=np.int32)
            node += level_start[-1] - 1
            level_start.append(level_start[-1] + len(first))
        leaf_of_item = np.empty(items, np.int32)
        leaf_of_item[order] = node
        nodes = level_start[-1]
        return cls(
            key=torch.from_numpy(np.concatenate(keys)),
            first_child=_int32(np.concatenate([*children, np.full(len(first) + 1, nodes)])),
            leaf_of_item=torch.from_numpy(leaf_of_item),
            leaf_items=_int32(order),
            leaf_start=_int32(np.append(first, items)),
            level_start=tuple(level_start),
            sizes=tuple(sizes),
        )

    @property
    def levels(self) -> int:
        return len(self.sizes)

    @property
    def nodes(self) -> int:
        return self.level_start[-1]

    @property
    def first_leaf(self) -> int:
        """The node with the lowest number among the leaves."""
        return self.level_start[-2]

    @property
    def leaves(self) -> int:
        return self.nodes - self.first_leaf

    @property
    def items(self) -> int:
        return len(self.leaf_of_item)

    @property
    def width(self) -> int:
        """The largest number of codes of any level."""
        return max(self.sizes)

    @property
    def bytes(self) -> int:
        return sum(getattr(self, name).nbytes for name in self.TENSORS)

    @cached_property
    def max_children(self) -> tuple[int, ...]:
        """The largest number of children of any node, for each level but the leaves'."""
        counts = self.first_child.diff()
        return tuple(int(counts[a:b].max()) for a, b in zip(self.level_start, self.level_start[1:-1], strict=False))

    def to(self, device: torch.device | str) -> "Trie":
        """The same on a device; itself, with what it has computed already, where it lies there."""
        if self.key.device == torch.device(device):
            return self
        return replace(self, **{name: getattr(self, name).to(device) for name in self.TENSORS})

    def nodes_at(self, level: int) -> Tensor:
        """The numbers of all nodes of a level, from 0 for the root to `levels` for the leaves: [n]."""
        return torch.arange(*self.level_start[level : level + 2], device=self.key.device)

    def parent(self, nodes: Tensor) -> Tensor:
        """The parent of each node [...], none of them the root."""
        return self.key[nodes - 1] // self.width

    def code(self, nodes: Tensor) -> Tensor:
        """The code on the edge into each node [...], none of them the root."""
        return self.key[nodes - 1] % self.width

    def children(self, nodes: Tensor, width: int | None = None) -> Tensor:
        """The children of each node, in order of their codes: [...] -> [..., width], -1 behind the last one.

        `width` must be at least the largest number of children; without it that number is looked up, which on a GPU
        waits for the device.
        """
        first, end = self.first_child[nodes].long(), self.first_child[nodes + 1].long()  # [...]
        slots = torch.arange(int((end - first).max()) if width is None else width, device=nodes.device)
        child = first.unsqueeze(-1) + slots  # [..., width]
        return child.where(child < end.unsqueeze(-1), -1)

    def mask(self, nodes: Tensor) -> Tensor:
        """Which codes are legal after each node: [...] -> bool [..., self.width]."""
        child = self.children(nodes)  # [..., C]
        code = self.code(child.clamp(min=1)).where(child > 0, self.width)
        legal = torch.zeros(*nodes.shape, self.width + 1, dtype=torch.bool, device=nodes.device)
        return legal.scatter_(-1, code, True)[..., :-1]

    @cached_property
    def node_of_code(self) -> tuple[Tensor, ...]:
        """For each code of a level a node that it leads to, 0 where it leads to none: L times [sizes[l]]."""
        found = []
        for level, size in enumerate(self.sizes, start=1):
            nodes = self.nodes_at(level)
            found.append(torch.zeros(size, dtype=torch.long, device=nodes.device).index_put((self.code(nodes),), nodes))
        return tuple(found)

    def descend(self, nodes: Tensor, codes: Tensor) -> Tensor:
        """The child of each node along a code: [...], [...] -> [...], -1 where there is none or the node is -1."""
        wanted = nodes * self.width + codes
        row = torch.searchsorted(self.key, wanted).clamp(max=len(self.key) - 1)
        found = (self.key[row] == wanted) & (codes >= 0) & (codes < self.width)
        return (row + 1).where(found, -1)

    def leaf(self, codes: Tensor) -> Tensor:
        """The leaf that semantic IDs lead to: [..., L] -> [...], -1 where the catalogue has no such ID."""
        node = torch.zeros(codes.shape[:-1], dtype=torch.long, device=codes.device)
        for level in range(self.levels):
            node = self.descend(node, codes[..., level])
        return node

    def path(self, items: Tensor) -> Tensor:
        """The nodes from the root to each item's leaf: [...] -> [..., L + 1]."""
        nodes = [self.leaf_of_item[items].long()]
        for _ in range(self.levels):
            nodes.append(self.parent(nodes[-1]))
        return torch.stack(nodes[::-1], -1)

    def codes(self, items: Tensor) -> Tensor:
        """The semantic ID of each item: [...] -> [..., L]."""
        return self.code(self.path(items)[..., 1:])

    def item(self, leaves: Tensor) -> Tensor:
        """The item at each leaf [...]; the one with the lowest number where a leaf holds several."""
        return self.leaf_items[self.leaf_start[leaves - self.first_leaf]].long()

    def representative(self, items: Tensor) -> Tensor:
        """The item that stands for each item's leaf [...]: itself, unless items share their semantic ID."""
        return self.item(self.leaf_of_item[items].long())

    def same_leaf(self, items: Tensor, others: Tensor) -> Tensor:
        """Whether items have the same semantic ID as others: [...], [...] -> bool, broadcast."""
        return self.leaf_of_item[items] == self.leaf_of_item[others]

    @cached_property
    def leaf_number(self) -> Tensor:
        """The position of each item's leaf among the leaves: [items] int64."""
        return self.leaf_of_item.long() - self.first_leaf

    @property
    def leaf_is_item(self) -> bool:
        """Whether no two items share a semantic ID."""
        return self.leaves == self.items

    @property
    def rank_in_leaf(self) -> np.ndarray:
        """Each item's position [items] among the items of its leaf, in the order of their numbers."""
        rank = np.empty(self.items, np.int64)
        sizes = self.leaf_start.diff().cpu().numpy()
        rank[self.leaf_items.cpu().numpy()] = np.arange(self.items) - np.repeat(
            self.leaf_start[:-1].cpu().numpy(), sizes
        )
        return rank

    @cached_property
    def groups(self) -> tuple[Groups, ...]:
        """Items by leaf, then the nodes of each level by parent, from the leaves up to the root's children."""
        bounds = zip(self.level_start[-3::-1], self.level_start[-2:0:-1], strict=True)
        return tuple(
            Groups.from_offsets(offsets)
            for offsets in (self.leaf_start, *(self.first_child[start : stop + 1] for start, stop in bounds))
        )

    @cached_property
    def nodes_by_code(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """For each level below the root its nodes ordered by code [n], and where each code begins [size + 1]."""
        found = []
        for level, size in enumerate(self.sizes, start=1):
            nodes = self.nodes_at(level)
            code, order = self.code(nodes).sort(stable=True)
            found.append((nodes[order], torch.searchsorted(code, torch.arange(size + 1, device=code.device))))
        return tuple(found)

    @cached_property
    def log_items_below(self) -> Tensor:
        """The logarithm of `items_below`: [nodes] float32."""
        return self.items_below.double().log().float()

    @cached_property
    def items_below(self) -> Tensor:
        """How many items lie at or below each node: [nodes] int32."""
        return self.count_below(torch.ones(self.items, dtype=torch.bool, device=self.key.device))

    def count_below(self, wanted: Tensor) -> Tensor:
        """How many of the items that are wanted, bool [items], lie at or below each node: [nodes] int32."""
        counts = torch.zeros(self.nodes, dtype=torch.int32, device=self.key.device)
        counts.index_add_(0, self.leaf_of_item, wanted.int())
        for level in range(self.levels, 0, -1):
            nodes = self.nodes_at(level)
            counts.index_add_(0, self.parent(nodes), counts[nodes])
        return counts

    @cached_property
    def open(self) -> Tensor:
        """Whether a choice is left at or below each node: [nodes] bool. Below the others every step is certain."""
        found = self.first_child.diff() > 1
        for level in range(self.levels, 0, -1):
            nodes = self.nodes_at(level)
            found[self.parent(nodes[found[nodes]])] = True
        return found


def _int32(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int32))
