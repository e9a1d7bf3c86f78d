import logging
import shutil

import numpy as np
import pandas as pd
import pytest
from datasets import Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import InputError, SetupError
from interactions import Splits, leave_one_out, training_counts, training_matrix

ITEMS = 12
ITEM_IDS = [f"i{number}" for number in range(ITEMS)]
SEQUENCES = st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=3, max_size=15), min_size=1, max_size=5)


def make_log(sequences, **columns):
    """The users' sequences, interleaved: everyone's first item, everyone's second, ..."""
    rows = [(f"u{u}", f"i{item}", float(t)) for u, sequence in enumerate(sequences) for t, item in enumerate(sequence)]
    log = pd.DataFrame(rows, columns=["user", "item", "timestamp"]).assign(**columns)
    return log.sort_values("timestamp", kind="stable")


def rows_of(dataset):
    return [(row["user"], row["history"], row["target"]) for row in dataset]


def test_windows_overlap_by_one_item_and_end_at_the_last_training_item():
    splits = leave_one_out(make_log([range(9), [9, 8, 7], range(10)]), ITEM_IDS, max_history=3)
    assert rows_of(splits.train) == [
        ("u0", [0, 1, 2], 3),
        ("u0", [3, 4, 5], 6),
        ("u2", [0], 1),
        ("u2", [1, 2, 3], 4),
        ("u2", [4, 5, 6], 7),
    ]
    assert rows_of(splits.validation)[:2] == [("u0", [0, 1, 2, 3, 4, 5, 6], 7), ("u1", [9], 8)]
    assert rows_of(splits.test)[:2] == [("u0", [0, 1, 2, 3, 4, 5, 6, 7], 8), ("u1", [9, 8], 7)]


@given(SEQUENCES, st.integers(1, 6))
@settings(deadline=None)
def test_every_training_item_but_the_first_is_predicted_once_and_nothing_leaks(sequences, max_history):
    splits = leave_one_out(make_log(sequences), ITEM_IDS, max_history)
    train = rows_of(splits.train)
    for u, sequence in enumerate(sequences):
        windows = [[*history, target] for user, history, target in train if user == f"u{u}"]
        predicted = [item for window in windows for item in window[1:]]
        assert predicted == sequence[1:-2]
        assert [window[0] for window in windows[1:]] == [window[-1] for window in windows[:-1]]
        assert all(len(window) <= max_history + 1 for window in windows)
    assert rows_of(splits.validation) == [(f"u{u}", s[:-2], s[-2]) for u, s in enumerate(sequences)]
    assert rows_of(splits.test) == [(f"u{u}", s[:-1], s[-1]) for u, s in enumerate(sequences)]


@given(SEQUENCES, st.integers(1, 6))
@settings(deadline=None)
def test_training_counts_take_each_training_interaction_once(sequences, max_history):
    splits = leave_one_out(make_log(sequences), ITEM_IDS, max_history)
    matrix = training_matrix(splits, ITEMS)
    expected = np.stack([np.bincount(sequence[:-2], minlength=ITEMS) for sequence in sequences])
    np.testing.assert_array_equal(matrix.toarray(), expected)
    np.testing.assert_array_equal(training_counts(splits, ITEMS), expected.sum(0))
    assert matrix.has_canonical_format and matrix.dtype == np.float32


def test_the_schema_is_one_and_carries_behaviors_and_ratings():
    log = make_log([range(5)], behavior=list("abcde"), rating=[1.0, 2.0, 3.0, 4.0, 5.0])
    splits = leave_one_out(log, ITEM_IDS, max_history=2)
    schema = {
        "user": Value("string"),
        "history": List(Value("int32")),
        "target": Value("int32"),
        "history_behavior": List(Value("string")),
        "behavior": Value("string"),
        "history_rating": List(Value("float32")),
        "rating": Value("float32"),
    }
    for split, past in ((splits.train, "ab"), (splits.validation, "abc"), (splits.test, "abcd")):
        assert split.features == Features(schema)
        assert (split[0]["history_behavior"], split[0]["behavior"]) == (list(past), chr(ord(past[-1]) + 1))
        assert (split[0]["history_rating"], split[0]["rating"]) == ([*range(1, len(past) + 1)], len(past) + 1)


@given(SEQUENCES, st.integers(1, 6))
@settings(deadline=None, max_examples=20)
def test_what_was_done_with_an_item_stands_where_the_item_stands(sequences, max_history):
    """Each event's rating and behavior tell its user, place and item, so that any shift shows."""
    log = make_log(sequences)
    log["behavior"] = log["user"] + "/" + log["item"]
    log["rating"] = 100 * log["timestamp"] + log["item"].str[1:].astype(int)
    splits = leave_one_out(log, ITEM_IDS, max_history)
    for row in (row for split in (splits.train, splits.validation, splits.test) for row in split):
        items, ratings = [*row["history"], row["target"]], [*row["history_rating"], row["rating"]]
        assert [*row["history_behavior"], row["behavior"]] == [f"{row['user']}/i{item}" for item in items]
        place = int(ratings[0] // 100)
        assert ratings == [100 * (place + n) + item for n, item in enumerate(items)]


def test_an_item_number_is_the_position_in_the_catalog(caplog):
    with caplog.at_level(logging.INFO, logger="interactions.split"):
        splits = leave_one_out(make_log([[0, 1, 2]]), ["i2", "x", "i0", "y", "i1"], max_history=5)
    assert rows_of(splits.test) == [("u0", [2, 4], 0)]
    assert len(splits.train) == 0 and splits.train.features == splits.test.features
    assert "2 of 5 items of the catalog have no interactions" in caplog.text


@pytest.mark.parametrize(
    ("sequences", "item_ids", "max_history", "message"),
    [
        ([[0, 1, 2], [3, 4], [5]], ITEM_IDS, 3, r"2 users have fewer than 3 interactions \(first: 'u1'\).*k_core"),
        ([[0, 1, 2, 1]], ["i0"], 3, "2 items of the log are not in the catalog, e.g. 'i1'. Build the catalog"),
        ([[0, 1, 2]], [*ITEM_IDS, "i3"], 3, "repeats item 'i3'. Give each item"),
        ([[0, 1, 2]], ITEM_IDS, 0, "max_history=0.*Set max_history >= 1"),
    ],
)
def test_logs_that_cannot_be_split_are_refused(sequences, item_ids, max_history, message):
    with pytest.raises(ValueError, match=message):
        leave_one_out(make_log(sequences), item_ids, max_history)


def test_saved_splits_are_loaded_and_replaced(tmp_path):
    folder = tmp_path / "a" / "splits"
    for sequences in ([range(9)], [range(5), range(7)]):
        splits = leave_one_out(make_log(sequences), ITEM_IDS, max_history=3)
        splits.save(folder)
        loaded = Splits.load(folder)
        assert all(rows_of(getattr(loaded, n)) == rows_of(getattr(splits, n)) for n in ("train", "validation", "test"))
        assert loaded.train.features == splits.train.features
        assert [path.name for path in folder.parent.iterdir()] == ["splits"]
    loaded.save(folder)
    assert rows_of(Splits.load(folder).test) == rows_of(splits.test)


def test_a_full_disk_leaves_the_saved_splits_as_they_were(tmp_path, nearly_full_disk):
    small = leave_one_out(make_log([range(9)]), ITEM_IDS, max_history=3)
    large = leave_one_out(make_log([[0] * 300_000]), ITEM_IDS, max_history=3)
    small.save(tmp_path / "splits")
    with pytest.raises(SetupError), nearly_full_disk():
        large.save(tmp_path / "splits")
    assert rows_of(Splits.load(tmp_path / "splits").test) == rows_of(small.test)
    small.save(tmp_path / "splits")
    assert [path.name for path in tmp_path.iterdir()] == ["splits"]


def test_missing_incomplete_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="none does not exist. Write the splits there first"):
        Splits.load(tmp_path / "none")
    splits = leave_one_out(make_log([range(9)]), ITEM_IDS, max_history=3)
    splits.save(tmp_path / "splits")
    (arrow,) = (tmp_path / "splits" / "train").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(ValueError, match="splits holds no complete splits"):
        Splits.load(tmp_path / "splits")
    splits.save(tmp_path / "splits")
    shutil.rmtree(tmp_path / "splits" / "test")
    with pytest.raises(ValueError, match="splits holds no complete splits"):
        Splits.load(tmp_path / "splits")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="mine exists and holds no splits. Save to another folder"):
        splits.save(tmp_path / "mine")
