"""What goes wrong in a request: one sentence of text with a status."""

from safetensors import SafetensorError

from catalog.errors import InputError
from catalog.extras import extra

with extra("server", "An HTTP server"):
    from fastapi import FastAPI, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import PlainTextResponse
    from pydantic import ValidationError
    from starlette.exceptions import HTTPException


def add_refusals(app: FastAPI) -> None:
    """Let `app` answer 400 to what is not a request of its, 500 to a failure, else what an HTTPException says."""

    @app.exception_handler(HTTPException)
    def refuse(_: Request, error: HTTPException) -> Response:
        return PlainTextResponse(error.detail, error.status_code, error.headers)

    @app.exception_handler(SafetensorError)
    @app.exception_handler(InputError)
    def refuse_content(_: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error), 400)

    @app.exception_handler(ValidationError)
    @app.exception_handler(RequestValidationError)
    def refuse_form(_: Request, error: Exception) -> Response:  # the stock answer has all that was sent
        assert isinstance(error, ValidationError | RequestValidationError)
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:100]
        return PlainTextResponse(f"{where}: {first['msg']}"[:300].removeprefix(": "), 400)

    @app.exception_handler(Exception)
    def fail(_: Request, error: Exception) -> Response:  # its traceback is in the server's log
        return PlainTextResponse(f"{type(error).__name__}: {error}", 500)
