"""Exact flows along the history: what the reward says after each prefix of it, on the path to the item taken next."""

from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor

from catalog import Trie
from interactions import prefixes
from interactions.log import OPTIONAL
from interactions.prompts import PromptBatch, PromptBuilder
from trainer.micro_batch import PathFlows, after_another, gather_nodes
from trainer.scoring.row_cache import RowCache

CHUNK = 256
"""Prefixes whose flows are computed at once: each has a number for every node of the trie."""


class HistoryTarget:
    """Every item of the histories but the first is the target of a prompt of its own, and `flows` is asked for it.

    flows: prompts [M] -> exact log F of every node [M, nodes]. prompts_of: the prompts of training rows by their
    numbers, of which what is computed is kept. None: nothing is kept.
    """

    def __init__(
        self,
        prompts: PromptBuilder,
        flows: Callable[[PromptBatch], Tensor],
        trie: Trie,
        prompts_of: Callable[[Sequence[int]], PromptBatch] | None = None,
    ) -> None:
        self.prompts, self.flows, self.trie = prompts, flows, trie
        self.memory = None if prompts_of is None else RowCache(self._by_row, prompts_of)

    def __call__(self, batch: PromptBatch) -> PathFlows:
        mask, path, child = self._positions(batch)
        there = (child >= 0) & mask[..., None, None]
        if self.memory is None:
            on_path, of_children = self._anew(batch)
        else:
            on_path, of_children = self.memory(batch, torch.cat)
        log_flow = torch.zeros(path.shape, device=path.device)
        log_flow[mask] = on_path
        child_log_flow = torch.zeros(child.shape, device=path.device).masked_scatter(there, of_children)
        return PathFlows(log_flow, child_log_flow.masked_fill(child < 0, -torch.inf), mask)

    def _positions(self, batch: PromptBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Which items have a prefix [B, N], the paths to all [B, N, L + 1] and the children on them [B, N, L, C]."""
        path = self.trie.path(batch.history.clamp(min=0))
        return after_another(batch.history), path, self.trie.children(path[..., :-1], max(self.trie.max_children))

    def _anew(self, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        """Of the real items, row by row, oldest first: log F on their paths [M, L + 1], of all children one by one."""
        mask, path, child = self._positions(batch)
        rows, path, child = _prefixes(batch), path[mask], child[mask]
        on_path, of_children = [path[:0].float()], [child[:0].float().flatten()]
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            everything = self.flows(self.prompts(rows[part]).to(path.device))  # [M, nodes]
            on_path.append(gather_nodes(everything, path[part]))
            of_children.append(gather_nodes(everything, child[part].clamp(min=0))[child[part] >= 0])
        return torch.cat(on_path), torch.cat(of_children)

    def _by_row(self, batch: PromptBatch) -> list[tuple[Tensor, Tensor]]:
        """`_anew`, row by row."""
        mask, _, child = self._positions(batch)
        on_path, of_children = self._anew(batch)
        children = ((child >= 0) & mask[..., None, None]).sum((1, 2, 3)).tolist()
        return list(zip(on_path.split(mask.sum(1).tolist()), of_children.split(children), strict=True))


def _prefixes(batch: PromptBatch) -> list[dict]:
    """The rows of all prefixes; those of a longer history than the model reads begin where it reads."""
    whole = []
    for index, (history, target) in enumerate(zip(batch.item_lists(), batch.target.tolist(), strict=True)):
        row = {name: values[index] for name, values in batch.columns.items()}
        row |= {"history": history, "target": target}
        if batch.user_items is not None:
            row["user_items"] = batch.user_items[index]
        for name in OPTIONAL:
            if (past := f"history_{name}") in row:
                row[past] = row[past][-len(row["history"]) :]
        whole.append(row)
    return list(chain.from_iterable(map(prefixes, whole)))
