"""The rows of a table one after another, so that a file may be larger than the memory."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from catalog.errors import InputError
from catalog.files import require_file
from interactions.lines import json_rows, numbered_lines
from interactions.tables import PARQUET_ERRORS, ending, parquet_files, unreadable_parquet

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
        return _parquet_rows(parquet_files(path))
    require_file(path, "The table")
    if kind not in (".csv", ".jsonl"):
        raise InputError(
            f"{path} has an unknown format.",
            remedy="Use a name that ends in .csv, .jsonl (each also .gz) or .parquet.",
            file=path,
        )
    return json_rows(path) if kind == ".jsonl" else _csv_rows(path)


def _parquet_rows(files: list[Path]) -> Iterator[Row]:
    number = 0
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(READ_AT_ONCE):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
        except PARQUET_ERRORS as error:
            raise unreadable_parquet(path, error) from error


def _decoded(path: Path) -> Iterator[str]:
    for number, line in numbered_lines(path):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: line {number} is not UTF-8 text: {error.reason}.",
                remedy="Convert it to UTF-8; where it is compressed, let its name end in .gz.",
                file=path,
                row=number,
            ) from error


def _csv_rows(path: Path) -> Iterator[Row]:
    rows = csv.reader(_decoded(path), strict=True)
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
