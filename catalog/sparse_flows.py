"""Exact flows where all but some items of a prompt share one reward: the cost is that of these items, at any size.

    F(s) = sum over the listed nodes n at or below s of R(n) * own(n),
    own(n) = items below n - items below the listed nodes next below it

All terms are counts and rewards, none negative, so nothing cancels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from catalog.flows import pad_levels
from catalog.trie import Trie


@dataclass(frozen=True)
class SparseReward:
    """What a reward says of the whole catalog without naming every item.

    items [B, M]: those with a value of their own, -1 for an empty place, distinct within a row; values [B, M] >= 0;
    rest [B] >= 0: the value of all others. nodes [B, S], node_values [B, S]: where whole subtrees of the trie have one
    value, their nodes, -1 for an empty place, distinct within a row; the deepest node at or above an item decides, and
    the item's own value before that. cut [B]: which share of the reward's mass `rest` leaves out, None for none.
    """

    items: Tensor
    values: Tensor
    rest: Tensor
    nodes: Tensor | None = None
    node_values: Tensor | None = None
    cut: Tensor | None = None

    @classmethod
    def from_nodes(cls, nodes: Tensor, values: Tensor, rest: Tensor, cut: Tensor | None = None) -> "SparseReward":
        """Of subtrees alone: nodes [B, S], values [B, S], rest [B]."""
        return cls(nodes[:, :0], values[:, :0], rest, nodes, values, cut)

    def listed(self, trie: Trie) -> tuple[Tensor, Tensor]:
        """What has a value of its own, by number in `SparseValues` [B, M + S], -1 for empty; the values [B, M + S]."""
        nodes = item_nodes(self.items, trie)
        if self.nodes is None or self.node_values is None:
            return nodes, self.values
        return torch.cat([nodes, self.nodes], 1), torch.cat([self.values, self.node_values], 1)

    def at(self, items: Tensor, trie: Trie) -> Tensor:
        """The values of items [B, K]: [B, K]."""
        values = SparseValues.from_rewards([self], [1.0], trie)
        return values.value[values.of_items(items)]

    def dense(self, trie: Trie) -> Tensor:
        """The value of every item, for small catalogs: [B, items]."""
        return SparseValues.from_rewards([self], [1.0], trie).dense()


def item_nodes(items: Tensor, trie: Trie) -> Tensor:
    """The number in `SparseValues` of each item [...]: its leaf's, or one behind all nodes where leaves are shared."""
    if trie.leaf_is_item:
        return trie.leaf_of_item[items].long().where(items >= 0, -1)
    return (trie.nodes + items).where(items >= 0, -1)


class SparseValues:
    """A number for each item of each of B rows: that of the deepest listed node at or above it.

    Nodes are the trie's and, where items share leaves, the items as their children, numbered behind them. With a node
    all above it are listed.

    key [n]: node * B + row, ascending, so that levels follow each other; value [n]; parent [n - B]: the place of the
    parent of each but the roots; own [n]: how many items have the node's value.
    """

    def __init__(self, trie: Trie, rows: int, key: Tensor, parent: Tensor, bounds: list[int], value: Tensor) -> None:
        self.trie, self.rows, self.key, self.parent, self.bounds, self.value = trie, rows, key, parent, bounds, value

    @classmethod
    def from_rewards(cls, rewards: Sequence[SparseReward], weights: Sequence[float], trie: Trie) -> "SparseValues":
        """The weighted sum of rewards of the same B rows; what any of them lists is listed."""
        rows = len(rewards[0].rest)
        listed = [_keys(*reward.listed(trie), rows) for reward in rewards]
        key, parent, bounds = _with_ancestors(torch.cat([keys for keys, _ in listed]), trie, rows)
        found = cls(trie, rows, key, parent, bounds, key.new_empty(0))
        parts = [
            weight * found._spread(keys, values, reward.rest)
            for reward, weight, (keys, values) in zip(rewards, weights, listed, strict=True)
        ]
        found.value = sum(parts[1:], parts[0])
        return found

    def _spread(self, keys: Tensor, values: Tensor, rest: Tensor) -> Tensor:
        """One reward's value of every listed node: its own, else the one above it."""
        place = torch.searchsorted(self.key, keys)
        given = torch.zeros(len(self.key), dtype=torch.bool, device=keys.device)
        given[place] = True
        value = torch.zeros(len(self.key), device=keys.device)
        value[: self.rows] = rest.float()
        value[place] = values.float()
        for start, stop in zip(self.bounds[1:], self.bounds[2:], strict=False):
            above = value[self.parent[start - self.rows : stop - self.rows]]
            value[start:stop] = value[start:stop].where(given[start:stop], above)
        return value

    @cached_property
    def row(self) -> Tensor:
        """The row of each listed node [n]."""
        return self.key % self.rows

    @cached_property
    def by_parent(self) -> tuple[Tensor, Tensor]:
        """The places of all listed nodes but the roots by parent [n - B], and where each group begins [n + 1]."""
        count = self.parent.bincount(minlength=len(self.key))
        start = torch.cat([count.new_zeros(1), count.cumsum(0)])
        return self.parent.argsort(stable=True) + self.rows, start

    @cached_property
    def own(self) -> Tensor:
        """How many items have the value of each listed node [n]: those below it and below no other one under it."""
        node = self.key // self.rows
        below = torch.ones_like(node)
        inner = node < self.trie.nodes
        below[inner] = self.trie.items_below[node[inner]].long()
        return below.index_add(0, self.parent, -below[self.rows :])

    def total_below(self, mass: Tensor) -> Tensor:
        """The sum of mass [n] over the listed nodes at or below each: [n]."""
        total = mass.clone()
        for start, stop in zip(self.bounds[-2:0:-1], self.bounds[:1:-1], strict=True):
            total.index_add_(0, self.parent[start - self.rows : stop - self.rows], total[start:stop].clone())
        return total

    def find(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """The places of nodes [B, ...] of the rows, any place for others, and which are listed: [B, ...] each."""
        row = torch.arange(self.rows, device=nodes.device).view(-1, *[1] * (nodes.dim() - 1))
        key = nodes * self.rows + row
        place = torch.searchsorted(self.key, key).clamp(max=len(self.key) - 1)
        return place, self.key[place] == key

    def deepest(self, nodes: Tensor) -> Tensor:
        """The place of the deepest listed node at or above each of nodes [B, ...]."""
        place, found = self.find(nodes)
        for _ in range(self.trie.levels):
            nodes = self.trie.parent(nodes.clamp(min=1))
            above, listed = self.find(nodes)
            place, found = place.where(found, above), found | listed
        return place

    def of_items(self, items: Tensor) -> Tensor:
        """The place of what decides for items [B, ...]."""
        if self.trie.leaf_is_item:
            return self.deepest(self.trie.leaf_of_item[items].long())
        place, found = self.find(self.trie.nodes + items)
        return place.where(found, self.deepest(self.trie.leaf_of_item[items].long()))

    def dense(self) -> Tensor:
        """The value of every item, for small catalogs: [B, items]."""
        every = torch.arange(self.trie.items, device=self.key.device).expand(self.rows, -1)
        return self.value[self.of_items(every)]


@dataclass(frozen=True)
class ListedOnPath:
    """The exact flows on one path for each of M prompts, without those that follow from counts.

    log_flow [M, L + 1] on the path; base [M, L]: log R of an item of each child that is not listed; count [M]: how many
    children are; slot [n], the places of these in [L, C], C the largest number of children of any node, and log_listed
    [n], row by row.
    """

    log_flow: Tensor
    base: Tensor
    count: Tensor
    slot: Tensor
    log_listed: Tensor

    @classmethod
    def concat(cls, parts: Sequence["ListedOnPath"], trie: Trie) -> "ListedOnPath":
        """Those of several calls, one after another; none of no call."""
        device = trie.key.device
        numbers, places = torch.empty(0, device=device), torch.empty(0, dtype=torch.int32, device=device)
        nothing = (numbers.view(0, 1).expand(0, trie.levels + 1), numbers.view(0, 1).expand(0, trie.levels))
        start = cls(*nothing, places, places, numbers)
        return cls(*(torch.cat([getattr(part, name) for part in (start, *parts)]) for name in cls.__dataclass_fields__))

    def children(self, child: Tensor, trie: Trie) -> Tensor:
        """log F of all children [M, L, C], -1 behind the last: [M, L, C], -inf there."""
        shared = self.base.unsqueeze(-1) + trie.log_items_below[child.clamp(min=0)]
        found = shared.masked_fill(child < 0, -torch.inf).flatten(1)
        row = torch.arange(len(found), device=found.device).repeat_interleave(self.count.long())
        found[row, self.slot.long()] = self.log_listed
        return found.view_as(child)


class SparseFlows:
    """The exact log flow of every node, see `Flows`.

    values: which nodes are listed; log_reward [n]: the logarithm of what an item of each of them is worth, not NaN or
    +inf, computed of `values.value`.
    """

    def __init__(self, values: SparseValues, log_reward: Tensor) -> None:
        self.trie, self.values, self.log_reward = values.trie, values, log_reward
        own = values.own
        scale = torch.full((values.rows,), -torch.inf, device=log_reward.device)
        scale.scatter_reduce_(0, values.row, log_reward.masked_fill(own == 0, -torch.inf), "amax")
        scale = scale.clamp(min=torch.finfo(scale.dtype).min)[values.row].double()  # [n]
        self.mass = (log_reward.double() - scale).exp() * own  # float64: a sum of millions of equal floors
        self.flow = values.total_below(self.mass)
        self.log_flow = (self.flow.log() + scale).float()

    def share(self, counts: Tensor, nodes: Tensor | None = None) -> Tensor:
        """The share of each row's whole flow on listed nodes for which counts, bool [n], is true: [B] float64.

        nodes [B]: only at or below one node of each row.
        """
        values, total = self.values, self.flow[: self.values.rows]
        flow = values.total_below(self.mass * counts)
        if nodes is None:
            return flow[: values.rows] / total
        place, found = values.find(nodes)
        deepest = values.deepest(nodes)
        one = self.mass[deepest] / values.own[deepest].clamp(min=1) * counts[deepest]  # of each item that is not listed
        return flow[place].where(found, one * self.trie.items_below[nodes]) / total

    def at(self, nodes: Tensor) -> Tensor:
        place, found = self.values.find(nodes)
        shared = self.log_reward[self.values.deepest(nodes)] + self.trie.log_items_below[nodes]
        return self.log_flow[place].where(found, shared)

    def on_path(self, path: Tensor) -> tuple[Tensor, Tensor]:
        log_flow, deepest = self._on_path(path)
        children = [self._of_children(path[..., n], deepest[..., n], n) for n in range(self.trie.levels)]
        return log_flow, pad_levels(children, max(self.trie.max_children))

    def listed_on_path(self, path: Tensor) -> ListedOnPath:
        """What `on_path` says of one path [B, L + 1] of each row, of the children the listed ones alone."""
        log_flow, deepest = self._on_path(path)
        widest, parts = max(self.trie.max_children), []
        for level in range(self.trie.levels):
            row, slot, listed = self._listed_children(path[:, level], deepest[:, level])
            parts.append((row, level * widest + slot, listed))
        row, slot, listed = (torch.cat(column) for column in zip(*parts, strict=True))
        row, order = row.sort(stable=True)
        count = row.bincount(minlength=len(path))
        return ListedOnPath(log_flow, self.log_reward[deepest[:, :-1]], count.int(), slot[order].int(), listed[order])

    def _on_path(self, path: Tensor) -> tuple[Tensor, Tensor]:
        """log F on paths [B, ..., L + 1], and the place of the deepest listed node at or above each."""
        place, found = self.values.find(path)
        deepest = place.where(found, 0).cummax(-1).values  # with a node all above it are listed
        shared = self.log_reward[deepest] + self.trie.log_items_below[path]
        return self.log_flow[place].where(found, shared), deepest

    def steps(self, nodes: Tensor, level: int) -> Tensor:
        deepest = self.values.deepest(nodes)
        shared = self.log_reward[deepest] + self.trie.log_items_below[nodes]
        own = self.log_flow[deepest].where(self._is_listed(nodes, deepest), shared)
        return self._of_children(nodes, deepest, level) - own.unsqueeze(-1)

    def of_items(self, items: Tensor) -> Tensor:
        return self.log_reward[self.values.of_items(items)]

    def _of_children(self, nodes: Tensor, deepest: Tensor, level: int) -> Tensor:
        """log F of the children of nodes [B, W] of a level: [B, W, C], -inf behind the last.

        deepest [B, W]: the place of the deepest listed node at or above each.
        """
        child = self.trie.children(nodes, self.trie.max_children[level])
        shared = self.log_reward[deepest].unsqueeze(-1) + self.trie.log_items_below[child.clamp(min=0)]
        found = shared.masked_fill_(child < 0, -torch.inf)
        query, slot, listed = self._listed_children(nodes, deepest)
        fits = slot < found.shape[-1]  # an empty place of a beam holds the root, which has more children than its level
        found.flatten(0, -2)[query[fits], slot[fits]] = listed[fits]
        return found

    def _listed_children(self, nodes: Tensor, deepest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The listed children of nodes [B, ...]: which of the nodes each belongs to, its slot there and its log F."""
        order, start = self.values.by_parent
        place = deepest.flatten()
        first = start[place]
        count = (start[place + 1] - first).where(self._is_listed(nodes, deepest).flatten(), 0)
        query = torch.arange(len(place), device=place.device).repeat_interleave(count)
        within = torch.arange(len(query), device=place.device) - (count.cumsum(0) - count)[query]
        child = order[first[query] + within]
        slot = self.values.key[child] // self.values.rows - self.trie.first_child[nodes.flatten()[query]]
        return query, slot, self.log_flow[child]

    def _is_listed(self, nodes: Tensor, deepest: Tensor) -> Tensor:
        """Whether the deepest listed node at or above each of nodes is the node itself."""
        return self.values.key[deepest] // self.values.rows == nodes


def _keys(nodes: Tensor, values: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """node * B + row of the places [B, M] that are not empty, and their values: [n], [n]."""
    row, column = (nodes >= 0).nonzero(as_tuple=True)
    return nodes[row, column] * rows + row, values[row, column]


def _with_ancestors(listed: Tensor, trie: Trie, rows: int) -> tuple[Tensor, Tensor, list[int]]:
    """Keys of listed nodes and of all above them [n], their parents' places [n - B], and where each level begins."""
    starts = [*trie.level_start, trie.nodes + trie.items]
    listed = listed.sort().values
    limits = torch.tensor(starts, device=listed.device) * rows
    cuts = torch.searchsorted(listed, limits).tolist()
    keys: list[Tensor] = []
    parents: list[Tensor] = []
    above = listed[:0]
    for level in range(len(starts) - 2, 0, -1):
        key, place = torch.cat([above, listed[cuts[level] : cuts[level + 1]]]).unique(return_inverse=True)
        parents.append(place[: len(above)])  # of the level below
        keys.append(key)
        node = key // rows
        up = trie.leaf_of_item[node - trie.nodes].long() if starts[level] == trie.nodes else trie.parent(node)
        above = up * rows + (key - node * rows)
    roots = torch.arange(rows, device=listed.device)
    parents.append(above)  # the root's key is its row
    keys = [roots, *keys[::-1]]
    bounds = [0]
    for key in keys:
        bounds.append(bounds[-1] + len(key))
    placed = [place + bounds[level] for level, place in enumerate(parents[:0:-1])]
    return torch.cat(keys), torch.cat(placed), bounds
