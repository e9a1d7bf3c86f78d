import pytest
import torch

from catalog import SOURCES
from samplers import Mixture, PolicySampler, RandomSampler, TargetSampler


@pytest.fixture
def samplers(policy):
    return {
        "target": TargetSampler(policy.trie),
        "random": RandomSampler(policy.trie),
        "policy": PolicySampler(policy),
    }


def draws(mixture, prompts, source, seed=5):
    """What one source of a mixture drew: items [B, count]."""
    drawn = mixture.sample(prompts, seed)
    return drawn.items[drawn.source == SOURCES.index(source)].view(len(prompts), -1)


@pytest.mark.parametrize("counts", [{"target": 1, "random": 2, "policy": 3}, {"policy": 1, "random": 0, "target": 2}])
def test_every_source_gives_its_count_in_the_order_of_the_counts(counts, samplers, prompts):
    mixture = Mixture(samplers, counts)
    drawn = mixture.sample(prompts, seed=0)
    sources = [SOURCES.index(name) for name, count in counts.items() for _ in range(count)]
    assert mixture.count == len(sources)
    assert drawn.source.tolist() == [sources] * len(prompts)
    assert torch.equal(drawn.codes, samplers["target"].trie.codes(drawn.items))
    assert torch.equal(drawn.log_pf.isnan().all(-1), drawn.source != SOURCES.index("policy"))


@pytest.mark.parametrize("other", ["random", "policy"])
def test_a_further_source_and_the_order_change_no_draws(other, samplers, prompts):
    source = {"random": "policy", "policy": "random"}[other]
    alone = draws(Mixture(samplers, {source: 4}), prompts, source)
    for counts in ({"target": 1, source: 4}, {other: 3, source: 4}, {source: 4, other: 3, "target": 1}):
        assert torch.equal(draws(Mixture(samplers, counts), prompts, source), alone)


def test_sources_have_streams_of_their_own(samplers, prompts):
    """Two names for one sampler at one seed: were the streams shared, both would draw the same."""
    twice = Mixture(samplers | {"mine": samplers["random"]}, {"random": 5, "mine": 5})
    first, second = twice.sample(prompts, seed=5).items.chunk(2, dim=1)
    assert not torch.equal(first, second)


def test_draws_depend_on_the_seed(samplers, prompts):
    mixture = Mixture(samplers, {"random": 4, "policy": 4})
    assert torch.equal(mixture.sample(prompts, 5).items, mixture.sample(prompts, 5).items)
    for source in ("random", "policy"):
        assert not torch.equal(draws(mixture, prompts, source, 5), draws(mixture, prompts, source, 6))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"target": 1, "polcy": 1}, r"no sampler 'polcy'\. Use some of \['policy', 'random', 'target'\]"),
        ({"target": -1}, "target has the count -1"),
        ({"target": 1.5}, "target has the count 1.5"),
        ({"target": 0, "policy": 0}, "no trajectory is asked for"),
        ({}, "no trajectory is asked for"),
    ],
)
def test_counts_that_make_no_mixture_are_refused(counts, message, samplers):
    with pytest.raises(ValueError, match=message):
        Mixture(samplers, counts)
