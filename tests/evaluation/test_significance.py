"""Paired tests: what is known by hand, what must hold, and how often nothing is taken for something."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evaluation.significance import bootstrap, holm, paired_tests, wilcoxon_p

P = hnp.arrays(float, st.integers(1, 8), elements=st.floats(0, 1))


def test_holm_worked_out_by_hand():
    # 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1 raised to the one before it
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.4, 0.9])).tolist() == [0.8, 0.9]
    assert holm(np.array([0.7, 0.6])).tolist() == [1.0, 1.0]


@given(P)
def test_holm_keeps_the_order_and_never_lowers_p(p):
    adjusted = holm(p)
    assert (adjusted >= p).all() and (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()
    assert adjusted.min() == pytest.approx(min(1, p.min() * len(p)))


def test_the_bootstrap_finds_the_standard_error_of_a_mean():
    difference = np.random.default_rng(0).normal(0.1, 1.0, 400)
    low, high, _ = bootstrap(difference)
    error = difference.std() / 20
    assert low == pytest.approx(difference.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(difference.mean() + 1.96 * error, abs=0.1 * error)


def test_intervals_cover_a_known_difference_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    intervals = [bootstrap(rng.normal(0.3, 1.0, 80)) for _ in range(100)]
    assert 88 <= sum(low <= 0.3 <= high for low, high, _ in intervals) <= 100


def test_p_is_small_for_a_shift_and_rarely_small_without_one():
    rng = np.random.default_rng(2)
    shifted = rng.normal(0.5, 1.0, 200)
    assert bootstrap(shifted)[2] < 0.001 and wilcoxon_p(shifted) < 0.001
    # as in a comparison: hits of two methods that are equally good, most users with neither
    same = [rng.choice([-1.0, 0.0, 1.0], 300, p=[0.1, 0.8, 0.1]) for _ in range(200)]
    assert 0.01 <= np.mean([wilcoxon_p(one) < 0.05 for one in same]) <= 0.1
    assert 0.35 <= np.mean([wilcoxon_p(one) < 0.5 for one in same]) <= 0.65
    assert 0.01 <= np.mean([bootstrap(one)[2] < 0.05 for one in same[:100]]) <= 0.1


def test_no_difference_at_all_is_no_finding():
    found = paired_tests({"same": np.array([1.0, 0.0, 1.0])}, np.array([1.0, 0.0, 1.0]))["same"]
    assert found == (0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0)


def test_rounding_of_an_average_over_seeds_is_no_difference():
    thirds = np.array([0.1 + 0.2, 0.3])
    assert paired_tests({"same": thirds}, np.array([0.3, 0.1 + 0.2]))["same"].p_wilcoxon == 1.0


def test_the_baseline_stands_on_the_other_side():
    rng = np.random.default_rng(3)
    left, right = rng.random(50), rng.random(50)
    one, other = paired_tests({"a": left}, right)["a"], paired_tests({"b": right}, left)["b"]
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low), abs=5e-3)
    assert one.p_wilcoxon == pytest.approx(other.p_wilcoxon)


def test_correction_is_over_the_methods_of_one_metric():
    rng = np.random.default_rng(4)
    baseline = rng.random(60)
    found = paired_tests({"better": baseline + 0.2 + 0.1 * rng.random(60), "like": baseline[::-1]}, baseline)
    assert found["better"].holm_wilcoxon == pytest.approx(2 * found["better"].p_wilcoxon)
    assert found["like"].holm_bootstrap == found["like"].p_bootstrap


def test_other_users_are_refused():
    with pytest.raises(ValueError, match="short has 2 users, the baseline 3"):
        paired_tests({"short": np.zeros(2)}, np.zeros(3))
