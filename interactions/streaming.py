"""The rows of a table one after another, so that a file may be larger than the memory."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from catalog.errors import InputError
from catalog.files import require_file
from interactions.lines import csv_rows, json_rows
from interactions.tables import PARQUET_ERRORS, ending, table_files, unreadable_parquet

READ_AT_ONCE = 4096
"""Rows of a parquet file that are in memory together."""

Row = tuple[int, dict[str, Any]]


def stream_table(path: Path) -> Iterator[Row]:
    """(number, name -> value) of each row of a `*.csv`, `*.jsonl`, `*.parquet`, a folder of parquet files or a pattern.

    The number is that of the line, or of the row in parquet, from 1. CSV gives strings; empty cells are None. CSV and
    JSON lines may be packed by gzip.

    Raises:
        InputError: the file is missing or has another format, at once; it cannot be read on, when its row is reached.
    """
    kind = ending(path)
    if kind == ".parquet" or path.is_dir():
        return _parquet_rows(table_files(path))
    if len(files := table_files(path)) > 1:
        return chain.from_iterable(map(stream_table, files))
    (path,) = files
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


def _csv_rows(path: Path) -> Iterator[Row]:
    rows = csv_rows(path)
    _, first = next(rows, (0, []))
    header = [(name or "").strip() for name in first]
    if repeated := next((name for name in header if header.count(name) > 1), None):
        raise InputError(
            f"{path} has two columns {repeated!r}.", remedy="Rename one in line 1.", file=path, row=1, field=repeated
        )
    for number, cells in rows:
        if any(cells) or len(header) == 1:
            yield number, dict(zip(header, cells, strict=True))
