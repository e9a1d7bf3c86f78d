"""Files and folders that are whole or absent, marked where that must be seen, and written by one process at a time."""

import errno
import gzip
import hashlib
import json
import os
import re
import shutil
import socket
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from catalog.errors import InputError, SetupError

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)
"""The system errors that mean that a place cannot be written to."""
MARKER = "complete.json"
"""The file that is written last into a folder: what the folder was made of, and size and SHA-256 of its files."""


@contextmanager
def complete(path: Path) -> Iterator[Path]:
    """A temporary sibling of `path` to write a file or fill a folder at; it takes `path`'s place if nothing is raised.

    A killed process leaves the old `path` or the new one, never a mixture; what it left beside them is removed by the
    next `complete` of the same path. Raises SetupError where the disk is full; the old `path`, if any, is untouched.
    """
    temporary = path.with_name(_temporary_name(path, "tmp"))
    replaced = path.with_name(_temporary_name(path, "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        yield temporary
        if path.is_dir():
            os.rename(path, replaced)  # a folder cannot be replaced in one call: for a moment there is none
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        if _system_error(error) not in UNWRITABLE:
            raise
        raise SetupError(
            f"{path} could not be written ({getattr(error, 'strerror', None) or error}).",
            remedy="Free space there or choose another folder.",
            file=path,
        ) from error
    finally:
        if replaced.exists() and not path.exists():
            os.rename(replaced, path)
        _remove(temporary)
        _remove(replaced)


def _system_error(error: Exception) -> int | None:
    """The number of the system's error; safetensors gives it in its sentence alone."""
    told = re.search(r"os error (\d+)", str(error))
    return getattr(error, "errno", None) or (int(told[1]) if told else None)


def _temporary_name(path: Path, end: str) -> str:
    return f".{path.name}.{socket.gethostname()}.{os.getpid()}.{end}"


def _remove_leftovers(path: Path) -> None:
    """Remove what dead processes of this machine left of earlier tries to write `path`."""
    start = f".{path.name}.{socket.gethostname()}."
    for left in path.parent.glob(f"{_escaped(start)}*"):
        number, _, end = left.name.removeprefix(start).partition(".")
        if end in ("tmp", "old") and number.isdigit() and not _alive(int(number)):
            if end == "old" and not path.exists():  # killed between the two renames
                os.rename(left, path)
            _remove(left)


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "[]*?" else letter for letter in name)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def seal(folder: Path, about: Mapping[str, object]) -> None:
    """Mark a folder as complete. about: what it was made of, which `sealed` returns."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MARKER]
    files = {str(path.relative_to(folder)): path.stat().st_size for path in paths}
    digests = dict(zip(files, _digests(paths), strict=True))
    write_json(folder / MARKER, {"saved_at": time.time(), "of": about, "files": files, "sha256": digests})


@contextmanager
def sealing(folder: Path, about: Mapping[str, object], replaces: str = MARKER) -> Iterator[Path]:
    """A new folder to fill, which is sealed at the end and takes the place of `folder`; see `complete` and `seal`.

    A lock beside it keeps other processes out meanwhile; the lock's file stays.

    Raises:
        SetupError: another process is writing there.
        InputError: `folder` exists without the file `replaces`: it holds something else, which would be lost.
    """
    if folder.exists() and not (folder / replaces).is_file():
        raise InputError(
            f"{folder} exists and has no {replaces}, so it may hold something else.",
            remedy="Move it away or choose another folder.",
            file=folder,
        )
    with locked(folder.parent, f".{folder.name}.lock"), complete(folder) as temporary:
        temporary.mkdir()
        yield temporary
        seal(temporary, about)


def broken(folder: Path, *, contents: bool = False) -> str | None:
    """Why a folder is not what `seal` marked as complete; None for a whole one. contents: whether files are read."""
    if not (folder / MARKER).is_file():
        return f"it has no {MARKER}, so it was not completed."
    marker = read_json(folder / MARKER, "The marker")
    for name, size in marker["files"].items():
        if not (file := folder / name).is_file():
            return f"{name} is missing."
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}."
    if contents:
        known: dict[str, str] = marker.get("sha256", {})  # older markers have no digests
        for (name, digest), found in zip(known.items(), _digests([folder / name for name in known]), strict=True):
            if digest != found:
                return f"the content of {name} was changed or damaged."
    return None


def _digests(paths: list[Path]) -> Iterator[str]:
    """The SHA-256 of each file, several at a time, since a large checkpoint has many."""
    with ThreadPoolExecutor() as pool:
        yield from pool.map(file_digest, paths)


def file_digest(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of a complete folder, as its marker has them."""
    return read_json(folder / MARKER, "The marker").get("sha256", {})


def sealed(folder: Path, what: str) -> dict[str, Any]:
    """What a complete folder was made of. Raises InputError where it is not complete; `what` names it."""
    if reason := broken(folder):
        raise InputError(f"{what} {folder} is not complete: {reason}", remedy="Make it again.", file=folder)
    return read_json(folder / MARKER, "The marker")["of"]


@contextmanager
def locked(folder: Path, name: str = "folder.lock") -> Iterator[None]:
    """Keep other processes that ask for the same lock out of a folder, which is made where it is missing.

    The lock ends with the process, however that ends. Raises SetupError at once where another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(folder / name).acquire(blocking=False)
    except Timeout:
        raise SetupError(
            f"Another process is writing into {folder}.", remedy="Wait for it, or choose another folder.", file=folder
        ) from None
    with held:
        yield


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, complete or not at all."""
    with complete(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, what: str) -> Any:
    """The content of a JSON file. Raises InputError where it is missing or malformed; `what` names it."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            ((repeated, times),) = Counter(name for name, _ in pairs).most_common(1)
            raise InputError(
                f"{what} {path} lists {repeated!r} {times} times.",
                remedy="Keep one entry.",
                file=path,
                field=repeated,
            )
        return table

    text = read_text(path, what)
    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{what} {path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}.",
            remedy="Repair or download it again.",
            file=path,
            row=error.lineno,
        ) from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of nested lists
        raise InputError(f"{what} {path} is no usable JSON: {error}.", remedy="Repair it.", file=path) from error


def read_text(path: Path, what: str) -> str:
    """The content of a UTF-8 file, unpacked where its name ends in .gz. Raises InputError; `what` names it."""
    require_file(path, what)
    try:
        packed = path.suffix == ".gz"
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{what} {path} is not UTF-8 text: {error.reason} at byte {error.start}.",
            remedy="Convert it to UTF-8; where it is compressed, let its name end in .gz.",
            file=path,
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{what} {path} cannot be read ({getattr(error, 'strerror', None) or error}).",
            remedy="Make it readable, or make or download it again.",
            file=path,
        ) from error


def require_file(path: Path, what: str) -> None:
    """Raise InputError unless `path` is a file; `what` names it."""
    if path.is_dir():
        raise InputError(f"{what} {path} is a folder.", remedy="Give a file.", file=path)
    if not path.is_file():
        raise InputError(f"{what} {path} does not exist.", remedy="Check the path.", file=path)
