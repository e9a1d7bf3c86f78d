"""text_knn: a density worked out by hand, and items that nobody took."""

import math

import numpy as np
import pytest
import torch

from catalog import Catalog
from interactions import training_sequences
from recommenders import TextKNN, fit_recommender
from recommenders.text_knn import within_histories
from tests.raising import raises
from tests.recommenders.conftest import splits_of

UNIT = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])


def test_score_is_the_log_density_of_the_other_events():
    model = TextKNN(UNIT, width=0.5, decay=0.8)
    near = math.exp((0.8 - 1) / 0.5)  # of items 1 and 2
    middle, far = math.exp((0.6 - 1) / 0.5), math.exp((0.0 - 1) / 0.5)
    expected = torch.tensor([[far, 0.8 * far, 0.8 * middle + near]]).log()  # age 1: item 0, age 0: item 1
    torch.testing.assert_close(model.score([[0, 1]]), expected)
    torch.testing.assert_close(model.score([[1, 1]])[0, 2], torch.tensor(1.8 * near).log())


def test_an_empty_history_makes_all_items_alike():
    model = TextKNN(UNIT)
    torch.testing.assert_close(model.probabilities([[], [0]])[0], torch.full((3,), 1 / 3))
    assert model.probabilities([[], [0]])[1].argmax() == 2


@pytest.mark.parametrize("width", [1e-3, 10.0])
def test_no_width_overflows(width):
    assert TextKNN(UNIT, width=width).score([[0], [0, 1, 2] * 400]).isfinite().all()


def test_items_that_nobody_took_are_scored_like_others(blocks, catalog, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(49, 4))
    vectors[48] = vectors[0] + 0.01  # item 48 is new and looks like item 0
    path = tmp_path / "items.npz"
    np.savez(path, ids=np.array([*catalog.item_ids, "new"]), vectors=vectors)
    grown = catalog.grow(["new"], np.array([[3, 4, 5, 0]]))
    assert isinstance(grown, Catalog)
    model = fit_recommender("text_knn", {"vectors": str(path)}, blocks, grown, tmp_path / "text_knn")
    assert model.score([[0]])[0].argmax() == 48
    wider = grown.grow(["x"], np.array([[3, 4, 4, 0]]))
    with raises(file=path, row="x"):
        fit_recommender("text_knn", {"vectors": str(path)}, blocks, wider, tmp_path / "wider")


def test_what_varies_within_histories_counts_less():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 3)) * np.array([3.0, 1.0, 1.0])
    splits = splits_of([rng.choice(40, size=6, replace=False).tolist() for _ in range(30)])
    histories = training_sequences(splits)["history"][:]
    apart = np.concatenate([vectors[items] - vectors[items].mean(0) for items in histories])
    scatter = (apart.T @ apart + (apart**2).sum() / len(apart) * np.eye(3)) / (len(apart) + 3)
    found = within_histories(vectors, splits)
    np.testing.assert_allclose(found @ scatter @ found, np.eye(3), atol=1e-9)
    alone = splits_of([[item] * 3 for item in range(40)])
    np.testing.assert_array_equal(within_histories(vectors, alone), np.eye(3))


@pytest.mark.parametrize(("name", "value"), [("width", 0.0), ("decay", -1.0), ("vectors", "")])
def test_settings_that_cannot_work_are_refused(name, value):
    with raises(field=name, value=value):
        TextKNN.Settings(**({"vectors": "items.npz"} | {name: value}))
