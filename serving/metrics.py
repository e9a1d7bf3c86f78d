"""What a server counts, for Prometheus."""

import time
from collections.abc import Collection

from catalog.extras import extra

with extra("server", "An HTTP server"):
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
HISTORIES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "gflowgr_requests", "Requests that were answered.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "gflowgr_request_seconds",
            "From the head of a request to the end of its answer.",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batches = Histogram(
            "gflowgr_batch_histories", "Histories in one batch.", buckets=HISTORIES, registry=registry
        )
        self.batch_seconds = Histogram(
            "gflowgr_batch_seconds", "What the model took for one batch.", buckets=SECONDS, registry=registry
        )
        self.waiting = Gauge("gflowgr_waiting_histories", "Histories that wait for a batch.", registry=registry)
        self.lists = Counter(
            "gflowgr_lists", "Recommended lists by what made them: policy, popularity or error.", ["source"],
            registry=registry,
        )  # fmt: skip
        self.unknown = Counter(
            "gflowgr_unknown_events", "Events of histories whose item the catalog does not have.", registry=registry
        )

    def batch(self, rows: int, seconds: float) -> None:
        """One more batch."""
        self.batches.observe(rows)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)


class Measured:
    """Counts and times the requests to `paths`; all others are the path `other`, so that nobody can invent labels."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self.paths else "other"
        status, started = 500, time.perf_counter()  # 500 unless an answer begins: the app has failed

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, note)
        finally:
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - started)
