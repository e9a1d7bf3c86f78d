"""Errors by their type and fields, since sentences may change."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import GFlowGRError, InputError


@contextmanager
def raises(kind: type[GFlowGRError] = InputError, **fields: Any) -> Iterator[pytest.ExceptionInfo[GFlowGRError]]:
    """Expect an error of this type that has these fields (file, row, field, value) and says what to do."""
    with pytest.raises(kind) as caught:
        yield caught
    error = caught.value
    wanted = {name: Path(value) if name == "file" else value for name, value in fields.items()}
    assert {name: getattr(error, name) for name in wanted} == wanted
    assert error.problem and error.problem[-1] in ".:!?)\"'" and str(error).startswith(error.problem)
