"""Rows that somebody else split, from files and from Python."""

import json

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from catalog.errors import InputError
from interactions import (
    Splits,
    leave_one_out,
    own_splits,
    read_rows,
    training_counts,
    training_sequences,
    untrained,
)
from recommenders import Popularity
from tests.raising import raises

IDS = [f"i{number}" for number in range(8)]
HEAD = "user,history,target\n"


def rows_of(dataset):
    return [(row["user"], row["history"], row["target"]) for row in dataset]


def sequences_of(splits):
    return [(row["user"], row["history"]) for row in training_sequences(splits)]


def frame(*rows):
    return pd.DataFrame(
        [(user, [f"i{item}" for item in history], f"i{target}") for user, history, target in rows],
        columns=["user", "history", "target"],
    )


def split(max_history=3, **frames):
    return own_splits({name: f"{name}.csv" for name in frames}, frames, IDS, max_history)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.csv", HEAD + '7,"[3, 4]",5\n8,[4],3\n'),
        ("r.csv", HEAD + "7,\"['3', '4']\",5\n8,['4'],3\n"),
        ("r.csv", HEAD + '7,"(3, 4)",5\n8,"[""4""]",3\n'),
        ("r.jsonl", '{"user": 7, "history": [3, 4], "target": 5}\n{"user": "8", "history": ["4"], "target": "3"}\n'),
        ("r.jsonl", '{"user": 7, "history": "[3, 4]", "target": 5}\n{"user": 8, "history": [4], "target": 3}\n'),
    ],
)
def test_rows_are_read_from_any_table(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    assert read_rows(tmp_path / name).values.tolist() == [["7", ["3", "4"], "5"], ["8", ["4"], "3"]]


def test_columns_may_be_called_otherwise_and_lists_be_of_parquet(tmp_path):
    pd.DataFrame({"u": [1], "past": [[3, 4]], "next": [5], "more": ["x"]}).to_parquet(tmp_path / "r.parquet")
    rows = read_rows(tmp_path / "r.parquet", {"user": "u", "history": "past", "target": "next"})
    assert rows.values.tolist() == [["1", ["3", "4"], "5"]]


@pytest.mark.parametrize(
    ("cells", "field", "value"),
    [
        ("7,[3;4],5", "history", "[3;4]"),
        ("7,3,5", "history", "3"),
        ("7,[],5", "history", "[]"),
        ('7,"[[3], 4]",5', "history", "[[3], 4]"),
        ('7,"[3, null]",5', "history", "[3, null]"),
        ('7,"[""\\ud800""]",5', "history", "\ud800"),
        ("7,[3],", "target", None),
        (",[3],5", "user", None),
    ],
)
def test_what_is_no_row_is_refused_by_its_line(cells, field, value, tmp_path):
    (tmp_path / "r.csv").write_text(HEAD + "6,[1],2\n" + cells + "\n")
    with raises(InputError, file=tmp_path / "r.csv", row=3, field=field, value=value):
        read_rows(tmp_path / "r.csv")


def test_a_table_without_the_columns_or_rows_is_refused(tmp_path):
    (tmp_path / "r.csv").write_text(HEAD)
    with raises(InputError, file=tmp_path / "r.csv"):
        read_rows(tmp_path / "r.csv")
    (tmp_path / "r.csv").write_text("user,item,timestamp\n1,2,3\n")
    with raises(InputError, file=tmp_path / "r.csv"):
        read_rows(tmp_path / "r.csv")
    with raises(InputError, field="columns", value="item"):
        read_rows(tmp_path / "r.csv", {"item": "sku"})


TRAIN = frame(("a", [0], 1), ("a", [0, 1], 2), ("a", [1, 2], 3), ("b", [4, 4], 4), ("a", [5], 6))


def test_rows_are_kept_as_they_are_and_an_event_in_several_counts_once():
    splits = split(train=TRAIN, validation=frame(("a", [1, 2], 7)), test=frame(("c", [1, 0], 7), ("a", [3], 3)))
    assert rows_of(splits.train)[:3] == [("a", [0], 1), ("a", [0, 1], 2), ("a", [1, 2], 3)]
    assert rows_of(splits.test) == [("c", [1, 0], 7), ("a", [3], 3)]
    assert sequences_of(splits) == [("a", [0, 1, 2, 3, 5, 6]), ("b", [4, 4, 4])]
    assert training_counts(splits, 8).tolist() == [1, 1, 1, 1, 3, 1, 1, 0]
    assert untrained(splits, 8, "test") == {"untrained_targets": 1, "untrained_users": 1}
    assert splits.held_out.kind == "rows" and "test.csv" in splits.held_out.test


def test_without_training_rows_what_precedes_the_first_held_out_row_is_trained():
    validation = frame(("a", [0, 1, 2, 3, 4], 5), ("a", [1, 2, 3, 4, 5], 6), ("b", [7], 0))
    splits = split(max_history=3, validation=validation, test=frame(("b", [7, 0], 1)))
    assert rows_of(splits.train) == [("a", [0], 1), ("a", [1, 2, 3], 4)]
    assert sequences_of(splits) == [("a", [0, 1, 2, 3, 4]), ("b", [7])]
    assert training_counts(splits, 8).tolist() == [1, 1, 1, 1, 1, 0, 0, 1]


def test_a_row_in_two_splits_is_refused():
    with raises(InputError, file="test.csv", row=1, field="test", value="a"):
        split(
            train=frame(("a", [0], 1)),
            validation=frame(("a", [0, 1], 2)),
            test=frame(("b", [0], 1), ("a", [0, 1], 2)),
        )


def test_an_item_outside_the_catalog_is_refused():
    with raises(InputError, value="i99"):
        split(train=frame(("a", [0], 1)), validation=frame(("a", [99], 2)), test=frame(("a", [0, 1], 2)))


def test_splits_made_in_python_count_their_train_rows_and_not_their_held_out_ones():
    """Few held-out rows, as of a sample of users, take nothing from what is counted."""
    rng = np.random.default_rng(0)
    log = pd.DataFrame(
        [(f"u{u}", f"i{rng.integers(8)}", t) for u in range(50) for t in range(12)],
        columns=["user", "item", "timestamp"],
    )
    whole = leave_one_out(log, IDS, max_history=20)
    own = Splits(whole.train, whole.validation.select(range(3)), whole.test.select(range(3)))
    counts = training_counts(whole, 8)
    assert counts.sum() == 500
    np.testing.assert_array_equal(training_counts(own, 8), counts)
    assert Popularity.from_splits(own, 8, Popularity.Settings()).counts.tolist() == counts.tolist()
    nameless = Splits(*(rows.remove_columns("user") for rows in (own.train, own.validation, own.test)))
    np.testing.assert_array_equal(training_counts(nameless, 8), counts)


def test_what_is_held_out_is_kept_with_the_splits(tmp_path):
    splits = split(train=TRAIN, validation=frame(("a", [1, 2], 7)), test=frame(("c", [1, 0], 7)))
    splits.save(tmp_path / "splits")
    loaded = Splits.load(tmp_path / "splits")
    assert loaded.held_out == splits.held_out and loaded.sequences is None
    (tmp_path / "splits/held_out.json").write_text(json.dumps({"kind": "rows", "told": 1}))
    with raises(InputError, file=tmp_path / "splits"):
        Splits.load(tmp_path / "splits")
    rows = Dataset.from_list([{"user": "a", "history": [1], "target": 2}])
    Splits(rows, rows, rows, sequences=rows.select_columns(["user", "history"])).save(tmp_path / "more")
    assert sequences_of(Splits.load(tmp_path / "more")) == [("a", [1])]
