import pytest
import torch

from catalog import SOURCES
from samplers import PolicySampler


def test_log_probabilities_of_the_sampler_and_of_the_trainer_agree(policy, prompts):
    drawn = PolicySampler(policy).sample(prompts, 6, seed=3)
    assert drawn.items.shape == (4, 6) and (drawn.source == SOURCES.index("policy")).all()
    assert torch.equal(drawn.codes, policy.trie.codes(drawn.items))
    torch.testing.assert_close(drawn.log_pf, policy.log_probs(prompts, drawn.items).log_pf, atol=1e-5, rtol=1e-5)
    assert not drawn.log_pf.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_a_model_in_training_samples_without_dropout_and_goes_on_training(training, policy, prompts):
    for module in policy.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    policy.model.train(training)
    drawn = PolicySampler(policy).sample(prompts, 6, seed=3)
    assert policy.model.training is training
    assert all(module.training is training for module in policy.model.modules())
    policy.model.eval()
    torch.testing.assert_close(drawn.log_pf, policy.log_probs(prompts, drawn.items).log_pf, atol=1e-5, rtol=1e-5)


def test_draws_depend_on_the_seed_alone(policy, prompts):
    sampler = PolicySampler(policy)
    first = sampler.sample(prompts, 6, seed=3)
    torch.manual_seed(99)
    again = sampler.sample(prompts, 6, seed=3)
    assert torch.equal(again.items, first.items) and torch.equal(again.log_pf, first.log_pf)
    assert not torch.equal(sampler.sample(prompts, 6, seed=4).items, first.items)
