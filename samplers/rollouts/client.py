"""Rollouts from servers that recipes/rollout_server.py started; this process needs no vLLM, and a server may die."""

import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from catalog.errors import InputError, RunError
from samplers.rollouts.engine import Weights
from samplers.rollouts.http_client import Answer, request
from samplers.rollouts.weights import buckets
from serving.listening import KEY

logger = logging.getLogger(__name__)

MOST_PROMPTS = 2048
"""How many prompts one request may have; more are split into several requests."""

MOST_DRAWS = 2**17
"""How many trajectories, or next codes, one request may ask for over all its prompts."""

BUCKET_BYTES = 256 * 2**20
"""Bytes of the weights in one request, unless a single weight is larger."""

RETRIES = 3

SMALL = 2**16
"""Bytes of the largest answer that holds no draws."""

Result = TypeVar("Result")


@dataclass(eq=False)
class ServerEngine:
    """A `RolloutEngine` on one or several rollout servers, which share the prompts.

    urls: http://host:port of each. key: GFLOWGR_API_KEY of the servers. run: a name of this training run that no other
    has. catalog_fingerprint, levels, vocabulary, longest: of this run's catalogue, model and longest prompt. timeout:
    seconds until the whole of an answer must be there. wait: seconds until the servers must be up. sender: whether this
    process sends the weights in `load`; exactly one does. bucket_bytes: of the weights in one request.

    A server that does not answer, or gives an impossible answer, is left out with a warning, and the others do its
    work. Nothing may be drawn before the first `load` and `confirm_weights`. Raises RunError for a url where no server
    answers, InputError for what is no url and for a server with another key, catalogue or vocabulary or for shorter
    prompts.
    """

    urls: Sequence[str]
    _: KW_ONLY
    key: str = field(repr=False)
    run: str
    catalog_fingerprint: str
    levels: int
    vocabulary: int
    longest: int
    timeout: float = 120
    wait: float = 0
    sender: bool = True
    bucket_bytes: int = BUCKET_BYTES
    version: int = field(init=False, default=-1)
    exact: bool = field(init=False)

    def __post_init__(self) -> None:
        self.urls = list(dict.fromkeys(url.rstrip("/") for url in self.urls))
        self._down: dict[str, str] = {}  # servers that are left out -> why
        for url in self.urls:
            _check_url(url)
        if not 0 < self.timeout <= 86_400:
            raise InputError(
                f"rollout_timeout={self.timeout}: give seconds, at most a day.",
                field="rollout_timeout",
                value=self.timeout,
            )
        if not (self.key.isascii() and self.key.isprintable()):
            raise InputError(f"{KEY} holds what is no printable ASCII character.", remedy="Give the servers' key.")
        try:
            until = time.monotonic() + self.wait
            self.exact = all([self._first_health(url, until)["exact"] for url in self.urls])
        except PermissionError as error:
            raise InputError(str(error)) from error
        except ConnectionError as error:
            raise RunError(str(error), remedy="Start recipes/rollout_server.py there, or correct the url.") from error

    def _first_health(self, url: str, until: float) -> dict[str, Any]:
        """`_health` of a server that may still be starting, at the latest at the monotonic time `until`."""
        while True:
            try:
                return self._health(url)
            except PermissionError:
                raise
            except ConnectionError as error:
                if time.monotonic() >= until:
                    raise
                logger.warning("Waiting for the rollout server %s: %s", url, error)
                time.sleep(min(10.0, max(0.0, until - time.monotonic())))

    def load(self, weights: Weights, version: int) -> None:
        """Send the weights to every server that answers; `confirm_weights` then tells which of them have it."""
        self.version = version
        if not self.sender:
            deque(weights, maxlen=0)  # every process must read them all, since sharded weights are gathered together
            return
        receivers: Iterable[str] = self._each(self.urls, self._health, OSError, ValueError)
        part = 0
        for bucket in buckets(weights, self.bucket_bytes):  # to the end, even if no server is left, for the same reason
            body = save({name: tensor.cpu().contiguous() for name, tensor in bucket.items()})
            receivers = self._send(receivers, body, part=part, last=False)
            part += 1
        self._send(receivers, save({}), part=part, last=True)

    def confirm_weights(self) -> None:
        """Find the servers that have the weights of the last `load`, once every process has returned from it.

        Raises RunError where there is none.
        """
        healthy = self._each(self.urls, self._health, OSError, ValueError)
        for url, health in healthy.items():
            if health["version"] != self._name:
                self._drop(url, f"{url} holds the weights {health['version']}, not {self._name}.")
            elif self._down.pop(url, None):
                logger.info("The rollout server %s is back.", url)
        self.exact = all([healthy[url]["exact"] for url in self._live()])

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
            content = self._call(url, "POST", path, asked, largest=12 * math.prod(wanted) + SMALL).content
            try:
                return _read_draw(content, wanted, self.vocabulary, sampled=path == "/sample")
            except _BadAnswerError as error:
                raise ConnectionError(f"{url} gives an impossible answer: {error}.") from error

        while missing := [row for row in range(total) if row not in drawn]:
            live = self._live()[: len(missing)]
            parts = np.array_split(missing, len(live))
            chunks = {url: rows[:most].tolist() for url, rows in zip(live, parts, strict=True)}
            for url, (tokens, log_pf) in self._each(chunks, ask, OSError).items():
                for place, row in enumerate(chunks[url]):
                    drawn[row] = tokens[place], log_pf[place]
        in_order = [drawn[row] for row in range(total)]
        return torch.stack([tokens for tokens, _ in in_order]), torch.stack([log_pf for _, log_pf in in_order])

    def _send(self, receivers: Iterable[str], body: bytes, part: int, last: bool) -> Iterable[str]:
        """Give one part to the receivers; returns those that took it."""
        path = "/weights?" + urlencode({"version": self._name, "part": part, "last": last})
        return self._each(receivers, lambda url: self._call(url, "PUT", path, body), OSError, InputError)

    def _health(self, url: str) -> dict[str, Any]:
        """The server's state. Raises InputError where it is not one for this run, and otherwise as `_call` does."""
        retries, timeout = (0 if url in self._down else RETRIES), min(10, self.timeout)
        answer = self._call(url, "GET", "/health", retries=retries, timeout=timeout)
        try:
            health = json.loads(answer.content)
            version, longest, exact = health["version"], health["longest"], health["exact"]
            expected = isinstance(version, str | None) and type(longest) is int and type(exact) is bool
        except (ValueError, RecursionError, KeyError, TypeError):
            expected = False
        if not expected:
            raise ConnectionError(f"{url} answers, but is no rollout server.")
        for name, mine, option in (
            ("catalog_fingerprint", self.catalog_fingerprint, "--data"),
            ("vocabulary", self.vocabulary, "--model"),
        ):
            if health.get(name) != mine:
                raise InputError(
                    f"{url} was started for {name} {health.get(name)} and this run has {mine}.",
                    remedy=f"Start recipes/rollout_server.py with the {option} of this run.",
                )
        if health["longest"] < self.longest:
            raise InputError(
                f"{url} takes prompts of up to {health['longest']} tokens and this run's have up to {self.longest}.",
                remedy="Start recipes/rollout_server.py with a larger --max_history or --longest, or lower max_history "
                "here.",
            )
        return health

    def _call(
        self,
        url: str,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        retries: int = RETRIES,
        timeout: float = 0,
        largest: int = SMALL,
    ) -> Answer:
        """The answer 200. Raises InputError for 400 and 422, PermissionError for 401, ConnectionError for all else."""
        headers = {"Authorization": f"Bearer {self.key}", "Connection": "close"}
        if method == "POST":
            headers["Content-Type"] = "application/json"
        try:
            answer = request(
                method, url + path, headers, body, timeout=timeout or self.timeout, largest=largest, retries=retries
            )
        except ConnectionError as error:
            raise ConnectionError(f"{url} does not answer: {error}.") from error
        if answer.status == 200:
            return answer
        reason = " ".join(answer.content[:300].decode(errors="replace").split()).rstrip(".")
        problem = f"{url} answers {answer.status}: {reason}."
        if answer.status in (400, 422):
            raise InputError(problem)
        if answer.status == 401:
            raise PermissionError(problem)
        raise ConnectionError(problem)

    def _live(self) -> list[str]:
        if live := [url for url in self.urls if url not in self._down]:
            return live
        raise RunError(
            f"No rollout server answers ({' '.join(self._down.values())}).",
            remedy="Start recipes/rollout_server.py again, then resume from the last checkpoint.",
        )

    def _each(
        self, urls: Iterable[str], call: Callable[[str], Result], *failures: type[Exception]
    ) -> dict[str, Result]:
        """call(url) for all at once: url -> answer. Servers whose call fails are left out from now on."""
        answers = {}
        with ThreadPoolExecutor(len(self.urls)) as threads:
            for url, future in [(url, threads.submit(call, url)) for url in urls]:
                try:
                    answers[url] = future.result()
                except failures as error:
                    self._drop(url, str(error))
        return answers

    def _drop(self, url: str, reason: str) -> None:
        if url not in self._down:
            logger.warning("A rollout server is left out until it takes new weights: %s", reason)
        self._down[url] = reason


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


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 80) > 0
        right = right and not (parts.query or parts.fragment or parts.username)
    except ValueError:  # a port that is no number
        right = False
    if not right:
        raise InputError(
            f"{url!r} is no url of a rollout server.",
            remedy="Write it as http://host:port.",
            field="vllm_server_base_url",
            value=url,
        )
