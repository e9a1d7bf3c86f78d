"""Rollouts from servers that recipes/serve.py started: no vLLM here, and any of them may die."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, TypeVar

import numpy as np
import requests
import torch
from requests.adapters import HTTPAdapter
from safetensors.torch import load, save
from torch import Tensor
from urllib3.util.retry import Retry

from catalog.errors import InputError, RunError
from samplers.rollout import Weights
from samplers.weights import buckets

logger = logging.getLogger(__name__)

KEY = "GFLOWGR_API_KEY"
"""The environment variable with the key, on both sides."""

RETRIES = 3

Answer = TypeVar("Answer")


@dataclass(eq=False)
class ServerEngine:
    """A `RolloutEngine` on one or several rollout servers, which share the prompts.

    urls: http://host:port of each. key: GFLOWGR_API_KEY of the servers. run: a name of this training run that no other
    has. catalog_fingerprint, vocabulary, longest: of this run's catalogue, model and longest prompt. timeout: seconds
    to wait for an answer. sender: whether this process sends the weights in `load`; exactly one does. bucket_bytes: of
    the weights in one request.

    Nothing may be drawn before the first `load` and `join`. Raises RunError for a url where no server answers,
    InputError for one that was started with another key, catalogue or vocabulary or for shorter prompts.
    """

    urls: Sequence[str]
    _: KW_ONLY
    key: str = field(repr=False)
    run: str
    catalog_fingerprint: str
    vocabulary: int
    longest: int
    timeout: float = 120
    sender: bool = True
    bucket_bytes: int = 256 * 2**20
    version: int = field(init=False, default=-1)
    exact: bool = field(init=False)

    def __post_init__(self) -> None:
        self.urls = list(dict.fromkeys(url.rstrip("/") for url in self.urls))
        self._down: dict[str, str] = {}  # servers that are left out -> why
        try:
            self.exact = all([self._health(url)["exact"] for url in self.urls])
        except PermissionError as error:
            raise InputError(str(error)) from error
        except ConnectionError as error:
            raise RunError(f"{error} Start recipes/serve.py there, or correct the url.") from error

    def load(self, weights: Weights, version: int) -> None:
        """Send the weights to every server that answers; `join` then tells which of them have it."""
        self.version = version
        if not self.sender:
            deque(weights, maxlen=0)  # taking the weights is collective where they are sharded
            return
        receivers: Iterable[str] = self._each(self.urls, self._health, OSError, ValueError)
        part = 0
        for bucket in buckets(weights, self.bucket_bytes):  # to the end, even if no server is left: see above
            body = save({name: tensor.cpu().contiguous() for name, tensor in bucket.items()})
            receivers = self._send(receivers, body, part=part, last=False)
            part += 1
        self._send(receivers, save({}), part=part, last=True)

    def join(self) -> None:
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

        return self._draw("/sample", len(prompts), body)

    def extend(self, prompts: Sequence[list[int]], prefix: int, width: int) -> tuple[Tensor, Tensor]:
        """The likeliest next codes, see `RolloutEngine`. Raises as `sample` does."""

        def body(rows: list[int]) -> dict[str, Any]:
            return {"prompts": [prompts[row] for row in rows], "prefix": prefix, "width": width}

        return self._draw("/extend", len(prompts), body)

    def rest(self) -> None:
        """Nothing: the servers' memory is their own."""

    def end(self) -> None:
        """Nothing: the servers live on."""

    @property
    def _name(self) -> str:
        return f"{self.run}:{self.version}"

    def _draw(self, path: str, total: int, body: Callable[[list[int]], dict[str, Any]]) -> tuple[Tensor, Tensor]:
        """tokens and log_pf of `total` prompts; body(rows) asks for some. What a server fails to do, the others do."""
        drawn: dict[int, tuple[Tensor, Tensor]] = {}
        chunks: dict[str, list[int]] = {}

        def ask(url: str) -> dict[str, Tensor]:
            asked = {"version": self._name} | body(chunks[url])
            return load(self._call(url, "POST", path, json=asked).content)

        while missing := [row for row in range(total) if row not in drawn]:
            live = self._live()[: len(missing)]
            parts = np.array_split(missing, len(live))
            chunks = {url: rows.tolist() for url, rows in zip(live, parts, strict=True)}
            for url, answer in self._each(chunks, ask, OSError).items():
                rows = zip(answer["tokens"], answer["log_pf"], strict=True)
                drawn.update(zip(chunks[url], rows, strict=True))
        tokens, log_pf = zip(*(drawn[row] for row in range(total)), strict=True)
        return torch.stack(tokens), torch.stack(log_pf)

    def _send(self, receivers: Iterable[str], body: bytes, part: int, last: bool) -> Iterable[str]:
        """Give one part to the receivers; returns those that took it."""
        params = {"version": self._name, "part": part, "last": last}
        return self._each(
            receivers, lambda url: self._call(url, "PUT", "/weights", params=params, data=body), OSError, InputError
        )

    def _health(self, url: str) -> dict[str, Any]:
        """What the server says of itself. Raises InputError where it is none for this run, else as `_call` does."""
        retries, timeout = (0 if url in self._down else RETRIES), min(10, self.timeout)
        response = self._call(url, "GET", "/health", retries=retries, timeout=timeout)
        if response.headers.get("content-type") != "application/json":
            raise ConnectionError(f"{url} answers, but is no rollout server.")
        health = response.json()
        for name, mine, option in (
            ("catalog_fingerprint", self.catalog_fingerprint, "--data"),
            ("vocabulary", self.vocabulary, "--model"),
        ):
            if health.get(name) != mine:
                raise InputError(
                    f"{url} was started for {name} {health.get(name)} and this run has {mine}.",
                    remedy=f"Start recipes/serve.py with the {option} of this run.",
                )
        if health["longest"] < self.longest:
            raise InputError(
                f"{url} takes prompts of up to {health['longest']} tokens and this run's have up to {self.longest}.",
                remedy="Start recipes/serve.py with a larger --max_history or --longest, or lower max_history here.",
            )
        return health

    def _call(
        self, url: str, method: str, path: str, *, retries: int = RETRIES, timeout: float = 0, **content: Any
    ) -> requests.Response:
        """The answer 200. Raises InputError for 400, PermissionError for 401, ConnectionError for all else."""
        timeout = timeout or self.timeout
        # every request may be repeated; once only where it was under way, since a time-out may have passed
        retry = Retry(total=retries, read=min(retries, 1), backoff_factor=0.3, allowed_methods=None)
        with requests.Session() as session:
            session.trust_env = False  # a proxy would read the key, and .netrc would replace it
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=retry))
            try:
                response = session.request(
                    method,
                    url + path,
                    headers={"Authorization": f"Bearer {self.key}"},
                    timeout=(min(10, timeout), timeout),
                    **content,
                )
            except requests.RequestException as error:
                reason = str(getattr(error.args[0], "reason", error)).rstrip(".")
                raise ConnectionError(f"{url} does not answer: {reason}.") from error
        if response.status_code == 200:
            return response
        kinds = {400: ValueError, 422: ValueError, 401: PermissionError}
        raise kinds.get(response.status_code, ConnectionError)(
            f"{url} answers {response.status_code}: {response.text[:300]}"
        )

    def _live(self) -> list[str]:
        if live := [url for url in self.urls if url not in self._down]:
            return live
        raise RunError(
            f"No rollout server answers ({' '.join(self._down.values())}).",
            remedy="Start recipes/serve.py again, then resume from the last checkpoint.",
        )

    def _each(
        self, urls: Iterable[str], call: Callable[[str], Answer], *failures: type[Exception]
    ) -> dict[str, Answer]:
        """call(url) of all at once: the answers of those that gave one, the others are left out from now on."""
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
