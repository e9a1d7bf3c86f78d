"""Read what users did, from any common file, into one table with one row per interaction."""

import csv
import difflib
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype, is_numeric_dtype

from catalog.errors import InputError
from catalog.files import read_json

logger = logging.getLogger(__name__)

REQUIRED = ("user", "item", "timestamp")
OPTIONAL = ("behaviour", "rating")
NUMERIC = ("timestamp", "rating")
ATOMIC_NAMES = {"user": "user_id", "item": "item_id"}


def read_log(path: str | Path, columns: dict[str, str] | None = None) -> pd.DataFrame:
    """One row per interaction, in the file's order: `user` str, `item` str, `timestamp` float64.

    `behaviour` (str) and `rating` (float64) are there when the file has them. The file's name tells its format:
    RecBole's atomic `*.inter`, LETTER's `*.inter.json` (timestamp: position in the user's list), `*.csv`, `*.parquet`.
    `columns` maps our names to the file's, e.g. `{"user": "uid"}`. Rows that repeat user, item, timestamp and behaviour
    are dropped, and their count is logged.

    Raises InputError that names the file, the line, row or user, and the remedy.
    """
    path, columns = Path(path), columns or {}
    if unknown := sorted(set(columns) - {*REQUIRED, *OPTIONAL}):
        raise InputError(f"columns has the unknown keys {unknown}.", remedy=f"Use some of {[*REQUIRED, *OPTIONAL]}.")
    if path.name.endswith(".inter.json"):
        if columns:
            raise InputError(f"{path} is JSON and has no columns.", remedy=f"Leave out columns={columns}.", file=path)
        return _read_sequences(path)
    log = _select(read_table(path), path, columns)
    if log.empty:
        raise InputError(
            f"{path} has no interactions.", remedy="Give a file with at least one row below the header.", file=path
        )
    repeated = log.duplicated(log.columns.difference(["rating"]).tolist())
    if repeated.any():
        logger.info("%s: dropped %d exact duplicates of %d interactions", path, repeated.sum(), len(log))
    return log[~repeated].reset_index(drop=True)


def k_core(log: pd.DataFrame, k: int) -> pd.DataFrame:
    """The largest part of `log` in which every user and every item has at least `k` interactions.

    Raises InputError when nothing is left.
    """
    while not log.empty:
        users, items = (log.groupby(name)[name].transform("size") for name in ("user", "item"))
        enough = (users >= k) & (items >= k)
        if enough.all():
            return log.reset_index(drop=True)
        log = log[enough]
    raise InputError(f"No interaction is left in the {k}-core.", remedy=f"Lower k={k}.")


def in_order(log: pd.DataFrame) -> pd.DataFrame:
    """`log` user by user (users in order of first appearance), each user's interactions from old to new.

    Ties keep the file's order. It is a rule, not a detail: half of the events of MovieLens 100K are tied, and Amazon's
    same-day ties stand in product-number order, which a model can learn, so that results look better than they are.
    """
    users, _ = pd.factorize(log["user"])
    return log.iloc[np.lexsort((log["timestamp"], users))].reset_index(drop=True)


def read_table(path: Path) -> pd.DataFrame:
    """The cells of a `*.csv`, `*.parquet` or RecBole atomic file; the index is each row's `line` or `row` in the file.

    Text formats give strings, empty cells are missing. Raises InputError as `read_log` does.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist.", remedy="Check the path.", file=path)
    if path.suffix == ".csv":
        return _read_text(path, sep=",")
    if path.suffix in (".inter", ".item"):
        table = _read_text(path, sep="\t", quoting=csv.QUOTE_NONE)
        return table.set_axis(table.columns.str.split(":").str[0], axis="columns")  # "user_id:token" -> "user_id"
    if path.suffix == ".parquet":
        try:
            table = pd.read_parquet(path)
        except (ValueError, OSError) as error:
            raise InputError(
                f"{path} is not a readable parquet file ({error}).", remedy="Write it again.", file=path
            ) from error
        return table.set_axis(pd.RangeIndex(1, len(table) + 1, name="row"))
    raise InputError(
        f"{path} has an unknown format.",
        remedy="Use a name that ends in .inter, .inter.json, .csv or .parquet.",
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
    _refuse(column, column.isna().to_numpy(), path, f"no {name}")
    return column


def _select(table: pd.DataFrame, path: Path, columns: dict[str, str]) -> pd.DataFrame:
    names = (ATOMIC_NAMES if path.suffix == ".inter" else {}) | columns
    wanted = [*REQUIRED, *(name for name in OPTIONAL if name in columns or name in table)]
    cells = {name: filled(table, names.get(name, name), path, name) for name in wanted}
    return pd.DataFrame(
        {name: _numbers(column, path) if name in NUMERIC else column.astype(str) for name, column in cells.items()}
    )


def _numbers(column: pd.Series, path: Path) -> pd.Series:
    numbers = column if is_numeric_dtype(column) else pd.to_numeric(column.astype(str), errors="coerce")
    numbers = numbers.astype("float64")
    _refuse(column, ~np.isfinite(numbers.to_numpy()), path, f"a {column.name} that is not a number")
    return numbers


def _refuse(column: pd.Series, bad: np.ndarray, path: Path, fault: str) -> None:
    if bad.any():
        first, unit = int(bad.argmax()), column.index.name
        given = "" if column.isna().iloc[first] else f": {str(column.iloc[first])!r}"
        raise InputError(
            f"{path}: {unit} {column.index[first]} has {fault}{given} ({bad.sum()} such in all).",
            remedy=f"Correct or delete this {unit}.",
            file=path,
        )


def _read_text(path: Path, **options: Any) -> pd.DataFrame:
    try:
        # The header is read as a row, since pandas would take the surplus cells of the rows below it for an index.
        rows = pd.read_csv(
            path, header=None, dtype=str, keep_default_na=False, na_values=[""], skip_blank_lines=False, **options
        )
    except ValueError as error:
        reason = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        reason = re.sub(r"row (\d+)", lambda row: f"line {int(row[1]) + 1}", reason)  # pandas counts rows from 0
        raise InputError(
            f"{path} is not a well-formed UTF-8 table: {reason}.", remedy="Correct the file.", file=path
        ) from error
    header = rows.iloc[0].fillna("")
    if header.duplicated().any():
        raise InputError(
            f"{path} has two columns {header[header.duplicated()].iloc[0]!r}.",
            remedy="Rename one in line 1.",
            file=path,
        )
    rows = rows.set_axis(header.to_list(), axis="columns").set_axis(pd.RangeIndex(1, len(rows) + 1, name="line"))
    return rows.iloc[1:].dropna(how="all")


def _read_sequences(path: Path) -> pd.DataFrame:
    expected = 'Write {"user": [item, ...], ...}, each list from old to new.'
    sequences = read_json(path, "The log")
    if not isinstance(sequences, dict):
        raise InputError(f"{path} holds a {type(sequences).__name__}, not users. {expected}", file=path)
    for user, items in sequences.items():
        if not isinstance(items, list) or infer_dtype(items, skipna=False) not in ("integer", "string"):
            fault = "an empty list" if items == [] else "something other than a list of integers or strings"
            raise InputError(
                f"{path}: user {user!r} has {fault}.", remedy=f"Correct or drop this user. {expected}", file=path
            )
    if not sequences:
        raise InputError(f"{path} has no interactions. {expected}", file=path)
    items = pd.Series(sequences).explode()
    log = pd.DataFrame({"user": items.index.astype(str), "item": items.to_numpy()}).astype(str)
    return log.assign(timestamp=log.groupby("user").cumcount().astype("float64"))
