from dataclasses import replace

import numpy as np
import pytest
import torch

from interactions import training_sequences
from recommenders import ALS, fit_recommender, load_recommender
from recommenders.cross_fitted import share_of
from tests.raising import raises

ALS_OF_4 = {"dimensions": 4}


@pytest.fixture
def fit(blocks, catalog, tmp_path):
    """ALS in the folder `als`, and what is cross-fitted of it in `out`."""

    def do(settings=None, splits=blocks, copies=2):
        fit_recommender("als", settings or ALS_OF_4, splits, catalog, tmp_path / "als")
        of = {"of": "als", "copies": copies}
        return fit_recommender("cross_fitted", of, splits, catalog, tmp_path / "out")

    return do


@pytest.mark.parametrize("copies", [2, 3])
def test_a_training_user_is_answered_by_a_copy_fitted_on_the_others(copies, fit, blocks, catalog):
    found = fit(copies=copies)
    sequences = training_sequences(blocks)
    users = sequences["history"][:]
    shares = np.array([share_of(user, copies) for user in users])
    assert set(shares) == set(range(copies))
    histories = [user[:2] for user in users]
    answers = found.probabilities(histories, users)
    for share in range(copies):
        others = replace(blocks, sequences=sequences.select(np.flatnonzero(shares != share)))
        alone = ALS.from_splits(others, len(catalog), ALS.Settings(**ALS_OF_4))
        rows = np.flatnonzero(shares == share)
        assert torch.equal(answers[rows], alone.probabilities([histories[row] for row in rows]))
        assert not torch.equal(answers[rows], found.whole.probabilities([histories[row] for row in rows]))
        best = found.top([histories[row] for row in rows], 5, [users[row] for row in rows])
        torch.testing.assert_close(best.probabilities, answers[rows].topk(5).values)


def test_a_new_user_is_answered_by_the_whole_one(fit, catalog, tmp_path):
    found, whole = fit(), load_recommender(tmp_path / "als", catalog)
    for method in ("score", "probabilities"):
        assert torch.equal(getattr(found, method)([[0, 2], []]), getattr(whole, method)([[0, 2], []]))


def test_it_is_loaded_as_it_was_fitted_and_fitted_again_only_where_its_part_changed(fit, catalog, tmp_path):
    found, (history, user) = fit(), ([[0, 2]], [[0, 2, 4, 6]])
    loaded = load_recommender(tmp_path / "out", catalog)
    assert torch.equal(found.score(history, user), loaded.score(history, user))
    written = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    fit()
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == written
    other = fit({"dimensions": 3})
    assert other.score(history, user).shape == (1, 48)
    assert not torch.equal(found.score(history, user), other.score(history, user))


def test_it_can_be_mixed_and_a_mixture_cannot_be_cross_fitted(fit, blocks, catalog, tmp_path):
    found = fit()
    mixture = fit_recommender("mixture", {"weights": {"out": 1.0}}, blocks, catalog, tmp_path / "mixture")
    history, user = [[0, 2]], [[0, 2, 4, 6]]
    torch.testing.assert_close(mixture.probabilities(history, user), found.probabilities(history, user))
    with raises(field="of", file=tmp_path / "mixture"):
        fit_recommender("cross_fitted", {"of": "mixture"}, blocks, catalog, tmp_path / "again")
    with raises(file=tmp_path / "sasrec"):
        fit_recommender("cross_fitted", {"of": "sasrec"}, blocks, catalog, tmp_path / "again")
    with raises(field="copies"):
        fit_recommender("cross_fitted", {"of": "als", "copies": 1}, blocks, catalog, tmp_path / "again")
