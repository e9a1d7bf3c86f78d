import re

import numpy as np
import pytest
import torch
from datasets import Dataset

from catalog import Catalog, node_tokens, word_tokenizer
from catalog.errors import InputError
from evaluation import METRIC_HELP, mean_metrics, ranking_metrics
from evaluation.match import match_metrics
from evaluation.ranker import rank_by_beam, rank_exactly
from interactions.prompts import PromptBuilder
from interactions.rows import unrankable
from policy import policy_of
from tests.raising import raises


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


def test_mrr_is_one_over_the_place_however_long_the_lists_are():
    for width, beyond in ((50, None), (64, 60)):
        metrics = ranking_metrics(*lists_with_target_at([1, 4, 50, beyond], width))
        np.testing.assert_allclose(metrics["mrr@50"], [1, 1 / 4, 1 / 50, 0])


def test_padding_is_never_a_hit():
    ranked, target = lists_with_target_at([2, None])
    ranked[:, 3:] = -1
    assert ranking_metrics(ranked, target)["recall@50"].tolist() == [1, 0]
    with raises(InputError):
        ranking_metrics(ranked, np.array([-1, -1]))


def test_a_repeated_item_counts_at_its_first_place():
    ranked, target = lists_with_target_at([2])
    ranked[0, 8] = 7
    assert ranking_metrics(ranked, target)["mrr@50"].tolist() == [1 / 2]


def test_short_lists_ask_for_a_wider_beam():
    with raises(InputError):
        ranking_metrics(*lists_with_target_at([1], width=20))


def test_mean_metrics_average_over_users():
    means = mean_metrics(ranking_metrics(*lists_with_target_at([1, 3, None, None])))
    assert means["recall@1"] == 1 / 4
    assert means["recall@5"] == 1 / 2
    assert means["ndcg@10"] == pytest.approx((1 + 1 / 2) / 4)


@pytest.mark.parametrize("exclude_history", [True, False])
def test_a_wide_beam_is_the_exact_ranking_of_the_leaves(exclude_history, make_model, rows):
    codes = np.random.default_rng(0).integers(0, [2, 3, 3], (48, 3))  # 18 semantic IDs at most
    shared = Catalog.from_codes([f"item{i}" for i in range(48)], codes, on_collision="keep")
    tokenizer, trie = word_tokenizer(shared.trie.sizes), shared.trie
    policy = policy_of(make_model(vocab_size=len(tokenizer)), trie, node_tokens(tokenizer, trie))
    prompts = PromptBuilder(shared, tokenizer, max_history=5)
    whole = (trie.leaf_of_item == trie.leaf_of_item[rows[0]["target"]]).nonzero()[:, 0].tolist()
    assert trie.leaves < 20 and len(whole) > 1
    some = Dataset.from_list([*rows, {"user": "all", "history": whole, "target": 0}])
    beam = rank_by_beam(policy, some, prompts, width=50, exclude_history=exclude_history)
    exact = rank_exactly(policy, some, prompts, k=20, exclude_history=exclude_history)
    assert (exact == beam[:, :20]).all()
    assert (exact[-1] >= 0).sum() == trie.leaves - exclude_history  # one leaf is all in the history


def test_targets_that_a_user_already_has_are_counted():
    rows = [{"history": [1, 2], "target": 2}, {"history": [3], "target": 2}, {"history": [], "target": 0}]
    assert unrankable(Dataset.from_list(rows)).tolist() == [True, False, False]


def test_every_metric_of_an_evaluation_has_an_explanation_and_a_direction(catalog):
    ranked, target = lists_with_target_at([1])
    uniform = torch.zeros(1, 48).log_softmax(-1)
    names = {*ranking_metrics(ranked, target), *match_metrics(uniform, uniform, catalog.trie)}
    assert {re.sub(r"^entropy_\d+$", "entropy_l", name) for name in names} <= METRIC_HELP.keys()
    lower = {name for name in METRIC_HELP if METRIC_HELP[name].better == "lower"}
    assert lower == {"gini@10", "tv", "kl", "seconds", "tokens", "peak_memory_mb"}
