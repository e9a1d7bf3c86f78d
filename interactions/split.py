"""Leave one out: each user's last item is for the test, the one before it for validation, the others for training."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.sparse import csr_matrix

from catalog.errors import InputError
from catalog.files import complete
from interactions.log import in_order

logger = logging.getLogger(__name__)

NAMES = ("train", "validation", "test")


@dataclass(frozen=True)
class Splits:
    """Prompt rows. Every split has the same schema, and an item is a number: its position in the catalogue.

    `user` string; `history` list of int32, the items before the target, oldest first; `target` int32; and, when the log
    has them, `behavior` string and `rating` float32 of the target, `history_behavior` and `history_rating`, lists of
    the same kind, of the items of the history.

    `validation` and `test` have one row per user, in the same order. Their histories are whole, so a user's history in
    `validation` is exactly that user's training sequence.
    """

    train: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset

    def save(self, folder: str | Path) -> None:
        """Write the splits to `folder`; splits already there are replaced only once the new ones are complete."""
        folder = Path(folder)
        if folder.exists() and not (folder / "dataset_dict.json").is_file():
            raise InputError(f"{folder} exists and holds no splits.", remedy="Save to another folder.", file=folder)
        with complete(folder) as temporary:
            datasets.DatasetDict({name: getattr(self, name) for name in NAMES}).save_to_disk(temporary)

    @classmethod
    def load(cls, folder: str | Path) -> "Splits":
        """The splits that `save` wrote to `folder`. Raises InputError."""
        if not Path(folder).is_dir():
            raise InputError(
                f"{folder} does not exist.", remedy="Write the splits there first: Splits.save.", file=folder
            )
        try:
            saved = datasets.DatasetDict.load_from_disk(folder)
            return cls(**{name: saved[name] for name in NAMES})
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{folder} holds no complete splits ({error}).", remedy="Write them again: Splits.save.", file=folder
            ) from error


def leave_one_out(log: pd.DataFrame, item_ids: Sequence[str], max_history: int) -> Splits:
    """Split `log` (of `read_log`) user by user; `item_ids` are the ids of the catalogue, `max_history` items a prompt.

    A test row's target is the user's last item, a validation row's the second last, and the history is the user's WHOLE
    past: the prompt is cut later, but what is ranked may exclude all of it. Train rows are windows of at most
    `max_history + 1` of the other items. The last window ends at the last training item, and each earlier one starts
    `max_history` before it. So two windows share one item, which is a target in the earlier and context in the later.
    With every position of `history + target` trained, each training item but a user's first is predicted exactly once.

    Raises InputError for repeated `item_ids`, items that are not in the catalogue, or users with fewer than 3 items.
    """
    if max_history < 1:
        raise InputError(
            f"max_history={max_history}: a prompt needs an item.",
            remedy="Set max_history >= 1.",
            field="max_history",
            value=max_history,
        )
    log = in_order(log)
    items = _item_numbers(log["item"], item_ids)  # [interactions]
    users, names = pd.factorize(log["user"])
    length = np.bincount(users)  # [users]
    if (short := length < 3).any():
        raise InputError(
            f"{short.sum()} users have fewer than 3 interactions (first: {names[int(short.argmax())]!r}), but "
            "training, validation and test need one each.",
            remedy="Apply k_core(log, 3) or more, or drop these users.",
        )
    end = np.cumsum(length)
    first = end - length
    start, target = _windows(first, length - 2, max_history)
    return Splits(
        train=_rows(log, items, start, target),
        validation=_rows(log, items, first, end - 2),
        test=_rows(log, items, first, end - 1),
    )


def training_matrix(splits: Splits, items: int) -> csr_matrix:
    """How often each user took each item in training, float32 [users, items]; rows are in the order of `validation`.

    Read from the whole histories of `validation`: train rows overlap, and miss users with a single training item.
    """
    history = splits.validation.with_format("arrow")[:]["history"].combine_chunks()
    numbers = history.flatten().to_numpy()  # [training interactions]
    users = np.repeat(np.arange(len(history)), history.value_lengths())
    return csr_matrix((np.ones(len(numbers), np.float32), (users, numbers)), shape=(len(history), items))


def training_counts(splits: Splits, items: int) -> np.ndarray:
    """Popularity: the training interactions of each item, each counted once, int64 [items]."""
    return np.asarray(training_matrix(splits, items).sum(axis=0, dtype=np.int64)).ravel()


def _item_numbers(items: pd.Series, item_ids: Sequence[str]) -> np.ndarray:
    catalog = pd.Index(list(item_ids), dtype="str")
    if catalog.has_duplicates:
        raise InputError(
            f"The catalogue repeats item {catalog[catalog.duplicated()][0]!r}.",
            remedy="Give each item of item_ids one position.",
        )
    numbers = catalog.get_indexer(pd.Index(items))
    if (unknown := numbers < 0).any():
        raise InputError(
            f"{items[unknown].nunique()} items of the log are not in the catalogue, e.g. {items[unknown].iloc[0]!r}.",
            remedy="Build the catalogue from these items too, or drop their interactions.",
        )
    if unseen := len(catalog) - len(np.unique(numbers)):
        logger.info("%d of %d items of the catalogue have no interactions", unseen, len(catalog))
    return numbers


def _windows(first: np.ndarray, length: np.ndarray, max_history: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the first item and of the target of every window, oldest first; sequences are first:first+length."""
    count = -(-(length - 1) // max_history)  # [users], none for a single item
    user = np.repeat(np.arange(len(count)), count)  # [windows]
    windows_after = np.cumsum(count)[user] - 1 - np.arange(len(user))
    target = (first + length - 1)[user] - windows_after * max_history
    return np.maximum(first[user], target - max_history), target


def _rows(log: pd.DataFrame, items: np.ndarray, start: np.ndarray, target: np.ndarray) -> datasets.Dataset:
    """One prompt row for each history start:target, positions in `log`."""
    length = target - start  # [rows]
    offsets = np.concatenate([[0], np.cumsum(length)])
    positions = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], length)
    columns = {
        "user": pa.array(log["user"].iloc[target], pa.string()),
        "history": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(items[positions], pa.int32())),
        "target": pa.array(items[target], pa.int32()),
    }
    for name, kind in (("behavior", pa.string()), ("rating", pa.float32())):
        if name in log:
            past = pa.array(log[name].iloc[positions], kind)
            columns[f"history_{name}"] = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), past)
            columns[name] = pa.array(log[name].iloc[target], kind)
    return datasets.Dataset(pa.table(columns))
