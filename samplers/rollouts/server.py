"""A rollout engine behind HTTP: it draws for training processes elsewhere, with the weights that one of them sends.

`samplers.rollouts.client` is the other side. Draws travel as safetensors, weights as the bytes that `wire` arranges, or
past HTTP by vLLM's own weight transfer.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

import torch
from safetensors.torch import save
from torch import Tensor

from catalog import Catalog
from catalog.errors import GFlowGRError, InputError
from catalog.extras import extra
from samplers.rollouts.asked import (
    Bounds,
    ExtendRequest,
    FinishRequest,
    InitRequest,
    SampleRequest,
    UpdateRequest,
    Version,
    WeightsRequest,
)
from samplers.rollouts.engine import RolloutEngine
from samplers.rollouts.engine_state import Asked, EngineFailedError, EngineState, Row, StaleWeightsError, cost, stacked
from samplers.rollouts.servers import MOST_DRAWS, MOST_PROMPTS
from samplers.rollouts.transfer import TransferReceiver
from samplers.rollouts.wire import PART_BYTES, as_bytes
from serving.batcher import Batcher
from serving.http_limits import CONNECTIONS, KeyAndSizeLimits
from serving.listening import KEY
from serving.refusals import add_refusals, refuse_form

with extra("server", "A rollout server"):
    from fastapi import FastAPI, Query, Request, Response
    from fastapi.concurrency import run_in_threadpool
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import PlainTextResponse

DAY = 86_400.0
"""Seconds that a draw may take: the client decides how long it waits."""


def make_app(
    engine: RolloutEngine,
    *,
    key: str,
    catalog: Catalog,
    vocabulary: int,
    longest: int,
    transfer: TransferReceiver | None = None,
) -> FastAPI:
    """The app around `engine`, for requests with the header `Authorization: Bearer KEY`; serve it by `server_config`.

    vocabulary and longest are those of `Bounds`; transfer: vLLM's own weight transfer beside HTTP. What draws ask for
    while the engine is busy is drawn together. A refusal is one sentence: 401 for another key, 408 and 413 for a body
    that is too slow or too large, 409 for other weights than the request names, 400 for what the engine could not draw
    or load, and 503 once the engine has failed.
    """
    bounds, state = Bounds(catalog.trie, vocabulary, longest), EngineState(engine)
    batcher: Batcher[Row, tuple[Tensor, Tensor]] = Batcher(
        state.draw, max_batch=MOST_DRAWS, max_waiting=CONNECTIONS * MOST_PROMPTS, seconds=DAY, cost=cost
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(batcher.run())
        yield
        running.cancel()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    add_refusals(app)
    app.exception_handler(RequestValidationError)(refuse_form)
    for kind, status in ((StaleWeightsError, 409), (EngineFailedError, 503)):
        app.add_exception_handler(kind, _answer_with(status))
    room = torch.empty(PART_BYTES, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
    refusal = f"The key is not the server's: set {KEY} to the same value on both."
    app.add_middleware(KeyAndSizeLimits, key=key, largest=bounds.body, refusal=refusal, room=as_bytes(room))

    @app.get("/health")
    async def health() -> dict[str, Any]:  # async: it waits neither for the engine nor for a thread
        state.check()
        return {
            "version": state.version,
            "base": state.base,
            "catalog_fingerprint": catalog.fingerprint,
            "vocabulary": vocabulary,
            "longest": longest,
            "dtype": str(engine.dtype).removeprefix("torch."),
            "weight_transfer": transfer.backend if transfer else "http",
            "workers": transfer.workers if transfer else 1,
        }

    _add_draws(app, bounds, batcher)
    _add_weights(app, state)
    _add_transfer(app, state, transfer)
    return app


def _add_draws(app: FastAPI, bounds: Bounds, batcher: Batcher[Row, tuple[Tensor, Tensor]]) -> None:
    async def draw(asked: SampleRequest | ExtendRequest) -> Response:
        bounds.check(asked)
        tensors = stacked(await batcher.submit(*Asked.of(asked)))
        return Response(save(tensors), media_type="application/octet-stream")

    @app.post("/sample")
    async def sample(asked: SampleRequest) -> Response:
        return await draw(asked)

    @app.post("/extend")
    async def extend(asked: ExtendRequest) -> Response:
        return await draw(asked)


def _add_weights(app: FastAPI, state: EngineState) -> None:
    @app.post("/weights")
    def begin(asked: WeightsRequest) -> None:
        state.begin(asked.version, asked.metas(), asked.part_bytes)

    @app.put("/weights")
    async def weights(version: Version, part: Annotated[int, Query(ge=0, lt=2**31)], request: Request) -> None:
        content = (await request.receive())["body"]  # whole, and not copied as `request.body` would
        await run_in_threadpool(state.take, version, part, content)


def _add_transfer(app: FastAPI, state: EngineState, transfer: TransferReceiver | None) -> None:
    """The four requests of vLLM's weight transfer, under the names that vLLM's own server gives them."""

    def there() -> TransferReceiver:
        if transfer is None:
            raise InputError(
                "This server takes weights over HTTP only.", remedy="Start it with --weight_transfer nccl or ipc."
            )
        return transfer

    @app.post("/init_weight_transfer_engine")
    def init(asked: InitRequest) -> None:
        state.transfer(partial(there().init, asked.init_info), seconds=asked.seconds)

    @app.post("/start_weight_update")
    def start() -> None:
        state.transfer(there().start)

    @app.post("/update_weights")
    def update(asked: UpdateRequest) -> None:
        receiver = there()

        def receive() -> None:
            receiver.update(asked.update_info)
            state.note_base(None, receiver.brings_base)

        state.transfer(receive, seconds=asked.seconds, abandon=receiver.abandon)

    @app.post("/finish_weight_update")
    def finish(asked: FinishRequest) -> None:
        receiver = there()

        def end() -> None:
            receiver.finish()
            state.note_base(asked.version, receiver.brings_base)

        state.transfer(end, version=asked.version)


def _answer_with(status: int) -> Any:
    async def answer(_: Request, error: GFlowGRError) -> PlainTextResponse:
        return PlainTextResponse(str(error), status)

    return answer
