"""Top lists of a policy for many users."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from interactions.prompts import PromptBatch, PromptBuilder
from policy import CausalPolicy


def rank_by_beam(
    policy: CausalPolicy,
    rows: Dataset,
    prompts: PromptBuilder,
    *,
    width: int,
    exclude_history: bool,
    batch_size: int = 64,
) -> np.ndarray:
    """The items [users, width] that a trie-constrained beam finds for each row, best first, -1 where none is left.

    exclude_history: leave out the row's whole history, also the part that no longer fits the prompt.
    """

    def best(batch: PromptBatch, seen: torch.Tensor) -> torch.Tensor:
        return policy.beam(batch, width, seen if exclude_history else None)[0]

    return _in_batches(policy, rows, prompts, batch_size, best)


def rank_exactly(
    policy: CausalPolicy, rows: Dataset, prompts: PromptBuilder, *, k: int, exclude_history: bool, batch_size: int = 16
) -> np.ndarray:
    """The k most probable items [users, k] of the exact distribution over the catalogue; for small catalogues."""

    def best(batch: PromptBatch, seen: torch.Tensor) -> torch.Tensor:
        log_p = torch.nn.functional.pad(policy.distribution(batch), (0, 1), value=-torch.inf)  # a column for padding
        if exclude_history:
            log_p.scatter_(1, seen.where(seen >= 0, log_p.shape[1] - 1), -torch.inf)
        return log_p.topk(k).indices

    return _in_batches(policy, rows, prompts, batch_size, best)


def _in_batches(
    policy: CausalPolicy,
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
