"""What every stock sampler promises."""

import pytest
import torch

from catalog import PADDING, SOURCES, Trajectories
from samplers import (
    ConfidenceSampler,
    CurriculumSampler,
    InteractionsSampler,
    PolicySampler,
    RandomSampler,
    ReplaySampler,
    TargetSampler,
)

NAMES = ("target", "random", "interactions", "curriculum", "confidence", "policy", "beams", "replay")
UNKNOWN_ONLY = ("random", "curriculum", "confidence")


def make(name, policy, recommender, prompts):
    trie = policy.trie
    if name == "replay":
        replay = ReplaySampler(trie, "c")
        items = torch.arange(40).expand(len(prompts), -1)
        drawn = Trajectories.from_items(items, trie.codes(items), "random")
        replay.update(prompts, drawn, torch.rand(items.shape), torch.zeros(items.shape))
        return replay
    return {
        "target": TargetSampler(trie),
        "random": RandomSampler(trie),
        "interactions": InteractionsSampler(trie),
        "curriculum": CurriculumSampler(trie, recommender, lambda: 0.3, pool=40),
        "confidence": ConfidenceSampler(trie, recommender, policy),
        "policy": PolicySampler(policy),
        "beams": PolicySampler(policy, beams=True),
    }[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_draw_is_valid_named_and_the_same_for_the_same_seed(name, policy, recommender, prompts):
    sampler = make(name, policy, recommender, prompts)
    drawn = sampler.sample(prompts, 4, seed=3)
    torch.manual_seed(99)
    again = sampler.sample(prompts, 4, seed=3)
    for field in ("items", "codes", "source"):
        assert torch.equal(getattr(drawn, field), getattr(again, field))
    torch.testing.assert_close(drawn.log_pf, again.log_pf, rtol=0, atol=0, equal_nan=True)
    assert drawn.items.shape == (4, 4) and ((drawn.items >= 0) & (drawn.items < 48)).all()
    assert torch.equal(drawn.codes, policy.trie.codes(drawn.items))
    source = SOURCES.index("policy" if name == "beams" else name)
    assert set(drawn.source.unique().tolist()) <= {source, PADDING} and (drawn.source == source).any()
    assert drawn.log_pf.shape == drawn.codes.shape and not drawn.log_pf.requires_grad
    assert bool(drawn.log_pf.isfinite().all()) is (name in ("policy", "beams"))


@pytest.mark.parametrize("name", ["random", "interactions", "curriculum", "policy", "replay"])
def test_another_seed_draws_something_else(name, policy, recommender, prompts):
    sampler = make(name, policy, recommender, prompts)
    first = sampler.sample(prompts, 4, seed=3).items
    assert any(not torch.equal(sampler.sample(prompts, 4, seed).items, first) for seed in range(4, 8))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("target", "policy")])
def test_what_is_drawn_for_a_prompt_is_distinct(name, policy, recommender, prompts):
    sampler = make(name, policy, recommender, prompts)
    for seed in range(20):
        drawn = sampler.sample(prompts, 6, seed)
        for items, source in zip(drawn.items.tolist(), drawn.source.tolist(), strict=True):
            kept = [item for item, s in zip(items, source, strict=True) if s != PADDING]
            assert len(set(kept)) == len(kept)


@pytest.mark.parametrize("name", UNKNOWN_ONLY)
def test_neither_the_history_nor_the_target_nor_their_twins_are_drawn(name, shared_ids, shared_prompts):
    """Nine semantic IDs with 18 items are unknown to the first user, ten with 20 to the second."""
    trie = shared_ids.trie

    class Uniform:
        """A policy to which all is equally likely."""

        model = torch.nn.Identity()

        def log_probs(self, batch, items):
            return type("Output", (), {"log_pf": torch.zeros(*items.shape, trie.levels)})

    def recommender(batch):
        return torch.full((len(batch), trie.items), 1 / trie.items)

    sampler = {
        "random": RandomSampler(trie),
        "curriculum": CurriculumSampler(trie, recommender, lambda: 0.5, pool=24, window=1.0),
        "confidence": ConfidenceSampler(trie, recommender, Uniform(), pool=24),
    }[name]
    drawn = sampler.sample(shared_prompts, 16, seed=0).items
    known = [{0, 1, 4, 5, 6, 7}, {2, 3, 8, 9}]
    for row, user in zip(drawn.tolist(), known, strict=True):
        assert len(set(row)) == 16 and not set(row) & user
