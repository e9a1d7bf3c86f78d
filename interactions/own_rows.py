"""Splits that somebody else made: files of rows with a user, a history and a target."""

import ast
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset

from catalog.errors import InputError
from catalog.ids import normal_ids
from interactions.held_out import HeldOut
from interactions.split import NAMES, Splits, item_numbers, prompt_rows, sequence_rows, windows
from interactions.tables import filled, read_table, refuse

COLUMNS = ("user", "history", "target")


def read_rows(path: str | Path, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """The rows of a table of `read_table`: `user` str, `history` list of str, `target` str, by the line in the file.

    A history is a list, or text that spells one in JSON or Python, oldest item first. `columns` maps our names to the
    file's, for instance {"target": "item_id"}; other columns are left out.

    Raises InputError naming the file, the line, the field and the value of what is wrong.
    """
    path, columns = Path(path), dict(columns or {})
    if unknown := sorted(set(columns) - set(COLUMNS)):
        raise InputError(
            f"columns has the unknown keys {unknown}.",
            remedy=f"Rows have {list(COLUMNS)}.",
            field="columns",
            value=unknown[0],
        )
    table = read_table(path, {columns.get(name, name): "text" for name in COLUMNS})
    if table.empty:
        raise InputError(f"{path} has no rows.", remedy="Give a file with at least one.", file=path)
    found = {name: filled(table, columns.get(name, name), path, name) for name in COLUMNS}
    lists = found["history"].map(_listed)
    refuse(found["history"], lists.isna().to_numpy(), path, "a history that is no list of items")
    refuse(found["history"], (lists.map(len) == 0).to_numpy(), path, "an empty history")
    lengths = lists.map(len).to_numpy()
    # object, since pandas itself would fail on text that is not UTF-8, and normal_ids names its line
    listed = pd.Series([*chain.from_iterable(lists)], lists.index.repeat(lengths), dtype=object)
    items = normal_ids(listed, "the item", path, str(found["history"].name)).texts
    ends = lengths.cumsum()
    return pd.DataFrame(
        {
            "user": normal_ids(found["user"], "the user", path, str(found["user"].name)).texts,
            "history": [part.tolist() for part in np.split(items.to_numpy(), ends[:-1])],
            "target": normal_ids(found["target"], "the target", path, str(found["target"].name)).texts,
        },
        index=table.index,
    )


def own_splits(
    files: Mapping[str, str | Path], frames: Mapping[str, pd.DataFrame], item_ids: Sequence[str], max_history: int
) -> Splits:
    """Splits of rows as they are; `item_ids` are the ids of the catalog.

    Without a frame `train`, training is the history of each user's first validation row, cut into windows of at most
    `max_history + 1` items as by `leave_one_out`: rows of a user must then be in the order of time, so that it precedes
    all that is held out.

    files, frames: what `train`, `validation` and `test` were read from, and what `read_rows` gave.
    Raises InputError for items that are not in the catalog and for a row that stands in two splits.
    """
    tables = {name: _dataset(frame, item_ids, f"{files[name]}") for name, frame in frames.items()}
    told = {name: f"the rows of {Path(files[name]).name}" for name in frames}
    sequences = None
    if "train" not in tables:
        told["train"] = f"what precedes each user's first row of {Path(files['validation']).name}"
        tables["train"], sequences = _train_on_histories(frames["validation"], item_ids, max_history)
    _refuse_shared(tables, files)
    record = HeldOut("rows", told["train"], told["validation"], told["test"])
    return Splits(**tables, sequences=sequences, held_out=record)


def _dataset(frame: pd.DataFrame, item_ids: Sequence[str], what: str) -> Dataset:
    lengths = frame["history"].map(len).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    everything = pd.concat([frame["history"].explode(), frame["target"]])
    numbers = pa.array(item_numbers(everything, item_ids, what), pa.int32())
    history = pa.ListArray.from_arrays(offsets, numbers[: lengths.sum()])
    user = pa.array(frame["user"], pa.string())
    return Dataset(pa.table({"user": user, "history": history, "target": numbers[lengths.sum() :]}))


def _train_on_histories(validation: pd.DataFrame, item_ids: Sequence[str], max_history: int) -> tuple[Dataset, Dataset]:
    """Train rows and training sequences of the first row of each user."""
    firsts = validation.drop_duplicates("user")
    lengths = firsts["history"].map(len).to_numpy()
    events = pd.DataFrame({"user": np.repeat(firsts["user"], lengths), "item": firsts["history"].explode()})
    items = item_numbers(events["item"], item_ids, "the histories")
    ends = np.cumsum(lengths)
    starts = ends - lengths
    train = prompt_rows(events, items, *windows(starts, lengths, max_history))
    return train, sequence_rows(events, items, starts, ends)


def _refuse_shared(tables: Mapping[str, Dataset], files: Mapping[str, str | Path]) -> None:
    seen: dict[tuple[object, ...], tuple[str, int]] = {}
    for name in NAMES:
        for number, row in enumerate(tables[name]):
            key = row["user"], tuple(row["history"]), row["target"]
            other, place = seen.setdefault(key, (name, number))
            if other != name:
                raise InputError(
                    f"Row {number} of {name} is row {place} of {other}, counted from 0: user {row['user']!r} with the "
                    "same history and target.",
                    remedy="Keep it in one of them: what is trained must not be held out.",
                    file=files[name],
                    row=number,
                    field=name,
                    value=row["user"],
                )


def _listed(value: object) -> list[object] | None:
    """A cell as a list; None where it is none, or holds lists or nothing."""
    if isinstance(value, str):
        value = _spelled(value)
    if isinstance(value, np.ndarray | tuple):
        value = list(value)
    if isinstance(value, list) and not any(isinstance(item, list | dict | tuple | set | None) for item in value):
        return value
    return None


def _spelled(text: str) -> object:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None
