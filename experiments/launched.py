"""Processes that a launcher started for work that they share, without a model that they train together."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from catalog.errors import GFlowGRError, InputError

LONGEST = timedelta(days=30)
"""How long processes wait for the slowest."""


@dataclass(frozen=True)
class Launched:
    """This process among `count`; rank 0 is the main one."""

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def device(self, asked: str | None) -> str | None:
        """Where this process computes: its own GPU where there are several processes, else `asked`.

        Raises InputError for more processes than GPUs.
        """
        if self.count == 1 or asked not in (None, "cuda") or not torch.cuda.is_available():
            return asked
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", self.count)), torch.cuda.device_count()
        if here > gpus:
            raise InputError(
                f"{here} processes were started here for {gpus} GPU(s).", remedy=f"Set --num_processes {gpus}."
            )
        return f"cuda:{os.environ.get('LOCAL_RANK', self.rank)}"

    def from_main(self, act: Callable[[], Any]) -> Any:
        """What `act` gives the main process, for all; an error that the user can mend is raised in all too."""
        found: list[Any] = [None, None]
        if self.is_main:
            try:
                found[0] = act()
            except GFlowGRError as error:
                found[1] = error
        if self.count > 1:
            distributed.broadcast_object_list(found)
        if found[1]:
            raise found[1]
        return found[0]

    def wait(self) -> None:
        """Wait until all have come here."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def launched() -> Iterator[Launched]:
    """Join the processes that torchrun or accelerate launch started beside this one, as their environment says.

    They meet over gloo, since nothing but words is exchanged, with GPUs too.
    """
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        yield Launched()
        return
    distributed.init_process_group("gloo", timeout=LONGEST)
    try:
        yield Launched(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()
