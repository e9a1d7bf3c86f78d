"""What can be done with a prompt row, and what is wrong with one."""

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from catalog.errors import InputError
from interactions.log import OPTIONAL


def check_rows(name: str, rows: Dataset, items: int) -> None:
    """Raise InputError unless every history is a non-empty list, and it and the target are items 0 .. items - 1.

    name: what the rows are called in the message. The error's field is "history" or "target", its row the number of the
    first row that is wrong, its value what stands there.
    """
    for column in ("history", "target"):
        if column not in rows.column_names:
            raise InputError(
                f"{name} has no column {column!r}.", remedy="Give rows of history and target.", field=column
            )
    history, target = arrow_column(rows, "history"), arrow_column(rows, "target")
    if not _is_list(history.type):
        raise InputError(
            f"{name}: history is {history.type} and no list.",
            remedy="Give lists of item numbers.",
            field="history",
            value=str(history.type),
        )
    lengths = np.asarray(history.value_lengths().fill_null(0))
    if (empty := lengths == 0).any():
        row = int(empty.argmax())
        raise InputError(
            f"{name}: row {row} has an empty history ({int(empty.sum())} such rows).",
            remedy="Drop users without a past.",
            field="history",
            row=row,
            value=[],
        )
    _check_items(name, "history", history.flatten(), np.repeat(np.arange(len(rows)), lengths), items)
    _check_items(name, "target", target, np.arange(len(rows)), items)


def unrankable(rows: Dataset) -> np.ndarray:
    """Whether the history of each row holds its target, bool [rows]: with `exclude_history` no ranking can hold it."""
    history = arrow_column(rows, "history")
    lengths = np.asarray(history.value_lengths())
    row = np.repeat(np.arange(len(rows)), lengths)  # [items of all histories]
    target = np.asarray(arrow_column(rows, "target"))
    found = np.zeros(len(rows), bool)
    found[row[np.asarray(history.flatten()) == target[row]]] = True
    return found


def sample_rows(rows: Dataset, count: int | None) -> Dataset:
    """`count` random rows in their order, all where that is None or not less. The same rows get the same sample."""
    if count is None or count >= len(rows):
        return rows
    return rows.select(np.sort(np.random.default_rng(0).permutation(len(rows))[:count]))


def _check_items(name: str, column: str, values: pa.Array, row: np.ndarray, items: int) -> None:
    """values [n], each of row `row` [n]."""
    if not pa.types.is_integer(values.type) and len(values):
        raise InputError(
            f"{name}: {column} holds {values.type} and no integers.",
            remedy="An item is its number in the catalog.",
            field=column,
            value=str(values.type),
        )
    if values.null_count:
        bad = np.asarray(values.is_null())
        fault, value = "a missing item", None
    else:
        numbers = np.asarray(values)
        bad = (numbers < 0) | (numbers >= items)
        value = numbers[bad.argmax()].item() if bad.any() else None
        fault = "padding" if value == -1 else "no item of the catalog"
    if bad.any():
        raise InputError(
            f"{name}: row {row[bad.argmax()]} has {value} in {column}, which is {fault}: items are 0 to {items - 1} "
            f"({int(bad.sum())} such values).",
            remedy="Leave padding out, and prepare rows and catalog from one log.",
            field=column,
            row=int(row[bad.argmax()]),
            value=value,
        )


def arrow_column(rows: Dataset, name: str) -> pa.Array:
    """A column of rows as one array of Arrow, no Python object a row."""
    column = rows.select_columns(name).with_format("arrow")[:][name].combine_chunks()
    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def by_length(batches: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[Mapping[str, Any]]]:
    """The rows of several batches sorted by the length of their histories, so that little is padded.

    The batches keep their sizes, the first one gets the shortest histories, and a single batch keeps its order. A sum
    over all of them, such as the loss of an optimizer step, stays the same.
    """
    if len(batches) == 1:
        return [list(batches[0])]
    rows = iter(sorted(chain.from_iterable(batches), key=lambda row: len(row["history"])))
    return [list(islice(rows, len(batch))) for batch in batches]


def cut(row: Mapping[str, Any], end: int) -> dict[str, Any]:
    """The row as it was when the user took item `end` of history + [target], 1 <= end <= len(history).

    That item is the target and those before it are the history. `behavior` and `rating` follow their items, where the
    row has them for its history too; `future_items` holds the items after the new target, oldest first. Of the
    other columns, which belong to the old target, only `user` is kept.
    """
    sequence = [*row["history"], row["target"]]
    short = {"history": sequence[:end], "target": sequence[end], "future_items": sequence[end + 1 :]}
    if "user" in row:
        short["user"] = row["user"]
    for name in OPTIONAL:
        if f"history_{name}" in row:
            events = [*row[f"history_{name}"], row[name]]
            short |= {f"history_{name}": events[:end], name: events[end]}
    return short


def prefixes(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The row as it was when the user took each item of its history but the first, oldest first; see `cut`.

    `user_items`, which names the user's items and not the target's, is kept.
    """
    kept = {"user_items": row["user_items"]} if "user_items" in row else {}
    return [cut(row, end) | kept for end in range(1, len(row["history"]))]
