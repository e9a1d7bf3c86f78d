"""Splits made on the spot: a rule of succession, and two groups of users with items of their own."""

import datasets
import numpy as np
import pytest

from interactions import Splits


def splits_of(sequences: list[list[int]]) -> Splits:
    """The last item of each sequence for the test, the one before for validation; train rows are not needed here."""
    rows = {
        name: datasets.Dataset.from_list(
            [{"user": f"u{i}", "history": s[:-left], "target": s[-left]} for i, s in enumerate(sequences)]
        )
        for name, left in (("train", 3), ("validation", 2), ("test", 1))
    }
    return Splits(**rows)


@pytest.fixture(scope="session")
def successors() -> Splits:
    """100 users who go round 24 items: each item is followed by the one seven places on."""
    rng = np.random.default_rng(0)
    return splits_of([((rng.integers(24) + 7 * np.arange(rng.integers(6, 16))) % 24).tolist() for _ in range(100)])


@pytest.fixture(scope="session")
def blocks() -> Splits:
    """60 users who take 10 of the 20 even items, or 10 of the 20 odd ones."""
    rng = np.random.default_rng(1)
    return splits_of([(2 * rng.choice(20, 10, replace=False) + user % 2).tolist() for user in range(60)])
