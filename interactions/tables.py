"""Tables in files: CSV, JSON lines, parquet, RecBole's atomic files and MovieLens' `.dat`; cells know their line."""

import csv
import difflib
import re
import sys
import zlib
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from catalog.errors import InputError
from catalog.files import require_file
from interactions.layouts import names_of_columns
from interactions.lines import dat_rows, json_rows, unreadable

CHUNK = 200_000
"""Lines of a CSV file that are in memory with all their columns."""


def ending(path: Path) -> str:
    """The end of a file's name that tells its format, without .gz."""
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def read_table(path: Path, keep: Collection[str] | None = None) -> pd.DataFrame:
    """The cells of a file whose name tells its format, or of a folder of parquet files.

    Read are `*.csv`, RecBole's `*.inter` and `*.item`, JSON lines `*.jsonl` and `*.json` (a line may also be a Python
    dict), MovieLens' `*.dat`, each also packed as `*.gz`, and `*.parquet`. The index is each row's `line` or `row` in
    the file. CSV, atomic and .dat files give strings; empty cells are missing.

    keep: the columns to hold, so that the other cells of a large file are not in memory together; None for all.
    `attrs["columns"]` names all columns of the file. Raises InputError as `read_log` does.
    """
    kind = ending(path)
    if kind == ".parquet" or path.is_dir():
        return _kept(_read_parquet(path), keep)
    require_file(path, "The table")
    if kind == ".csv":
        return _read_csv(path, keep, sep=",")
    if kind in (".inter", ".item"):
        return _read_csv(path, keep, sep="\t", quoting=csv.QUOTE_NONE)
    if kind in (".jsonl", ".json"):
        return _collected(json_rows(path), keep)
    if kind == ".dat":
        return _collected(dat_rows(path), keep)
    raise InputError(
        f"{path} has an unknown format.",
        remedy="Use a name that ends in .inter, .inter.json, .csv, .jsonl, .json, .dat (each also .gz) or .parquet.",
        file=path,
    )


def column_names(table: pd.DataFrame) -> list[str]:
    """The names of all columns of the file that `table` was read from."""
    return table.attrs["columns"]


def shown(names: Collection[object]) -> str:
    """Names for a message, not more than twenty of them."""
    first = ", ".join(map(str, islice(names, 20))) or "none"
    return first + (f", ... ({len(names)} in all)" if len(names) > 20 else "")


def filled(table: pd.DataFrame, name: str, path: Path, ours: str) -> pd.Series:
    """Column `name` of a table of `read_table`; InputError when it is missing or has an empty cell."""
    if name not in table:
        names = column_names(table)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        nearest = f", nearest: {near[0]!r}" if near else ""
        remedy = f"columns={{{ours!r}: {near[0] if near else '...'!r}}}"
        raise InputError(
            f"{path} has no column {name!r} (columns: {shown(names)}{nearest}).",
            remedy=f"Rename the column or give {remedy}.",
            file=path,
        )
    column = table[name]
    refuse(column, column.isna().to_numpy(), path, f"no {name}")
    return column


def refuse(column: pd.Series, bad: np.ndarray, path: Path, fault: str) -> None:
    if bad.any():
        first, unit = int(bad.argmax()), column.index.name
        given = "" if column.isna().iloc[first] else f": {str(column.iloc[first])!r}"
        raise InputError(
            f"{path}: {unit} {column.index[first]} has {fault}{given} ({bad.sum()} such in all).",
            remedy=f"Correct or delete this {unit}.",
            file=path,
            row=column.index[first],
            field=str(column.name),
            value=None if column.isna().iloc[first] else column.iloc[first],
        )


def parquet_files(path: Path) -> list[Path]:
    """The file, or all parquet files below a folder, sorted. Raises InputError where there is none."""
    if not path.exists():
        raise InputError(f"{path} does not exist.", remedy="Check the path.", file=path)
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path} is a folder without parquet files.", remedy="Give a file.", file=path)
    return files


PARQUET_ERRORS = (pa.ArrowException, ValueError, OSError, TypeError, NotImplementedError)


def unreadable_parquet(path: Path, error: Exception) -> InputError:
    """What to raise for one of `PARQUET_ERRORS`."""
    return InputError(
        f"{path} is not readable parquet ({' '.join(str(error).split())}).", remedy="Write it again.", file=path
    )


def _read_parquet(path: Path) -> pd.DataFrame:
    parquet_files(path)
    try:
        table = pd.read_parquet(path)
    except PARQUET_ERRORS as error:
        raise unreadable_parquet(path, error) from error
    if repeated := [name for name, twice in zip(table, table.columns.duplicated(), strict=True) if twice]:
        raise InputError(
            f"{path} has two columns {repeated[0]!r}.", remedy="Rename one.", file=path, field=str(repeated[0])
        )
    return table.set_axis(pd.RangeIndex(1, len(table) + 1, name="row"))


def _kept(table: pd.DataFrame, keep: Collection[str] | None) -> pd.DataFrame:
    names = [str(name) for name in table.columns]
    kept = table if keep is None else table[[name for name in table.columns if name in keep]]
    kept.attrs = {"columns": names}
    return kept


def _collected(rows: Iterable[tuple[int, dict[str, Any]]], keep: Collection[str] | None) -> pd.DataFrame:
    """Numbered rows as a table; what is not kept of a row is forgotten before the next one is read."""
    names: dict[str, None] = {}
    cells: dict[str, list[Any]] = {}
    numbers: list[int] = []
    for number, row in rows:
        names.update(dict.fromkeys(row))
        for name in row:
            if name not in cells and (keep is None or name in keep):
                cells[name] = [None] * len(numbers)
        for name, column in cells.items():
            value = row.get(name)
            column.append(sys.intern(value) if type(value) is str else value)  # users and items come many times
        numbers.append(number)
    table = pd.DataFrame(cells, index=pd.Index(numbers, name="line", dtype="int64"))
    table.attrs = {"columns": [str(name) for name in names]}
    return table


def _read_csv(path: Path, keep: Collection[str] | None, **options: Any) -> pd.DataFrame:
    parts: list[pd.DataFrame] = []
    names: list[str] = []
    for rows in _csv_chunks(path, **options):
        rows = rows.set_axis((rows.index + 1).rename("line"))
        start = 0
        if not parts:
            first = rows.iloc[0].fillna("").str.strip().to_list()
            known = names_of_columns(ending(path), first)
            names, start = (list(known), 0) if known else (_header(first, path), 1)
        _refuse_line_breaks(rows, path)
        parts.append(_kept(rows.iloc[start:].set_axis(names, axis="columns").dropna(how="all"), keep))
    table = pd.concat(parts)
    table.attrs = {"columns": names}
    return table


def _csv_chunks(path: Path, **options: Any) -> Iterator[pd.DataFrame]:
    """The lines of the file, header included, some at a time."""
    read = {"dtype": str, "keep_default_na": False, "na_values": [""], "skip_blank_lines": False, **options}
    try:
        # The header is read as a row, since pandas would take the surplus cells of the rows below it for an index.
        with pd.read_csv(path, header=None, chunksize=CHUNK, **read) as chunks:
            yield from chunks
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        reason = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        reason = re.sub(r"row (\d+)", lambda row: f"line {int(row[1]) + 1}", reason)  # pandas counts rows from 0
        raise InputError(
            f"{path} is not a well-formed UTF-8 table: {reason}.", remedy="Correct the file.", file=path
        ) from error


def _header(first: list[str], path: Path) -> list[str]:
    """The names of the columns; of RecBole's "user_id:token" the part before the colon."""
    names = [name.split(":")[0] for name in first] if ending(path) in (".inter", ".item") else first
    if repeated := next((name for i, name in enumerate(names) if name in names[:i]), None):
        raise InputError(
            f"{path} has two columns {repeated!r}.",
            remedy="Rename one in line 1.",
            file=path,
            row=1,
            field=repeated,
        )
    return names


def _refuse_line_breaks(rows: pd.DataFrame, path: Path) -> None:
    """A quote that is not closed swallows all lines up to the next one, and nothing else would show it."""
    broken = [column.str.contains("[\r\n\0]", na=False).to_numpy() for _, column in rows.items()]
    if (bad := np.logical_or.reduce(broken)).any():
        line = rows.index[int(bad.argmax())]
        raise InputError(
            f"{path}: a cell of line {line} goes on in the next line, or holds a NUL: a quote may lack its end.",
            remedy="Close or remove the quote; replace line breaks that are meant, or leave their column out.",
            file=path,
            row=line,
        )
