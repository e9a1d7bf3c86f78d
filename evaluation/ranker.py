"""Top lists of a policy for many users."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from catalog import Trie, exact_log_flow
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
    """The k most probable items [users, k] of the exact distribution over the catalogue; for small catalogues."""

    def best(batch: PromptBatch, seen: Tensor) -> Tensor:
        log_p = torch.nn.functional.pad(policy.distribution(batch), (0, 1), value=-torch.inf)  # a column for padding
        if exclude_history:
            log_p.scatter_(1, seen.where(seen >= 0, log_p.shape[1] - 1), -torch.inf)
        return log_p.topk(k).indices

    return _in_batches(policy, rows, prompts, batch_size, best)


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
    for start in tqdm(range(0, len(order), batch_size), desc="ranking", leave=False, disable=None):
        part = [table[i] for i in order[start : start + batch_size]]
        histories = [torch.tensor(row["history"]) for row in part]
        seen = pad_sequence(histories, batch_first=True, padding_value=-1).to(device)  # [B, H]
        found.append(best(prompts(part).to(device), seen).cpu().numpy())
    ranked = np.concatenate(found)
    return ranked[np.argsort(order)]
