"""Items that come later: their codes, and that nothing else moves."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import GPT2Config

from catalog import Catalog
from interactions import load_prepared
from recipes import extend as program
from semantic_ids import Codebooks, extend, extend_prepared, prepare, residual_kmeans, rq_vae
from tests.raising import raises

SIZES = (4, 4, 8)


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def made(vectors):
    """A catalog of 60 items, the codebooks it was made with, and the vectors of four items more."""
    codes, _, codebooks = residual_kmeans(vectors[:60], SIZES)
    return Catalog.from_codes([f"i{n}" for n in range(60)], codes), codebooks, vectors[60:]


@pytest.fixture
def prepared(tmp_path, vectors):
    """A prepared folder of 60 items with the vectors of 64, and its file of vectors."""
    rng = np.random.default_rng(1)
    items = np.concatenate([rng.permutation(60)[:12] for _ in range(60)] + [np.arange(60)])
    users = [f"u{n // 12}" for n in range(len(items))]
    pd.DataFrame({"user": users, "item": [f"i{n}" for n in items], "timestamp": range(len(items))}).to_csv(
        tmp_path / "log.csv", index=False
    )
    np.savez(tmp_path / "v.npz", ids=np.array([f"i{n}" for n in range(64)]), vectors=vectors)
    np.savez(tmp_path / "new.npz", ids=np.array([f"i{n}" for n in range(60, 64)]), vectors=vectors[60:])

    def do(**settings):
        given = {"min_interactions": 3, "vectors": [str(tmp_path / "v.npz")], "codebook_sizes": list(SIZES)}
        prepare(tmp_path / "log.csv", tmp_path / "data", **(given | settings))
        return tmp_path / "data"

    return do


@pytest.mark.parametrize("quantize", [residual_kmeans, lambda *given: rq_vae(*given, epochs=2)])
def test_kept_codebooks_give_the_codes_that_the_quantizer_gave(quantize, vectors, tmp_path):
    shifted = 3 * vectors + 1
    codes, _, codebooks = quantize(shifted, SIZES)
    codebooks.save(tmp_path)
    np.testing.assert_array_equal(Codebooks.load(tmp_path).codes(shifted), codes)


def test_centroids_of_given_codes_are_the_means_of_what_is_left():
    codes = np.array([[0, 1], [0, 0], [2, 1]])
    books = Codebooks.from_codes(codes, np.array([[1.0], [3.0], [8.0]]))
    torch.testing.assert_close(books.centroids[0], torch.tensor([[2.0], [0.0], [8.0]]))
    torch.testing.assert_close(books.centroids[1], torch.tensor([[1.0], [-0.5]]))  # of 1; of -1 and 0
    assert books.origin == "index"


def test_old_items_keep_semantic_ids_and_numbers_and_new_ones_get_their_own(made):
    catalog, codebooks, new = made
    grown = extend(catalog, codebooks, ["a", "b", "c", "d"], new, ["A", "", "", ""])
    assert grown.item_ids == (*catalog.item_ids, "a", "b", "c", "d") and grown.names[60:] == ("A", "b", "c", "d")
    items = torch.arange(60)
    assert torch.equal(grown.trie.codes(items), catalog.trie.codes(items))
    assert grown.trie.sizes == catalog.trie.sizes and grown.leaf_is_item
    assert grown.trie.codes(torch.arange(60, 64))[:, :2].tolist() == codebooks.codes(new)[:, :2].tolist()


def test_a_taken_leaf_gives_way_to_the_nearest_free_last_code():
    codebooks = Codebooks((torch.tensor([[0.0], [10.0]]), torch.tensor([[0.0], [1.0], [3.0]])))
    codes = np.array([[0, 0], [0, 2], [1, 0], [1, 1], [1, 2]])
    catalog = Catalog.from_codes(list("abcde"), codes)
    grown = extend(catalog, codebooks, ["f"], np.array([[2.9]]))  # [0, 2] is nearest and taken, then [0, 1]
    assert grown.trie.codes(torch.tensor(5)).tolist() == [0, 1]
    full = extend(catalog, codebooks, ["f"], np.array([[13.0]]))  # nothing is free below 1
    assert full.trie.codes(torch.tensor(5)).tolist() == [0, 1]
    with raises(row="g"):
        extend(grown, codebooks, ["g"], np.array([[0.0]]))


def test_only_codes_that_some_item_has_are_given():
    codebooks = Codebooks((torch.tensor([[0.0], [5.0], [10.0]]),))
    catalog = Catalog.from_codes(["a", "b"], np.array([[0, 0], [2, 1]]), sizes=(3, 4))
    grown = extend(catalog, codebooks, ["c", "d"], np.array([[4.9], [5.1]]))
    assert grown.trie.codes(torch.tensor([2, 3])).tolist() == [[0, 1], [2, 0]]  # not 1 at the first level, nor 2 after


def test_equal_vectors_get_different_semantic_ids(made):
    catalog, codebooks, new = made
    grown = extend(catalog, codebooks, ["a", "b", "c"], np.repeat(new[:1], 3, 0))
    assert grown.leaf_is_item and len(grown) == 63


def test_a_model_is_good_for_what_grew_from_its_catalog_and_for_nothing_else(made, tmp_path):
    catalog, codebooks, new = made
    once = extend(catalog, codebooks, ["a"], new[:1])
    extend(once, codebooks, ["b"], new[1:2]).save(tmp_path)
    twice = Catalog.load(tmp_path)
    assert [one.items for one in twice.grown_from] == [60, 61]
    trained = GPT2Config(catalog_fingerprint=catalog.fingerprint)
    for grown in (catalog, once, twice):
        grown.check_trained(trained)
    twice.check_trained(GPT2Config(catalog_fingerprint=once.fingerprint))
    for other in (extend(catalog, codebooks, ["a"], new[1:2]), catalog):
        with raises(field="catalog_fingerprint"):
            other.check_trained(GPT2Config(catalog_fingerprint=once.fingerprint))


def test_a_grown_catalog_whose_old_semantic_ids_moved_is_refused(made, tmp_path):
    catalog, codebooks, new = made
    grown = extend(catalog, codebooks, ["a"], new[:1])
    first, second, *others = grown.item_ids
    replace(grown, item_ids=[second, first, *others]).save(tmp_path)
    with raises(field="grown_from", value=catalog.fingerprint):
        Catalog.load(tmp_path).check_trained(GPT2Config(catalog_fingerprint=catalog.fingerprint))


@pytest.mark.parametrize(
    ("item_ids", "rows", "named"),
    [
        (["a", "i3"], slice(2), {"field": "item_ids", "value": "i3"}),
        (["a", "a"], slice(2), {"value": "a"}),
        (["a"], slice(2), {"field": "vectors", "value": 2}),
        ([], slice(0), {"field": "vectors", "value": 0}),
    ],
)
def test_items_that_cannot_be_added_are_refused(item_ids, rows, named, made):
    catalog, codebooks, new = made
    with raises(**named):
        extend(catalog, codebooks, item_ids, new[rows])


def test_vectors_that_cannot_be_coded_are_refused(made):
    catalog, codebooks, new = made
    with raises(field="vectors", value=(4, 5)):
        extend(catalog, codebooks, list("abcd"), new[:, :5])
    bad = new.copy()
    bad[2, 1] = np.nan
    with raises(field="vectors", row=2):
        extend(catalog, codebooks, list("abcd"), bad)
    other = Catalog.from_codes(["x", "y"], np.array([[0], [1]]))
    with raises(field="codebooks"):
        extend(other, codebooks, ["a"], new[:1])


def test_a_prepared_folder_grows_and_keeps_its_rows(prepared, tmp_path, capsys):
    data = prepared()
    program.main(["--data", str(data), "--vectors", str(tmp_path / "new.npz"), "--output_dir", str(tmp_path / "grown")])
    assert "new_items 4" in capsys.readouterr().out
    (old, splits), (grown, same) = load_prepared(data), load_prepared(tmp_path / "grown")
    assert grown.item_ids == (*old.item_ids, "i60", "i61", "i62", "i63") and grown.continues(old.fingerprint)
    assert same.test.to_list() == splits.test.to_list()
    np.savez(tmp_path / "last.npz", ids=np.array(["i64"]), vectors=np.ones((1, 6)))
    counts = extend_prepared(tmp_path / "grown", tmp_path / "more", vectors=[str(tmp_path / "last.npz")])
    assert counts["items"] == 65 and load_prepared(tmp_path / "more")[0].continues(old.fingerprint)


def test_an_index_with_vectors_beside_it_keeps_codebooks_and_without_them_none(prepared, tmp_path):
    codes = np.random.default_rng(0).integers(0, 4, (60, 3))
    (tmp_path / "index.json").write_text(json.dumps({f"i{n}": row for n, row in enumerate(codes.tolist())}))
    data = prepared(index=str(tmp_path / "index.json"))
    assert Codebooks.load(data).origin == "index"
    shares = json.loads((data / "metrics.json").read_text())["nearest_codes"]
    assert len(shares) == 3 and 1 >= shares[0] >= shares[2] >= 0
    assert extend_prepared(data, tmp_path / "grown", vectors=[str(tmp_path / "new.npz")])["new_items"] == 4
    data = prepared(index=str(tmp_path / "index.json"), vectors=None)
    with raises(file=data, field="codebooks"):
        extend_prepared(data, tmp_path / "grown", vectors=[str(tmp_path / "new.npz")])


def test_sources_that_new_items_cannot_have_are_refused(prepared, tmp_path):
    with raises(field="vectors", value="cooccurrence"):
        extend_prepared(prepared(), tmp_path / "grown", vectors=["cooccurrence"])


@pytest.mark.parametrize("made_from", [(), ("cooccurrence",), ("v.npz", "cooccurrence")])
def test_semantic_ids_of_interactions_do_not_grow_even_where_the_width_fits(made_from, prepared, tmp_path):
    sources = [str(tmp_path / name) if name == "v.npz" else name for name in made_from]
    data = prepared(vectors=sources or None)
    width = Codebooks.load(data).width
    np.savez(tmp_path / "new.npz", ids=np.array(["i60"]), vectors=np.ones((1, width)))
    with raises(field="vectors", value="cooccurrence"):
        extend_prepared(data, tmp_path / "grown", vectors=[str(tmp_path / "new.npz")])
    assert not (tmp_path / "grown").exists()


def test_each_source_that_was_fused_has_its_own_for_new_items(prepared, tmp_path):
    data = prepared(vectors=[str(tmp_path / "v.npz")] * 2)
    np.savez(tmp_path / "one.npz", ids=np.array(["i60"]), vectors=np.ones((1, 12)))  # as wide as both
    with raises(field="vectors", value=1):
        extend_prepared(data, tmp_path / "grown", vectors=[str(tmp_path / "one.npz")])
    counts = extend_prepared(data, tmp_path / "grown", vectors=[str(tmp_path / "new.npz")] * 2)
    assert counts["new_items"] == 4


def test_new_items_of_a_file_may_have_equal_vectors(prepared, tmp_path):
    np.savez(tmp_path / "new.npz", ids=np.array(["a", "b"]), vectors=np.ones((2, 6)))
    extend_prepared(prepared(), tmp_path / "grown", vectors=[str(tmp_path / "new.npz")])
    grown, _ = load_prepared(tmp_path / "grown")
    assert grown.item_ids[60:] == ("a", "b") and grown.leaf_is_item
