import numpy as np
import pytest

from evaluation import break_down

HITS = {"a": {"recall@10": np.array([1.0, 0, 0, 0, 1, 1, 0, 1]), "mrr": np.zeros(8)}}


def test_quartiles_worked_out_by_hand():
    found = break_down(np.array([5, 1, 2, 6, 8, 7, 3, 4]), HITS, ("recall@10",))
    assert found.buckets == [(1, 2, 2), (3, 4, 2), (5, 6, 2), (7, 8, 2)]
    assert found.means == {"recall@10": {"a": [0.0, 0.5, 0.5, 1.0]}}
    assert [bucket.label for bucket in found.buckets] == ["1–2", "3–4", "5–6", "7–8"]


def test_users_with_the_same_number_share_a_bucket():
    found = break_down(np.array([1, 1, 1, 1, 1, 2, 3, 4]), HITS, ("recall@10",))
    assert found.buckets == [(1, 2, 6), (3, 4, 2)]  # three of the four quartiles end at 1 or 2
    assert np.average(found.means["recall@10"]["a"], weights=[6, 2]) == pytest.approx(4 / 8)


def test_one_number_for_all_is_one_bucket():
    found = break_down(np.full(8, 1200), HITS, ("recall@10",))
    assert found.buckets == [(1200, 1200, 8)] and found.buckets[0].label == "1,200"
    assert found.means["recall@10"]["a"] == [0.5]
