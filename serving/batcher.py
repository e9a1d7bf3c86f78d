"""Requests that wait are drawn in one batch, in a thread beside the one that answers them."""

import asyncio
import logging
import time
from bisect import insort
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from catalog.errors import GFlowGRError, InputError, RunError

logger = logging.getLogger(__name__)

Row = TypeVar("Row")
Result = TypeVar("Result")

LONGEST_PAUSE = 0.01
"""Seconds that a batch waits at most for requests that may be about to come."""


class Overloaded(Exception):
    """More waits than may wait."""


@dataclass(order=True)
class Part(Generic[Row, Result]):
    """As many rows of a request as fit one batch; parts are drawn in the order of `turn` and `number`."""

    turn: int
    number: int
    how: Hashable = field(compare=False)
    rows: Sequence[Row] = field(compare=False)
    results: "asyncio.Future[Sequence[Result]]" = field(compare=False)


class Batcher(Generic[Row, Result]):
    """Draws the rows of all waiting requests that want them drawn in the same way together.

    draw: (how, rows) -> as many results; it is called in one thread, for one batch at a time. max_batch: rows of a
    batch, or with `cost` what they cost together. cost: how -> of one row. max_waiting: rows that may wait. seconds:
    within which a request is answered. observe: called with the rows and the seconds of each batch.

    A request with more rows than a batch has is drawn in parts, one a turn, so that shorter requests come in between.
    Where a batch of several requests fails, each is drawn by itself, so that only the one at fault fails. `failed` says
    whether the newest batch failed for another reason than what was asked, `hangs` whether one takes too long now.
    """

    def __init__(
        self,
        draw: Callable[[Hashable, Sequence[Row]], Sequence[Result]],
        *,
        max_batch: int,
        max_waiting: int,
        seconds: float,
        cost: Callable[[Hashable], int] = lambda how: 1,
        observe: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        self.draw, self.max_batch, self.max_waiting, self.cost = draw, max_batch, max_waiting, cost
        self.seconds, self.observe = seconds, observe
        self.waiting, self.failed = 0, False
        self._parts: list[Part[Row, Result]] = []
        self._arrived = asyncio.Event()
        self._numbers = count()
        self._turn = 0
        self._last_rows, self._last_seconds = 0, 0.0
        self._begun: float | None = None  # when the batch that is being drawn began
        self._thread = ThreadPoolExecutor(1, "batches")

    @property
    def hangs(self) -> bool:
        """Whether the batch that is being drawn has taken longer than a request may."""
        return self._begun is not None and time.perf_counter() - self._begun > self.seconds

    async def submit(self, how: Hashable, rows: Sequence[Row]) -> list[Result]:
        """The results of the rows of one request, in their order.

        Raises Overloaded, TimeoutError, or the error of `draw`, which is RunError for one that is not of ours.
        """
        if self.waiting + len(rows) > self.max_waiting:
            raise Overloaded
        loop = asyncio.get_running_loop()
        parts = []
        most = max(1, self.max_batch // self.cost(how))
        for place, start in enumerate(range(0, len(rows), most)):
            some = rows[start : start + most]
            parts.append(Part(self._turn + place, next(self._numbers), how, some, loop.create_future()))
        for part in parts:
            insort(self._parts, part)
        self.waiting += len(rows)
        self._arrived.set()
        try:
            async with asyncio.timeout(self.seconds):
                return [one for results in await asyncio.gather(*(part.results for part in parts)) for one in results]
        finally:
            for part in parts:  # nobody waits for what is left of them
                part.results.cancel()

    async def run(self) -> None:
        """Draw batch after batch until cancelled."""
        try:
            while True:
                await self._arrived.wait()
                await self._pause()
                if parts := self._take():
                    self._turn += 1
                    await self._answer(parts)
        finally:
            self._thread.shutdown(wait=False)

    async def _pause(self) -> None:
        """Give the clients of the last batch a moment to ask again, or the first of them would have one of its own."""
        end = time.monotonic() + min(LONGEST_PAUSE, self._last_seconds / 8)
        while self.waiting < min(self._last_rows, self.max_batch) and time.monotonic() < end:
            await asyncio.sleep(LONGEST_PAUSE / 10)

    def _take(self) -> list[Part[Row, Result]]:
        """The parts of the next batch: the first that waits, and those that are drawn like it as long as they fit."""
        taken: list[Part[Row, Result]] = []
        left: list[Part[Row, Result]] = []
        free = self.max_batch
        for part in self._parts:
            if part.results.done():  # cancelled
                continue
            size = len(part.rows) * self.cost(part.how)
            if not taken or (part.how == taken[0].how and size <= free):
                taken.append(part)
                free -= size
            else:
                left.append(part)
        self._parts, self.waiting = left, sum(len(part.rows) for part in left)
        if not left:
            self._arrived.clear()
        return taken

    async def _answer(self, parts: list[Part[Row, Result]]) -> None:
        rows = [row for part in parts for row in part.rows]
        started = self._begun = time.perf_counter()
        try:
            drawn = await asyncio.get_running_loop().run_in_executor(self._thread, self.draw, parts[0].how, rows)
        except Exception as error:
            self.failed = not isinstance(error, InputError)
            if len(parts) > 1:
                for part in parts:
                    await self._answer([part])
            elif not parts[0].results.done():
                parts[0].results.set_exception(_told(error))
            return
        finally:
            self._begun = None
        self.failed = False
        self._last_rows, self._last_seconds = len(rows), time.perf_counter() - started
        self.observe(self._last_rows, self._last_seconds)
        start = 0
        for part in parts:
            if not part.results.done():
                part.results.set_result(drawn[start : start + len(part.rows)])
            start += len(part.rows)


def _told(error: Exception) -> GFlowGRError:
    if isinstance(error, GFlowGRError):
        return error
    logger.error("A batch failed.", exc_info=error)
    return RunError(f"The engine failed ({type(error).__name__}: {error}).")
