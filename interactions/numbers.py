"""Numbers and times of a table's column, exact where they are integers."""

from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_datetime64_any_dtype

from catalog.errors import InputError
from interactions.tables import refuse


def timestamps(column: pd.Series, path: Path) -> pd.Series:
    """Numbers as `numbers` has them; dates of one form, also as ISO 8601 text, as integers since 1970."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if not is_datetime64_any_dtype(column) and column.dtype.kind not in "iufb":
        text = column.astype(str).str.strip()
        if pd.to_numeric(text, errors="coerce").isna().all():
            dates = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
            refuse(column, dates.isna().to_numpy(), path, f"a {column.name} that is not a number and no date")
            column = dates
    if is_datetime64_any_dtype(column):
        return column.astype("int64")
    return numbers(column, path)


def numbers(column: pd.Series, path: Path) -> pd.Series:
    """int64 where all are integers of that range, else float64; of categories each is looked at once.

    Raises InputError for the first value that is no finite number, and for an integer that float64 would round.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        first = column.drop_duplicates()
        found = numbers(first.astype(column.cat.categories.dtype), path)
        table = np.zeros(len(column.cat.categories), found.to_numpy().dtype)
        table[first.cat.codes] = found
        return pd.Series(table[column.cat.codes], column.index, name=column.name)
    fault = f"a {column.name} that is not a number"
    if column.dtype.kind == "b":
        refuse(column, np.ones(len(column), bool), path, fault)
    if column.dtype.kind == "i":
        return column.astype("int64")
    text = None if column.dtype.kind in "uf" else column.astype(str).str.strip()
    if text is not None and text.str.fullmatch(r"[+-]?[0-9]{1,18}").all():
        return text.astype("int64")
    found = column if text is None else pd.to_numeric(text, errors="coerce").astype("float64")
    if found.dtype.kind == "u" and (found <= np.iinfo(np.int64).max).all():
        return found.astype("int64")
    floats = found.astype("float64")
    refuse(column, ~np.isfinite(floats.to_numpy()), path, fault)
    if text is not None or found.dtype.kind == "u":
        return _exact(column.astype(str).str.strip(), floats, path)
    return floats


def _exact(text: pd.Series, floats: pd.Series, path: Path) -> pd.Series:
    """The numbers that `text` spells, as `floats` unless these round an integer; then as int64 if all are integers."""
    whole = text.str.fullmatch(r"[+-]?[0-9]+")
    rounded = whole.to_numpy() & (floats.abs() >= 2**53).to_numpy()
    if not rounded.any():
        return floats
    if whole.all():
        integers = [int(value) for value in text]
        if -(2**63) <= min(integers) and max(integers) < 2**63:
            return pd.Series(integers, text.index, dtype="int64")
    row = text.index[int(rounded.argmax())]
    raise InputError(
        f"{path}: {text.index.name} {row} has the {text.name} {text[row]!r}, too large to be kept exactly.",
        remedy="Write all as integers of at most 64 bits, for instance in microseconds.",
        file=path,
        row=row,
        field=str(text.name),
        value=text[row],
    )
