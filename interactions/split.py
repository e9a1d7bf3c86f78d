"""Rows for training, validation and test, and leave-one-out, which holds out the last two items of each user."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa

from catalog.errors import InputError
from catalog.files import complete, read_json, write_json
from interactions.held_out import LAST_TWO, HeldOut
from interactions.log import in_order

logger = logging.getLogger(__name__)

NAMES = ("train", "validation", "test")
SEQUENCES, RECORD = "sequences", "held_out.json"


@dataclass(frozen=True)
class Splits:
    """Prompt rows. Every split has the same schema, and an item is a number: its position in the catalog.

    `user` string; `history` list of int32, the items before the target, oldest first; `target` int32; and, when the log
    has them, `behavior` string and `rating` float32 of the target, `history_behavior` and `history_rating`, lists of
    the same kind, of the items of the history.

    sequences: `user` and `history`, each user's training events, oldest first, where train rows do not hold them all: a
        user with one training event has no train row. None: training is what the train rows hold. Read it through
        `interactions.training_sequences`.
    held_out: what the validation and test rows are of.
    """

    train: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    sequences: datasets.Dataset | None = None
    held_out: HeldOut = HeldOut()

    @property
    def rows(self) -> dict[str, datasets.Dataset]:
        """The tables by name, for a `Provenance`."""
        named = {name: getattr(self, name) for name in NAMES}
        return named if self.sequences is None else named | {SEQUENCES: self.sequences}

    def save(self, folder: str | Path) -> None:
        """Write the splits to `folder`; splits already there are replaced only once the new ones are complete."""
        folder = Path(folder)
        if folder.exists() and not (folder / "dataset_dict.json").is_file():
            raise InputError(f"{folder} exists and holds no splits.", remedy="Save to another folder.", file=folder)
        with complete(folder) as temporary:
            datasets.DatasetDict(self.rows).save_to_disk(temporary)
            write_json(temporary / RECORD, self.held_out.as_dict())

    @classmethod
    def load(cls, folder: str | Path) -> "Splits":
        """The splits that `save` wrote to `folder`. Raises InputError."""
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(
                f"{folder} does not exist.", remedy="Write the splits there first: Splits.save.", file=folder
            )
        try:
            saved = datasets.DatasetDict.load_from_disk(folder)
            tables = {name: saved[name] for name in NAMES}
            record = HeldOut(**read_json(folder / RECORD, "What the splits hold out"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{folder} holds no complete splits ({error}).", remedy="Write them again: Splits.save.", file=folder
            ) from error
        return cls(**tables, sequences=saved.get(SEQUENCES), held_out=record)


def leave_one_out(log: pd.DataFrame, item_ids: Sequence[str], max_history: int) -> Splits:
    """Split `log` (of `read_log`) user by user; `item_ids` are the ids of the catalog, `max_history` items a prompt.

    A test row's target is the user's last item, a validation row's the second last, and the history is the user's WHOLE
    past: the prompt is cut later, but what is ranked may exclude all of it. Train rows are windows of at most
    `max_history + 1` of the other items. The last window ends at the last training item, and each earlier one starts
    `max_history` before it. So two windows share one item, which is a target in the earlier and context in the later.
    With every position of `history + target` trained, each training item but a user's first is predicted exactly once.

    Raises InputError for repeated `item_ids`, items that are not in the catalog, or users with fewer than 3 items.
    """
    log = in_order(log)
    items = log_items(log, item_ids)  # [interactions]
    length = np.bincount(pd.factorize(log["user"])[0])  # [users]
    if (short := length < 3).any():
        first_short = log["user"].unique()[short.argmax()]
        raise InputError(
            f"{short.sum()} users have fewer than 3 interactions (first: {first_short!r}), but "
            "training, validation and test need one each.",
            remedy="Apply k_core(log, 3) or more, or drop these users.",
        )
    end = np.cumsum(length)
    first = end - length
    validation = prompt_rows(log, items, first, end - 2)
    return Splits(
        train=prompt_rows(log, items, *windows(first, length - 2, max_history)),
        validation=validation,
        test=prompt_rows(log, items, first, end - 1),
        sequences=validation.select_columns(["user", "history"]),
        held_out=LAST_TWO,
    )


def log_items(log: pd.DataFrame, item_ids: Sequence[str]) -> np.ndarray:
    """`item_numbers` of a log's interactions; says how many items of the catalog have none."""
    numbers = item_numbers(log["item"], item_ids, "the log")
    if unseen := len(item_ids) - len(np.unique(numbers)):
        logger.info("%d of %d items of the catalog have no interactions", unseen, len(item_ids))
    return numbers


def item_numbers(items: pd.Series, item_ids: Sequence[str], what: str) -> np.ndarray:
    """The position of each item in the catalog, [n]. what: names where the items stand, in a message.

    Raises InputError for repeated `item_ids` and for items that are not in the catalog.
    """
    catalog = pd.Index(list(item_ids), dtype="str")
    if catalog.has_duplicates:
        raise InputError(
            f"The catalog repeats item {catalog[catalog.duplicated()][0]!r}.",
            remedy="Give each item of item_ids one position.",
        )
    if isinstance(items.dtype, pd.CategoricalDtype):
        numbers = catalog.get_indexer(items.cat.categories)[items.cat.codes]
    else:
        numbers = catalog.get_indexer(pd.Index(items))
    if (unknown := numbers < 0).any():
        raise InputError(
            f"{items[unknown].nunique()} items of {what} are not in the catalog, e.g. {items[unknown].iloc[0]!r}.",
            remedy="Build the catalog from these items too, or drop their interactions.",
            value=items[unknown].iloc[0],
        )
    return numbers.astype(np.int32)


def windows(first: np.ndarray, length: np.ndarray, max_history: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the first item and of the target of every window, oldest first; sequences are first:first+length.

    Raises InputError unless max_history is at least 1.
    """
    if max_history < 1:
        raise InputError(
            f"max_history={max_history}: a prompt needs an item.",
            remedy="Set max_history >= 1.",
            field="max_history",
            value=max_history,
        )
    count = -(-(length - 1).clip(0) // max_history)  # [users], none for a single item
    user = np.repeat(np.arange(len(count)), count)  # [windows]
    windows_after = np.cumsum(count)[user] - 1 - np.arange(len(user))
    target = (first + length - 1)[user] - windows_after * max_history
    return np.maximum(first[user], target - max_history), target


def prompt_rows(log: pd.DataFrame, items: np.ndarray, start: np.ndarray, target: np.ndarray) -> datasets.Dataset:
    """One prompt row for each history start:target; positions in `log`, whose item numbers are `items` [events]."""
    offsets, positions = _spans(start, target)
    columns = {
        "user": _texts(log["user"], target),
        "history": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(items[positions], pa.int32())),
        "target": pa.array(items[target], pa.int32()),
    }
    for name, taken in (("behavior", _texts), ("rating", _ratings)):
        if name in log:
            past = taken(log[name], positions)
            columns[f"history_{name}"] = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), past)
            columns[name] = taken(log[name], target)
    return datasets.Dataset(pa.table(columns))


def sequence_rows(log: pd.DataFrame, items: np.ndarray, start: np.ndarray, end: np.ndarray) -> datasets.Dataset:
    """`Splits.sequences` of the events start:end of each user, positions in `log`; none is empty."""
    offsets, positions = _spans(start, end)
    history = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(items[positions], pa.int32()))
    return datasets.Dataset(pa.table({"user": _texts(log["user"], start), "history": history}))


def _texts(column: pd.Series, rows: np.ndarray) -> pa.Array:
    return pa.array(column.iloc[rows].array).cast(pa.string())


def _ratings(column: pd.Series, rows: np.ndarray) -> pa.Array:
    return pa.array(column.iloc[rows], pa.float32())


def _spans(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All positions start:end one span after another, and where in them each span begins, [spans + 1]."""
    length = end - start
    offsets = np.concatenate([[0], np.cumsum(length)])
    positions = np.repeat((start - offsets[:-1]).astype(np.int32), length)  # rows hold less than 2^31 items
    positions += np.arange(offsets[-1], dtype=np.int32)
    return offsets, positions
