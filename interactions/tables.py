"""Tables in files: CSV, JSON lines, parquet and RecBole's atomic files, into cells that know their line."""

import csv
import difflib
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from catalog.errors import InputError
from catalog.files import read_text, require_file


def ending(path: Path) -> str:
    """The end of a file's name that tells its format, without .gz."""
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def read_table(path: Path) -> pd.DataFrame:
    """The cells of a `*.csv`, `*.jsonl`, `*.parquet` or RecBole atomic file, or of a folder of parquet files.

    The index is each row's `line` or `row` in the file. CSV and atomic files give strings; empty cells are missing. All
    but parquet may be packed by gzip. Raises InputError as `read_log` does.
    """
    kind = ending(path)
    if kind == ".parquet" or path.is_dir():
        return _read_parquet(path)
    require_file(path, "The table")
    if kind == ".csv":
        return _read_csv(path, sep=",")
    if kind in (".inter", ".item"):
        table = _read_csv(path, sep="\t", quoting=csv.QUOTE_NONE)
        return table.set_axis(table.columns.str.split(":").str[0], axis="columns")  # "user_id:token" -> "user_id"
    if kind == ".jsonl":
        return _read_lines(path)
    raise InputError(
        f"{path} has an unknown format.",
        remedy="Use a name that ends in .inter, .inter.json, .csv, .jsonl (each also .gz) or .parquet.",
        file=path,
    )


def filled(table: pd.DataFrame, name: str, path: Path, ours: str) -> pd.Series:
    """Column `name` of a table of `read_table`; InputError when it is missing or has an empty cell."""
    if name not in table:
        near = difflib.get_close_matches(name, table.columns, n=1, cutoff=0.5)
        nearest = f", nearest: {near[0]!r}" if near else ""
        remedy = f"columns={{{ours!r}: {near[0] if near else '...'!r}}}"
        raise InputError(
            f"{path} has no column {name!r} (columns: {', '.join(map(str, table.columns))}{nearest}).",
            remedy=f"Rename the column or pass {remedy} to read_log.",
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


def _read_parquet(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise InputError(f"{path} does not exist.", remedy="Check the path.", file=path)
    if path.is_dir() and not any(path.rglob("*.parquet")):
        raise InputError(f"{path} is a folder without parquet files.", remedy="Give a file.", file=path)
    try:
        table = pd.read_parquet(path)
    except (ValueError, OSError, TypeError, NotImplementedError) as error:
        raise InputError(
            f"{path} is not readable parquet ({' '.join(str(error).split())}).", remedy="Write it again.", file=path
        ) from error
    if repeated := [name for name, twice in zip(table, table.columns.duplicated(), strict=True) if twice]:
        raise InputError(
            f"{path} has two columns {repeated[0]!r}.", remedy="Rename one.", file=path, field=str(repeated[0])
        )
    return table.set_axis(pd.RangeIndex(1, len(table) + 1, name="row"))


def _read_lines(path: Path) -> pd.DataFrame:
    rows: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(read_text(path, "The table").split("\n"), 1):
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
        rows[number] = row
    return pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), name="line", dtype="int64"))


def _read_csv(path: Path, **options: Any) -> pd.DataFrame:
    try:
        # The header is read as a row, since pandas would take the surplus cells of the rows below it for an index.
        rows = pd.read_csv(
            path, header=None, dtype=str, keep_default_na=False, na_values=[""], skip_blank_lines=False, **options
        )
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error}).",
            remedy="Make it readable, or make or download it again.",
            file=path,
        ) from error
    except ValueError as error:
        reason = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        reason = re.sub(r"row (\d+)", lambda row: f"line {int(row[1]) + 1}", reason)  # pandas counts rows from 0
        raise InputError(
            f"{path} is not a well-formed UTF-8 table: {reason}.", remedy="Correct the file.", file=path
        ) from error
    header = rows.iloc[0].fillna("").str.strip()
    if header.duplicated().any():
        raise InputError(
            f"{path} has two columns {header[header.duplicated()].iloc[0]!r}.",
            remedy="Rename one in line 1.",
            file=path,
            row=1,
            field=header[header.duplicated()].iloc[0],
        )
    _refuse_line_breaks(rows, path)
    rows = rows.set_axis(header.to_list(), axis="columns").set_axis(pd.RangeIndex(1, len(rows) + 1, name="line"))
    return rows.iloc[1:].dropna(how="all")


def _refuse_line_breaks(rows: pd.DataFrame, path: Path) -> None:
    """A quote that is not closed swallows all lines up to the next one, and nothing else would show it."""
    broken = [column.str.contains("[\r\n\0]", na=False).to_numpy() for _, column in rows.items()]
    if (bad := np.logical_or.reduce(broken)).any():
        line = int(bad.argmax()) + 1
        raise InputError(
            f"{path}: a cell of line {line} goes on in the next line, or holds a NUL: a quote may lack its end.",
            remedy="Close or remove the quote; replace line breaks that are meant, or leave their column out.",
            file=path,
            row=line,
        )
