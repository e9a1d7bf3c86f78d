"""Codebooks that follow the number of items, and items whose codes are taken."""

import json

import numpy as np
import pytest
import torch

from interactions import load_prepared
from semantic_ids import Codebooks, colliding, prepare, residual_kmeans
from semantic_ids.free_ids import spread
from semantic_ids.quantizer import default_sizes
from semantic_ids.settings import DataArguments
from tests.raising import raises


@pytest.mark.parametrize(
    ("items", "size"), [(1, 1), (2, 2), (40, 16), (1349, 64), (3541, 128), (12_101, 256), (1_000_000, 2048)]
)
def test_sizes_follow_the_number_of_items(items, size):
    assert default_sizes(items) == (size,) * 3 and size <= items <= size**3


@pytest.mark.parametrize(("items", "distinct"), [(300, 300), (300, 12), (40, 2)])
def test_no_two_items_are_left_with_equal_codes(items, distinct):
    some = np.random.default_rng(0).normal(size=(distinct, 5)).astype(np.float32)
    vectors = some[np.arange(items) % distinct]  # as items without a training event, whose vectors are equal
    codes, _, codebooks = residual_kmeans(vectors, default_sizes(items))
    apart = spread(codes, codebooks, vectors, [f"i{n}" for n in range(items)])
    assert colliding(apart) == 0
    first = np.unique(codes, axis=0, return_index=True)[1]
    np.testing.assert_array_equal(apart[first], codes[first])
    assert (apart < default_sizes(items)).all() and (apart >= 0).all()


def test_who_comes_late_gets_the_nearest_last_code_that_is_free_or_one_before_it():
    codebooks = Codebooks((torch.tensor([[0.0], [10.0]]), torch.tensor([[0.0], [1.0], [3.0]])))
    vectors = np.array([[0.1], [0.2], [0.3], [0.0], [9.0]])
    codes = codebooks.codes(vectors)
    assert codes.tolist() == [[0, 0], [0, 0], [0, 0], [0, 0], [1, 0]]
    assert spread(codes, codebooks, vectors, "abcde").tolist() == [[0, 0], [0, 1], [0, 2], [1, 1], [1, 0]]
    with raises(row="g"):
        spread(np.r_[codes, codes[:2]], codebooks, np.r_[vectors, vectors[:2]], "abcdefg")


def test_prepared_without_sizes_every_item_has_codes_of_its_own(tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"u{u},i{item},{n}" for u in range(60) for n, item in enumerate(rng.permutation(90)[:12])]
    (tmp_path / "log.csv").write_text("user,item,timestamp\n" + "\n".join(lines) + "\n")
    counts = prepare(tmp_path / "log.csv", tmp_path / "data", min_interactions=3)
    catalog, _ = load_prepared(tmp_path / "data")
    assert catalog.leaf_is_item and catalog.trie.levels == 3 and counts["codebook_sizes"] == [16, 16, 16]
    settings = json.loads((tmp_path / "data/complete.json").read_text())["of"]["settings"]
    assert (settings["codebook_sizes"], settings["on_collision"]) == (None, "nearest")


def test_named_codebooks_and_indexes_keep_the_code_that_tells_apart():
    assert DataArguments(log="l.csv", output_dir="x").on_collision == "nearest"
    assert DataArguments(log="l.csv", output_dir="x", codebook_sizes=[4, 4]).on_collision == "extend"
    assert DataArguments(log="l.csv", output_dir="x", index="i.json").on_collision == "extend"
    assert DataArguments(log="l.csv", output_dir="x", on_collision="keep").on_collision == "keep"
    with raises(field="on_collision", value="nearest"):
        DataArguments(log="l.csv", output_dir="x", index="i.json", on_collision="nearest")
