"""Tables in files: CSV, JSON lines, parquet, RecBole's atomic files and MovieLens' `.dat`; cells know their line."""

import csv
import difflib
import sys
import zlib
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from glob import has_magic
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pandas.api.types import union_categoricals

from catalog.errors import InputError
from catalog.files import require_file
from interactions.layouts import names_of_columns
from interactions.lines import csv_rows, dat_rows, json_rows, line_break, malformed, unreadable

CHUNK = 200_000
"""Lines of a CSV file that are in memory with all their columns."""
Kind = Literal["id", "number", "text"]
"""How a column of text is held: an id once for all its rows, as categories; numbers as integers where they are."""


def ending(path: Path) -> str:
    """The end of a file's name that tells its format, without .gz."""
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def read_table(path: Path, kinds: Mapping[str, Kind] | None = None) -> pd.DataFrame:
    """The cells of a file whose name tells its format, of a folder of parquet files, or of all files of a pattern.

    Read are `*.csv`, RecBole's `*.inter` and `*.item`, JSON lines `*.jsonl` and `*.json` (a line may also be a Python
    dict), MovieLens' `*.dat`, each also packed as `*.gz`, and `*.parquet`. The index is each row's `line` or `row` in
    the file; of several files, such as `events/*.csv`, the `row` in all of them, in the order of their names. CSV,
    atomic and .dat files give strings; empty cells are missing.

    kinds: the columns to hold, so that the other cells of a large file are not in memory together; None for all.
    `attrs["columns"]` names all columns of the file. Raises InputError as `read_log` does.
    """
    if path.is_dir() or ending(path) == ".parquet":
        return _read_parquet(path, kinds)
    if len(files := table_files(path)) == 1:
        return _read_file(files[0], kinds)
    parts = [_read_file(file, kinds) for file in files]
    for file, part in zip(files, parts, strict=True):
        if (found := column_names(part)) != column_names(parts[0]):
            raise InputError(
                f"{file} has other columns than {files[0].name} (columns: {shown(found)}).",
                remedy="Let all files of a pattern have the same ones.",
                file=file,
            )
    return _stacked(parts)


def _read_file(path: Path, kinds: Mapping[str, Kind] | None) -> pd.DataFrame:
    kind = ending(path)
    require_file(path, "The table")
    if kind in (".csv", ".inter", ".item"):
        return _read_csv(path, kinds, kind == ".csv")
    if kind in (".jsonl", ".json"):
        return _collected(json_rows(path), kinds)
    if kind == ".dat":
        return _collected(dat_rows(path), kinds)
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


def table_files(path: Path) -> list[Path]:
    """The file, all parquet files below a folder, or all files of a pattern such as `events/*.csv`, sorted.

    Raises InputError where there is none.
    """
    if path.is_dir():
        found, none = sorted(path.rglob("*.parquet")), "is a folder without parquet files"
    elif has_magic(str(path)) and not path.exists():
        found, none = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor)))), "matches no file"
    else:
        return [path]
    if not found:
        raise InputError(f"{path} {none}.", remedy="Check the path, or give a file.", file=path)
    return found


PARQUET_ERRORS = (pa.ArrowException, ValueError, OSError, TypeError, NotImplementedError)


def unreadable_parquet(path: Path, error: Exception) -> InputError:
    """What to raise for one of `PARQUET_ERRORS`."""
    return InputError(
        f"{path} is not readable parquet ({' '.join(str(error).split())}).", remedy="Write it again.", file=path
    )


def _read_parquet(path: Path, kinds: Mapping[str, Kind] | None) -> pd.DataFrame:
    files = table_files(path)
    if not files[0].exists():
        raise InputError(f"{path} does not exist.", remedy="Check the path.", file=path)
    try:
        source = path if path.exists() else files
        schema = ds.dataset(source, format="parquet", partitioning="hive").schema
        if repeated := next((name for name in schema.names if schema.names.count(name) > 1), None):
            raise InputError(f"{path} has two columns {repeated!r}.", remedy="Rename one.", file=path, field=repeated)
        kept = [name for name in schema.names if kinds is None or name in kinds]
        ids = [name for name in kept if kinds and kinds[name] == "id" and _is_text(schema.field(name).type)]
        read = pq.read_table(source, columns=kept, read_dictionary=ids, partitioning="hive")
        table = read.unify_dictionaries().to_pandas(ignore_metadata=bool(ids))
    except PARQUET_ERRORS as error:
        if isinstance(error, InputError):
            raise
        raise unreadable_parquet(path, error) from error
    return _table(table.set_axis(pd.RangeIndex(1, len(table) + 1, name="row")), schema.names)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _table(table: pd.DataFrame, names: Iterable[object]) -> pd.DataFrame:
    table.attrs = {"columns": [str(name) for name in names]}
    return table


def _stacked(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables with the same columns one after another, the rows numbered from 1."""
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(str(name) for part in parts for name in part):
        some = [part[name] for part in parts]
        ids = all(isinstance(column.dtype, pd.CategoricalDtype) for column in some)
        if ids:  # the categories of a part without a text would not be str
            columns[name] = union_categoricals(
                [pd.Categorical.from_codes(one.cat.codes, one.cat.categories.astype("str")) for one in some]
            )
        else:
            columns[name] = pd.concat(some, ignore_index=True).array
    rows = pd.RangeIndex(1, sum(map(len, parts)) + 1, name="row")
    return _table(pd.DataFrame(columns, index=rows), column_names(parts[0]))


def _collected(
    rows: Iterable[tuple[int, dict[str, Any]]], kinds: Mapping[str, Kind] | None, header: Sequence[str] = ()
) -> pd.DataFrame:
    """Numbered rows as a table; what is not kept of a row is forgotten before the next one is read."""
    names: dict[str, None] = dict.fromkeys(header)
    cells: dict[str, list[Any]] = {name: [] for name in header if kinds is None or name in kinds}
    numbers = array("q")
    for number, row in rows:
        names.update(dict.fromkeys(row))
        for name in row:
            if name not in cells and (kinds is None or name in kinds):
                cells[name] = [None] * len(numbers)
        for name, column in cells.items():
            value = row.get(name)
            column.append(sys.intern(value) if type(value) is str else value)  # users and items come many times
        numbers.append(number)
    return _table(pd.DataFrame(cells, index=pd.Index(np.array(numbers), name="line", dtype="int64")), names)


def _read_csv(path: Path, kinds: Mapping[str, Kind] | None, quoted: bool) -> pd.DataFrame:
    try:
        return _scanned_csv(path, kinds, *(",", '"') if quoted else ("\t", None))
    except (pl.exceptions.ComputeError, pl.exceptions.NoDataError):
        # a quote inside a cell may still be read; else the line that is wrong is found
        rows = csv_rows(path, **({} if quoted else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}))
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from error
    first = next(rows, None)
    if first is None:
        raise malformed(path, None, "No columns to read")
    names, named = _names(first[1], path)
    filled_rows = ((number, cells) for number, cells in (rows if named else chain([first], rows)) if any(cells))
    return _collected(((number, dict(zip(names, cells, strict=True))) for number, cells in filled_rows), kinds, names)


def _scanned_csv(path: Path, kinds: Mapping[str, Kind] | None, separator: str, quote: str | None) -> pd.DataFrame:
    """Raises polars' errors for a file that is not well formed."""
    numbered: dict[str, Any] = {"row_index_name": "line", "row_index_offset": 1}
    scan = pl.scan_csv(path, has_header=False, infer_schema=False, separator=separator, quote_char=quote, **numbered)
    (_, *places), top = scan.collect_schema(), scan.head(1).collect()
    if top.is_empty():
        raise pl.exceptions.NoDataError(f"{path} has no line")
    names, named = _names(top.row(0)[1:], path)
    cells = pl.exclude("line")
    scan = scan.filter(pl.any_horizontal(cells.is_not_null()))
    scan = scan.with_columns(pl.any_horizontal(cells.str.contains("[\r\n\0]").fill_null(False)).alias("broken"))
    kept = {name: place for name, place in zip(names, places, strict=True) if kinds is None or name in kinds}
    parts: dict[str, list[pa.Array]] = {name: [] for name in kept}
    lines = [np.empty(0, np.uint32)]
    for part in scan.collect_batches(chunk_size=CHUNK, maintain_order=True):
        if part["broken"].any():
            raise line_break(path, part.filter("broken")["line"][0])
        part = part.filter(pl.col("line") > int(named))
        lines.append(part["line"].to_numpy())
        for name, column in kept.items():
            parts[name].append(_cells(part[column], kinds[name] if kinds else "text"))
    columns = {name: _column(parts.pop(name)) for name in kept}
    pa.default_memory_pool().release_unused()
    return _table(pd.DataFrame(columns).set_axis(_lines(np.concatenate(lines))), names)


def _cells(column: pl.Series, kind: Kind) -> pa.Array:
    if kind == "number" and (numbers := column.cast(pl.Int64, strict=False)).null_count() == column.null_count():
        return numbers.to_arrow()
    text = column.to_arrow()
    return text.dictionary_encode() if kind == "id" else text


def _column(parts: list[pa.Array]) -> pd.Series:
    """The cells of all parts; integers become text again where others are no integers."""
    if len({part.type for part in parts}) > 1:
        parts = [part.cast(pa.large_string()) for part in parts]
    return pa.chunked_array(parts, None if parts else pa.large_string()).unify_dictionaries().to_pandas()


def _lines(numbers: np.ndarray) -> pd.Index:
    """The index of rows by their lines, which takes no memory where no line between them is blank."""
    if len(numbers) and numbers[-1] - numbers[0] + 1 == len(numbers):
        return pd.RangeIndex(int(numbers[0]), int(numbers[-1]) + 1, name="line")
    return pd.Index(numbers.astype(np.int64), name="line")


def _names(first: Sequence[str | None], path: Path) -> tuple[list[str], bool]:
    """The names of the columns, and whether the first line holds them; of RecBole's "user_id:token" the first part."""
    cells = [(cell or "").strip() for cell in first]
    if known := names_of_columns(ending(path), cells):
        return list(known), False
    names = [cell.split(":")[0] for cell in cells] if ending(path) in (".inter", ".item") else cells
    if repeated := next((name for i, name in enumerate(names) if name in names[:i]), None):
        raise InputError(
            f"{path} has two columns {repeated!r}.", remedy="Rename one in line 1.", file=path, row=1, field=repeated
        )
    return names, True
