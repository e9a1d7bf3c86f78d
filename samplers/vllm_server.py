"""A rollout engine behind HTTP: it draws for training processes elsewhere, with the weights that one of them sends.

Tensors travel as safetensors, in both directions; `samplers.vllm_client` is the other side.
"""

import hmac
from collections.abc import Callable
from threading import Lock
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field
from safetensors import SafetensorError
from safetensors.torch import load, save
from starlette.types import ASGIApp, Receive, Scope, Send
from torch import Tensor

from samplers.rollout import RolloutEngine
from samplers.vllm_client import KEY

Seed = Annotated[int, Field(ge=0, lt=2**63)]  # a larger one fails while the engine draws, and it never recovers


class SampleRequest(BaseModel):
    """B prompts, and as many seeds."""

    version: str
    prompts: list[list[int]] = Field(min_length=1)
    count: int = Field(ge=1)
    seeds: list[Seed]


class ExtendRequest(BaseModel):
    """B prompts, each ending with `prefix` codes of an item."""

    version: str
    prompts: list[list[int]] = Field(min_length=1)
    prefix: int = Field(ge=0)
    width: int = Field(ge=1)


class KeyRequired:
    """Answers 401 before anything of a request is read, unless it carries the key."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app, self.expected = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        app = self.app
        if scope["type"] == "http" and not hmac.compare_digest(given, self.expected):
            app = PlainTextResponse(f"The key is not the server's: set {KEY} to the same value on both.", 401)
        await app(scope, receive, send)


class Holder:
    """An engine that does one thing at a time, and the name of the weights it holds.

    version: None as long as it holds its checkpoint's weights, or those of a transfer that is not complete. failure:
    what to tell once the engine has failed. refusals: its exceptions that mean a wrong request and not a failure.
    """

    def __init__(self, engine: RolloutEngine, refusals: tuple[type[Exception], ...]) -> None:
        self.engine, self.refusals = engine, refusals
        self.version: str | None = None
        self.failure = ""
        self._lock = Lock()
        self._taken: tuple[str, int] = ("", -1)  # whose transfer, and its part that came last

    def check(self) -> None:
        """Answer 503 where the engine has failed."""
        if self.failure:
            raise HTTPException(503, self.failure)

    def draw(self, version: str, draw: Callable[[], tuple[Tensor, Tensor]]) -> Response:
        """The tensors tokens and log_pf that `draw` returns, as safetensors; 409 for other weights than asked for."""
        with self._lock:
            self.check()
            if version != self.version:
                raise HTTPException(
                    409, f"The server holds the weights {self.version}, not {version}: send them first."
                )
            try:
                tokens, log_pf = draw()
            except self.refusals:
                raise
            except Exception as error:  # vLLM keeps what it was drawing, and would draw without end next time
                self.failure = f"The engine failed ({type(error).__name__}: {error}): start recipes/serve.py again."
                raise
        return Response(save({"tokens": tokens, "log_pf": log_pf}), media_type="application/octet-stream")

    def take(self, version: str, part: int, last: bool, weights: dict[str, Tensor]) -> None:
        """Load one part of a transfer; 409 for a part that does not follow, since a server may restart in between."""
        with self._lock:
            self.check()
            name, done = (version, -1) if part == 0 else self._taken
            if name != version or part not in (done, done + 1):  # a part whose answer was lost comes once more
                raise HTTPException(
                    409, f"Part {part} of the weights {version} does not follow part {done} of {name!r}: begin with 0."
                )
            self.version = None
            if weights:
                self.engine.load(list(weights.items()), self.engine.version + 1)
            self._taken = (version, part)
            if last:
                self.version = version


async def _body(request: Request) -> bytes:
    return await request.body()


def make_app(engine: RolloutEngine, *, key: str, catalog_fingerprint: str, vocabulary: int, longest: int) -> FastAPI:
    """The app around `engine`, for requests with the header `Authorization: Bearer KEY`.

    vocabulary: tokens of the model. longest: tokens of the longest prompt. What is refused is told in one sentence:
    401 another key, 409 other weights than the request is for, 400 what the engine refuses, 503 once it has failed.
    """
    from vllm.exceptions import VLLMClientError  # no ValueError

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(KeyRequired, key=key)
    holder = Holder(engine, (ValueError, VLLMClientError))

    @app.exception_handler(HTTPException)
    def refuse(_: Request, error: HTTPException) -> Response:
        return PlainTextResponse(error.detail, error.status_code)

    @app.exception_handler(SafetensorError)
    @app.exception_handler(VLLMClientError)
    @app.exception_handler(ValueError)
    def refuse_content(_: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error), 400)

    @app.exception_handler(Exception)
    def fail(_: Request, error: Exception) -> Response:  # its traceback is in the server's log
        return PlainTextResponse(f"{type(error).__name__}: {error}", 500)

    @app.get("/health")
    async def health() -> dict[str, Any]:  # async: it waits neither for the engine nor for a thread
        holder.check()
        return {
            "version": holder.version,
            "catalog_fingerprint": catalog_fingerprint,
            "vocabulary": vocabulary,
            "longest": longest,
            "exact": engine.exact,
        }

    @app.post("/sample")
    def sample(asked: SampleRequest) -> Response:
        return holder.draw(asked.version, lambda: engine.sample(asked.prompts, asked.count, asked.seeds))

    @app.post("/extend")
    def extend(asked: ExtendRequest) -> Response:
        return holder.draw(asked.version, lambda: engine.extend(asked.prompts, asked.prefix, asked.width))

    @app.put("/weights")
    def weights(
        version: str, part: Annotated[int, Query(ge=0)], last: bool, body: Annotated[bytes, Depends(_body)]
    ) -> None:
        holder.take(version, part, last, load(body))

    return app
