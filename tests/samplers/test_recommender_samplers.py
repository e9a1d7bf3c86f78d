"""The samplers that ask a recommender: curriculum and confidence."""

import pytest
import torch

from policy import inference
from samplers import ConfidenceSampler, CurriculumSampler


def ranked_unknown(prompts, scores):
    """Each prompt's unknown items, the best-scored first."""
    rows = zip(prompts.history.tolist(), prompts.target.tolist(), scores.tolist(), strict=True)
    return [
        sorted(set(range(48)) - {*history, target}, key=lambda item: -score[item]) for history, target, score in rows
    ]


@pytest.mark.parametrize(
    ("progress", "window"),
    [(0.0, slice(15, 20)), (0.2, slice(11, 16)), (0.4, slice(8, 13)), (0.8, slice(0, 5)), (1.0, slice(0, 5))],
)
def test_the_window_moves_from_the_easy_end_to_the_hard_end(progress, window, catalog, prompts, recommender):
    """20 candidates and a window of 5: 15 places to go, linearly until 0.8; 3.75 rounds to 4 and 7.5 to 8."""
    sampler = CurriculumSampler(catalog.trie, recommender, lambda: progress, pool=20)
    drawn = sampler.sample(prompts, 5, seed=0).items.tolist()
    for row, ranked in zip(drawn, ranked_unknown(prompts, recommender(prompts)), strict=True):
        assert set(row) == set(ranked[:20][window])


def test_scores_rise_as_training_goes_on(catalog, prompts, recommender):
    done = [0.0]
    sampler = CurriculumSampler(catalog.trie, recommender, lambda: done[0], pool=40)
    means = []
    for done[0] in (0.0, 0.2, 0.4, 0.6, 0.8):
        items = torch.cat([sampler.sample(prompts, 3, seed).items for seed in range(20)], 1)
        means.append(recommender(prompts).gather(1, items).mean(1))
    assert (torch.stack(means).diff(dim=0) > 0).all()


def test_draws_are_uniform_inside_the_window(catalog, prompts, recommender):
    sampler = CurriculumSampler(catalog.trie, recommender, lambda: 1.0, pool=20)
    items = torch.cat([sampler.sample(prompts, 1, seed).items for seed in range(2000)], 1)
    for row in items:
        counts = row.bincount()
        assert (counts > 0).sum() == 5 and ((counts[counts > 0] - 400).abs() < 100).all()


def test_a_pool_larger_than_what_is_left_takes_all_of_it(catalog, prompts, recommender):
    sampler = CurriculumSampler(catalog.trie, recommender, lambda: 0.5, pool=1000, window=1.0)
    drawn = sampler.sample(prompts, 42, seed=0).items.tolist()
    for row, ranked in zip(drawn, ranked_unknown(prompts, recommender(prompts)), strict=True):
        assert len(set(row)) == 42 and set(row) <= set(ranked)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": 0}, "curriculum: pool=0 .* Set it to 1 or more"),
        ({"window": 0.0}, "curriculum: window=0.0 .* Set it above 0 and up to 1"),
        ({"window": 1.5}, "curriculum: window=1.5"),
        ({"until": 0}, "curriculum: until=0 .* Set it above 0 and up to 1"),
    ],
)
def test_a_curriculum_that_cannot_be_is_refused(settings, message, catalog, recommender):
    with pytest.raises(ValueError, match=message):
        CurriculumSampler(catalog.trie, recommender, lambda: 0.0, **settings)


def test_a_window_smaller_than_the_count_is_refused(catalog, prompts, recommender):
    sampler = CurriculumSampler(catalog.trie, recommender, lambda: 0.0, pool=8)
    sampler.sample(prompts, 2, seed=0)
    with pytest.raises(ValueError, match=r"3 trajectories .* window of 0.25 of 8 candidates holds 2\. Raise window"):
        sampler.sample(prompts, 3, seed=0)


@pytest.mark.parametrize("training", [True, False])
def test_confidence_takes_exactly_the_least_likely_of_the_pool(training, policy, prompts, recommender):
    for module in policy.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    with inference(policy.model):
        log_p = policy.distribution(prompts)  # [B, items]
    policy.model.train(training)
    drawn = ConfidenceSampler(policy.trie, recommender, policy, pool=10).sample(prompts, 3, seed=0)
    assert policy.model.training is training
    ranked = ranked_unknown(prompts, recommender(prompts))
    for row, pool, likelihood in zip(drawn.items.tolist(), ranked, log_p.tolist(), strict=True):
        assert row == sorted(pool[:10], key=lambda item: likelihood[item])[:3]
    assert drawn.log_pf.isnan().all()


def test_a_pool_that_is_too_small_is_refused(policy, prompts, recommender):
    with pytest.raises(ValueError, match="confidence: pool=0 .* Set it to 1 or more"):
        ConfidenceSampler(policy.trie, recommender, policy, pool=0)
    with pytest.raises(ValueError, match="5 trajectories are asked for of 4 candidates. Raise pool or ask for fewer"):
        ConfidenceSampler(policy.trie, recommender, policy, pool=4).sample(prompts, 5, seed=0)
    with pytest.raises(ValueError, match="44 trajectories are asked for of 42 candidates"):
        ConfidenceSampler(policy.trie, recommender, policy, pool=48).sample(prompts, 44, seed=0)
