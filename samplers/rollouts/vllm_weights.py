"""The weights by vLLM's own transfer, past HTTP: the run's side, a group for each rollout server."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, Full, Queue
from typing import Any

import torch
from torch import Tensor

from samplers.rollouts.engine import WeightMeta
from samplers.rollouts.ipc_handles import to_json
from samplers.rollouts.servers import Servers
from samplers.rollouts.weights import buckets

BUCKET_BYTES = 128 * 2**20
"""Bytes of the weights that are on their way at once, unless a single weight is larger."""


SECONDS_FOR_A_REASON = 5.0
"""How long a round that broke off waits for the server to say why, over HTTP."""


class SyncClient:
    """One server's four requests, as vLLM's `VLLMWeightSyncClient` has them.

    version: what the weights of this round will be called. on_failure: ends the sending, since a server that refused
    weights, or is gone, no longer receives what this process sends. failure: why, once the server has `answered`.
    """

    def __init__(self, servers: Servers, url: str) -> None:
        self.servers, self.url, self.version = servers, url, ""
        self.on_failure: Callable[[], None] = lambda: None
        self.failure: Exception | None = None
        self.answered = threading.Event()
        self.answered.set()

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._post("/init_weight_transfer_engine", {"init_info": init_info, "seconds": self.servers.timeout})

    def start_weight_update(self) -> None:
        self._post("/start_weight_update", {})

    def update_weights(self, update_info: Any) -> None:
        if handles := update_info.get("ipc_handles"):
            update_info = {**update_info, "ipc_handles": to_json(handles)}
            update_info.pop("ipc_handles_pickled", None)
        self.answered.clear()
        self.failure = None
        try:
            self._post("/update_weights", {"update_info": update_info, "seconds": self.servers.timeout})
        except Exception as error:
            self.failure = error
            self.on_failure()
            raise
        finally:
            self.answered.set()

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._post("/finish_weight_update", {"version": weight_version or self.version})

    def _post(self, path: str, asked: dict[str, Any]) -> None:
        self.servers.call(self.url, "POST", path, json.dumps(asked).encode(), retries=0)


class Feed:
    """A `WeightSource` of vLLM whose weights another thread puts in, bucket by bucket."""

    def __init__(self, metas: Sequence[WeightMeta]) -> None:
        self.metas = metas
        self.over = threading.Event()
        self._buckets: Queue[dict[str, Tensor] | None] = Queue(1)

    def metadata(self) -> Sequence[WeightMeta]:
        return self.metas

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        while (bucket := self._next()) is not None:
            for name, tensor in bucket.items():
                if tensor.is_cuda:  # vLLM reads it in a stream of its own, after this thread has let go of it
                    tensor.record_stream(torch.cuda.current_stream())
                yield name, tensor

    def _next(self) -> dict[str, Tensor] | None:
        while not self.over.is_set():
            with suppress(Empty):
                return self._buckets.get(timeout=0.5)
        return None

    def put(self, bucket: dict[str, Tensor] | None, seconds: float) -> None:
        """Wait up to `seconds` for a place; without one, or when the round is `over`, the bucket is dropped."""
        end = time.monotonic() + seconds
        while not self.over.is_set() and time.monotonic() < end:
            with suppress(Full):
                self._buckets.put(bucket, timeout=0.05)
                return
        self.over.set()


Join = Callable[[SyncClient, Feed, int], Any]
"""(client, source, the server's workers) -> a `TrainerWeightTransferEngine` of vLLM that has met the server."""


@dataclass(eq=False)
class Link:
    """A server, and the group with it. sent: the last weights that it got through this group."""

    client: SyncClient
    workers: int
    group: Any = None
    sent: str = ""

    def close(self) -> None:
        """Leave the group, whatever it waits for."""
        if self.group is not None:
            with suppress(Exception):
                self.group.shutdown()


@dataclass(eq=False)
class Round:
    """One server's thread for one version of the weights."""

    link: Link
    feed: Feed
    name: str
    error: Exception | None = field(init=False, default=None)

    def run(self, join: Join, device: torch.device | None) -> None:
        """Send what the feed is given."""
        try:
            if device is not None:  # a thread begins on the first GPU, whichever one its process has
                torch.cuda.set_device(device)
            link = self.link
            link.client.version = self.name
            if link.group is None:
                link.group = join(link.client, self.feed, link.workers)
            link.group.source = self.feed
            link.group.send_weights()
            link.sent = self.name
        except Exception as error:
            self.feed.over.set()
            self.link.client.answered.wait(SECONDS_FOR_A_REASON)
            self.error = self.link.client.failure or error
        finally:
            self.feed.over.set()


class VLLMWeights:
    """A `WeightSender` on vLLM's weight transfer. join: of the backend.

    A transfer whose server does not answer within the servers' timeout, or fails, ends with its group; the server gets
    a new one with the next weights. NCCL itself has no time limit: what decides is the answer over HTTP.
    """

    def __init__(self, servers: Servers, join: Join, bucket_bytes: int = BUCKET_BYTES) -> None:
        self.servers, self.join, self.bucket_bytes = servers, join, bucket_bytes
        self._links: dict[str, Link] = {}

    def send(self, metas: Sequence[WeightMeta], weights: Iterator[tuple[str, Tensor]], name: str) -> None:
        rounds = {url: self._start(link, metas, name) for url, link in self._meet().items()}
        try:
            for bucket in buckets(weights, self.bucket_bytes):
                if torch.cuda.is_available():
                    torch.cuda.current_stream().synchronize()
                for one, _ in rounds.values():
                    one.feed.put(bucket, self.servers.timeout)
        finally:
            for one, _ in rounds.values():
                one.feed.put(None, self.servers.timeout)
        for url, (one, thread) in rounds.items():
            thread.join(self.servers.timeout)
            if thread.is_alive() or one.error:
                self._links.pop(url).close()
                reason = one.error or f"it took more than {self.servers.timeout:g} s"
                self.servers.drop(url, f"the weights did not arrive at {url}: {reason}")

    def _meet(self) -> dict[str, Link]:
        """The servers that answer. One that was started again, or that another run took, has no group any more."""
        found = self.servers.each(self.servers.urls, self.servers.health, OSError, ValueError)
        kept = {url: link for url, link in self._links.items() if url in found and found[url]["version"] == link.sent}
        for url in self._links.keys() - kept.keys():
            self._links[url].close()
        self._links = {url: kept.get(url) or self._link(url, found[url]["workers"]) for url in found}
        return self._links

    def _link(self, url: str, workers: int) -> Link:
        link = Link(SyncClient(self.servers, url), workers)
        link.client.on_failure = link.close
        return link

    def _start(self, link: Link, metas: Sequence[WeightMeta], name: str) -> tuple[Round, threading.Thread]:
        one = Round(link, Feed(metas), name)
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None
        # a daemon: where NCCL waits for a server that is gone, the end of the run does not wait with it
        thread = threading.Thread(target=one.run, args=(self.join, device), daemon=True)
        thread.start()
        return one, thread
