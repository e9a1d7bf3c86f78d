"""A trained recommender behind HTTP: the lists that it recommends, and what it counts."""

import asyncio
import json
from collections.abc import AsyncIterator, Hashable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from catalog.errors import GFlowGRError, InputError
from catalog.extras import extra
from recommenders import RankedList
from serving.asked import MOST_BYTES, Histories, Recommend, Sample, refuse
from serving.batcher import Batcher, Overloaded
from serving.http_limits import KeyAndSizeLimits
from serving.listening import KEY
from serving.metrics import Measured, Metrics
from serving.refusals import add_refusals
from serving.served import Beam, Draws, Row, Served

with extra("server", "An HTTP server"):
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

MOST_WAITING = 4096
"""Histories that may wait for a batch; a request for more is refused."""


class Answers:
    """The answer to each kind of request. about: what /health adds; seconds: within which a list is there."""

    def __init__(self, served: Served, metrics: Metrics, about: Mapping[str, Any], seconds: float) -> None:
        catalog = served.recommender.catalog
        self.served, self.metrics, self.about, self.items = served, metrics, about, len(catalog)
        self.fingerprint = catalog.fingerprint
        self.batcher: Batcher[Row, RankedList] = Batcher(
            served.draw, max_batch=served.max_batch, max_waiting=MOST_WAITING, seconds=seconds, observe=metrics.batch
        )
        self._requests = count()

    async def recommend(self, request: Request) -> Response:
        asked = Recommend.model_validate_json(await request.body())
        self._check_catalog(asked)
        if asked.k > self.items:
            refuse("k", asked.k, f"the catalog has {self.items} items")
        width = asked.beam_width or max(self.served.beam_width, asked.k)
        if width < asked.k:
            refuse("beam_width", width, f"k is {asked.k}")
        how = Beam(asked.exclude_seen, width, asked.diversity, asked.k if asked.diversity else 0)
        lists = zip(asked.lists, asked.excluded(), strict=True)
        return await self._answer(how, [Row(history, exclude, asked.k) for history, exclude in lists])

    async def sample(self, request: Request) -> Response:
        asked = Sample.model_validate_json(await request.body())
        self._check_catalog(asked)
        if len(asked.lists) > self.served.max_batch:
            refuse("histories", len(asked.lists), f"draws are made for {self.served.max_batch} at a time")
        how = Draws(asked.n, asked.temperature, asked.seed, next(self._requests))
        return await self._answer(how, [Row(history, [], asked.n) for history in asked.lists])

    async def health(self, _: Request) -> Response:
        """503 as long as the engine hangs or fails. It is asked only where its newest batch failed: that takes one."""
        if self.batcher.hangs:
            raise HTTPException(503, f"The engine hangs: a batch takes longer than {self.batcher.seconds:g} s.")
        if self.batcher.failed:
            try:
                await self.batcher.submit(*self.served.probe)
            except (Overloaded, TimeoutError, GFlowGRError) as error:
                raise HTTPException(503, f"The engine fails: {str(error) or type(error).__name__}") from error
        return _json({"catalog": self.fingerprint, "items": self.items, **self.about})

    async def counted(self, _: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _check_catalog(self, asked: Histories) -> None:
        if asked.catalog not in (None, self.fingerprint):
            sentence = f"The server's catalog is {self.fingerprint}, not {asked.catalog}: ask another server."
            raise HTTPException(409, sentence)

    async def _answer(self, how: Hashable, rows: list[Row]) -> Response:
        try:
            lists = await self.batcher.submit(how, rows)
        except Overloaded:
            sentence = f"{self.batcher.waiting} histories wait already: ask again later."
            raise HTTPException(503, sentence, {"Retry-After": "1"}) from None
        except TimeoutError:
            sentence = f"It took longer than {self.batcher.seconds:g} s: ask again later, or for less at a time."
            raise HTTPException(504, sentence) from None
        except InputError:
            raise
        except GFlowGRError as error:
            raise HTTPException(500, str(error)) from error
        for one in lists:
            self.metrics.lists.labels("error" if one.error else one.source).inc()
            self.metrics.unknown.inc(one.unknown)
        return _json({"results": [vars(one) for one in lists]})


def make_app(served: Served, *, key: str | None, about: Mapping[str, Any], seconds: float = 30.0) -> Starlette:
    """The app around a recommender; serve it by `server_config`. about: what /health adds.

    With a key, requests need the header `Authorization: Bearer KEY`. seconds: within which a list is there. A refusal
    is one sentence: 400 for what cannot be asked, 401 for another key, 408 and 413 for a body that is too slow or too
    large, 409 for another catalog, 500 where the engine fails, 503 where too much waits and of /health as long as the
    engine fails or hangs, 504 where it takes too long.
    """
    metrics = Metrics()
    answers = Answers(served, metrics, about, seconds)
    metrics.waiting.set_function(lambda: answers.batcher.waiting)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(answers.batcher.run())
        yield
        running.cancel()

    routes = [
        Route("/recommend", answers.recommend, methods=["POST"]),
        Route("/sample", answers.sample, methods=["POST"]),
        Route("/health", answers.health),
        Route("/metrics", answers.counted),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    add_refusals(app)
    refusal = f"The key is not the server's: set {KEY} to the same value on both."
    app.add_middleware(KeyAndSizeLimits, key=key, largest=lambda path: MOST_BYTES, refusal=refusal)
    app.add_middleware(Measured, metrics=metrics, paths={route.path for route in routes})
    return app


def _json(content: Mapping[str, Any]) -> Response:
    return Response(json.dumps(content, allow_nan=False), media_type="application/json")
