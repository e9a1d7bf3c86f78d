"""prepare: from a log or from split rows to a folder that says what it holds out."""

import json

import numpy as np
import pytest
import yaml

from catalog.errors import InputError
from catalog.files import sealed
from experiments.command_line import parse
from interactions import load_prepared, training_counts
from semantic_ids import prepare
from semantic_ids.settings import DataArguments
from tests.raising import raises

ROWS = {"train": "a.csv", "validation": "b.csv", "test": "c.csv"}


@pytest.fixture
def log(tmp_path):
    """30 users, each of whom takes 10 of 20 items on 10 days in a row; the first day is the user's number."""
    rng = np.random.default_rng(0)
    lines = [f"u{u},i{item},2014-04-{1 + n:02d}" for u in range(30) for n, item in enumerate(rng.permutation(20)[:10])]
    (tmp_path / "log.csv").write_text("user,item,timestamp\n" + "\n".join(lines) + "\n")
    return tmp_path / "log.csv"


def test_a_log_is_split_by_time_from_a_recipe(log, tmp_path):
    recipe = {"log": str(log), "split": "time", "split_at": ["2014-04-08", "2014-04-09"], "codebook_sizes": [4, 4]}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({**recipe, "output_dir": str(tmp_path / "data")}))
    (args,) = parse(["--config", str(tmp_path / "data.yaml")], DataArguments)
    counts = prepare(**vars(args))
    catalog, splits = load_prepared(tmp_path / "data")
    assert counts["held_out"] == splits.held_out.test == "each user's first event from 2014-04-09 on"
    assert {name: counts[name] for name in ("users", "training_events", "validation_rows", "test_rows")} == {
        **{"users": 30, "training_events": 210},
        **{"validation_rows": 30, "test_rows": 30},
    }
    assert training_counts(splits, len(catalog)).sum() == 210
    assert sealed(tmp_path / "data", "The folder")["settings"]["split_at"] == ["2014-04-08", "2014-04-09"]


def test_quantiles_of_a_recipe_are_numbers(log, tmp_path):
    counts = prepare(log, tmp_path / "data", split="time", split_at=[0.5, 0.7], codebook_sizes=[4, 4])
    assert counts["training_events"] == 150


@pytest.mark.parametrize("train", ["rows", "histories"])
def test_rows_of_ones_own_are_prepared(train, tmp_path):
    rng = np.random.default_rng(0)
    for name, length in (("train", 4), ("validation", 5), ("test", 6)):
        rows = [{"who": u, "past": rng.integers(20, size=length).tolist(), "next": u % 20} for u in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ROWS}
    if train == "histories":
        files["train"] = train
    columns = {"user": "who", "history": "past", "target": "next"}
    counts = prepare(None, tmp_path / "data", **files, columns=columns, codebook_sizes=[4, 4])
    catalog, splits = load_prepared(tmp_path / "data")
    assert counts["training_events"] == 200  # 4 + 1 or 5 of each user
    assert counts["held_out"] == splits.held_out.test == "the rows of test.jsonl"
    assert set(catalog.item_ids) == {str(item) for item in range(20)}
    repeats = sum(row["target"] in row["history"] for row in splits.test)
    assert counts["unrankable"]["test"] == repeats > 0


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({}, "log"),
        ({"validation": "b.csv", "test": "c.csv"}, "train"),
        ({"train": "a.csv", "test": "c.csv"}, "validation"),
        ({"log": "l.csv", "train": "a.csv"}, "train"),
        ({"log": "l.csv", "split_at": ["0.1", "0.2"]}, "split_at"),
        ({"log": "l.csv", "split": "times"}, "split"),
        ({**ROWS, "users": 3}, "users"),
        ({**ROWS, "split": "time"}, "split"),
        ({**ROWS, "split_at": ["0.1", "0.2"]}, "split_at"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, field):
    with raises(InputError, field=field):
        DataArguments(output_dir="o", **settings)
