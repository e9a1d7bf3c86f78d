"""A metric for groups of users, such as those whose held-out item is rare. Pure functions of numpy arrays."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

PerUser = Mapping[str, Mapping[str, np.ndarray]]
"""Method -> metric -> its value for every user, `[users]`."""


class Bucket(NamedTuple):
    """Users by a whole number of theirs, from `low` to `high`, both included."""

    low: int
    high: int
    users: int

    @property
    def label(self) -> str:
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,}–{self.high:,}"


class Breakdown(NamedTuple):
    """Means over the users of each bucket: metric -> method -> `[buckets]`."""

    buckets: list[Bucket]
    means: dict[str, dict[str, list[float]]]


def break_down(number: np.ndarray, per_user: PerUser, metrics: tuple[str, ...], parts: int = 4) -> Breakdown:
    """Means of some metrics for users in order of a number, in `parts` buckets of about as many users each.

    Users with the same number share a bucket, so there are fewer where one number is frequent.

    Args:
        number: what tells the users apart, `[users]` int.
        per_user: method -> metric -> value of every user, `[users]`.
        metrics: which of the metrics.
        parts: buckets at most; 4 gives quartiles.
    """
    part = pd.qcut(pd.Series(number), parts, labels=False, duplicates="drop").to_numpy()  # [users]
    members = [part == index for index in np.unique(part)]
    if np.isnan(part).any():  # one number for all of them, which has no quartiles
        members = [np.full(len(number), True)]
    buckets = [Bucket(int(number[m].min()), int(number[m].max()), int(m.sum())) for m in members]
    means = {
        metric: {method: [float(values[metric][m].mean()) for m in members] for method, values in per_user.items()}
        for metric in metrics
    }
    return Breakdown(buckets, means)
