import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evaluation import diversity_metrics
from evaluation.diversity import gini

FIRST_CODES = np.array([0, 0, 1, 2])
POPULARITY = np.array([6, 2, 0, 0])  # mean 2


def test_values_worked_out_by_hand():
    ranked = np.array([[0, 1, 3], [0, 2, 3]])  # the first 2 places hold items 0, 1, 0, 2: counts 2, 1, 1, 0
    metrics = diversity_metrics(ranked, POPULARITY, FIRST_CODES, k=2)
    assert metrics == {
        "coverage@2": 3 / 4,
        "gini@2": pytest.approx((-3 * 0 - 1 * 1 + 1 * 1 + 3 * 2) / (4 * 4)),
        "first_code_coverage@2": 2 / 3,
        "popularity@2": pytest.approx((2 * 6 + 1 * 2 + 1 * 0) / 4 / 2),
    }


def test_padding_is_not_an_item():
    padded = np.array([[3, -1], [-1, -1]])
    assert diversity_metrics(padded, POPULARITY, FIRST_CODES, k=2)["coverage@2"] == 1 / 4
    with pytest.raises(ValueError, match="No list holds an item"):
        diversity_metrics(np.full((2, 2), -1), POPULARITY, FIRST_CODES, k=2)


def test_lists_shorter_than_k_are_refused():
    with pytest.raises(ValueError, match="the lists hold 3. Lower k"):
        diversity_metrics(np.zeros((1, 3), dtype=int), POPULARITY, FIRST_CODES)


def test_one_item_for_everybody_is_the_narrowest_case():
    metrics = diversity_metrics(np.zeros((5, 1), dtype=int), POPULARITY, FIRST_CODES, k=1)
    assert metrics["gini@1"] == pytest.approx(1 - 1 / 4)
    assert metrics["coverage@1"] == 1 / 4


def test_every_item_once_is_the_most_even_case():
    metrics = diversity_metrics(np.arange(4)[:, None], POPULARITY, FIRST_CODES, k=1)
    assert metrics == {"coverage@1": 1, "gini@1": 0, "first_code_coverage@1": 1, "popularity@1": 1}


@given(hnp.arrays(np.int64, st.integers(2, 12), elements=st.integers(0, 9)).filter(lambda counts: counts.any()))
def test_gini_equals_half_the_relative_mean_difference(counts):
    difference = np.abs(counts[:, None] - counts[None]).mean()
    assert gini(counts) == pytest.approx(difference / (2 * counts.mean()))


@given(hnp.arrays(np.int64, st.tuples(st.integers(1, 8), st.just(10)), elements=st.integers(0, 19)))
def test_metrics_stay_in_their_bounds(ranked):
    popularity, first_codes = np.arange(20), np.arange(20) % 6
    metrics = diversity_metrics(ranked, popularity, first_codes)
    assert 1 / 20 <= metrics["coverage@10"] <= 1
    assert -1e-12 <= metrics["gini@10"] <= 1 - 1 / 20 + 1e-12
    assert 1 / 6 <= metrics["first_code_coverage@10"] <= 1
    assert 0 <= metrics["popularity@10"] <= 19 / 9.5
