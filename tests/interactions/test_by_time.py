"""Splits at two points in time: nothing of a user's, or anybody's, future is in training."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import InputError
from interactions import by_time, training_counts, training_sequences, untrained
from recommenders import ALS, ItemKNN, Popularity, SASRec, sasrec
from tests.raising import raises

ITEMS = 12
ITEM_IDS = [f"i{number}" for number in range(ITEMS)]
EVENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, ITEMS - 1), st.integers(0, 20)), min_size=1, max_size=60)
DAY = 86_400


def make_log(events):
    """Of (user, item, time)."""
    rows = [(f"u{user}", f"i{item}", time) for user, item, time in events]
    return pd.DataFrame(rows, columns=["user", "item", "timestamp"])


def rows_of(dataset):
    return [(row["user"], row["history"], row["target"]) for row in dataset]


def test_the_next_event_of_each_window_is_held_out_with_all_that_came_before():
    log = make_log(
        [(0, n, n) for n in range(9)]  # in training, validation and test
        + [(1, 0, 1), (1, 1, 7)]  # one training event; nothing in validation
        + [(2, 9, 5), (2, 10, 8), (2, 11, 8)]  # the first event is in validation: no history there
    )
    splits = by_time(log, ITEM_IDS, max_history=3, at=["5", "7"])
    assert rows_of(splits.train) == [("u0", [0], 1), ("u0", [1, 2, 3], 4)]
    assert rows_of(splits.validation) == [("u0", [0, 1, 2, 3, 4], 5)]
    assert rows_of(splits.test) == [
        ("u0", [0, 1, 2, 3, 4, 5, 6], 7),
        ("u1", [0], 1),
        ("u2", [9], 10),
    ]
    assert rows_of_sequences(splits) == [("u0", [0, 1, 2, 3, 4]), ("u1", [0])]
    assert splits.held_out.without_history == {"validation": 1, "test": 0}
    assert untrained(splits, ITEMS, "test") == {"untrained_targets": 2, "untrained_users": 1}


def rows_of_sequences(splits):
    return [(row["user"], row["history"]) for row in training_sequences(splits)]


@given(EVENTS, st.integers(1, 20), st.integers(1, 10), st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_training_holds_each_event_before_the_time_once_and_none_after(events, first, width, max_history):
    """Items name their events here, so that an event at or after the time would show wherever it went."""
    events = [(user, number, time) for number, (user, _, time) in enumerate(events)]
    times = np.array([time for *_, time in events])
    ids = [f"i{number}" for number in range(len(events))]
    try:
        splits = by_time(make_log(events), ids, max_history, at=[str(first), str(first + width)])
    except InputError:
        return  # a part is empty
    early = times < first
    assert all(early[[*row["history"], row["target"]]].all() for row in splits.train)
    np.testing.assert_array_equal(training_counts(splits, len(events)), early)
    for rows, low, high in ((splits.validation, first, first + width), (splits.test, first + width, np.inf)):
        for row in rows:
            user = int(row["user"][1:])
            own = [n for n in np.argsort(times, kind="stable") if events[n][0] == user]
            before = [n for n in own if times[n] < low]
            assert row["history"] == before and row["target"] == own[len(before)]
            assert low <= times[row["target"]] < high


@pytest.fixture(scope="module")
def one_way():
    """40 users; items 0 to 9 before time 100, items 10 to 19 from then on."""
    rng = np.random.default_rng(0)
    events = []
    for user in range(40):
        for time in rng.choice(np.arange(0, 100), 8, replace=False):
            events.append((user, rng.integers(10), time))
        for time in (100 + user, 150 + user):
            events.append((user, rng.integers(10, 20), time))
    return by_time(make_log(events), [f"i{n}" for n in range(20)], max_history=5, at=["100", "150"])


@pytest.mark.parametrize("model", [Popularity, ItemKNN, ALS])
def test_no_recommender_has_seen_an_item_of_the_future(model, one_way):
    settings = {} if model is not ALS else {"dimensions": 4, "iterations": 3}
    fitted = model.from_splits(one_way, 20, model.Settings(**settings))
    scores = fitted.score(one_way.validation["history"][:]).numpy()
    assert np.abs(scores[:, 10:]).max() < 1e-6 < np.abs(scores[:, :10]).max()


def test_sasrec_trains_on_all_of_the_past_and_nothing_of_the_future(one_way, monkeypatch):
    def noting(network, windows, users, original=sasrec._positions):
        trained.extend((tuple(window[:-1]), window[-1]) for window in windows)
        return original(network, windows, users)

    trained: list = []
    monkeypatch.setattr(sasrec, "_positions", noting)
    SASRec.from_splits(one_way, 20, SASRec.Settings(dimensions=8, layers=1, epochs=1))
    past = [(tuple(row["history"][:-1]), row["history"][-1]) for row in one_way.validation]
    assert sorted(trained) == sorted(past)


@pytest.mark.parametrize(
    ("at", "unit"),
    [
        (["0.5", "0.75"], "s"),
        ([0.5, 0.75], "ns"),
        (["2014-05-01", "2014-05-06T00:00:00"], "s"),
        (["2014-05-01", "2014-05-06"], "ms"),
        (["2014-05-01", "2014-05-06"], "us"),
        (["2014-05-01", "2014-05-05T20:00-04:00"], "ns"),
    ],
)
def test_times_are_quantiles_or_dates_in_the_logs_unit(at, unit):
    """20 days with an event each, the 11th and the 16th of which are the times."""
    days = pd.date_range("2014-04-21", periods=20, tz="UTC").as_unit(unit).asi8
    log = make_log([(0, n % ITEMS, day) for n, day in enumerate(days.tolist())])
    splits = by_time(log, ITEM_IDS, 3, at)
    assert [len(rows["history"][0]) for rows in (training_sequences(splits), splits.validation, splits.test)] == [
        *(10, 10, 15)
    ]
    assert splits.held_out.training == "events before 2014-05-01"
    assert splits.held_out.test == "each user's first event from 2014-05-06 on"


@pytest.mark.parametrize("at", [["2014-05-01", "9999-01-01"], ["", "2014-05-01"], ["NaT", "2014-05-01"]])
def test_dates_that_are_none_or_that_the_unit_cannot_hold_are_refused(at):
    days = pd.date_range("2014-04-21", periods=20, tz="UTC").as_unit("ns").asi8
    log = make_log([(0, n % ITEMS, day) for n, day in enumerate(days.tolist())])
    with raises(InputError, field="split_at", value=at):
        by_time(log, ITEM_IDS, 3, at)


@pytest.mark.parametrize(
    "at",
    [["0.5"], ["0.9", "0.8"], ["a", "b"], ["30", "40"], ["-2", "-1"], ["3", "inf"], ["nan", "2"], ["2014-05-01", "9"]],
)
def test_times_that_split_nothing_are_refused(at):
    log = make_log([(user, n, n) for user in range(3) for n in range(9)])
    with raises(InputError, field="split_at", value=at):
        by_time(log, ITEM_IDS, 3, at)
