"""Exact flows: what every trie node is worth when the reward of each item is known."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from catalog.trie import Groups, Trie

CHUNK = 4_000_000
"""Entries [prompts, items] that are summed at once; bounds the memory beside the result."""

DENSE_ITEMS = 50_000
"""Catalogs up to this size are computed item by item unless a setting says otherwise."""


class Flows(Protocol):
    """The exact log flow of the trie's nodes for each of B prompts, asked for where it is needed."""

    trie: Trie

    def at(self, nodes: Tensor) -> Tensor:
        """log F of nodes [B, ...] of any level."""
        ...

    def on_path(self, path: Tensor) -> tuple[Tensor, Tensor]:
        """log F on paths [B, K, L + 1] from the root, and of the children of all nodes but the last [B, K, L, C].

        C is the largest number of children of any node; behind the last child stands -inf.
        """
        ...

    def steps(self, nodes: Tensor, level: int) -> Tensor:
        """log F(child) - log F(node) of the children of nodes [B, W] of a level: [B, W, C], -inf behind the last child.

        C is the most that a node of the level has.
        """
        ...

    def of_items(self, items: Tensor) -> Tensor:
        """log R of items [B, ...], each by itself where several share a leaf."""
        ...


class DenseFlows:
    """Flows of a reward that is known item by item.

    log_reward [B, items] as in `exact_log_flow`; log_flow [B, nodes].
    """

    def __init__(self, log_reward: Tensor, trie: Trie) -> None:
        self.trie, self.log_reward = trie, log_reward
        self.log_flow = exact_log_flow(log_reward, trie)

    def at(self, nodes: Tensor) -> Tensor:
        return self.log_flow.gather(1, nodes.flatten(1)).view_as(nodes)

    def on_path(self, path: Tensor) -> tuple[Tensor, Tensor]:
        child = self.trie.children(path[..., :-1], max(self.trie.max_children))  # [B, K, L, C]
        return self.at(path), self._of_children(child)

    def steps(self, nodes: Tensor, level: int) -> Tensor:
        child = self.trie.children(nodes, self.trie.max_children[level])
        return self._of_children(child) - self.at(nodes).unsqueeze(-1)

    def of_items(self, items: Tensor) -> Tensor:
        return self.log_reward.gather(1, items.flatten(1)).view_as(items)

    def _of_children(self, child: Tensor) -> Tensor:
        return self.at(child.clamp(min=0)).masked_fill(child < 0, -torch.inf)


def draw_items(flows: Flows, rows: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` independent draws from R / Z for each of the B rows, exactly: items [B, count].

    Each code is drawn in proportion to the flows of the children, F(child) / F(node).
    """
    trie = flows.trie
    nodes = torch.zeros(rows, count, dtype=torch.long, device=trie.key.device)
    for level in range(trie.levels):
        slot = _draw(flows.steps(nodes, level), generator)
        nodes = trie.first_child[nodes] + slot
    if trie.leaf_is_item:
        return trie.item(nodes)
    first = trie.leaf_start[nodes - trie.first_leaf].long().unsqueeze(-1)
    end = trie.leaf_start[nodes - trie.first_leaf + 1].long().unsqueeze(-1)
    place = first + torch.arange(int((end - first).max()), device=nodes.device)  # [B, count, items of a leaf]
    items = trie.leaf_items[place.clamp(max=trie.items - 1)].long()
    log_reward = flows.of_items(items).masked_fill(place >= end, -torch.inf)
    return items.gather(-1, _draw(log_reward, generator).unsqueeze(-1)).squeeze(-1)


def _draw(log_weight: Tensor, generator: torch.Generator) -> Tensor:
    """One column of each row in proportion to exp(log_weight) [B, K, C]: [B, K]."""
    chances = log_weight.softmax(-1).flatten(0, 1)
    return torch.multinomial(chances, 1, generator=generator).view(log_weight.shape[:2])


def pad_levels(by_level: list[Tensor], width: int) -> Tensor:
    """Values [B, K, C_l] of each level's children as one [B, K, L, width], -inf behind the last."""
    return torch.stack([pad(part, (0, width - part.shape[-1]), value=-torch.inf) for part in by_level], 2)


def exact_log_flow(log_reward: Tensor, trie: Trie, *, chunk: int = CHUNK) -> Tensor:
    """Log flow through every trie node: log F(s) = logsumexp of log_reward over the items below s (arXiv 2111.09266).

    log_reward [B, items], not NaN or +inf; -inf is no reward -> [B, nodes], -inf where nothing is below. Column 0 is
    the root, so it is log Z(u). With P_B = 1 these are the only flows that balance: F(s) is the sum over the children
    of s, and F(child) / F(s) the policy that samples items in proportion to their reward.
    """
    rows = max(1, chunk // trie.items)
    if len(log_reward) <= rows:
        return _flows(log_reward.T, trie).T
    return torch.cat([_flows(part.T, trie).T for part in log_reward.split(rows)])


def _flows(log_reward: Tensor, trie: Trie) -> Tensor:
    """[items, B] -> [nodes, B]; siblings are consecutive, so each level is one segmented sum of the next."""
    levels = [log_reward[trie.leaf_items.long()]]
    for groups in trie.groups:
        levels.append(_group_logsumexp(levels[-1], groups))
    return torch.cat(levels[:0:-1])


def _group_logsumexp(values: Tensor, groups: Groups) -> Tensor:
    """logsumexp over the rows of each group: [n, B] -> [groups, B].

    Only groups of several rows are summed: in public catalogs most nodes have one child after two codes.
    """
    result = values[groups.first]
    if not len(groups.several):
        return result
    part = values[groups.members]
    largest = torch.segment_reduce(part, "max", lengths=groups.sizes, axis=0)
    largest = largest.clamp(min=torch.finfo(values.dtype).min)  # -inf - -inf would be NaN
    shifted = part - largest.repeat_interleave(groups.sizes, 0)
    result[groups.several] = torch.segment_reduce(shifted.exp(), "sum", lengths=groups.sizes, axis=0).log() + largest
    return result
