"""Which items a user has not met, judged by the prompt."""

from typing import Any

import torch
from torch import Tensor

from catalog import DENSE_ITEMS, Trie
from interactions.prompts import PromptBatch
from recommenders.batch import best_items


def unknown_items(trie: Trie, batch: PromptBatch) -> Tensor:
    """All items but the target, the history, and those that share a semantic ID with these: bool [B, items]."""
    taken = known_leaves(trie, batch)
    taken = (taken - trie.first_leaf).where(taken >= 0, trie.leaves)  # the last column is the padding's
    free = torch.ones(len(batch), trie.leaves + 1, dtype=torch.bool, device=taken.device)
    return free.scatter_(1, taken, False)[:, trie.leaf_number]


def known_leaves(trie: Trie, batch: PromptBatch) -> Tensor:
    """The leaves of the history and of the target: [B, N + 1], -1 for padding."""
    known = torch.cat([batch.history, batch.target.unsqueeze(1)], 1)
    return trie.leaf_of_item[known].long().where(known >= 0, -1)


def is_unknown(trie: Trie, known: Tensor, items: Tensor) -> Tensor:
    """Whether items [B, M] have other leaves than known [B, N], without a row of all items: bool [B, M]."""
    return (trie.leaf_of_item[items].unsqueeze(2) != known.unsqueeze(1)).all(2)


def best_unknown(trie: Trie, batch: PromptBatch, recommender: Any, pool: int) -> Tensor:
    """The `pool` unknown items that the recommender finds likeliest, best first: [B, min(pool, items)].

    recommender: prompts -> probabilities [B, items]; in a catalog beyond `DENSE_ITEMS` its `top` is asked. Where it
    tells fewer items apart, those that it holds for equally unlikely follow: in the dense form in the order of `topk`,
    beyond it spread evenly over the catalog. -1 behind the last one where fewer are unknown.
    """
    if trie.items <= DENSE_ITEMS:
        score = recommender(batch).masked_fill(~unknown_items(trie, batch), -torch.inf)
        best, items = score.topk(min(pool, trie.items))
        return items.where(best > -torch.inf, -1)
    known = known_leaves(trie, batch)
    taken = int((trie.items_below[known.clamp(min=0)] * (known >= 0)).sum(1).max())
    items = best_items(recommender, batch, pool + taken).items
    if items.shape[1] < pool + taken or (items < 0).any():
        items = torch.cat([items, _others(trie, batch, items, 2 * pool + taken)], 1)
    unknown = is_unknown(trie, known, items) & (items >= 0)
    first = unknown.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :pool]
    return items.gather(1, first).where(unknown.gather(1, first), -1)


def _others(trie: Trie, batch: PromptBatch, items: Tensor, count: int) -> Tensor:
    """`count` items spread over the catalog, -1 where one is among items [B, M]: [B, count]."""
    steps = torch.arange(1, count + 1, device=items.device) * max(1, trie.items // (count + 1))
    spread = (batch.target.unsqueeze(1) + steps) % trie.items
    return spread.masked_fill((spread.unsqueeze(2) == items.unsqueeze(1)).any(2), -1)
