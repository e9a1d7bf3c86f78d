"""Files that are read line by line, so that a row is whole in memory and the file is not: JSON lines, `.dat`, CSV."""

import ast
import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from catalog.errors import InputError
from interactions.layouts import names_of_columns

PYTHON = ("{'", "{u'", '{u"')
"""How a line begins that is a Python dict instead of JSON, as those of Amazon 2014 and Steam are."""


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of a file that are not blank, with their numbers: JSON objects, or Python dicts of plain values.

    Raises InputError with the first line that is neither, and where the file cannot be read.
    """
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        row = _json_row(line)
        if row is None:
            raise InputError(
                f"{path}: line {number} is no JSON object of UTF-8 text.",
                remedy='Write one {"name": value, ...} a line.',
                file=path,
                row=number,
            )
        yield number, row


def _json_row(line: bytes) -> dict[str, Any] | None:
    try:
        text = line.decode().strip()
        row = ast.literal_eval(text) if text.startswith(PYTHON) else json.loads(text)
        if "\\" in text:  # half of a surrogate pair can be spelled, but not kept
            json.dumps(row, ensure_ascii=False, default=str).encode()
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # what literal_eval raises
        return None
    return row if isinstance(row, dict) else None


def first_json_row(path: Path) -> dict[str, Any] | None:
    """The first line that is not blank, where it is an object of its own; None where it is not."""
    return next((_json_row(line) for _, line in numbered_lines(path) if line.strip()), None)


def dat_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of MovieLens' `ratings.dat` or `movies.dat` with their numbers; an empty cell is None.

    Raises InputError with the first line that has another number of cells, and where the file cannot be read.
    """
    names: tuple[str, ...] | None = None
    for number, line in numbered_lines(path):
        cells = _decoded(line).rstrip("\r\n").split("::")
        if cells == [""]:
            continue
        names = names or names_of_columns(".dat", cells)
        if names is None or len(cells) != len(names):
            wanted = f"the {len(names)} cells of the first line" if names else "a line of ratings.dat or movies.dat"
            raise InputError(
                f"{path}: line {number} has {len(cells)} cells with :: between them, and not {wanted}.",
                remedy="Correct or delete this line, or give a .csv file with a header.",
                file=path,
                row=number,
            )
        yield number, {name: cell or None for name, cell in zip(names, cells, strict=True)}


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:  # MovieLens 1M is Latin-1, its 10M is UTF-8
        return line.decode("latin-1")


def csv_rows(path: Path, **dialect: Any) -> Iterator[tuple[int, list[str | None]]]:
    """The cells of the lines that are not blank, header included, with their numbers; empty and missing ones are None.

    dialect: of `csv.reader`. Raises InputError with the first line that is not UTF-8, has more cells than the first one
    or holds a cell that goes on in the next line, and where the file cannot be read.
    """
    rows = csv.reader(_utf8(path), strict=True, **dialect)
    width = 0
    while True:
        number = rows.line_num + 1
        try:
            cells = next(rows, None)
        except csv.Error as error:
            ended = "unexpected end of data" in str(error)
            raise malformed(
                path, number, f"EOF inside string starting at line {number}" if ended else str(error)
            ) from None
        if cells is None:
            return
        if rows.line_num > number or any("\r" in cell or "\0" in cell for cell in cells):
            raise line_break(path, number)
        if cells == [] or (cells == [""] and width != 1):
            continue
        width = width or len(cells)
        if len(cells) > width:
            raise malformed(path, number, f"Expected {width} fields in line {number}, saw {len(cells)}")
        yield number, [cell or None for cell in cells] + [None] * (width - len(cells))


def _utf8(path: Path) -> Iterator[str]:
    for number, line in numbered_lines(path):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise malformed(path, number, f"line {number} is not UTF-8 text, {error.reason}") from error


def malformed(path: Path, number: int | None, reason: str) -> InputError:
    """What to raise for a file that is no table, because of a line."""
    return InputError(
        f"{path} is not a well-formed UTF-8 table: {reason}.",
        remedy="Correct the file; where it is compressed, let its name end in .gz.",
        file=path,
        row=number,
    )


def line_break(path: Path, number: int) -> InputError:
    """What to raise for a cell with a line break: a quote that is not closed swallows all lines up to the next one."""
    return InputError(
        f"{path}: a cell of line {number} goes on in the next line, or holds a NUL: a quote may lack its end.",
        remedy="Close or remove the quote; replace line breaks that are meant, or leave their column out.",
        file=path,
        row=number,
    )


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, unpacked where it is `.gz`, with their numbers from 1; without a byte-order mark.

    Raises InputError where the file cannot be read.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> InputError:
    """What to raise where the system, or gzip, cannot read a file."""
    return InputError(
        f"{path} cannot be read ({getattr(error, 'strerror', None) or error}).",
        remedy="Make it readable, or make or download it again.",
        file=path,
    )
