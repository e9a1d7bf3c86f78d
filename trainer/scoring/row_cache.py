"""What is computed of a training row once and kept in a memory-mapped file for later epochs."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from catalog.errors import RunError
from interactions.prompts import PromptBatch

GROUP = 32
"""Training rows that are computed together; always the same ones, so that a resumed run finds the same numbers."""


class RowCache:
    """Keeps what `compute` makes of each training row, by its number.

    The file in `folder` has no name and vanishes with the process. It grows by exactly what is kept, and the system
    holds in memory what of it there is room for; the process itself keeps 8 bytes a row.

    compute: prompts -> for each a tuple of tensors, float32 or int32, of the same kinds in the same order. prompts_of:
    the prompts of training rows by their numbers. Raises RunError where the disk is full.
    """

    def __init__(
        self,
        compute: Callable[[PromptBatch], Sequence[tuple[Tensor, ...]]],
        prompts_of: Callable[[Sequence[int]], PromptBatch],
        folder: Path,
    ) -> None:
        self.compute, self.prompts_of = compute, prompts_of
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._file = folder, tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # as long as the run
        self._start = np.full(0, -1)  # of each row in the file, in words of 4 bytes; -1 for one that is not kept
        self._words = np.empty(0, np.int32)
        self._kinds: list[torch.dtype] = []

    def __call__(self, batch: PromptBatch) -> list[Tensor]:
        """What is kept of a batch's rows, each part flat and joined; what is not yet is computed first."""
        assert batch.row_numbers is not None  # since the config numbers the rows
        for number in batch.row_numbers:
            if number >= len(self._start) or self._start[number] < 0:
                self._keep(number // GROUP * GROUP)
        rows = [self._read(self._start[number]) for number in batch.row_numbers]
        parts = [np.concatenate(part) for part in zip(*rows, strict=True)]
        tensors = [torch.from_numpy(part).view(kind) for part, kind in zip(parts, self._kinds, strict=True)]
        return [tensor.to(batch.history.device) for tensor in tensors]

    def _read(self, start: int) -> list[np.ndarray]:
        """The parts of a row: their lengths stand before them."""
        first = start + len(self._kinds)
        ends = first + self._words[start:first].cumsum()
        return [self._words[begin:end] for begin, end in zip([first, *ends], ends, strict=False)]

    def _keep(self, first: int) -> None:
        batch = self.prompts_of(range(first, first + GROUP))
        rows = [[part.cpu().flatten() for part in row] for row in self.compute(batch)]
        self._kinds = [part.dtype for part in rows[0]]
        words = [self._as_words(row) for row in rows]
        if len(self._start) < first + len(rows):
            self._start = np.concatenate([self._start, np.full(first + len(rows), -1)])
        ends = len(self._words) + np.cumsum([len(row) for row in words])
        self._start[first : first + len(rows)] = [len(self._words), *ends[:-1]]
        try:
            self._file.write(b"".join(row.tobytes() for row in words))
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"keep_flows: {self._folder} has no place for the flows of training row {first} and those after it "
                f"({error}).",
                remedy="Make room, give another output_dir, or leave keep_flows out.",
                file=self._folder,
                row=first,
            ) from error
        self._words = np.memmap(self._file, np.int32, "r", shape=(int(ends[-1]),))

    @staticmethod
    def _as_words(row: Sequence[Tensor]) -> np.ndarray:
        lengths = torch.tensor([len(part) for part in row], dtype=torch.int32)
        return torch.cat([lengths, *(part.contiguous().view(torch.int32) for part in row)]).numpy()
