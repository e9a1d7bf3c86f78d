"""The rollout servers of a run: what they say of themselves, what they are asked, and which of them are left out."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import torch

from catalog.errors import InputError, RunError
from samplers.rollouts.http_client import Answer, request
from serving.listening import KEY

logger = logging.getLogger(__name__)

MOST_PROMPTS = 2048
"""How many prompts one request may have; more are split into several requests."""

MOST_DRAWS = 2**17
"""How many trajectories, or next codes, one request may ask for over all its prompts, and a batch of requests."""

RETRIES = 3

SMALL = 2**16
"""Bytes of the largest answer that holds no draws."""

Result = TypeVar("Result")


@dataclass(eq=False)
class Servers:
    """Rollout servers that fit this run; the fields are those of `ServerEngine`.

    dtype: of the servers' weights, float32 where they differ. Raises as `ServerEngine` does.
    """

    urls: Sequence[str]
    _: KW_ONLY
    key: str = field(repr=False)
    catalog_fingerprint: str
    vocabulary: int
    longest: int
    weight_transfer: str = "http"
    timeout: float = 120
    wait: float = 0
    dtype: torch.dtype = field(init=False)
    down: dict[str, str] = field(init=False, default_factory=dict)
    """The servers that are left out, and why."""

    def __post_init__(self) -> None:
        self.urls = list(dict.fromkeys(url.rstrip("/") for url in self.urls))
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
            dtypes = {getattr(torch, self._first_health(url, until)["dtype"]) for url in self.urls}
        except PermissionError as error:
            raise InputError(str(error)) from error
        except ConnectionError as error:
            raise RunError(str(error), remedy="Start recipes/rollout_server.py there, or correct the url.") from error
        self.dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32

    def _first_health(self, url: str, until: float) -> dict[str, Any]:
        """`health` of a server that may still be starting, at the latest at the monotonic time `until`."""
        while True:
            try:
                return self.health(url)
            except PermissionError:
                raise
            except ConnectionError as error:
                if time.monotonic() >= until:
                    raise
                logger.warning("Waiting for the rollout server %s: %s", url, error)
                time.sleep(min(10.0, max(0.0, until - time.monotonic())))

    def health(self, url: str) -> dict[str, Any]:
        """The server's state. Raises InputError where it is not one for this run, and otherwise as `call` does."""
        retries, timeout = (0 if url in self.down else RETRIES), min(10, self.timeout)
        answer = self.call(url, "GET", "/health", retries=retries, timeout=timeout)
        try:
            health = json.loads(answer.content)
            version, longest, dtype = health["version"], health["longest"], getattr(torch, health["dtype"])
            expected = isinstance(version, str | None) and type(longest) is int and isinstance(dtype, torch.dtype)
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
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
        if self.weight_transfer not in ("http", given := health.get("weight_transfer")):
            raise InputError(
                f"{url} was started for weight_transfer {given} and this run has {self.weight_transfer}.",
                remedy=f"Start recipes/rollout_server.py with --weight_transfer {self.weight_transfer}.",
                field="weight_transfer",
                value=self.weight_transfer,
            )
        if health["longest"] < self.longest:
            raise InputError(
                f"{url} takes prompts of up to {health['longest']} tokens and this run's have up to {self.longest}.",
                remedy="Start recipes/rollout_server.py with a larger --max_history or --longest, or lower max_history "
                "here.",
            )
        return health

    def call(
        self,
        url: str,
        method: str,
        path: str,
        body: bytes | memoryview = b"",
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

    def live(self) -> list[str]:
        if live := [url for url in self.urls if url not in self.down]:
            return live
        raise RunError(
            f"No rollout server answers ({' '.join(self.down.values())}).",
            remedy="Start recipes/rollout_server.py again, then resume from the last checkpoint.",
        )

    def each(self, urls: Iterable[str], call: Callable[[str], Result], *failures: type[Exception]) -> dict[str, Result]:
        """call(url) for all at once: url -> answer. Servers whose call fails are left out from now on."""
        answers = {}
        with ThreadPoolExecutor(len(self.urls)) as threads:
            for url, future in [(url, threads.submit(call, url)) for url in urls]:
                try:
                    answers[url] = future.result()
                except failures as error:
                    self.drop(url, str(error))
        return answers

    def drop(self, url: str, reason: str) -> None:
        if url not in self.down:
            logger.warning("A rollout server is left out until it takes new weights: %s", reason)
        self.down[url] = reason


def is_local_url(url: str) -> bool:
    """Whether the server is on this machine."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


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
