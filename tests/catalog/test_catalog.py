import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import Catalog, Trie
from catalog.errors import InputError, SetupError
from catalog.text_column import TextColumn, first_repeated

ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=30)


FILES = {"catalog.arrow", "catalog.json", "catalog.safetensors"}


def make_catalog(rows, **options):
    return Catalog.from_codes([f"i{n}" for n in range(len(rows))], np.array(rows), **options)


def codes_of(catalog):
    return catalog.trie.codes(torch.arange(len(catalog))).tolist()


def same(one, other):
    shape = lambda c: (c.item_ids, c.titles, c.trie.sizes, c.trie.level_start)  # noqa: E731
    tensors = zip(*([getattr(c.trie, name) for name in Trie.TENSORS] for c in (one, other)), strict=True)
    return shape(one) == shape(other) and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in tensors)


@given(ROWS)
@settings(deadline=None)
def test_extending_makes_a_leaf_an_item_and_keeping_changes_no_code(rows):
    extended, kept = make_catalog(rows), make_catalog(rows, on_collision="keep")
    assert len(extended) == len(kept) == extended.trie.items == kept.trie.items == len(rows)
    assert extended.leaf_is_item and extended.trie.leaves == len(rows)
    assert kept.leaf_is_item == (len(set(rows)) == len(rows)) and kept.trie.leaves == len(set(rows))
    assert codes_of(kept) == [list(row) for row in rows]
    if kept.leaf_is_item:
        assert same(extended, kept)
    else:
        assert codes_of(extended) == [[*row, rows[:i].count(row)] for i, row in enumerate(rows)]
        assert extended.trie.sizes == (*kept.trie.sizes, max(map(rows.count, rows)))


def test_stated_sizes_may_be_larger_than_those_in_use():
    assert make_catalog([(0, 1), (2, 0)]).trie.sizes == (3, 2)
    assert make_catalog([(0, 1), (2, 0)], sizes=(4, 256)).trie.sizes == (4, 256)
    assert make_catalog([(0, 1), (0, 1)], sizes=(4, 256)).trie.sizes == (4, 256, 2)


@pytest.mark.parametrize(
    ("item_ids", "codes", "sizes", "message"),
    [
        (["p", "q", "p"], [[0], [1], [2]], None, "Item 'p' is listed twice"),
        (["p", "q"], [[0, 0], [0, 4]], (4, 4), "Item 'q' has code 4 at level 2, which holds the codes 0 to 3"),
        (["p", "q"], [[0, 0], [-1, 1]], None, "Item 'q' has code -1 at level 1"),
        (["p", "q"], [[0], [1], [2]], None, r"2 items with codes of shape \(3, 1\)"),
        (["p"], [[]], None, r"1 items with codes of shape \(1, 0\)"),
        ([], [], None, r"0 items with codes of shape \(0,\)"),
    ],
)
def test_items_and_codes_that_make_no_catalog_are_refused(item_ids, codes, sizes, message):
    with pytest.raises(ValueError, match=message):
        Catalog.from_codes(item_ids, np.array(codes), sizes=sizes)


@pytest.mark.parametrize("on_collision", ["extend", "keep"])
def test_a_saved_catalog_is_loaded_as_it_was_and_can_be_replaced(on_collision, tmp_path):
    for titles in ((), ("Größe", "b", "b")):
        catalog = make_catalog([(0, 1), (2, 0), (0, 1)], on_collision=on_collision, titles=titles)
        catalog.save(tmp_path / "a" / "b")
        assert same(Catalog.load(tmp_path / "a" / "b"), catalog)
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == FILES


@pytest.mark.parametrize("file", ["catalog.arrow", "catalog.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_file_that_was_changed_or_cut_is_refused(file, damage, tmp_path):
    make_catalog([(0, 1), (2, 0)], titles=("a", "b")).save(tmp_path)
    content = bytearray((tmp_path / file).read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content[:-9] if damage == "cut" else content)
    with pytest.raises(InputError) as error:
        Catalog.load(tmp_path)
    assert file in str(error.value) and "\n" not in str(error.value)


@given(st.lists(st.text(max_size=3), max_size=20), st.slices(20))
@settings(deadline=None)
def test_a_column_of_texts_is_a_sequence_of_them(texts, part):
    column = TextColumn(texts)
    assert column == texts and column == tuple(texts) and list(column) == texts and len(column) == len(texts)
    assert column[part] == texts[part] and column != [*texts, "x"]
    assert all(column[place] == text for place, text in enumerate(texts))
    seen = [text for place, text in enumerate(texts) if text in texts[:place]]
    assert first_repeated(column) == next(iter(seen), None)


def test_a_missing_catalog_is_named(tmp_path):
    with pytest.raises(InputError, match=r"The catalog .*catalog\.json does not exist"):
        Catalog.load(tmp_path)


@pytest.mark.parametrize(
    ("items", "title", "file"), [(100_000, "", "catalog.safetensors"), (2, "t" * 600_000, "catalog.arrow")]
)
def test_a_full_disk_leaves_the_saved_catalog_as_it_was(items, title, file, tmp_path, nearly_full_disk):
    small = make_catalog([(0, 1), (2, 0)])
    large = make_catalog([(n // 256, n % 256) for n in range(items)], titles=[title] * items)
    small.save(tmp_path)
    with pytest.raises(SetupError, match="could not be written .*Free space there") as error, nearly_full_disk():
        large.save(tmp_path)
    assert str(error.value).count("could not be written") == 1
    assert str(tmp_path / file) in str(error.value)
    assert same(Catalog.load(tmp_path), small)
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_a_catalog_of_an_earlier_version_is_refused(catalog, tmp_path):
    catalog.save(tmp_path)
    (tmp_path / "catalog.json").write_text('{"item_ids": ["a"], "titles": []}')
    with pytest.raises(InputError, match="an earlier version. Prepare the data again"):
        Catalog.load(tmp_path)
