"""One HTTP request whose answer is bounded in time and size, however it comes; no redirects, no proxies, no .netrc."""

import http.client
import socket
import time
from contextlib import closing, suppress
from threading import Timer
from typing import NamedTuple
from urllib.parse import urlsplit

CONNECT_SECONDS = 10.0
"""How long a server may take to accept a connection; the body and the answer have what is left of the whole time."""


class Answer(NamedTuple):
    """What came back: the status, its content type and the whole content."""

    status: int
    kind: str
    content: bytes


def request(
    method: str,
    url: str,
    headers: dict[str, str],
    body: bytes | memoryview = b"",
    *,
    timeout: float,
    largest: int,
    retries: int,
) -> Answer:
    """The whole answer within `timeout` seconds, retries included, and of at most `largest` bytes.

    A request is repeated up to `retries` times where the server refuses the connection, and at most once where it
    breaks off. Raises ConnectionError where no such answer comes.
    """
    end = time.monotonic() + timeout
    for attempt in range(retries + 1):
        try:
            return _once(method, url, headers, body, end, largest)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() >= end or isinstance(error, TimeoutError):
                raise ConnectionError(f"timed out after {timeout:g} s") from error
            refused = isinstance(error, ConnectionRefusedError | socket.gaierror)
            allowed = retries if refused else min(retries, 1)
            pause = 0.3 * 2**attempt
            if attempt == allowed or time.monotonic() + pause >= end:
                raise ConnectionError(f"{type(error).__name__}: {error}") from error
            time.sleep(pause)
    raise AssertionError("the last attempt answers or raises")


def _once(method: str, url: str, headers: dict[str, str], body: bytes | memoryview, end: float, largest: int) -> Answer:
    where = urlsplit(url)
    kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
    left = max(0.01, end - time.monotonic())
    with closing(kind(where.hostname or "", where.port, timeout=min(CONNECT_SECONDS, left))) as connection:
        connection.connect()
        connection.sock.settimeout(left)  # for one read; the timer ends an answer that comes byte by byte
        late = Timer(max(0.01, end - time.monotonic()), _cut, [connection.sock])
        late.daemon = True
        late.start()
        try:
            path = (where.path or "/") + (f"?{where.query}" if where.query else "")
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read(largest + 1)
        finally:
            late.cancel()
        if len(content) > largest:
            raise ConnectionError(f"its answer has more than {largest} bytes")
        if response.length:
            raise http.client.IncompleteRead(content, response.length)
        return Answer(response.status, response.getheader("Content-Type", ""), content)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
