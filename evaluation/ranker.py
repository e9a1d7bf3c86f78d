"""Top lists of a policy for many users."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from catalog import Trie, exact_log_flow
from catalog.progress import progress
from interactions.prompts import PromptBatch, PromptBuilder
from policy import TriePolicy


def rank_by_beam(
    policy: TriePolicy,
    rows: Dataset,
    prompts: PromptBuilder,
    *,
    width: int,
    exclude_history: bool,
    batch_size: int = 64,
    guide: Callable[[PromptBatch], Tensor] | None = None,
) -> np.ndarray:
    """The items [users, width] that a trie-constrained beam finds for each row, best first, -1 where none is left.

    exclude_history: leave out the row's whole history, also the part that no longer fits the prompt. guide: prompts ->
    what each step into a node adds to its log P_F [B, nodes], see `guidance`.
    """

    def best(batch: PromptBatch, seen: Tensor) -> Tensor:
        return policy.beam(batch, width, seen if exclude_history else None, guide and guide(batch))[0]

    return _in_batches(policy, rows, prompts, batch_size, best)


def guidance(log_reward: Tensor, trie: Trie, weight: float) -> Tensor:
    """For guided decoding: weight * (log F(node) - log F(parent)) with the exact flows of a reward, [B, nodes].

    log_reward [B, items], finite. A beam over log P_F + guidance ranks by P_F * R ** weight, up to what it passes over.
    """
    flow = exact_log_flow(log_reward, trie)  # [B, nodes]
    nodes = torch.arange(1, trie.nodes, device=flow.device)
    return torch.nn.functional.pad(weight * (flow[:, 1:] - flow[:, trie.parent(nodes)]), (1, 0))


def rank_exactly(
    policy: TriePolicy, rows: Dataset, prompts: PromptBuilder, *, k: int, exclude_history: bool, batch_size: int = 16
) -> np.ndarray:
    """The exact counterpart of a beam: the k most probable items [users, k], one per leaf, -1 where none is left.

    For small catalogues, since the whole distribution is computed. A leaf is passed over where all its items are
    excluded.
    """
    trie = policy.trie
    leaves = trie.nodes_at(trie.levels)

    def best(batch: PromptBatch, seen: Tensor) -> Tensor:
        log_p = policy.distribution(batch)[:, trie.item(leaves)]  # [B, leaves]
        if exclude_history:
            log_p = log_p.masked_fill(_seen(seen, trie)[:, leaves] == trie.items_below[leaves], -torch.inf)
        score, place = log_p.topk(min(k, trie.leaves))
        items = trie.item(leaves[place]).where(score > -torch.inf, -1)
        return torch.nn.functional.pad(items, (0, k - items.shape[1]), value=-1)

    return _in_batches(policy, rows, prompts, batch_size, best)


def _seen(seen: Tensor, trie: Trie) -> Tensor:
    """How many distinct items below each leaf a row has, [B, nodes]; seen [B, H] items, -1 for padding."""
    has = torch.zeros(len(seen), trie.items + 1, device=seen.device)
    has = has.scatter_(1, seen.where(seen >= 0, trie.items), 1.0)[:, :-1]  # [B, items]
    return torch.zeros(len(seen), trie.nodes, device=seen.device).index_add_(1, trie.leaf_of_item, has)


def _in_batches(
    policy: TriePolicy,
    rows: Dataset,
    prompts: PromptBuilder,
    batch_size: int,
    best: Callable[[PromptBatch, torch.Tensor], torch.Tensor],
) -> np.ndarray:
    """`best(batch, whole histories [B, H])` for all rows, those of similar length together, in the rows' order."""
    device = policy.tokens.device
    table: Sequence[dict] = rows.to_list()
    order = np.argsort([len(row["history"]) for row in table], kind="stable")
    found = []
    for start in progress(range(0, len(order), batch_size), desc="ranking", leave=False):
        part = [table[i] for i in order[start : start + batch_size]]
        histories = [torch.tensor(row["history"]) for row in part]
        seen = pad_sequence(histories, batch_first=True, padding_value=-1).to(device)  # [B, H]
        found.append(best(prompts(part).to(device), seen).cpu().numpy())
    ranked = np.concatenate(found)
    return ranked[np.argsort(order)]
