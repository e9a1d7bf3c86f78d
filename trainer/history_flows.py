"""Exact flows along the history: what the reward says after each prefix of it, on the path to the item taken next."""

from collections.abc import Callable
from itertools import accumulate, chain

import torch
from torch import Tensor

from catalog import Trie
from interactions import prefixes
from interactions.log import OPTIONAL
from interactions.prompts import PromptBatch, PromptBuilder
from trainer.reference import ROW
from trainer.step import HistoryFlows, after_another

CHUNK = 256
"""Prefixes whose flows are computed at once: each has a number for every node of the trie."""


class HistoryTarget:
    """Every item of the histories but the first is the target of a prompt of its own, and `flows` is asked for it.

    flows: prompts [M] -> exact log F of every node [M, nodes]. keep: what a row has is computed once, and kept in main
    memory of the process; batches then have the column of `numbered`. Rows are computed one by one, so that what one
    has does not depend on the rows beside it, to the last bit.
    """

    def __init__(
        self, prompts: PromptBuilder, flows: Callable[[PromptBatch], Tensor], trie: Trie, *, keep: bool = False
    ) -> None:
        self.prompts, self.flows, self.trie, self.keep = prompts, flows, trie, keep
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, batch: PromptBatch) -> HistoryFlows:
        real = after_another(batch.history)
        path = self.trie.path(batch.history.clamp(min=0))  # [B, N, L + 1]
        child = self.trie.children(path[..., :-1], max(self.trie.max_children))  # [B, N, L, C]
        log_flow = torch.zeros(path.shape, device=path.device)
        child_log_flow = torch.zeros(child.shape, device=path.device)
        rows, (row, column) = _prefixes(batch), real.nonzero(as_tuple=True)  # both row by row, oldest first
        sizes = real.sum(1).tolist() if self.keep else [CHUNK] * -(-len(rows) // CHUNK)
        numbers = batch.columns[ROW] if self.keep else [None] * len(sizes)
        for number, end, size in zip(numbers, accumulate(sizes), sizes, strict=True):
            part = slice(end - size, end)
            place = row[part], column[part]
            log_flow[place], values = self._of(number, rows[part], path[place], child[place])
            child_log_flow[place] = child_log_flow[place].masked_scatter(child[place] >= 0, values)
        return HistoryFlows(log_flow, child_log_flow.masked_fill(child < 0, -torch.inf), real)

    def _of(self, number: int | None, rows: list[dict], path: Tensor, child: Tensor) -> tuple[Tensor, Tensor]:
        """log F at path [M, L + 1], and at those of child [M, L, C] that there are, one after the other."""
        if number in self._kept:
            log_flow, child_log_flow = self._kept[number]
            return log_flow.to(path.device), child_log_flow.to(path.device)
        if not rows:  # a history of one item
            return path.float(), child.float()
        everything = self.flows(self.prompts(rows).to(path.device))  # [M, nodes]
        log_flow, child_log_flow = at_each(everything, path), at_each(everything, child.clamp(min=0))[child >= 0]
        if number is not None:
            self._kept[number] = log_flow.cpu(), child_log_flow.cpu()
        return log_flow, child_log_flow


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
