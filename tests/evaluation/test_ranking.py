import numpy as np
import pytest

from evaluation import mean_metrics, ranking_metrics


def lists_with_target_at(places: list[int | None], width: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """One list per place (counted from 1, None = absent); the target is always item 7."""
    ranked = np.arange(100, 100 + width) * np.ones((len(places), 1), dtype=int)
    for row, place in enumerate(places):
        if place is not None:
            ranked[row, place - 1] = 7
    return ranked, np.full(len(places), 7)


def test_recall_counts_the_target_inside_the_cutoff():
    metrics = ranking_metrics(*lists_with_target_at([1, 2, 5, 6, 10, 11, 50, None]))
    assert metrics["recall@1"].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert metrics["recall@5"].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert metrics["recall@10"].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    assert metrics["recall@50"].tolist() == [1, 1, 1, 1, 1, 1, 1, 0]


def test_ndcg_is_one_over_log2_of_place_plus_one_inside_the_cutoff():
    metrics = ranking_metrics(*lists_with_target_at([1, 3, 7, 10, 11, None]))
    np.testing.assert_allclose(metrics["ndcg@5"], [1, 1 / 2, 0, 0, 0, 0])
    np.testing.assert_allclose(metrics["ndcg@10"], [1, 1 / 2, 1 / 3, 1 / np.log2(11), 0, 0])


def test_mrr_is_one_over_the_place_in_the_whole_list():
    metrics = ranking_metrics(*lists_with_target_at([1, 4, 60, None], width=64))
    np.testing.assert_allclose(metrics["mrr"], [1, 1 / 4, 1 / 60, 0])


def test_padding_is_never_a_hit():
    ranked, target = lists_with_target_at([2, None])
    ranked[:, 3:] = -1
    assert ranking_metrics(ranked, target)["recall@50"].tolist() == [1, 0]
    with pytest.raises(ValueError, match="-1 is padding"):
        ranking_metrics(ranked, np.array([-1, -1]))


def test_a_repeated_item_counts_at_its_first_place():
    ranked, target = lists_with_target_at([2])
    ranked[0, 8] = 7
    assert ranking_metrics(ranked, target)["mrr"].tolist() == [1 / 2]


def test_short_lists_ask_for_a_wider_beam():
    with pytest.raises(ValueError, match="Raise the beam width to 50"):
        ranking_metrics(*lists_with_target_at([1], width=20))


def test_mean_metrics_average_over_users():
    means = mean_metrics(ranking_metrics(*lists_with_target_at([1, 3, None, None])))
    assert means["recall@1"] == 1 / 4
    assert means["recall@5"] == 1 / 2
    assert means["ndcg@10"] == pytest.approx((1 + 1 / 2) / 4)
