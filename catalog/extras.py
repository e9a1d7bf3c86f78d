"""Packages that only some work needs: the extras of pyproject.toml."""

from collections.abc import Iterator
from contextlib import contextmanager

from catalog.errors import SetupError


def install_command(name: str) -> str:
    """What installs an extra, in a clone of the repository: the project is in no package index."""
    return f"pip install -e '.[{name}]'"


@contextmanager
def extra(name: str, purpose: str, *, field: str | None = None) -> Iterator[None]:
    """Goes around the import of what `pip install -e '.[name]'` brings.

    purpose: what needs it, the subject of the error's sentence. field: the setting that asked for it, if one did.
    Raises SetupError where a package is missing, with its name as `value`.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise SetupError(
            f"{purpose} needs {error.name}, which is not installed.",
            remedy=f"Run {install_command(name)} in your clone of GFlowGR.",
            field=field,
            value=error.name,
        ) from error
