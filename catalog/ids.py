"""Ids of items and users in one form, so that a log, an index, titles and vectors mean the same item."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from catalog.errors import InputError

EXACT = 2**53
"""From here on floats cannot hold every integer, so different ids may have become one."""


@dataclass(frozen=True)
class Ids:
    """texts: str of any index; stripped: how many lost blanks around them; made_integer: how many lost a ".0"."""

    texts: pd.Series
    stripped: int = 0
    made_integer: int = 0


def normal_ids(values: Iterable[object], what: str, file: str | Path | None = None, field: str | None = None) -> Ids:
    """Ids as text without blanks around them, in the order and with the index of `values`.

    Integers that pandas turned into floats, in a column of numbers or as text all of which ends in ".0", are written as
    integers again: 12.0 -> "12". Nothing else is changed: "007" is not "7".

    what: names the ids in a message. Raises InputError with the row (the index of a series) and the value of the first
    id that is missing, empty, a truth value, bytes or a list, text that is not UTF-8, or a float of 2^53 and more.
    """
    column = values if isinstance(values, pd.Series) else pd.Series(list(values), dtype=object)

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
