"""Ids of items and users in one form, so that a log, an index, titles and vectors mean the same item."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from pandas.api.types import infer_dtype

from catalog.errors import InputError

EXACT = 2**53
"""From here on floats cannot hold every integer, so different ids may have become one."""


@dataclass(frozen=True)
class Ids:
    """texts: str of any index, or categories of it where these were given; stripped: how many lost blanks around them;
    made_integer: how many lost a ".0"."""

    texts: pd.Series
    stripped: int = 0
    made_integer: int = 0


def normal_ids(values: Iterable[object], what: str, file: str | Path | None = None, field: str | None = None) -> Ids:
    """Ids as text without blanks around them, in the order and with the index of `values`.

    Integers that pandas turned into floats, in a column of numbers or as text all of which ends in ".0", are written as
    integers again: 12.0 -> "12". Nothing else is changed: "007" is not "7".

    Of pandas' categories each one is looked at once, and such in a message are then ids, not rows.

    what: names the ids in a message. Raises InputError with the row (the index of a series) and the value of the first
    id that is missing, empty, a truth value, bytes or a list, text that is not UTF-8, or a float of 2^53 and more.
    """
    column = values if isinstance(values, pd.Series) else pd.Series(list(values), dtype=object)
    if isinstance(column.dtype, pd.CategoricalDtype):
        return _normal_categories(column, what, file, field)

    def refuse(wrong: ArrayLike, fault: str, remedy: str) -> None:
        bad = np.asarray(wrong, bool)
        if bad.any():
            first = int(bad.argmax())
            row, value = column.index[first], column.iloc[first]
            at = f"{file}: " if file else ""
            place = f"{column.index.name or 'entry'} {row}"
            problem = f"{at}{place} has {what} {value!r}, which {fault} ({int(bad.sum())} such in all)."
            raise InputError(problem, remedy=remedy, file=file, row=row, field=field, value=value)

    refuse(column.isna(), "is missing", "Correct or delete it.")
    if column.dtype == object:
        refuse([not _is_utf8(value) for value in column], "is no UTF-8 text", "Correct or delete it.")
        column = column.infer_objects()
    made_integer = 0
    if column.dtype.kind == "f":
        if integral := bool((column % 1 == 0).all()):
            refuse(column.abs() >= EXACT, "is a float too large to be one id", "Write ids as integers or text.")
            made_integer = len(column)
        texts = (column.astype("int64") if integral else column).astype(str)
    else:
        if column.dtype == object or column.dtype.kind == "b":
            known = (str, int, np.integer)
            wrong = [not isinstance(value, known) or isinstance(value, bool) for value in column]
            refuse(wrong, "is neither text nor an integer", "Write ids as integers or text.")
        texts = column.astype(str)
    trimmed = texts.str.strip()
    stripped = int((trimmed != texts).sum())
    refuse(trimmed == "", "is empty", "Correct or delete it.")
    if len(trimmed) and not made_integer and trimmed.str.fullmatch(r"-?\d+\.0").all():
        trimmed, made_integer = trimmed.str[:-2], len(trimmed)
    return Ids(trimmed, stripped, made_integer)


def encoded(column: pd.Series) -> pd.Series:
    """A column of text or of integers as categories; any other as it is."""
    if infer_dtype(column, skipna=False) not in ("string", "integer"):
        return column
    codes, values = pd.factorize(column)
    return pd.Series(pd.Categorical.from_codes(codes, values), column.index, name=column.name)


def _normal_categories(column: pd.Series, what: str, file: str | Path | None, field: str | None) -> Ids:
    first = column.drop_duplicates()  # each category at its first row, which a message names
    values = first.astype(column.cat.categories.dtype)
    known = normal_ids(values, what, file, field)
    number, texts = pd.factorize(known.texts)  # different categories may become one id
    codes = column.cat.codes.to_numpy()
    new = np.zeros(len(column.cat.categories), np.int32)
    new[first.cat.codes] = number
    stripped = 0
    if known.stripped:
        padded = first[(values.str.strip() != values).to_numpy()]
        stripped = int(np.bincount(codes, minlength=len(new))[padded.cat.codes].sum())
    made = pd.Categorical.from_codes(new[codes], pd.Index(texts, dtype="str"))
    return Ids(pd.Series(made, column.index), stripped, len(column) if known.made_integer else 0)


def refuse_repeated(ids: pd.Series, what: str, file: str | Path | None = None) -> None:
    """Raise InputError naming the first id that occurs twice."""
    twice = ids.duplicated().to_numpy()
    if twice.any():
        repeated = ids.iloc[int(twice.argmax())]
        raise InputError(
            f"{f'{file}: ' if file else ''}{what} lists {repeated!r} more than once, blanks around ids left out.",
            remedy="Keep one entry.",
            file=file,
            row=repeated,
            value=repeated,
        )


def _is_utf8(value: object) -> bool:
    try:
        str(value).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        return False
    return True
