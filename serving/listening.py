"""The key of an HTTP server, its socket, and how it runs and stops."""

import contextlib
import gc
import ipaddress
import os
import signal
import socket
import sys
from typing import Any

from catalog.errors import SetupError

KEY = "GFLOWGR_API_KEY"
"""The environment variable with the key, on both sides."""


def read_key() -> str:
    """The key that requests must carry; it comes from the environment, since everyone can read command lines.

    Raises SetupError for one that is too short.
    """
    key = os.environ.get(KEY, "").strip()
    if len(key) < 16 or not key.isascii() or not key.isprintable():
        raise SetupError(
            f"{KEY} must hold at least 16 ASCII characters and has {len(key)}.",
            remedy="Make a key with python -c 'import secrets; print(secrets.token_hex(16))' and export it here and "
            "where requests come from.",
        )
    return key


def bind(host: str, port: int) -> socket.socket:
    """A socket that holds the port and does not listen yet, so that clients are refused until the engine is there.

    Raises SetupError for a port that is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a killed server linger
        listener.bind(address)
    except OSError as error:
        raise _taken(host, port, error) from error
    return listener


def is_local(listener: socket.socket) -> bool:
    """Whether only this machine can connect."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def listen(listener: socket.socket, host: str, port: int) -> str:
    """Let clients connect: the server's url. Raises SetupError where another server has begun to listen meanwhile."""
    try:
        listener.listen()
    except OSError as error:
        raise _taken(host, port, error) from error
    if not is_local(listener):
        sys.stderr.write(f"warning: what is sent to {host} is not encrypted, the key included\n")
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run(app: Any, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C; then finish what runs, refuse what is new, and end the process with 0."""
    import uvicorn

    from serving.http_limits import server_config

    gc.collect()
    gc.freeze()  # the model and its libraries stay: looking through them again would stop every request for 0.3 s
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises the signal that stopped it once more
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(server_config(app)).run(sockets=[listener])


def _taken(host: str, port: int, error: OSError) -> SetupError:
    return SetupError(
        f"{host}:{port} cannot be served: {error.strerror}.",
        remedy="Stop what runs there, or give another --host or --port.",
    )
