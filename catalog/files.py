"""Writing that is either complete or absent."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def complete(path: Path) -> Iterator[Path]:
    """A temporary sibling of `path` to write a file or fill a folder at; it takes `path`'s place if nothing is raised.

    A full disk is an OSError that names the place and the remedy; the old `path`, if any, is then untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        if isinstance(error.__cause__, OSError):  # told by a `complete` inside this one
            raise
        raise OSError(
            error.errno, f"{path} could not be written ({error.strerror}). Free space there or choose another folder"
        ) from error
    finally:
        shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, complete or not at all."""
    with complete(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, what: str) -> Any:
    """The content of a JSON file; `what` names it in the one sentence that a missing or malformed file gives."""
    if not path.is_file():
        raise FileNotFoundError(f"{what} {path} does not exist. Check the path.")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            ((repeated, times),) = Counter(name for name, _ in pairs).most_common(1)
            raise ValueError(f"{what} {path} lists {repeated!r} {times} times. Keep one entry.")
        return table

    try:
        return json.loads(path.read_text(), object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{what} {path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}. "
            "Repair or download it again."
        ) from error
