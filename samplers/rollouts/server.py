"""A rollout engine behind HTTP: it draws for training processes elsewhere, with the weights that one of them sends.

Tensors travel as safetensors, in both directions; `samplers.rollouts.client` is the other side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Annotated, Any, NoReturn

from safetensors.torch import load, save
from torch import Tensor

from catalog import Catalog, Trie
from catalog.errors import GFlowGRError, InputError
from catalog.extras import extra
from samplers.rollouts.client import MOST_DRAWS, MOST_PROMPTS
from samplers.rollouts.engine import RolloutEngine
from serving.http_limits import KeyAndSizeLimits
from serving.listening import KEY
from serving.refusals import add_refusals, refuse_form

with extra("server", "A rollout server"):
    from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
    from fastapi.exceptions import RequestValidationError
    from pydantic import BaseModel, ConfigDict, Field

Seed = Annotated[int, Field(ge=0, lt=2**62)]  # draw k of a prompt has its seed + k, which must stay below 2^63
Prompts = Annotated[list[list[int]], Field(min_length=1, max_length=MOST_PROMPTS)]
Version = Annotated[str, Field(max_length=200)]


class StrictRequest(BaseModel):
    """A request without further fields, whose values have exactly the stated kinds."""

    model_config = ConfigDict(strict=True, extra="forbid")


class SampleRequest(StrictRequest):
    """B prompts, and as many seeds."""

    version: Version
    prompts: Prompts
    count: int = Field(ge=1, le=2**14)  # of vLLM
    seeds: list[Seed]


class ExtendRequest(StrictRequest):
    """B prompts, each ending with `prefix` codes of an item."""

    version: Version
    prompts: Prompts
    prefix: int = Field(ge=0)
    width: int = Field(ge=1)


@dataclass(frozen=True)
class Bounds:
    """What a request may hold, so that the engine cannot fail at it.

    trie: the catalogue's. vocabulary: tokens of the model. longest: tokens of the longest prompt. part_bytes: of the
    largest part of the weights.
    """

    trie: Trie
    vocabulary: int
    longest: int
    part_bytes: int

    def body(self, path: str) -> int:
        """Bytes of the largest body."""
        if path == "/weights":
            return self.part_bytes
        return MOST_PROMPTS * (12 * (self.longest + self.trie.levels) + 32) + 2**16  # decimals, commas and spaces

    def check(self, asked: SampleRequest | ExtendRequest) -> None:
        """Raise InputError for what the engine cannot draw."""
        prefix, each = (0, asked.count) if isinstance(asked, SampleRequest) else (asked.prefix, asked.width)
        shortest, longest = 1 + prefix, self.longest + prefix
        if prefix >= self.trie.levels:
            self._refuse("prefix", prefix, f"items have {self.trie.levels} codes")
        if isinstance(asked, ExtendRequest) and each > max(self.trie.max_children):
            self._refuse("width", each, f"no code is followed by more than {max(self.trie.max_children)}")
        if isinstance(asked, SampleRequest) and len(asked.seeds) != len(asked.prompts):
            self._refuse("seeds", len(asked.seeds), f"there are {len(asked.prompts)} prompts")
        if len(asked.prompts) * each > MOST_DRAWS:
            self._refuse("prompts", len(asked.prompts), f"with {each} of each that is more than {MOST_DRAWS} in all")
        for prompt in asked.prompts:
            if not shortest <= len(prompt) <= longest:
                self._refuse("prompts", len(prompt), f"a prompt has {shortest} to {longest} tokens")
            if not 0 <= min(prompt) <= max(prompt) < self.vocabulary:
                self._refuse("prompts", max(prompt, key=abs), f"tokens are 0 to {self.vocabulary - 1}")

    @staticmethod
    def _refuse(field: str, value: int, reason: str) -> NoReturn:
        raise InputError(f"{field}: {value} cannot be, {reason}.", field=field, value=value)


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
        self._taken: tuple[str, int] = ("", -1)  # the transfer's version and its last part

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
            except Exception as error:  # vLLM keeps the requests and would never finish them
                self.failure = (
                    f"The engine failed ({type(error).__name__}: {error}): start recipes/rollout_server.py again."
                )
                raise
        return Response(save({"tokens": tokens, "log_pf": log_pf}), media_type="application/octet-stream")

    def take(self, version: str, part: int, last: bool, weights: dict[str, Tensor]) -> None:
        """Load one part of a transfer; 409 for a part that does not follow the last, as after a restart.

        Raises InputError for weights that are not the model's. Nothing is drawn then until a whole transfer has come.
        """
        with self._lock:
            self.check()
            name, done = (version, -1) if part == 0 else self._taken
            if name != version or part not in (done, done + 1):  # a part whose answer was lost comes once more
                raise HTTPException(
                    409, f"Part {part} of the weights {version} does not follow part {done} of {name!r}: begin with 0."
                )
            self.version = None
            if weights:
                try:
                    self.engine.load(list(weights.items()), self.engine.version + 1)
                except GFlowGRError:
                    raise
                except Exception as error:  # a name or a shape that the model does not have
                    self._taken = ("", -1)
                    reason = f"{type(error).__name__}: {error}"
                    raise InputError(f"These weights are not the model's ({reason}).", remedy="Send others.") from error
            self._taken = (version, part)
            if last:
                self.version = version


async def _body(request: Request) -> bytes:
    return await request.body()


def make_app(
    engine: RolloutEngine, *, key: str, catalog: Catalog, vocabulary: int, longest: int, part_bytes: int
) -> FastAPI:
    """The app around `engine`, for requests with the header `Authorization: Bearer KEY`; serve it by `server_config`.

    Its numbers are those of `Bounds`. A refusal is one sentence: 401 for another key, 408 and 413 for a body that is
    too slow or too large, 409 for other weights than the request names, 400 for what the engine could not draw or load,
    and 503 once the engine has failed.
    """
    bounds = Bounds(catalog.trie, vocabulary, longest, part_bytes)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_refusals(app)
    app.exception_handler(RequestValidationError)(refuse_form)
    refusal = f"The key is not the server's: set {KEY} to the same value on both."
    app.add_middleware(KeyAndSizeLimits, key=key, largest=bounds.body, refusal=refusal)
    state = EngineState(engine)

    @app.get("/health")
    async def health() -> dict[str, Any]:  # async: it waits neither for the engine nor for a thread
        state.check()
        return {
            "version": state.version,
            "catalog_fingerprint": catalog.fingerprint,
            "vocabulary": vocabulary,
            "longest": longest,
            "exact": engine.exact,
        }

    @app.post("/sample")
    def sample(asked: SampleRequest) -> Response:
        bounds.check(asked)
        return state.draw(asked.version, lambda: engine.sample(asked.prompts, asked.count, asked.seeds))

    @app.post("/extend")
    def extend(asked: ExtendRequest) -> Response:
        bounds.check(asked)
        return state.draw(asked.version, lambda: engine.extend(asked.prompts, asked.prefix, asked.width))

    @app.put("/weights")
    def weights(
        version: Version,
        part: Annotated[int, Query(ge=0, lt=2**31)],
        last: bool,
        body: Annotated[bytes, Depends(_body)],
    ) -> None:
        state.take(version, part, last, load(body))

    return app
