"""What goes wrong in a request: one sentence of text with a status."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from safetensors import SafetensorError

from catalog.errors import InputError
from catalog.extras import extra

with extra("server", "An HTTP server"):
    from pydantic import ValidationError
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response


@runtime_checkable
class HasErrors(Protocol):
    """A ValidationError of pydantic or FastAPI."""

    def errors(self) -> Sequence[Any]: ...


def add_refusals(app: Starlette) -> None:
    """Let `app` answer 400 to what is no request of its own, 500 to a failure, else what an HTTPException says."""
    app.add_exception_handler(HTTPException, _refuse)
    app.add_exception_handler(SafetensorError, _refuse_content)
    app.add_exception_handler(InputError, _refuse_content)
    app.add_exception_handler(ValidationError, refuse_form)
    app.add_exception_handler(Exception, _fail)


def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(error.detail, error.status_code, error.headers)


def _refuse_content(_: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 400)


def refuse_form(_: Request, error: Exception) -> Response:
    """400 with the first mistake that pydantic found: the stock answer of FastAPI repeats all that was sent."""
    assert isinstance(error, HasErrors)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))[:100]
    return PlainTextResponse(f"{where}: {first['msg']}"[:300].removeprefix(": "), 400)


def _fail(_: Request, error: Exception) -> Response:  # its traceback is in the server's log
    return PlainTextResponse(f"{type(error).__name__}: {error}", 500)
