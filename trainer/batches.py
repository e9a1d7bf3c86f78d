"""Rows into the prompts of an optimizer step, as many steps ahead as drawing asks for."""

from collections import deque
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from datasets import Dataset
from torch.utils.data import Sampler

from interactions.prompts import ROW_NUMBER, PromptBatch, PromptBuilder
from interactions.rows import by_length, cut
from recommenders import BatchRecommender
from trainer.config import TrainingConfig
from trainer.micro_batch import PendingStep
from trainer.scoring.row_cache import GROUP
from trainer.user_items import UserItems


class RowReader:
    """Training rows as they are trained: with random_cut, ended at a random item after the first.

    rows: numbered where something is looked up by the number. user_items: whether rows get all the training items of
    their user, so that a recommender can leave them out.
    """

    def __init__(self, args: TrainingConfig, rows: Dataset | None, prompts: PromptBuilder, *, user_items: bool) -> None:
        self.rows, self.prompts, self.device = rows, prompts, args.device
        self._args = args
        self._add_user_items = user_items and rows is not None and "user" in rows.column_names

    def sampler(self) -> "GroupedSampler | None":
        """What deals rows to processes that keep something of each; None where any row may go to any process."""
        args = self._args
        if self.rows is None or args.world_size == 1 or not args.keeps_rows:
            return None
        return GroupedSampler(len(self.rows), args.world_size, args.per_device_train_batch_size, args.seed)

    def __call__(self, rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
        items = [{"user_items": self._user_items[row[ROW_NUMBER]]} if self._add_user_items else {} for row in rows]
        if self._args.random_cut:
            draw = np.random.default_rng(seed)
            rows = [cut(row, int(draw.integers(1, len(row["history"]) + 1))) for row in rows]
        return [row | of_user for row, of_user in zip(rows, items, strict=True)]

    @cached_property
    def _user_items(self) -> UserItems:
        assert self.rows is not None
        return UserItems(self.rows)

    def prompts_of(self, numbers: Sequence[int]) -> PromptBatch:
        """The prompts of training rows by their numbers; numbers behind the last row are left out."""
        assert self.rows is not None
        rows = self.rows.select([number for number in numbers if number < len(self.rows)]).to_list()
        return self.prompts(self(rows, seed=0)).to(self.device)


class StepReader:
    """The steps of an epoch in their order; later ones are read before they are trained where something begins them.

    That is vLLM with rollout_staleness, and the recommender with recommender_ahead.
    """

    def __init__(self, args: TrainingConfig, rows: RowReader, recommender: BatchRecommender | None) -> None:
        self._args, self._rows, self._recommender = args, rows, recommender
        self._ahead = max(args.rollout_staleness, int(recommender is not None and recommender.ahead))
        self._pending: deque[PendingStep] = deque()
        self._iterator: Iterator | None = None

    def read(self, iterator: Iterator, step: int) -> tuple[PendingStep | None, list[PendingStep]]:
        """What optimizer step number `step` trains, None at the end of the epoch, and what was read just now."""
        if iterator is not self._iterator:
            self._pending, self._iterator = deque(), iterator
        known = len(self._pending)
        while len(self._pending) <= self._ahead:
            if (pending := self._next(iterator, step + len(self._pending))) is None:
                break
            self._pending.append(pending)
            if self._recommender is not None:
                for batch in pending.prompts:
                    self._recommender.start(batch)
        if not self._pending:
            return None, []
        new = list(self._pending)[known:]
        return self._pending.popleft(), new

    def _next(self, iterator: Iterator, step: int) -> PendingStep | None:
        batches = list(islice(iterator, self._args.gradient_accumulation_steps))
        if not batches:
            return None
        # from the place in the run alone, and no state: a resumed run draws what the uninterrupted one drew
        place = [self._args.seed, step, self._args.process_index]
        seeds = np.random.SeedSequence(place).generate_state(len(batches)).tolist()
        rows = [self._rows(batch, seed) for batch, seed in zip(batches, seeds, strict=True)]
        prompts = [self._rows.prompts(part) for part in by_length(rows)]
        return PendingStep.from_prompts(prompts, seeds, self._args.sft_positions, self._rows.device)


class GroupedSampler(Sampler[int]):
    """Rows in random order, of which each process gets the same ones in every epoch, so that it keeps what it computed.

    What is kept is computed for a group of `GROUP` neighboring rows at once, see `RowCache`, so whole groups go to a
    process; of few rows single ones. A batch of `batch_size` rows for each process in turn is how accelerate deals them
    out. Where they do not divide evenly, the first rows of a process come again at the end of its epoch.
    """

    def __init__(self, rows: int, processes: int, batch_size: int, seed: int) -> None:
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        group = np.arange(rows) // (GROUP if rows >= 4 * GROUP * processes else 1)
        self._own = [np.flatnonzero(group % processes == process) for process in range(processes)]
        most = max(map(len, self._own))
        self._rows = -(-most // batch_size) * batch_size  # of each process

    def __len__(self) -> int:
        return self._rows * len(self._own)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng([self.seed, self.epoch])
        shuffled = [np.resize(draw.permutation(own), self._rows) for own in self._own]  # repeated from its beginning
        batches = np.stack(shuffled).reshape(len(self._own), -1, self.batch_size)
        return iter(batches.swapaxes(0, 1).ravel().tolist())
