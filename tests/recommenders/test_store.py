import os
from dataclasses import replace

import numpy as np
import pytest
import torch

import recommenders.store as store
from catalog import Catalog
from catalog.errors import InputError, SetupError
from recommenders import RECOMMENDERS, fit_recommender, load_recommender
from tests.raising import raises

FEW = {
    "popularity": {},
    "item_knn": {"neighbors": 5, "decay": 0.8},
    "sasrec": {"max_length": 8, "dimensions": 8, "layers": 1, "epochs": 1},
    "als": {"dimensions": 4},
    "bpr": {"dimensions": 4, "iterations": 5},
    "text_knn": {"vectors": "items.npz"},
}
HISTORIES = [[0, 2, 4], [1], []]


@pytest.fixture
def fit(blocks, catalog, tmp_path, tmp_path_factory, monkeypatch):
    """Fits into a folder called like the kind; the catalog has 48 items, of which 40 were taken."""

    monkeypatch.chdir(tmp_path_factory.mktemp("vectors"))
    vectors = np.random.default_rng(0).normal(size=(48, 6))
    np.savez("items.npz", ids=np.array(catalog.item_ids), vectors=vectors)

    def do(kind, settings=None, splits=blocks, name=None):
        settings = FEW.get(kind, {}) if settings is None else settings
        return fit_recommender(kind, settings, splits, catalog, tmp_path / (name or kind))

    return do


@pytest.fixture
def trained(monkeypatch):
    """The kinds that are trained from here on."""
    kinds = []
    for kind, model in RECOMMENDERS.items():
        if kind == "text_knn":
            continue  # which trains nothing

        def noting(splits, items, settings, kind=kind, original=model.from_splits):
            kinds.append(kind)
            return original(splits, items, settings)

        monkeypatch.setattr(model, "from_splits", noting)
    return kinds


def test_every_kind_is_tried_here():
    assert FEW.keys() == RECOMMENDERS.keys()


@pytest.mark.parametrize("kind", FEW)
def test_a_loaded_recommender_answers_bit_for_bit_like_the_fitted_one(kind, fit, catalog, tmp_path):
    model, loaded = fit(kind), load_recommender(tmp_path / kind, catalog)
    own = [[0, 2, 4, 6], [1, 3], [5]]
    for method in ("score", "probabilities"):
        for without in (None, own):
            answer = getattr(model, method)(HISTORIES, without)
            assert answer.dtype == torch.float32 and answer.shape == (3, 48)
            assert torch.equal(answer, getattr(loaded, method)(HISTORIES, without))
    probabilities = loaded.probabilities(HISTORIES, own)
    assert probabilities.min() >= 0
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(3))


def test_nothing_is_trained_twice(fit, trained, catalog, tmp_path):
    first = fit("als")
    again = fit("als", {"alpha": 3, "dimensions": 4})  # alpha as it is by default
    assert trained == ["als"]
    assert torch.equal(first.score(HISTORIES), again.score(HISTORIES))


def test_what_has_changed_is_trained_again(fit, trained, blocks, catalog, tmp_path):
    fit("als")
    fit("als", {"dimensions": 3})
    assert load_recommender(tmp_path / "als", catalog).factors.shape == (48, 3)
    fit("als", {"dimensions": 3}, replace(blocks, validation=blocks.test))
    fit("popularity", name="als")
    fit_recommender("popularity", {}, blocks, replace(catalog, item_ids=catalog.item_ids[::-1]), tmp_path / "als")
    assert trained == ["als", "als", "als", "popularity", "popularity"]


def test_a_mixture_is_made_of_its_neighbors_and_stands_alone(fit, trained, catalog, tmp_path):
    parts = [fit("popularity"), fit("item_knn")]
    mixture = fit("mixture", {"weights": {"popularity": 1, "item_knn": 3}})
    assert trained == ["popularity", "item_knn"]
    os.rename(tmp_path / "mixture", tmp_path / "moved")
    fit("popularity", name="item_knn")
    popularity, knn = (part.probabilities(HISTORIES) for part in parts)
    torch.testing.assert_close(mixture.probabilities(HISTORIES), 0.25 * popularity + 0.75 * knn)
    loaded = load_recommender(tmp_path / "moved", catalog)
    assert torch.equal(loaded.probabilities(HISTORIES), mixture.probabilities(HISTORIES))


def test_what_was_fitted_of_a_mixture_is_kept(fit, catalog, tmp_path):
    fit("popularity")
    fit("item_knn")
    mixture = fit("mixture", {"weights": {"popularity": 1, "item_knn": 1}, "fit": "confidence"})
    assert all(mixture.slopes.values())
    loaded = load_recommender(tmp_path / "mixture", catalog)
    assert torch.equal(loaded.probabilities(HISTORIES), mixture.probabilities(HISTORIES))


def test_a_mixture_is_made_anew_only_where_a_part_or_a_weight_changed(fit, tmp_path):
    fit("popularity")
    fit("item_knn")

    def made(weights):
        fit("mixture", {"weights": weights})
        return (tmp_path / "mixture" / "complete.json").stat().st_mtime_ns

    first = made({"popularity": 1, "item_knn": 3})
    assert made({"popularity": 1, "item_knn": 3}) == first
    second = made({"popularity": 2, "item_knn": 3})
    assert second != first
    fit("item_knn", {"neighbors": 2})
    assert made({"popularity": 2, "item_knn": 3}) != second
    assert (tmp_path / "mixture/item_knn/complete.json").read_text() == (
        tmp_path / "item_knn/complete.json"
    ).read_text()


def test_a_mixture_needs_its_parts_fitted_on_the_same_data(fit, blocks, tmp_path):
    weights = {"weights": {"popularity": 1}}
    with raises(InputError, file=tmp_path / "popularity"):
        fit("mixture", weights)
    fit("popularity", splits=replace(blocks, validation=blocks.test))
    with raises(InputError, file=tmp_path / "popularity", field="splits.validation"):
        fit("mixture", weights)
    assert not (tmp_path / "mixture").exists()


def test_another_catalog_is_refused(fit, catalog, tmp_path):
    fit("popularity")
    codes = catalog.trie.codes(torch.arange(48)).flip(0).numpy()
    other = Catalog.from_codes(catalog.item_ids, codes)
    with raises(InputError, file=tmp_path / "popularity", field="catalog"):
        load_recommender(tmp_path / "popularity", other)


def test_a_model_of_other_rows_is_refused_wherever_its_rows_are_known(fit, blocks, catalog, tmp_path):
    fit("popularity")
    longer = replace(blocks, train=blocks.validation, validation=blocks.test)
    load_recommender(tmp_path / "popularity", catalog, blocks.rows)
    load_recommender(tmp_path / "popularity", catalog)
    for rows, first in ((longer.rows, "splits.train"), ({"validation": longer.validation}, "splits.validation")):
        with raises(InputError, file=tmp_path / "popularity", field=first):
            load_recommender(tmp_path / "popularity", catalog, rows)
    marked = blocks.train.add_column("price", [1.0] * len(blocks.train))
    load_recommender(tmp_path / "popularity", catalog, {"train": marked})  # what is beside the rows does not count


def test_a_folder_of_something_else_is_not_replaced(fit, tmp_path):
    (tmp_path / "popularity").mkdir()
    (tmp_path / "popularity" / "model.safetensors").write_bytes(b"a trained policy")
    with raises(InputError, file=tmp_path / "popularity"):
        fit("popularity")
    assert [path.name for path in (tmp_path / "popularity").iterdir()] == ["model.safetensors"]


def test_a_record_without_what_it_was_made_of_and_a_torn_file_are_refused_and_fitted_again(
    fit, trained, catalog, tmp_path
):
    fit("als")
    folder = tmp_path / "als"
    (folder / "complete.json").unlink()
    with raises(InputError, file=folder):
        load_recommender(folder, catalog)
    fit("als")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-8])
    with raises(InputError, file=folder):
        load_recommender(folder, catalog)
    (folder / "model.safetensors").write_bytes(b"\xff" * len(content))
    with raises(InputError, file=folder / "model.safetensors"):
        load_recommender(folder, catalog)
    (folder / "model.safetensors").unlink()
    fit("als")
    assert trained == ["als"] * 3


def test_a_folder_without_a_recommender_is_named(catalog, tmp_path):
    with raises(InputError, file=tmp_path / "none"):
        load_recommender(tmp_path / "none", catalog)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("knn", {}, "'knn' is not a kind of recommender. Choose one of"),
        ("item_knn", {"neighbor": 3}, "'neighbor' is not a setting of item_knn. Did you mean neighbors?"),
        ("item_knn", {"shrinkage": 3}, "'shrinkage' is not a setting of item_knn. It has neighbors, decay, seed."),
        ("popularity", {"decay": 1}, "'decay' is not a setting of popularity. It has none."),
        ("mixture", {"weight": {}}, "'weight' is not a setting of mixture. Did you mean weights?"),
        ("mixture", {}, "Give each part one weight"),
    ],
)
def test_a_slip_is_answered_with_what_there_is(kind, settings, message, fit):
    with pytest.raises(ValueError, match=message):
        fit(kind, settings)


def test_an_interrupted_save_leaves_the_old_one(fit, catalog, tmp_path, monkeypatch):
    old = fit("als").score(HISTORIES)

    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(SetupError, match="could not be written"):
        fit("als", {"dimensions": 3})
    assert torch.equal(load_recommender(tmp_path / "als", catalog).score(HISTORIES), old)
    assert {path.name for path in tmp_path.iterdir()} == {"als", ".als.lock"}
