"""What can be done with a prompt row."""

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
from datasets import Dataset

from interactions.log import OPTIONAL


def by_length(batches: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[Mapping[str, Any]]]:
    """The rows of some batches anew, those of the shortest histories in the first one, so that little is padded.

    The batches keep their sizes, and one alone its order. What is summed over all of them, as the loss of an optimiser
    step is, stays the same.
    """
    if len(batches) == 1:
        return [list(batches[0])]
    rows = iter(sorted(chain.from_iterable(batches), key=lambda row: len(row["history"])))
    return [list(islice(rows, len(batch))) for batch in batches]


def cut(row: Mapping[str, Any], end: int) -> dict[str, Any]:
    """The row as it was when the user took item `end` of history + [target], 1 <= end <= len(history).

    That item is the target and those before it are the history. `behaviour` and `rating` follow their items, where the
    row has them for its history too; `later` holds the items after the new target, oldest first. Of the other columns,
    which belong to the old target, only `user` is kept.
    """
    sequence = [*row["history"], row["target"]]
    short = {"history": sequence[:end], "target": sequence[end], "later": sequence[end + 1 :]}
    if "user" in row:
        short["user"] = row["user"]
    for name in OPTIONAL:
        if f"history_{name}" in row:
            events = [*row[f"history_{name}"], row[name]]
            short |= {f"history_{name}": events[:end], name: events[end]}
    return short


def prefixes(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The row as it was when the user took each item of its history but the first, oldest first; see `cut`.

    `own`, which names the user's items and not the target's, is kept.
    """
    kept = {"own": row["own"]} if "own" in row else {}
    return [cut(row, end) | kept for end in range(1, len(row["history"]))]


def unrankable(rows: Dataset) -> np.ndarray:
    """Which rows have their target in their history, bool [rows]: where the history is not ranked, they are misses."""
    table = rows.with_format("arrow")[:]
    history, target = table["history"].combine_chunks(), table["target"].to_numpy()
    lengths = history.value_lengths().to_numpy(zero_copy_only=False)
    row = np.repeat(np.arange(len(target)), lengths)  # [events]
    same = history.flatten().to_numpy(zero_copy_only=False) == target[row]
    return np.bincount(row[same], minlength=len(target)) > 0
