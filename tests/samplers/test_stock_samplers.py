"""Target and random samplers."""

import numpy as np
import pytest
import torch

from catalog import SOURCES, Catalog, word_tokenizer
from interactions.prompts import PromptBuilder
from samplers import RandomSampler, TargetSampler


def known_items(prompts):
    rows = zip(prompts.history.tolist(), prompts.target.tolist(), strict=True)
    return [{*history, target} - {-1} for history, target in rows]


@pytest.mark.parametrize("kind", [TargetSampler, RandomSampler])
def test_trajectories_have_their_codes_their_source_and_no_policy(kind, catalog, prompts):
    drawn = kind(catalog.trie).sample(prompts, 3, seed=0)
    assert drawn.items.shape == (4, 3)
    assert torch.equal(drawn.codes, catalog.trie.codes(drawn.items))
    assert (drawn.source == SOURCES.index("target" if kind is TargetSampler else "random")).all()
    assert drawn.log_pf.shape == drawn.codes.shape and drawn.log_pf.isnan().all()


def test_the_target_sampler_repeats_the_target(catalog, prompts):
    assert TargetSampler(catalog.trie).sample(prompts, 2, seed=0).items.tolist() == [[t, t] for t in prompts.target]


def test_random_items_are_distinct_and_never_known_to_the_user(catalog, prompts):
    known = known_items(prompts)
    most = 48 - max(map(len, known))
    for seed in range(50):
        for row, user in zip(
            RandomSampler(catalog.trie).sample(prompts, most, seed).items.tolist(), known, strict=True
        ):
            assert len(set(row)) == most and not set(row) & user


def test_random_items_are_uniform_over_the_rest_of_the_catalog(catalog, prompts):
    draws = torch.stack([RandomSampler(catalog.trie).sample(prompts, 4, seed).items for seed in range(3000)], 1)
    for row, user in zip(draws.flatten(1), known_items(prompts), strict=True):
        counts = np.bincount(row.numpy(), minlength=48)[[item for item in range(48) if item not in user]]
        expected = 12_000 / len(counts)
        chi_square = ((counts - expected) ** 2 / expected).sum()
        free = len(counts) - 1
        assert chi_square < free + 4 * np.sqrt(2 * free)  # four standard deviations above the mean


def test_random_items_depend_on_the_seed_alone(catalog, prompts):
    sampler = RandomSampler(catalog.trie)
    first = sampler.sample(prompts, 5, seed=7).items
    torch.manual_seed(99)
    assert torch.equal(sampler.sample(prompts, 5, seed=7).items, first)
    assert not torch.equal(sampler.sample(prompts, 5, seed=8).items, first)


def test_a_catalog_with_too_few_unknown_items_is_refused():
    catalog = Catalog.from_codes(list("abcde"), np.arange(5)[:, None])
    prompts = PromptBuilder(catalog, word_tokenizer((5,)), max_history=5)(
        [{"history": [0], "target": 1}, {"history": [0, 1], "target": 2}]
    )
    assert {*RandomSampler(catalog.trie).sample(prompts, 2, seed=0).items[1].tolist()} == {3, 4}
    with pytest.raises(ValueError, match="3 random trajectories are asked for, but only 2 items .* Ask for fewer"):
        RandomSampler(catalog.trie).sample(prompts, 3, seed=0)
