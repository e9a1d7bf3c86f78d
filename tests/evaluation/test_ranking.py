import math
import re

import numpy as np
import pytest
import torch
from datasets import Dataset

from catalog import Catalog, node_tokens, word_tokenizer
from catalog.errors import InputError
from evaluation import METRIC_HELP, mean_metrics, metric_help, ranking_metrics
from evaluation.match import match_metrics
from evaluation.metric_help import in_order
from evaluation.ranking import EVAL_K, check_cutoffs, common_cutoffs, main_cutoff, ranking_names, without
from interactions.prompts import PromptBuilder
from interactions.rows import unrankable
from policy import policy_of
from recommenders import GenerativeRecommender
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


@pytest.mark.parametrize("eval_k", [[1], [3], [2, 7, 13], [19, 20, 21], [1, 4, 33]], ids=str)
def test_metrics_at_any_cutoff_are_sums_over_the_places(eval_k):
    rng = np.random.default_rng(len(eval_k))
    ranked = np.stack([rng.permutation(60)[: max(eval_k) + 4] for _ in range(40)])
    target = rng.integers(0, 60, 40)
    found = ranking_metrics(ranked, target, eval_k)
    assert list(found) == ranking_names(eval_k)
    gain = {"recall": lambda r: 1.0, "ndcg": lambda r: 1 / math.log2(r + 1), "mrr": lambda r: 1 / r}
    for name, values in found.items():
        kind, k = name.split("@")
        for row, wanted, value in zip(ranked.tolist(), target.tolist(), values.tolist(), strict=True):
            hits = [gain[kind](place) for place, item in enumerate(row[: int(k)], 1) if item == wanted]
            assert value == pytest.approx(sum(hits))


def test_the_metrics_of_a_run_that_says_nothing_and_of_one_with_lists_of_20():
    default = ["recall@1", "recall@5", "recall@10", "recall@50", "ndcg@5", "ndcg@10", "mrr@50"]
    assert ranking_names(EVAL_K) == default == list(ranking_metrics(*lists_with_target_at([1])))
    assert ranking_names([20, 5]) == ["recall@5", "recall@20", "ndcg@5", "ndcg@20", "mrr@20"]
    assert ranking_names([50, 10]) == ["recall@10", "recall@50", "ndcg@10", "ndcg@50", "mrr@50"]
    assert ranking_metrics(*lists_with_target_at([20], 20), [5, 20])["mrr@20"].tolist() == [1 / 20]


def test_cutoffs_are_sorted_and_reach_no_further_than_the_lists():
    assert check_cutoffs([20, 5, 10], 20) == [5, 10, 20] and check_cutoffs((7,)) == [7]
    for wrong in ([], [0, 5], [-1], [5, 5]):
        with raises(InputError, field="eval_k", value=wrong):
            check_cutoffs(wrong)
    with raises(InputError, field="beam_width", value=19):
        check_cutoffs([5, 20], 19)


def test_cutoffs_in_common():
    assert common_cutoffs({"a": [1, 5, 10, 50], "b": [20, 10, 5]}) == [5, 10]
    with raises(InputError, field="eval_k", value=[50]) as caught:
        common_cutoffs({"a": [1, 5, 10, 50], "b": [5, 10, 20], "c": [50]})
    assert "c is measured at the cut-offs [50] and a at [5, 10]" in str(caught.value)
    assert [main_cutoff(k) for k in (EVAL_K, [5, 20], [5, 15], [1], [50, 100])] == [10, 5, 5, 1, 50]


def test_a_metric_is_explained_at_any_cutoff():
    recall, mrr = metric_help("recall@7"), metric_help("mrr@20")
    assert (recall.heading, recall.better) == ("Recall@7", "higher") and recall.meaning.endswith("at place 7 or better")
    assert mrr.heading == "MRR@20" and mrr.meaning.endswith("among the first 20")
    assert metric_help("kl") == METRIC_HELP["kl"]
    assert in_order(["kl", "mrr@7", "ndcg@20", "recall@10", "recall@7"]) == [
        *("recall@7", "recall@10", "ndcg@20", "mrr@7", "kl")
    ]
    for unknown in ("luck", "recall@", "recall@0", "recall@07", "coverage@5", "eval_recall@7"):
        with raises(InputError):
            metric_help(unknown)


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
    trained, histories = GenerativeRecommender(policy, prompts, shared), some["history"][:]
    beam = trained.rank(histories, 50, exclude_history=exclude_history)
    exact = trained.rank_exactly(histories, 20, exclude_history=exclude_history)
    assert (exact == beam[:, :20]).all()
    assert (exact[-1] >= 0).sum() == trie.leaves - exclude_history  # one leaf is all in the history


def test_targets_that_a_user_already_has_are_counted():
    rows = [{"history": [1, 2], "target": 2}, {"history": [3], "target": 2}, {"history": [], "target": 0}]
    assert unrankable(Dataset.from_list(rows)).tolist() == [True, False, False]


def test_every_metric_of_an_evaluation_has_an_explanation_and_a_direction(catalog):
    ranked, target = lists_with_target_at([1])
    uniform = torch.zeros(1, 48).log_softmax(-1)
    names = {*ranking_metrics(ranked, target), *match_metrics(uniform, uniform, catalog.trie)}
    assert {metric_help(re.sub(r"^entropy_\d+$", "entropy_l", name)) for name in names}
    lower = {name for name in METRIC_HELP if METRIC_HELP[name].better == "lower"}
    assert lower == {"gini@10", "tv", "kl", "seconds", "tokens", "peak_memory_mb"}


def test_lists_without_the_items_of_the_histories_keep_their_order():
    ranked = np.array([[3, 1, 2, 0], [0, 5, -1, -1], [2, 4, 1, 3]])
    assert without(ranked, [[1, 0, 1], [], [9, 2]]).tolist() == [[3, 2, -1, -1], [0, 5, -1, -1], [4, 1, 3, -1]]
    assert without(ranked, [[], [], []]).tolist() == ranked.tolist()
