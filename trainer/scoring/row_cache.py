"""What is computed of a training row once and kept in main memory for later epochs."""

from collections.abc import Callable, Sequence

from torch import Tensor

from interactions.prompts import PromptBatch

GROUP = 32
"""Training rows that are computed together; always the same ones, so that a resumed run finds the same numbers."""


class RowCache:
    """Keeps what `compute` makes of each training row, by its number.

    compute: prompts -> for each a tuple of tensors. prompts_of: the prompts of training rows by their numbers.
    """

    def __init__(
        self,
        compute: Callable[[PromptBatch], Sequence[tuple[Tensor, ...]]],
        prompts_of: Callable[[Sequence[int]], PromptBatch],
    ) -> None:
        self.compute, self.prompts_of = compute, prompts_of
        self._kept: dict[int, tuple[Tensor, ...]] = {}

    def __call__(self, batch: PromptBatch, collate: Callable[[tuple[Tensor, ...]], Tensor]) -> list[Tensor]:
        """What is kept of a batch's rows, joined by torch.cat or torch.stack; what is not yet is computed first."""
        assert batch.row_numbers is not None  # since the config numbers the rows
        numbers = batch.row_numbers
        for number in numbers:
            if number not in self._kept:
                self._keep(number // GROUP * GROUP)
        parts = zip(*(self._kept[number] for number in numbers), strict=True)
        return [collate(part).to(batch.history.device) for part in parts]  # one copy to a GPU, not one a row

    def _keep(self, first: int) -> None:
        batch = self.prompts_of(range(first, first + GROUP))
        # a part of a larger tensor would keep all of it
        values = [tuple(value.cpu().clone() for value in row) for row in self.compute(batch)]
        self._kept |= dict(zip(range(first, first + len(batch)), values, strict=True))
