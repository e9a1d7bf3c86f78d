"""What training may see: one definition, for every model that is fitted and every metric that counts."""

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from scipy.sparse import csr_matrix

from interactions.rows import arrow_column
from interactions.split import Splits

SCHEMA = Features({"user": Value("string"), "history": List(Value("int32"))})


def training_sequences(splits: Splits) -> Dataset:
    """Each user's training events, `user` and `history`, oldest first: one row a user.

    They are `splits.sequences` where these are given, else what the train rows hold. The rows of one user must then be
    in the order of time: where the end of the earlier ones is the start of the next, as in windows and in prefixes,
    they are joined, so that an event that stands in several rows counts once. Rows without the column `user` are of a
    user each.
    """
    if splits.sequences is not None:
        return splits.sequences
    joined: dict[str, list[int]] = {}
    for number, row in enumerate(splits.train):
        events = joined.setdefault(str(row.get("user", number)), [])
        events += _unknown_part(events, [*row["history"], row["target"]])
    return Dataset.from_dict({"user": list(joined), "history": list(joined.values())}, features=SCHEMA)


def training_matrix(splits: Splits, items: int) -> csr_matrix:
    """How often each user took each item in training, float32 [users, items], in the order of `training_sequences`."""
    history = training_sequences(splits).with_format("arrow")[:]["history"].combine_chunks()
    numbers = history.flatten().to_numpy()  # [training interactions]
    users = np.repeat(np.arange(len(history)), history.value_lengths())
    return csr_matrix((np.ones(len(numbers), np.float32), (users, numbers)), shape=(len(history), items))


def training_counts(splits: Splits, items: int) -> np.ndarray:
    """Popularity: the training interactions of each item, each counted once, int64 [items]."""
    return np.asarray(training_matrix(splits, items).sum(axis=0, dtype=np.int64)).ravel()


def untrained(splits: Splits, items: int, name: str) -> dict[str, int]:
    """How many rows of the split `name` have a target or a user that training never saw."""
    rows = getattr(splits, name)
    target = arrow_column(rows, "target").to_numpy()
    found = {"untrained_targets": int((training_counts(splits, items)[target] == 0).sum())}
    if "user" in rows.column_names:
        users, known = (arrow_column(some, "user") for some in (rows, training_sequences(splits)))
        found["untrained_users"] = len(users) - pc.sum(pc.is_in(users, value_set=known.cast(users.type))).as_py()
    return found


def _unknown_part(events: list[int], row: list[int]) -> list[int]:
    """What `row` adds to `events`: nothing where they hold it, else what follows the longest overlap with their end."""
    if any(events[start : start + len(row)] == row for start in range(len(events) - len(row) + 1)):
        return []
    overlaps = range(min(len(events), len(row)), 0, -1)
    return row[next((n for n in overlaps if events[-n:] == row[:n]), 0) :]
