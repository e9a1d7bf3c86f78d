"""Exact flows along the history: what the reward says after each prefix of it, on the path to the item taken next."""

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor

from catalog import Trie
from interactions import prefixes
from interactions.log import OPTIONAL
from interactions.prompts import PromptBatch, PromptBuilder
from trainer.step import HistoryFlows, after_another

CHUNK = 256
"""Prefixes whose flows are computed at once: each has a number for every node of the trie."""


def history_flows(
    batch: PromptBatch, prompts: PromptBuilder, flows: Callable[[PromptBatch], Tensor], trie: Trie
) -> HistoryFlows:
    """Every item of the histories but the first is the target of a prompt of its own, and `flows` is asked for it.

    flows: prompts [M] -> exact log F of every node [M, nodes].
    """
    real = after_another(batch.history)
    path = trie.path(batch.history.clamp(min=0))  # [B, N, L + 1]
    child = trie.children(path[..., :-1], max(trie.max_children))  # [B, N, L, C]
    log_flow = torch.zeros(path.shape, device=path.device)
    child_log_flow = torch.zeros(child.shape, device=path.device)
    rows, (row, column) = _prefixes(batch), real.nonzero(as_tuple=True)  # both row by row, oldest first
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        everything = flows(prompts(rows[part]).to(path.device))  # [M, nodes]
        place = row[part], column[part]
        log_flow[place] = at_each(everything, path[place])
        child_log_flow[place] = at_each(everything, child[place].clamp(min=0))
    return HistoryFlows(log_flow, child_log_flow.masked_fill(child < 0, -torch.inf), real)


def at_each(values: Tensor, nodes: Tensor) -> Tensor:
    """values [B, nodes] at nodes [B, ...]: [B, ...]."""
    return values.gather(1, nodes.flatten(1)).view_as(nodes)


def _prefixes(batch: PromptBatch) -> list[dict]:
    """The rows of all prefixes; those of a longer history than the model reads begin where it reads."""
    whole = []
    for index, (history, target) in enumerate(zip(batch.history.tolist(), batch.target.tolist(), strict=True)):
        row = {name: values[index] for name, values in batch.columns.items()}
        row |= {"history": [item for item in history if item >= 0], "target": target}
        for name in OPTIONAL:
            if (past := f"history_{name}") in row:
                row[past] = row[past][-len(row["history"]) :]
        whole.append(row)
    return list(chain.from_iterable(map(prefixes, whole)))
