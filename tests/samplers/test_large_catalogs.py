"""Samplers of a catalog that is too large for a row of all items: the same candidates, without one."""

import pytest
import torch

from catalog import Catalog
from samplers import ConfidenceSampler, CurriculumSampler, RandomSampler, RewardSampler
from samplers.unknown import unknown_items


@pytest.fixture
def large(monkeypatch):
    """Every catalog counts as large."""
    for module in ("random", "unknown"):
        monkeypatch.setattr(f"samplers.{module}.DENSE_ITEMS", 0)


@pytest.mark.parametrize("shared", [True, False])
def test_random_items_are_unknown_distinct_and_uniform(shared, catalog, prompts, large):
    if shared:
        codes = catalog.trie.codes(torch.arange(48))[:, :3].numpy()
        catalog = Catalog.from_codes(catalog.item_ids, codes, on_collision="keep")
    sampler, free = RandomSampler(catalog.trie), unknown_items(catalog.trie, prompts)
    drawn = torch.cat([sampler.sample(prompts, 5, seed).items for seed in range(800)], 1).unflatten(1, (-1, 5))
    assert (drawn.sort(-1).values.diff(dim=-1) > 0).all() and torch.equal(
        sampler.sample(prompts, 5, 3).items, sampler.sample(prompts, 5, 3).items
    )
    for row, left in zip(drawn, free, strict=True):
        counts = row.flatten().bincount(minlength=48)
        assert (counts[~left] == 0).all()
        expected = 4000 / left.sum()
        assert ((counts[left] - expected).abs() < 5 * expected.sqrt()).all()
    fewest = int(free.sum(1).min())
    assert RandomSampler(catalog.trie).sample(prompts.rows(0, 1), 30, 0).items.unique().numel() == 30
    with pytest.raises(ValueError, match="random trajectories are asked for, but only"):
        sampler.sample(prompts, fewest + 1, 0)


def test_curriculum_and_confidence_draw_as_from_all_scores(catalog, policy, prompts, recommender, monkeypatch):
    curriculum = CurriculumSampler(catalog.trie, recommender, lambda: 0.4, pool=20)
    confidence = ConfidenceSampler(policy.trie, recommender, policy, pool=10)
    dense = [sampler.sample(prompts, 3, 1).items for sampler in (curriculum, confidence)]
    monkeypatch.setattr("samplers.unknown.DENSE_ITEMS", 0)
    for sampler, items in zip((curriculum, confidence), dense, strict=True):
        assert torch.equal(sampler.sample(prompts, 3, 1).items, items)


def test_candidates_that_the_recommender_does_not_tell_apart_fill_the_pool(catalog, prompts, large):
    def few(batch):
        chances = torch.zeros(len(batch), 48)
        chances[:, 40:43] = torch.tensor([0.5, 0.3, 0.2])
        return chances

    free = unknown_items(catalog.trie, prompts)
    drawn = CurriculumSampler(catalog.trie, few, lambda: 0.0, pool=8, window=1.0).sample(prompts, 8, 0).items
    assert (drawn.sort(1).values.diff(dim=1) > 0).all() and free.gather(1, drawn).all()
    for row, left in zip(drawn.tolist(), free, strict=True):
        assert {item for item in (40, 41, 42) if left[item]} <= set(row)


def test_reward_draws_what_the_target_distribution_gives(catalog, prompts):
    def target(batch, count, generator):
        return torch.randint(48, (len(batch), count), generator=generator)

    sampler = RewardSampler(catalog.trie, target)
    first, again = sampler.sample(prompts, 4, 5), sampler.sample(prompts, 4, 5)
    assert torch.equal(first.items, again.items) and first.codes.shape == (4, 4, catalog.trie.levels)
