import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from recommenders import rank
from recommenders.base import fit_temperature


def test_rank_orders_by_score_and_pads_when_candidates_run_out():
    scores = torch.tensor([[0.1, 3.0, -2.0, 0.5], [-1.0, -3.0, -0.5, -torch.inf]])
    assert rank(scores, [[], []], k=5).tolist() == [[1, 3, 0, 2, -1], [2, 0, 1, -1, -1]]


def test_excluded_items_are_never_ranked_and_the_scores_stay_as_they_were():
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
    before = scores.clone()
    assert rank(scores, [[0, 2, 2], []], k=3).tolist() == [[1, 3, -1], [0, 1, 2]]
    torch.testing.assert_close(scores, before)


@given(st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=30))
def test_any_float_is_ranked_in_descending_order_and_once(values):
    scores = torch.tensor([values], dtype=torch.float32)
    ranked = rank(scores, [[]], k=len(values))[0]
    items = ranked[ranked >= 0]
    sorted_scores = scores[0].numpy()[items]
    assert (sorted_scores[:-1] >= sorted_scores[1:]).all()
    assert set(items) == set(np.flatnonzero(scores[0] > -torch.inf))


def test_ties_follow_the_seed_and_not_the_other_rows():
    scores = torch.zeros(6, 40)
    ranked = rank(scores, [[]] * 6, k=40, seed=3)
    assert (ranked == ranked[0]).all()
    np.testing.assert_array_equal(ranked[:1], rank(scores[:1], [[]], k=40, seed=3))
    assert (ranked != rank(scores, [[]] * 6, k=40, seed=4)).any()


def test_zero_and_negative_zero_are_a_tie():
    scores = torch.tensor([[0.0, -0.0] * 20])
    np.testing.assert_array_equal(rank(scores, [[]], k=40), rank(torch.zeros(1, 40), [[]], k=40))


def test_ties_favour_no_item_number():
    first = np.array([rank(torch.zeros(1, 10), [[]], k=1, seed=seed)[0, 0] for seed in range(2000)])
    counts = np.bincount(first, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="2 rows of scores need as many lists to exclude, not 1"):
        rank(torch.zeros(2, 3), [[]], k=1)
    with pytest.raises(ValueError, match="A score is NaN"):
        rank(torch.tensor([[0.0, torch.nan]]), [[]], k=1)


@given(st.integers(1, 12), st.lists(st.integers(-2, 2), min_size=3, max_size=12), st.lists(st.integers(0, 2)))
def test_sparse_scores_and_dense_ones_are_ranked_alike_by_score_then_by_the_order_of_ties(k, values, exclude):
    scores = np.array([values, values[::-1]], np.float32)
    order = np.random.default_rng(5).permutation(len(values))
    expected = np.full((2, k), -1)
    for row, one in enumerate(scores):
        best = [item for item in np.lexsort((-order, -one)) if item not in exclude][:k]
        expected[row, : len(best)] = best
    for given_as in (torch.from_numpy, csr_matrix):
        assert rank(given_as(scores), [exclude] * 2, k, seed=5).tolist() == expected.tolist()


def test_a_temperature_of_binned_scores_is_that_of_all(monkeypatch):
    scores = torch.randn(40, 500, generator=torch.Generator().manual_seed(0)) * 3

    class Fixed:
        def score(self, histories):
            return scores[[history[0] for history in histories]]

    target = (scores / 1.7).softmax(1).multinomial(1, generator=torch.Generator().manual_seed(1))[:, 0].tolist()
    rows = datasets.Dataset.from_list([{"history": [n], "target": item} for n, item in enumerate(target)])
    exact = fit_temperature(Fixed(), rows)
    monkeypatch.setattr("recommenders.base.FITTED_ENTRIES", 0)
    monkeypatch.setattr("recommenders.base.ENTRIES", 7 * 500)
    assert fit_temperature(Fixed(), rows) == pytest.approx(exact, rel=1e-3) and 1 < exact < 3
