"""Draws with a temperature and with uniform steps: what they follow, and what is recorded of them."""

import pytest
import torch
from scipy.stats import chisquare

from catalog.errors import InputError
from policy import Exploration, inference
from samplers import PolicySampler, RolloutSampler
from tests.raising import raises

EXPLORATIONS = [Exploration(temperature=1.7), Exploration(epsilon=0.3), Exploration(temperature=0.6, epsilon=0.1)]


class PolicyEngine:
    """What a `RolloutSampler` asks an engine while it explores, answered by the policy."""

    version = 0

    def __init__(self, policy):
        self.policy = policy

    def extend(self, prompts, prefix, width):
        """As vLLM answers: the likeliest code first, and -inf where a node has fewer children."""
        rows = [self._children(prompt, prefix, width) for prompt in prompts]
        tokens, log_pf = (torch.stack(part) for part in zip(*rows, strict=True))
        log_pf, order = log_pf.sort(descending=True)
        return tokens.gather(1, order), log_pf

    def _children(self, prompt, prefix, width):
        trie, tokens = self.policy.trie, self.policy.tokens
        node = torch.tensor(0)
        for token in prompt[len(prompt) - prefix :]:
            children = trie.children(node)
            node = children[tokens[children.clamp(min=0)] == token][0]
        with inference(self.policy.model):
            logits = self.policy.model(torch.tensor([prompt])).logits[0, -1]
        return tokens[trie.children(node, width).clamp(min=0)], self.policy.child_log_probs(logits, node, width)


def distribution(policy, prompts, exploration):
    """The probability of every item, [B, items], by the formula, level by level along each path."""
    items = torch.arange(policy.trie.items).expand(len(prompts), -1)
    path = policy.trie.path(items)
    with inference(policy.model):
        log_p = policy.log_probs(prompts, items, children=True).child_log_pf.double()  # [B, items, L, C]
    tempered = (log_p / exploration.temperature).softmax(-1)
    legal = log_p.isfinite().double()
    uniform = legal / legal.sum(-1, keepdim=True)
    step = (1 - exploration.epsilon) * tempered + exploration.epsilon * uniform
    slot = path[..., 1:] - policy.trie.first_child[path[..., :-1]]
    return step.gather(-1, slot.unsqueeze(-1)).squeeze(-1).prod(-1)


@pytest.mark.parametrize("exploration", EXPLORATIONS, ids=str)
def test_draws_follow_the_stated_distribution(exploration, policy, prompts):
    prompts = prompts.rows(0, 2)
    expected = distribution(policy, prompts, exploration)
    torch.testing.assert_close(expected.sum(1), torch.ones(2, dtype=torch.double), rtol=1e-6, atol=0)
    expected /= expected.sum(1, keepdim=True)
    own, engine = PolicySampler(policy, exploration=exploration), PolicyEngine(policy)
    samplers = {own: (500, 8), RolloutSampler(engine, policy, exploration=exploration): (4000, 1)}
    for sampler, (count, seeds) in samplers.items():
        items = torch.cat([sampler.sample(prompts, count, seed).items for seed in range(seeds)], 1)
        for row in range(2):
            counts = items[row].bincount(minlength=policy.trie.items).double()
            often = expected[row] * 4000 >= 5  # the usual condition; what is rare is one class
            both = [torch.cat([v[often], v[~often].sum(0, True)]).numpy() for v in (counts, expected[row] * 4000)]
            assert often.sum() > 10 and chisquare(*both).pvalue > 1e-3


@pytest.mark.parametrize("exploration", EXPLORATIONS, ids=str)
@pytest.mark.parametrize("by_engine", [False, True])
def test_the_recorded_log_probabilities_are_those_of_the_policy(exploration, by_engine, policy, prompts):
    sampler = PolicySampler(policy, exploration=exploration)
    if by_engine:
        sampler = RolloutSampler(PolicyEngine(policy), policy, exploration=exploration)
    drawn = sampler.sample(prompts, 20, seed=3)
    with inference(policy.model):
        expected = policy.log_probs(prompts, drawn.items).log_pf
    torch.testing.assert_close(drawn.log_pf, expected, atol=1e-5, rtol=1e-5)
    again = sampler.sample(prompts, 20, seed=3)
    assert torch.equal(again.items, drawn.items) and torch.equal(again.log_pf, drawn.log_pf)
    assert not torch.equal(sampler.sample(prompts, 20, seed=4).items, drawn.items)


def test_a_temperature_of_one_without_uniform_steps_changes_no_draw(policy, prompts):
    stream, same = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    plain, explored = policy.sample(prompts, 8, stream), policy.sample(prompts, 8, same, Exploration(1, 0))
    assert torch.equal(plain[0], explored[0]) and torch.equal(plain[1], explored[1])


def test_a_low_temperature_draws_the_likeliest_child():
    log_p = torch.tensor([[-200.0, -201.0, -torch.inf], [-0.1, -2.0, -3.0]])
    chances = Exploration(temperature=1e-30).probabilities(log_p)
    assert torch.equal(chances, torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 0.0), ("temperature", -1.0), ("temperature", float("inf")), ("temperature", float("nan"))]
    + [("epsilon", -0.1), ("epsilon", 1.0), ("epsilon", float("nan"))],
)
def test_values_outside_the_ranges_are_refused(name, value):
    with raises(InputError, field=name):
        Exploration(**{name: value})


def test_a_beam_that_is_to_explore_is_refused(policy):
    for kind in (PolicySampler, lambda *args: RolloutSampler(PolicyEngine(policy), *args)):
        with raises(InputError, field="samplers"):
            kind(policy, True, Exploration(epsilon=0.1))
