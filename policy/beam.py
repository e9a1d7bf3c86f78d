"""Beam search in the trie: where a beam may go, and which of its branches can still end among the best."""

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from catalog import Trie
from interactions.prompts import PromptBatch

if TYPE_CHECKING:
    from policy.base import TriePolicy


class StepGuide(Protocol):
    """What steps of a beam get beside their log P_F. falls: whether no step ever gets more than 0."""

    falls: bool

    def __call__(self, nodes: Tensor, level: int) -> Tensor:
        """For each child of nodes [B, W] of a level, in their order: [B, W, C], anything behind the last child.

        C is the largest number of children of any node of the level.
        """
        ...


def beam_search(
    policy: "TriePolicy",
    prompts: PromptBatch,
    width: int,
    k: int,
    excluded: Tensor | None,
    guide: StepGuide | None,
    allowed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The search of `TriePolicy.beam`, which says what is given and returned."""
    trie, reachable = policy.trie, Reachable(policy.trie, excluded, allowed)
    logits, branches = policy._read(prompts)
    nodes = torch.zeros(len(prompts), 1, dtype=torch.long, device=logits.device)
    score = torch.zeros(len(prompts), 1, device=logits.device)
    for level, fan in enumerate(trie.max_children, start=1):
        log_p = policy._step(logits, branches, nodes, level - 1)
        child = trie.children(nodes, fan)  # [B, W, fan]
        total = score.unsqueeze(-1) + log_p
        if guide is not None:
            total = total + guide(nodes, level - 1)
        total = total.masked_fill(~reachable(child), -torch.inf).flatten(1)
        score, best = total.topk(min(width if level < trie.levels else k, total.shape[1]))
        nodes = child.flatten(1).gather(1, best).where(score > -torch.inf, 0)
        if level < trie.levels:
            held = prune(trie, nodes, score, level, k, guide, certain=not policy.full_vocabulary)
            places = max(1, int(held.sum(1).max()))  # those held come first
            nodes, score, best = (values[:, :places] for values in (nodes, score, best))
            nodes = nodes.where(held[:, :places], 0)
            score = score.where(held[:, :places], -torch.inf)
        branches.select(best // fan)
    items = trie.item(nodes.clamp(min=trie.first_leaf)).where(score > -torch.inf, -1)
    missing = (0, k - items.shape[1])
    return nn.functional.pad(items, missing, value=-1), nn.functional.pad(score, missing, value=-torch.inf)


class Reachable:
    """Which nodes a row may be led to: those with an item at or below them that is allowed and not excluded.

    excluded [B, H], -1 for padding, or None; allowed bool [items] or None. Where items share a leaf it stays reachable
    as long as one of them is left.
    """

    def __init__(self, trie: Trie, excluded: Tensor | None, allowed: Tensor | None) -> None:
        self.nodes = trie.nodes
        self.below = trie.items_below if allowed is None else trie.count_below(allowed)  # [nodes]
        self.closed = None if allowed is None else self.below == 0
        self.exhausted = None if excluded is None else self._exhausted(trie, excluded, allowed)

    def __call__(self, child: Tensor) -> Tensor:
        """bool [B, W, C] for children [B, W, C] of the rows' nodes, -1 for none."""
        found = child >= 0
        node = child.clamp(min=0)
        if self.closed is not None:
            found &= ~self.closed[node]
        if self.exhausted is not None and len(self.exhausted):
            row = torch.arange(len(child), device=child.device)[:, None, None] * self.nodes
            place = torch.searchsorted(self.exhausted, row + node).clamp(max=len(self.exhausted) - 1)
            found &= self.exhausted[place] != row + node
        return found

    def _exhausted(self, trie: Trie, excluded: Tensor, allowed: Tensor | None) -> Tensor:
        """row * nodes + node, ascending, of every node below which a row has excluded all that is allowed."""
        row, slot = (excluded >= 0).nonzero(as_tuple=True)
        pairs = torch.stack([row, excluded[row, slot]], 1).unique(dim=0)  # [n, 2]; a repeat must not count twice
        if allowed is not None:
            pairs = pairs[allowed[pairs[:, 1]]]
        key = pairs[:, :1] * trie.nodes + trie.path(pairs[:, 1])[:, 1:]
        key, count = key.unique(return_counts=True)
        return key[count == self.below[key % trie.nodes]]


def prune(
    trie: Trie, nodes: Tensor, score: Tensor, level: int, k: int, guide: StepGuide | None, *, certain: bool = True
) -> Tensor:
    """Whether each branch of a beam at `level` can still end among its best k: bool [B, W].

    score [B, W] is that of the branches so far, descending, and -inf where a place is empty; nodes [B, W] holds the
    root there. Scores only fall as long as no step of the guide is positive. So a branch is lost once k
    others end with more than it has now, for certain because no choice is left at or below their nodes: each of them
    keeps its place for as long as a descendant of the lost branch does. A guide that can raise a score keeps all, and
    so does a policy for which a step without a choice is not certain.
    """
    held = score > -torch.inf
    if not certain or k > nodes.shape[1] or (guide is not None and not guide.falls):
        return held
    final = score.masked_fill(trie.open[nodes], -torch.inf)
    if guide is not None:
        for depth in range(level, trie.levels):
            final = final + guide(nodes, depth)[..., 0]  # one child each where the score is final
            nodes = trie.first_child[nodes].long()
    return held & (score >= final.topk(k).values[:, -1:])
