"""Exact flows along the history: what the reward says after each prefix of it, on the path to the item taken next."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from catalog import Trie
from catalog.flows import CHUNK
from catalog.sparse_flows import ListedOnPath
from interactions import prefixes
from interactions.log import OPTIONAL
from interactions.prompts import PromptBatch, PromptBuilder
from trainer.micro_batch import PathFlows, after_another
from trainer.scoring.row_cache import RowCache


class HistoryTarget:
    """Every item of the histories but the first is the target of a prompt of its own, and `flows` is asked for it.

    flows: prompts -> their exact flows, `SparseFlows` if `sparse`. entries: how many numbers those of a prompt are made
    of, which bounds how many prefixes are computed together. prompts_of: the prompts of training rows by their numbers,
    of which what is computed is kept in `folder`. None: nothing is kept.
    """

    def __init__(
        self,
        prompts: PromptBuilder,
        flows: Callable[[PromptBatch], Any],
        trie: Trie,
        *,
        sparse: bool,
        entries: int,
        prompts_of: Callable[[Sequence[int]], PromptBatch] | None,
        folder: Path,
    ) -> None:
        self.prompts, self.flows, self.trie, self.sparse = prompts, flows, trie, sparse
        self.rows_at_once = max(1, CHUNK // max(entries, trie.levels * max(trie.max_children)))
        self.memory = None if prompts_of is None else RowCache(self._by_row, prompts_of, folder)

    def __call__(self, batch: PromptBatch) -> PathFlows:
        mask, path, child = self._positions(batch)
        on_path, of_children = self._anew(batch) if self.memory is None else self._kept(batch, child[mask])
        log_flow = torch.zeros(path.shape, device=path.device)
        log_flow[mask] = on_path
        child_log_flow = torch.zeros(child.shape, device=path.device).masked_fill(child < 0, -torch.inf)
        child_log_flow[mask] = of_children
        return PathFlows(log_flow, child_log_flow, mask)

    def _positions(self, batch: PromptBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Which items have a prefix [B, N], the paths to all [B, N, L + 1] and the children on them [B, N, L, C]."""
        path = self.trie.path(batch.history.clamp(min=0))
        return after_another(batch.history), path, self.trie.children(path[..., :-1], max(self.trie.max_children))

    def _flows_of(self, batch: PromptBatch) -> Iterator[tuple[Any, Tensor]]:
        """The flows after the prefixes of a batch, some at a time, and the path [M, L + 1] to what was taken next."""
        path = self.trie.path(batch.history.clamp(min=0))[after_another(batch.history)]
        rows = _prefixes(batch)
        for start in range(0, len(rows), self.rows_at_once):
            part = slice(start, start + self.rows_at_once)
            yield self.flows(self.prompts(rows[part]).to(path.device)), path[part]

    def _anew(self, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        """Of the real items, row by row, oldest first: log F on their paths [M, L + 1], of all children [M, L, C]."""
        parts = [flows.on_path(path.unsqueeze(1)) for flows, path in self._flows_of(batch)]
        if not parts:
            _, path, child = self._positions(batch)
            return path[:0, 0].float(), child[:0, 0].float()
        on_path, of_children = (torch.cat(column).squeeze(1) for column in zip(*parts, strict=True))
        return on_path, of_children

    # what is kept of a row: all flows, or of sparse ones those that do not follow from counts

    def _kept(self, batch: PromptBatch, child: Tensor) -> tuple[Tensor, Tensor]:
        """`_anew` from what is kept; child [M, L, C]."""
        assert self.memory is not None
        on_path, *rest = self.memory(batch)
        on_path = on_path.view(-1, self.trie.levels + 1)
        if len(rest) == 1:
            return on_path, torch.full(child.shape, -torch.inf, device=child.device).masked_scatter(child >= 0, rest[0])
        base, count, slot, listed = rest
        kept = ListedOnPath(on_path, base.view(-1, self.trie.levels), count, slot, listed)
        return on_path, kept.children(child, self.trie)

    def _by_row(self, batch: PromptBatch) -> list[tuple[Tensor, ...]]:
        mask, _, child = self._positions(batch)
        of_row = mask.sum(1).tolist()  # prefixes
        if self.sparse:
            kept = ListedOnPath.concat([flows.listed_on_path(path) for flows, path in self._flows_of(batch)], self.trie)
            listed = [int(count.sum()) for count in kept.count.split(of_row)]
            whole = (part.split(of_row) for part in (kept.log_flow, kept.base, kept.count))
            return list(zip(*whole, kept.slot.split(listed), kept.log_listed.split(listed), strict=True))
        on_path, of_children = self._anew(batch)
        there = child[mask] >= 0  # [M, L, C]
        children = [int(part.sum()) for part in there.split(of_row)]
        return list(zip(on_path.split(of_row), of_children[there].split(children), strict=True))


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
