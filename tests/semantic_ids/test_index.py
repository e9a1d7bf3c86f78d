import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import Catalog
from catalog.catalog import collision_rank
from catalog.errors import InputError
from semantic_ids import colliding, read_index, write_index
from tests.raising import raises


def written(tmp_path, text):
    path = tmp_path / "index.json"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "table",
    [
        {"7": ["<a_183>", "<b_70>"], "x y": ["<a_0>", "<b_255>"]},  # LETTER, LC-Rec and MiniOneRec
        {"7": [183, 70], "x y": [0, 255]},
    ],
)
def test_both_layouts_are_read_in_the_order_of_the_file(table, tmp_path):
    item_ids, codes = read_index(written(tmp_path, json.dumps(table)))
    assert item_ids == ("7", "x y")
    assert codes.dtype == np.int64
    assert codes.tolist() == [[183, 70], [0, 255]]


ROWS = st.integers(1, 5).flatmap(
    lambda levels: st.dictionaries(
        st.text(min_size=1).filter(lambda text: text == text.strip() and not text.endswith(".0")),
        st.lists(st.integers(0, 2**40), min_size=levels, max_size=levels),
        min_size=1,
    )
)


@given(ROWS)
@settings(deadline=None)
def test_what_is_written_is_read_back(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("index") / "index.json"
    write_index(path, list(table), np.array(list(table.values())))
    item_ids, codes = read_index(path)
    assert dict(zip(item_ids, codes.tolist(), strict=True)) == table
    assert [p.name for p in path.parent.iterdir()] == ["index.json"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"semantic-ID index .*none\.json does not exist\. Check the path"):
        read_index(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"1": [1, 2],\n"2": [1, }', r"index\.json is not valid JSON: .* at line 2, column 10\. Repair"),
        ("", "is not valid JSON: .* at line 1"),
        ("[[1, 2]]", "holds no items. An index is a JSON object"),
        ("{}", "holds no items"),
        ('{"1": [1, 2], "b": [3]}', "item b has 1 codes and the first item 2"),
        ('{"1": []}', "item 1 has 0 codes .* non-zero number of levels"),
        ('{"1": "<a_1><b_2>"}', "item 1 has '<a_1><b_2>' instead of a list of codes"),
        ('{"1": [1, -2]}', r"item 1 has -2 at level 2\. A code is a number >= 0 or a token such as \"<b_12>\""),
        ('{"1": [1.5]}', "item 1 has 1.5 at level 1"),
        ('{"1": [true]}', "item 1 has True at level 1"),
        ('{"1": [null]}', "item 1 has None at level 1"),
        ('{"1": ["<a_1>", "<c_2>"]}', "item 1 has '<c_2>' at level 2"),
        ('{"1": ["<a_-1>"]}', "item 1 has '<a_-1>' at level 1"),
        ('{"1": ["a_1"]}', "item 1 has 'a_1' at level 1"),
    ],
)
def test_a_bad_index_is_refused_by_file_and_item(text, message, tmp_path):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=message) as error:
        read_index(path)
    assert str(path) in str(error.value)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_items_of_equal_codes_are_ranked_in_their_order_and_counted(rows):
    codes = np.array(rows)
    assert collision_rank(codes).tolist() == [rows[:i].count(row) for i, row in enumerate(rows)]
    assert colliding(codes) == sum(rows.count(row) > 1 for row in rows)


def test_a_catalog_of_an_index_has_its_items_and_codes(tmp_path):
    index = read_index(written(tmp_path, '{"p": [1, 0], "q": [0, 2], "r": [1, 0]}'))
    assert Catalog.from_codes(*index).trie.leaves == 3
    catalog = Catalog.from_codes(*index, on_collision="keep")
    assert catalog.item_ids == ("p", "q", "r")
    assert catalog.trie.sizes == (2, 3)


@pytest.mark.parametrize("code", [2**70, '"<a_99999999999999999999>"', '"<a_\\u0661>"'])
def test_a_code_that_no_integer_holds_is_refused(code, tmp_path):
    with raises(file=tmp_path / "index.json", row="x", field="level 1"):
        read_index(written(tmp_path, f'{{"x": [{code}]}}'))


@pytest.mark.parametrize("row", [[0, 10**9], [2**62, 0], [0] * 27])
def test_codes_that_no_vocabulary_holds_are_refused_before_anything_is_made(row, tmp_path):
    index = read_index(written(tmp_path, json.dumps({"x": row, "y": [1] * len(row)})))
    with raises(field="sizes"):
        Catalog.from_codes(*index)
