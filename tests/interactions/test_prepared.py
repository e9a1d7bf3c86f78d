from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import Catalog
from catalog.errors import InputError
from catalog.files import MARKER
from interactions import Splits, check_rows, load_prepared, read_items, save_prepared, unrankable
from tests.raising import raises

ROWS = Dataset.from_list([{"user": "u", "history": [0, 1], "target": 1}, {"user": "v", "history": [2], "target": 0}])
NUMBERS = st.integers(-2, 6) | st.just(None)


@given(st.lists(st.tuples(st.lists(NUMBERS, max_size=4), NUMBERS), min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_rows_are_refused_exactly_where_a_value_is_no_item(pairs):
    features = {"history": [[0]], "target": [0]}
    rows = Dataset.from_dict(
        {"history": [history for history, _ in pairs], "target": [target for _, target in pairs]},
        features=Dataset.from_dict(features).features,
    )
    items = lambda row: [*row[0], row[1]]  # noqa: E731
    sound = all(row[0] and all(item in range(5) for item in items(row)) for row in pairs)
    try:
        check_rows("rows", rows, 5)
    except InputError as error:
        assert not sound and error.field in ("history", "target")
        history, target = pairs[error.row]
        assert error.value in ([], target) if error.field == "target" or not history else error.value in history
    else:
        assert sound
        assert unrankable(rows).tolist() == [target in history for history, target in pairs]


@pytest.fixture
def parts():
    return Catalog.from_codes(["a", "b", "c"], np.array([[0], [1], [2]])), Splits(ROWS, ROWS, ROWS)


def test_a_prepared_folder_is_replaced_as_a_whole_and_loaded_as_it_was(parts, tmp_path):
    for users in (2, 1):
        catalog, splits = parts[0], replace(parts[1], test=ROWS.select(range(users)))
        save_prepared(tmp_path / "data", catalog, splits, {"users": users})
        read, rows = load_prepared(tmp_path / "data")
        assert read.fingerprint == catalog.fingerprint and rows.test.to_list() == splits.test.to_list()
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == ["data"]


def test_files_of_others_are_not_removed(parts, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").touch()
    with raises(file=tmp_path / "data", value="thesis.tex"):
        save_prepared(tmp_path / "data", *parts)
    assert (tmp_path / "data" / "thesis.tex").exists()


def test_a_folder_that_was_not_completed_or_was_mixed_is_refused(parts, tmp_path):
    save_prepared(tmp_path / "data", *parts)
    replace(parts[1], test=ROWS.select([1, 0])).save(tmp_path / "data" / "splits")
    with raises(file=tmp_path / "data"):
        load_prepared(tmp_path / "data")
    (tmp_path / "data" / MARKER).unlink()
    with raises(file=tmp_path / "data"):
        load_prepared(tmp_path / "data")
    save_prepared(tmp_path / "data", *parts)  # its own remains are replaced
    load_prepared(tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.json", '{"1": {"title": "A"}, "2": "B", "3": null}'),
        ("t.json", '{"1.0": {"title": "A"}, "2.0": {"title": "B"}, "3.0": {"Title": "C"}}'),
        ("t.json", '[{"id": 1, "title": "A"}, {"id": 2, "title": "B"}, {"id": 3}]'),
        ("t.jsonl", '{"item": "1", "title": "A"}\n{"item": " 2", "title": "B"}\n{"item": "3", "title": null}\n'),
        ("t.csv", "id,title\n1,A\n2,B\n3,\n"),
    ],
)
def test_titles_are_read_from_any_table(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    assert read_items(tmp_path / name) == {"1": "A", "2": "B", "3": ""}


@pytest.mark.parametrize(
    ("text", "row"),
    [('{"1": 2.5}', "1"), ('{"1": {"title": ["A"]}}', "1"), ('["A"]', 1), ('{"1": "A", "1 ": "B"}', "1")],
)
def test_titles_of_another_kind_are_refused_by_entry(text, row, tmp_path):
    (tmp_path / "t.json").write_text(text)
    with raises(file=tmp_path / "t.json", row=row):
        read_items(tmp_path / "t.json")
