"""Which items a user has not met, judged by the prompt."""

import torch
from torch import Tensor

from catalog import Trie
from interactions.prompts import PromptBatch


def unknown_items(trie: Trie, batch: PromptBatch) -> Tensor:
    """All items but the target, the history, and those that share a semantic ID with these: bool [B, items]."""
    known = torch.cat([batch.history, batch.target.unsqueeze(1)], 1)  # [B, N + 1]
    taken = trie.leaf_number[known].where(known >= 0, trie.leaves)  # [B, N + 1]; the last column is the padding's
    free = torch.ones(len(batch), trie.leaves + 1, dtype=torch.bool, device=known.device)
    return free.scatter_(1, taken, False)[:, trie.leaf_number]


def best_unknown(trie: Trie, batch: PromptBatch, score: Tensor, pool: int) -> Tensor:
    """The `pool` unknown items with the highest scores [B, items], best first: [B, min(pool, items)].

    -1 behind the last one where fewer are unknown.
    """
    score = score.masked_fill(~unknown_items(trie, batch), -torch.inf)
    best, items = score.topk(min(pool, trie.items))
    return items.where(best > -torch.inf, -1)
