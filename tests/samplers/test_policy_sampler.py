import pytest
import torch

from catalog import PADDING, SOURCES
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


def test_beams_are_the_best_of_the_policys_beam_with_the_log_probability_of_each_step(policy, prompts):
    drawn = PolicySampler(policy, beams=True).sample(prompts, 5, seed=0)
    items, score = policy.beam(prompts, 5)
    assert torch.equal(drawn.items, items) and (drawn.source == SOURCES.index("policy")).all()
    torch.testing.assert_close(drawn.log_pf.sum(-1), score, atol=1e-5, rtol=1e-5)
    assert drawn.log_pf.shape == drawn.codes.shape and not drawn.log_pf.requires_grad


def test_a_beam_wider_than_the_catalog_ends_with_padding(policy, prompts):
    drawn = PolicySampler(policy, beams=True).sample(prompts, 50, seed=0)
    assert (drawn.source[:, :48] == SOURCES.index("policy")).all() and (drawn.source[:, 48:] == PADDING).all()
    assert torch.equal(drawn.items[:, 48:], prompts.target.unsqueeze(1).expand(-1, 2))
    assert drawn.log_pf[:, :48].isfinite().all() and drawn.log_pf[:, 48:].isnan().all()
    assert torch.equal(drawn.codes, policy.trie.codes(drawn.items))
