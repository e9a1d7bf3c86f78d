import pyarrow as pa
import pytest
from datasets import Dataset

from interactions.provenance import Provenance, rows_digest
from tests.raising import raises

ROWS = {"user": ["a", "b"], "history": [[1, 2], [3]], "target": [4, 5]}
MADE = Provenance("cat", {"train": "t", "test": "x"}, {"seed": 1, "kind": "knn"})


def test_equal_rows_have_one_digest_however_they_are_stored(tmp_path):
    rows = Dataset.from_dict(ROWS)
    narrow = pa.table(
        {"user": ROWS["user"], "history": pa.array(ROWS["history"], pa.list_(pa.int32())), "target": [4, 5]}
    )
    rows.save_to_disk(tmp_path / "saved")
    longer = Dataset.from_dict({name: [*values, *values] for name, values in ROWS.items()})
    stored = [Dataset(narrow), Dataset.load_from_disk(tmp_path / "saved"), longer.select([0, 1]), longer.select([2, 3])]
    assert {rows_digest(one) for one in stored} == {rows_digest(rows)}


@pytest.mark.parametrize(
    "other",
    [
        ROWS | {"user": ["a", "c"]},
        ROWS | {"history": [[1], [2, 3]]},
        ROWS | {"history": [[2, 1], [3]]},
        ROWS | {"target": [5, 4]},
        ROWS | {"rating": [1.0, 2.0]},
        {name: values[::-1] for name, values in ROWS.items()},
        {name: values[:1] for name, values in ROWS.items()},
    ],
)
def test_other_rows_have_another_digest(other):
    assert rows_digest(Dataset.from_dict(other)) != rows_digest(Dataset.from_dict(ROWS))


def test_what_differs_is_named_and_splits_that_only_one_side_knows_do_not_count():
    assert MADE.differences(Provenance.from_dict(MADE.as_dict())) == {}
    assert MADE.differences(Provenance("cat", {"train": "t"}, {"seed": 1, "kind": "knn"})) == {}
    other = Provenance("cat", {"train": "u", "test": "x"}, {"seed": 2})
    assert MADE.differences(other) == {
        "splits.train": ("t", "u"),
        "settings.kind": ("knn", None),
        "settings.seed": (1, 2),
    }


def test_something_else_is_refused_by_its_first_difference():
    with raises(field="splits.test", value="y", file="folder"):
        MADE.check(Provenance("cat", {"test": "y"}, MADE.settings), "The folder", "Make it anew.", "folder")
    MADE.check(MADE, "The folder", "Make it anew.")
