"""Exact flows: what every trie node is worth when the reward of each item is known."""

import torch
from torch import Tensor

from catalog.trie import Trie

CHUNK = 4_000_000
"""Entries [prompts, items] that are summed at once; bounds the memory beside the result."""


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
    level = _segment_logsumexp(log_reward[trie.leaf_items.long()], trie.leaf_start.long())
    levels = [level]
    for start, stop in zip(trie.level_start[-3::-1], trie.level_start[-2:0:-1], strict=True):
        children = trie.first_child[start : stop + 1].long()
        level = _segment_logsumexp(level, children - children[0])
        levels.append(level)
    return torch.cat(levels[::-1])


def _segment_logsumexp(values: Tensor, offsets: Tensor) -> Tensor:
    """logsumexp over rows offsets[i] .. offsets[i + 1] - 1, none of them empty: [n, B] -> [segments, B].

    Only segments of several rows are summed: in public catalogues most nodes have one child after two codes.
    """
    sizes = offsets.diff()
    several = sizes > 1
    result = values[offsets[:-1]]
    if not several.any():
        return result
    part = values[several.repeat_interleave(sizes)]
    sizes = sizes[several]
    largest = torch.segment_reduce(part, "max", lengths=sizes, axis=0)
    largest = largest.clamp(min=torch.finfo(values.dtype).min)  # -inf - -inf would be NaN
    shifted = part - largest.repeat_interleave(sizes, 0)
    result[several] = torch.segment_reduce(shifted.exp(), "sum", lengths=sizes, axis=0).log() + largest
    return result
