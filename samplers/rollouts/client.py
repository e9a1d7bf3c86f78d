"""Rollouts from servers that recipes/rollout_server.py started; this process needs no vLLM, and a server may die."""

import json
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from samplers.rollouts.engine import WeightMeta, Weights
from samplers.rollouts.servers import MOST_DRAWS, MOST_PROMPTS, SMALL, Servers
from samplers.rollouts.weights import PolicySource

logger = logging.getLogger(__name__)


class WeightSender(Protocol):
    """A way of the weights from this process to the servers."""

    def send(self, metas: Sequence[WeightMeta], weights: Iterator[tuple[str, Tensor]], name: str) -> None:
        """Give the weights this name on every server that answers; leave out what fails."""
        ...


class ServerEngine:
    """A `RolloutEngine` on one or several rollout servers, which share the prompts.

    run: a name of this training run that no other has. levels: codes of an item. sender: how `load` brings the weights
    to the servers, None in all processes but one.

    A server that does not answer, or gives an impossible answer, is left out with a warning, and the others do its
    work. Nothing may be drawn before the first `load` and `confirm_weights`.
    """

    def __init__(self, servers: Servers, *, run: str, levels: int, sender: WeightSender | None) -> None:
        self.servers, self.run, self.levels, self.sender = servers, run, levels, sender
        self.version = -1
        self.dtype = servers.dtype
        self._base = ""  # the version that brought what adapters are added to

    def load(self, weights: Weights, version: int) -> None:
        """Send the weights to every server that answers; `confirm_weights` then tells which of them have it.

        Of a `PolicySource` with adapters these alone go to servers that keep the rest. Every process calls it.
        """
        self.version = version
        if isinstance(weights, PolicySource) and weights.has_pieces:
            weights = weights.pieces(base=self._lack_base())
        given = iter(weights)
        try:
            if self.sender:
                self.sender.send(weights.metadata(), given, self._name)
        finally:
            deque(given, maxlen=0)  # every process must read them all, since sharded weights are gathered together

    def _lack_base(self) -> bool:
        """Whether a server does not keep what this run's adapters are added to; the same in all processes."""
        answer = [False]
        if self.sender:
            healthy = self.servers.each(self.servers.urls, self.servers.health, OSError, ValueError)
            answer = [any(health.get("base") != self._base for health in healthy.values())]
        if torch.distributed.is_initialized():
            torch.distributed.broadcast_object_list(answer)
        if answer[0]:
            self._base = self._name
        return answer[0]

    def confirm_weights(self) -> None:
        """Find the servers that have the weights of the last `load`, once every process has returned from it.

        Raises RunError where there is none.
        """
        healthy = self.servers.each(self.servers.urls, self.servers.health, OSError, ValueError)
        for url, health in healthy.items():
            if health["version"] != self._name:
                self.servers.drop(url, f"{url} holds the weights {health['version']}, not {self._name}.")
            elif self.servers.down.pop(url, None):
                logger.info("The rollout server %s is back.", url)
        self.servers.live()

    def sample(self, prompts: Sequence[list[int]], count: int, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Draw, see `RolloutEngine`. Raises InputError for what a server refuses, RunError where none is left."""

        def body(rows: list[int]) -> dict[str, Any]:
            return {"prompts": [prompts[row] for row in rows], "count": count, "seeds": [seeds[row] for row in rows]}

        return self._draw("/sample", len(prompts), (count, self.levels), body)

    def extend(self, prompts: Sequence[list[int]], prefix: int, width: int) -> tuple[Tensor, Tensor]:
        """The likeliest next codes, see `RolloutEngine`. Raises as `sample` does."""

        def body(rows: list[int]) -> dict[str, Any]:
            return {"prompts": [prompts[row] for row in rows], "prefix": prefix, "width": width}

        return self._draw("/extend", len(prompts), (width,), body)

    def sleep(self) -> None:
        """Nothing: the servers' memory is their own."""

    def close(self) -> None:
        """Nothing: the servers live on."""

    @property
    def _name(self) -> str:
        return f"{self.run}:{self.version}"

    def _draw(
        self, path: str, total: int, shape: tuple[int, ...], body: Callable[[list[int]], dict[str, Any]]
    ) -> tuple[Tensor, Tensor]:
        """tokens and log_pf [total, *shape]; body(rows) asks for some prompts. Other servers repeat what one failed."""
        most = max(1, min(MOST_PROMPTS, MOST_DRAWS // shape[0]))  # prompts of one request
        drawn: dict[int, tuple[Tensor, Tensor]] = {}
        chunks: dict[str, list[int]] = {}

        def ask(url: str) -> tuple[Tensor, Tensor]:
            asked = json.dumps({"version": self._name} | body(chunks[url])).encode()
            wanted = (len(chunks[url]), *shape)
            content = self.servers.call(url, "POST", path, asked, largest=12 * math.prod(wanted) + SMALL).content
            try:
                return _read_draw(content, wanted, self.servers.vocabulary, sampled=path == "/sample")
            except _BadAnswerError as error:
                raise ConnectionError(f"{url} gives an impossible answer: {error}.") from error

        while missing := [row for row in range(total) if row not in drawn]:
            live = self.servers.live()[: len(missing)]
            parts = np.array_split(missing, len(live))
            chunks = {url: rows[:most].tolist() for url, rows in zip(live, parts, strict=True)}
            for url, (tokens, log_pf) in self.servers.each(chunks, ask, OSError).items():
                for place, row in enumerate(chunks[url]):
                    drawn[row] = tokens[place], log_pf[place]
        in_order = [drawn[row] for row in range(total)]
        return torch.stack([tokens for tokens, _ in in_order]), torch.stack([log_pf for _, log_pf in in_order])


class _BadAnswerError(Exception):
    """An answer that no engine can have drawn."""


def _read_draw(content: bytes, shape: tuple[int, ...], vocabulary: int, *, sampled: bool) -> tuple[Tensor, Tensor]:
    """tokens and log_pf of this shape. sampled: whether all tokens were drawn, so that none has probability 0."""
    try:
        answer = load(content)
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise _BadAnswerError(f"no safetensors ({error})") from error
    if set(answer) != {"tokens", "log_pf"}:
        raise _BadAnswerError(f"the tensors {sorted(answer)[:5]}")
    tokens, log_pf = answer["tokens"], answer["log_pf"]
    for name, tensor, kind in (("tokens", tokens, torch.int64), ("log_pf", log_pf, torch.float32)):
        if tensor.shape != shape or tensor.dtype != kind:
            raise _BadAnswerError(f"{name} {list(tensor.shape)} {tensor.dtype} for {list(shape)} {kind}")
    if not ((tokens >= 0) & (tokens < vocabulary)).all():
        raise _BadAnswerError(f"tokens outside the vocabulary of {vocabulary}")
    if not (log_pf < 1e-3).all() or (sampled and log_pf.isinf().any()):
        raise _BadAnswerError("log-probabilities that are none")
    return tokens, log_pf
