"""What a rollout server's engine does: one thing at a time, and together what waits for it."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock, Timer

import torch
from torch import Tensor

from catalog.errors import GFlowGRError, InputError, RunError
from samplers.rollouts.asked import ExtendRequest, SampleRequest
from samplers.rollouts.engine import RolloutEngine, WeightMeta
from samplers.rollouts.low_rank import BASE, KeptWeights, is_piece
from samplers.rollouts.wire import Unpacker

Row = tuple[list[int], int]
"""A prompt, and the seed of its draws."""


class StaleWeightsError(RunError):
    """The server holds other weights than the request is about."""


class EngineFailedError(RunError):
    """The engine has failed, and every request will."""


@dataclass(frozen=True)
class Asked:
    """What all rows of a batch want: `each` draws, or next codes after `prefix` codes, under the weights `version`."""

    version: str
    each: int
    prefix: int | None = None

    @classmethod
    def of(cls, asked: SampleRequest | ExtendRequest) -> tuple["Asked", list[Row]]:
        """And the rows."""
        if isinstance(asked, SampleRequest):
            return cls(asked.version, asked.count), list(zip(asked.prompts, asked.seeds, strict=True))
        return cls(asked.version, asked.width, asked.prefix), [(prompt, 0) for prompt in asked.prompts]


def cost(asked: Hashable) -> int:
    """Draws, or next codes, of one row."""
    assert isinstance(asked, Asked)
    return asked.each


class EngineState:
    """An engine that does one thing at a time, and the name of the weights it holds.

    version: None as long as it holds its checkpoint's weights, or those of a transfer that is not complete. failure:
    the answer to every request once the engine has failed. Requests have been checked before, so that every exception
    is a failure of the engine.
    """

    def __init__(self, engine: RolloutEngine) -> None:
        self.engine = engine
        self.version: str | None = None
        self.failure = ""
        self._lock = Lock()
        self._incoming = Unpacker([], 0)
        self._taken: tuple[str, int] = ("", -1)  # the transfer's version and its last part
        self.base: str | None = None  # the version that brought what adapters are added to
        self._kept = _nothing_kept()
        self._brings_base: bool | None = None  # as of a `TransferReceiver`, of the transfer that comes

    def check(self) -> None:
        """Raise EngineFailedError where the engine has failed."""
        if self.failure:
            raise EngineFailedError(self.failure)

    def draw(self, asked: Hashable, rows: Sequence[Row]) -> list[tuple[Tensor, Tensor]]:
        """tokens and log_pf of each row. Raises StaleWeightsError for other weights than asked for."""
        assert isinstance(asked, Asked)
        prompts, seeds = [prompt for prompt, _ in rows], [seed for _, seed in rows]
        with self._lock:
            self.check()
            if asked.version != self.version:
                raise StaleWeightsError(
                    f"The server holds the weights {self.version}, not {asked.version}: send them first."
                )
            try:
                if asked.prefix is None:
                    tokens, log_pf = self.engine.sample(prompts, asked.each, seeds)
                else:
                    tokens, log_pf = self.engine.extend(prompts, asked.prefix, asked.each)
            except Exception as error:  # vLLM keeps the requests and would never finish them
                self.failure = (
                    f"The engine failed ({type(error).__name__}: {error}): start recipes/rollout_server.py again."
                )
                raise
        return list(zip(tokens, log_pf, strict=True))

    def begin(self, version: str, metas: Sequence[WeightMeta], part_bytes: int) -> None:
        """Expect a transfer's parts; nothing is drawn until all have come."""
        pieces = [is_piece(meta.name) for meta in metas]
        with self._alone():
            self._incoming, self._taken, self.version = Unpacker(metas, part_bytes), (version, -1), None
            self._brings_base = any(meta.name == BASE for meta in metas) if any(pieces) else None
            if self._brings_base is not False:
                self.base, self._kept = None, _nothing_kept()

    def take(self, version: str, part: int, content: memoryview) -> None:
        """Load one part of a transfer. Raises StaleWeightsError for one that does not follow the last, as after a
        restart, and InputError for weights that are not the model's.
        """
        with self._alone():
            name, done = self._taken
            known = name == version and part in (done, done + 1)  # one whose answer was lost comes once more
            if not known or part >= len(self._incoming.parts):
                raise StaleWeightsError(
                    f"Part {part} of the weights {version} does not follow part {done} of {name!r}: begin again."
                )
            self.version = None
            try:
                found = self._incoming.weights(part, content)
                last = part == len(self._incoming.parts) - 1
                if self._brings_base is not None:
                    self._kept.load_weights(found)
                    if last:
                        self.engine.load(self._kept, self.engine.version + 1)
                elif found:
                    self.engine.load(_Given(found), self.engine.version + 1)
            except GFlowGRError:
                raise
            except Exception as error:  # a name or a shape that the model does not have
                self._taken = ("", -1)
                reason = f"{type(error).__name__}: {error}"
                raise InputError(f"These weights are not the model's ({reason}).", remedy="Send others.") from error
            self._taken = (version, part)
            if last:
                self.version = version
                self.note_base(version, self._brings_base)

    def note_base(self, version: str | None, brings_base: bool | None) -> None:
        """A transfer, of `version` where it is complete, brought this, see `TransferReceiver`."""
        if brings_base is not False:
            self.base = version if brings_base else None

    def transfer(
        self,
        step: Callable[[], None],
        *,
        version: str | None = None,
        seconds: float = 300,
        abandon: Callable[[], bool] = lambda: False,
    ) -> None:
        """One step of a transfer by vLLM, which may take `seconds`; version: what the weights are called after it.

        A step that takes longer waits for a process that is gone: `abandon` ends it, or says that it cannot.
        """
        with self._alone():
            self.version = None
            late = Timer(seconds, self._give_up, [seconds, abandon])
            late.daemon = True
            late.start()
            try:
                step()
            except BaseException:
                self.base = None
                raise
            finally:
                late.cancel()
            self.version = version

    def _give_up(self, seconds: float, abandon: Callable[[], bool]) -> None:
        if not abandon():
            late = f"A transfer of weights did not end within {seconds:g} s"
            self.failure = f"{late}: start recipes/rollout_server.py again."

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nothing else is done meanwhile."""
        with self._lock:
            self.check()
            yield


def _nothing_kept() -> KeptWeights:
    return KeptWeights(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


@dataclass(frozen=True)
class _Given:
    """Weights that are in memory."""

    weights: list[tuple[str, Tensor]]

    def metadata(self) -> list[WeightMeta]:
        return [WeightMeta(name, weight.dtype, tuple(weight.shape)) for name, weight in self.weights]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.weights)


def stacked(results: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The results of a request's rows as its answer has them."""
    tokens, log_pf = zip(*results, strict=True)
    return {"tokens": torch.stack(tokens), "log_pf": torch.stack(log_pf)}
