"""The rows of a table one after another, so that a file may be larger than the memory."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.errors import InputError
from catalog.files import require_file
from interactions.tables import ending

READ_AT_ONCE = 4096
"""Rows of a parquet file that are in memory together."""

Row = tuple[int, dict[str, Any]]


def stream_table(path: Path) -> Iterator[Row]:
    """(number, name -> value) of each row of a `*.csv`, `*.jsonl`, `*.parquet`, or of a folder of parquet files.

    The number is that of the line, or of the row in parquet, from 1. CSV gives strings; empty cells are None. CSV and
    JSON lines may be packed by gzip.

    Raises:
        InputError: the file is missing or has another format, at once; it cannot be read on, when its row is reached.
    """
    kind = ending(path)
    if kind == ".parquet" or path.is_dir():
        return _parquet_rows(_parquet_files(path))
    require_file(path, "The table")
    if kind not in (".csv", ".jsonl"):
        raise InputError(
            f"{path} has an unknown format.",
            remedy="Use a name that ends in .csv, .jsonl (each also .gz) or .parquet.",
            file=path,
        )
    return _text_rows(path, kind)


def _parquet_files(path: Path) -> list[Path]:
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not path.exists():
        raise InputError(f"{path} does not exist.", remedy="Check the path.", file=path)
    if not files:
        raise InputError(f"{path} is a folder without parquet files.", remedy="Give a file.", file=path)
    return files


def _parquet_rows(files: list[Path]) -> Iterator[Row]:
    number = 0
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(READ_AT_ONCE):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
        except (pa.ArrowException, ValueError, OSError, TypeError, NotImplementedError) as error:
            raise InputError(
                f"{path} is not readable parquet ({' '.join(str(error).split())}).", remedy="Write it again.", file=path
            ) from error


def _text_rows(path: Path, kind: str) -> Iterator[Row]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            lines = _decoded(path, file)
            yield from _csv_rows(path, lines) if kind == ".csv" else _json_rows(path, lines)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error}).",
            remedy="Make it readable, or make or download it again.",
            file=path,
        ) from error


def _decoded(path: Path, lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: line {number} is not UTF-8 text: {error.reason}.",
                remedy="Convert it to UTF-8; where it is compressed, let its name end in .gz.",
                file=path,
                row=number,
            ) from error


def _json_rows(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair can be spelled, but not kept
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise InputError(
                f"{path}: line {number} is no JSON object of UTF-8 text.",
                remedy='Write one {"name": value, ...} a line.',
                file=path,
                row=number,
            )
        yield number, row


def _csv_rows(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    rows = csv.reader(lines, strict=True)
    header: list[str] = []
    while True:
        number = rows.line_num + 1
        try:
            cells = next(rows, None)
        except csv.Error as error:
            raise _malformed(path, number, f"is not well-formed CSV: {error}") from error
        if cells is None:
            return
        if rows.line_num > number:
            raise _malformed(path, number, "has a cell that goes on in the next line: a quote may lack its end")
        if not header:
            header = [name.strip() for name in cells]
            if repeated := next((name for name in header if header.count(name) > 1), None):
                raise _malformed(path, number, f"names two columns {repeated!r}")
        elif any(cells) or (cells and len(header) == 1):
            if len(cells) > len(header):
                raise _malformed(path, number, f"has {len(cells)} cells below a header of {len(header)}")
            filled = [cell or None for cell in cells] + [None] * (len(header) - len(cells))
            yield number, dict(zip(header, filled, strict=True))


def _malformed(path: Path, number: int, fault: str) -> InputError:
    return InputError(f"{path}: line {number} {fault}.", remedy="Correct this line.", file=path, row=number)
