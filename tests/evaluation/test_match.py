"""Distances between two distributions over a catalog, against their definitions."""

import numpy as np
import pytest
import torch

from catalog import Catalog
from evaluation.match import match_metrics


@pytest.fixture
def log_target() -> torch.Tensor:
    return torch.randn(3, 48, generator=torch.Generator().manual_seed(0))


def test_a_policy_that_matches_has_no_distance(catalog, log_target):
    found = match_metrics(log_target.log_softmax(-1), log_target + 7, catalog.trie)  # log R up to a constant
    assert found["tv"].max() < 1e-6 and found["kl"].abs().max() < 1e-6
    torch.testing.assert_close(found["reward_correlation"], torch.ones(3))
    torch.testing.assert_close(found["effective_items"], found["target_effective_items"])


def test_distances_by_their_definitions(catalog, log_target):
    log_prob = torch.randn(3, 48, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    found = match_metrics(log_prob, log_target, catalog.trie)
    q = torch.distributions.Categorical(logits=log_target)
    p = torch.distributions.Categorical(logits=log_prob)
    torch.testing.assert_close(found["kl"], torch.distributions.kl_divergence(q, p))
    torch.testing.assert_close(found["tv"], (p.probs - q.probs).clamp(min=0).sum(-1))  # its other definition
    torch.testing.assert_close(found["effective_items"], p.perplexity())
    assert found["reward_correlation"][0].item() == pytest.approx(np.corrcoef(log_prob[0], log_target[0])[0, 1], 1e-4)


def test_a_uniform_policy_ranks_nothing(catalog, log_target):
    found = match_metrics(torch.full((3, 48), -np.log(48)), log_target, catalog.trie)
    torch.testing.assert_close(found["effective_items"], torch.full((3,), 48.0))
    assert (found["reward_correlation"] == 0).all()


def test_entropies_of_the_levels_sum_to_that_of_the_item_and_are_those_of_the_steps(
    catalog, policy, prompts, log_target
):
    log_prob = policy.distribution(prompts)
    found = match_metrics(log_prob, log_target[:1].expand(4, -1), catalog.trie)
    levels = [found[f"entropy_{level}"] for level in range(1, catalog.trie.levels + 1)]
    torch.testing.assert_close(sum(levels), found["effective_items"].log())
    first = catalog.trie.codes(torch.arange(48))[:, 0]
    p_first = torch.zeros(4, int(first.max()) + 1).index_add_(1, first, log_prob.exp())
    torch.testing.assert_close(levels[0], torch.distributions.Categorical(probs=p_first).entropy())


def test_probabilities_that_vanish_are_no_trouble(catalog, log_target):
    sure = torch.full((3, 48), -300.0)
    sure[:, 5] = 0.0
    found = match_metrics(sure, log_target, catalog.trie)
    assert all(value.isfinite().all() for value in found.values())
    assert found["effective_items"].max() < 1.001 and found["entropy_1"].abs().max() < 1e-6


def test_items_that_share_a_semantic_id_count_as_one():
    codes = np.array([[0, 0], [0, 0], [1, 0]])
    trie = Catalog.from_codes(["a", "b", "c"], codes, on_collision="keep").trie
    reward = torch.tensor([[1.0, 2.0, 1.0]])
    log_prob = torch.tensor([[0.75, 0.75, 0.25]]).log()  # of the leaf, for each of its items
    found = match_metrics(log_prob, reward.log(), trie)
    assert found["tv"].item() == pytest.approx(0, abs=1e-6)
