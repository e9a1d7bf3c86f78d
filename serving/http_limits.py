"""The checks of a server on an open port before it reads a request: the key, and bounds of time, size and number."""

import asyncio
import hmac
from collections.abc import Callable
from typing import Any, ClassVar

from catalog.extras import extra

with extra("server", "An HTTP server"):
    import h11
    from starlette.responses import PlainTextResponse
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn import Config
    from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""How long the head of a request may take."""

BODY_SECONDS = 300.0
"""How long its body may take: the weights of a large model are slow."""

WAITING = 128
"""Connections that have not sent a head. Beyond that number the oldest is closed, so that nobody can block the port."""

CONNECTIONS = 512
"""Connections at once; further ones get 503."""

GRACE_SECONDS = 60
"""How long a server that is asked to stop lets the requests finish that it has."""


class HeadTimeoutProtocol(H11Protocol):
    """uvicorn's protocol, except that a connection has to send the head of a request soon."""

    waiting: ClassVar[dict["HeadTimeoutProtocol", asyncio.TimerHandle]] = {}  # the oldest first

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()
        if len(self.waiting) > WAITING:
            next(iter(self.waiting)).transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.IDLE and self not in self.waiting:  # the next request of a connection
            self._wait()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._done()

    def connection_lost(self, exc: Exception | None) -> None:
        self._done()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self.waiting[self] = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _done(self) -> None:
        if late := self.waiting.pop(self, None):
            late.cancel()


class KeyAndSizeLimits:
    """Passes on requests that carry the key, with their whole body; without a `key`, all requests.

    Answers 401 before anything of a body is read, 413 for more than `largest(path)` bytes, 408 for one that takes too
    long. Bodies of PUT are read one at a time, into `room` where it is given: the app then gets the part of `room` that
    was filled, and has it until it has answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        key: str | None,
        largest: Callable[[str], int],
        refusal: str,
        room: memoryview | None = None,
    ) -> None:
        self.app, self.largest, self.refusal, self.room = app, largest, refusal, room
        self.expected = None if key is None else f"Bearer {key}".encode()
        self._uploads = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if self.expected is not None and not hmac.compare_digest(given, self.expected):
            await _refuse(self.refusal, 401)(scope, receive, send)
        elif scope["method"] == "PUT":
            async with self._uploads:
                await self._pass_on(scope, receive, send, self.room)
        else:
            await self._pass_on(scope, receive, send, None)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, room: memoryview | None) -> None:
        largest = self.largest(scope["path"])
        body, filled, more = bytearray(), 0, True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more and filled <= largest:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    chunk = message.get("body", b"")
                    filled += len(chunk)
                    if room is None:
                        body += chunk
                    elif filled <= largest:
                        room[filled - len(chunk) : filled] = chunk
                    more = message.get("more_body", False)
        except TimeoutError:
            await _refuse(f"The body took longer than {BODY_SECONDS:g} s.", 408)(scope, receive, send)
            return
        if filled > largest:
            await _refuse(f"The body has more than {largest} bytes.", 413)(scope, receive, send)
            return
        content = bytes(body) if room is None else room[:filled]
        whole: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self.app(scope, replay, send)


def _refuse(sentence: str, status: int) -> PlainTextResponse:
    return PlainTextResponse(sentence, status, {"Connection": "close"})  # what else it sends is not read


def server_config(app: ASGIApp) -> Config:
    """How uvicorn has to serve an app on an open port."""
    return Config(
        app,
        log_level="warning",
        access_log=False,
        http=HeadTimeoutProtocol,
        ws="none",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
