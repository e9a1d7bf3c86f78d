"""Exact flows along the history: what the reward says after each prefix of it, on the path to the item taken next."""

from collections.abc import Callable
from itertools import chain

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

GROUP = 32
"""Training rows whose flows are computed together to be kept; always the same, so that a resumed run finds the same."""


class HistoryTarget:
    """Every item of the histories but the first is the target of a prompt of its own, and `flows` is asked for it.

    flows: prompts [M] -> exact log F of every node [M, nodes]. numbered: the training rows of a slice as prompts with
    the column of `trainer.reference.numbered`; what is computed of them is kept in main memory. None: nothing is.
    """

    def __init__(
        self,
        prompts: PromptBuilder,
        flows: Callable[[PromptBatch], Tensor],
        trie: Trie,
        numbered: Callable[[slice], PromptBatch] | None = None,
    ) -> None:
        self.prompts, self.flows, self.trie, self.numbered = prompts, flows, trie, numbered
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, batch: PromptBatch) -> HistoryFlows:
        real, path, child = self._positions(batch)
        there = (child >= 0) & real[..., None, None]
        on_path, of_children = self._anew(batch) if self.numbered is None else self._from_kept(batch)
        log_flow = torch.zeros(path.shape, device=path.device)
        log_flow[real] = on_path
        child_log_flow = torch.zeros(child.shape, device=path.device).masked_scatter(there, of_children)
        return HistoryFlows(log_flow, child_log_flow.masked_fill(child < 0, -torch.inf), real)

    def _positions(self, batch: PromptBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Which items have a prefix [B, N], the paths to all [B, N, L + 1] and the children on them [B, N, L, C]."""
        path = self.trie.path(batch.history.clamp(min=0))
        return after_another(batch.history), path, self.trie.children(path[..., :-1], max(self.trie.max_children))

    def _anew(self, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        """Of the real items, row by row, oldest first: log F on their paths [M, L + 1], of all children one by one."""
        real, path, child = self._positions(batch)
        rows, path, child = _prefixes(batch), path[real], child[real]
        on_path, of_children = [path[:0].float()], [child[:0].float().flatten()]
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            everything = self.flows(self.prompts(rows[part]).to(path.device))  # [M, nodes]
            on_path.append(at_each(everything, path[part]))
            of_children.append(at_each(everything, child[part].clamp(min=0))[child[part] >= 0])
        return torch.cat(on_path), torch.cat(of_children)

    def _from_kept(self, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        for number in batch.columns[ROW]:
            if number not in self._kept:
                self._keep(number // GROUP * GROUP)
        on_path, of_children = zip(*(self._kept[number] for number in batch.columns[ROW]), strict=True)
        return torch.cat(on_path).to(batch.history.device), torch.cat(of_children).to(batch.history.device)

    def _keep(self, first: int) -> None:
        assert self.numbered is not None
        batch = self.numbered(slice(first, first + GROUP))
        real, _, child = self._positions(batch)
        on_path, of_children = (values.cpu() for values in self._anew(batch))
        children = ((child >= 0) & real[..., None, None]).sum((1, 2, 3)).tolist()
        parts = zip(on_path.split(real.sum(1).tolist()), of_children.split(children), strict=True)
        self._kept |= dict(zip(batch.columns[ROW], parts, strict=True))


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
