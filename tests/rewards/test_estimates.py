"""The two estimates of what a user may like: a recommender's, and the policy's own."""

import pytest
import torch

from catalog import node_tokens
from policy import CausalPolicy
from rewards import Collaborative, Likelihood

SCORE = torch.tensor([[0.1, 0.4, 0.2, 0.05, 0.2, 0.05], [0.3, 0.1, 0.1, 0.2, 0.2, 0.1]])


def recommender(batch):
    return SCORE[: len(batch)]


def test_the_best_item_that_is_new_has_1_and_the_history_nothing(shared, make_batch, draw):
    batch = make_batch([5, 1], [[1, 3], [4]])  # item 4 takes item 0, of the same leaf, along
    reward = Collaborative(shared, recommender)
    expected = torch.tensor([[0.2, 0, 0.2, 0, 0.2, 0.05], [0, 0.1, 0.1, 0.2, 0, 0.1]]) * 5
    torch.testing.assert_close(reward.catalog(batch), expected)
    torch.testing.assert_close(reward(batch, draw(shared, [[5, 2], [3, 0]])), torch.tensor([[0.25, 1], [1, 0]]))


def test_with_history_every_item_counts(shared, make_batch):
    value = Collaborative(shared, recommender, history=True).catalog(make_batch([5, 1], [[1, 3], [4]]))
    expected = torch.tensor([[0.2, 0.4, 0.2, 0.05, 0.2, 0.05], [0.3, 0.1, 0.1, 0.2, 0.3, 0.1]])
    torch.testing.assert_close(value, expected / torch.tensor([[0.4], [0.3]]))


def test_where_the_model_knows_nothing_the_reward_is_0(shared, make_batch):
    value = Collaborative(shared, lambda batch: torch.zeros(1, 6)).catalog(make_batch([5], [[1]]))
    assert value.tolist() == [[0] * 6]


def test_a_model_of_another_catalog_is_refused(shared, make_batch):
    with pytest.raises(ValueError, match=r"scores have shape \[1, 7\] for 1 users and 6 items. Fit it on the data"):
        Collaborative(shared, lambda batch: torch.ones(1, 7)).catalog(make_batch([5], [[1]]))


def test_the_likelihood_is_the_policy_s_probability_next_to_its_largest(policy, prompts, draw, catalog):
    p = policy.distribution(prompts).exp()
    items = [[0, 1, 2], [5, 6, 7], [47, 46, 0], [3, 3, 4]]
    value = Likelihood(policy)(prompts, draw(catalog, items))
    torch.testing.assert_close(value, p.gather(1, torch.tensor(items)) / p.amax(1, keepdim=True))
    assert not value.requires_grad


def test_the_likelihood_knows_no_dropout_and_leaves_the_model_in_training(catalog, tokenizer, make_model, prompts):

    model = make_model("gpt2", embd_pdrop=0.5, resid_pdrop=0.5)
    reward = Likelihood(CausalPolicy(model, catalog.trie, node_tokens(tokenizer, catalog.trie)))
    calm = reward.catalog(prompts)
    model.train()
    assert torch.equal(reward.catalog(prompts), calm) and model.training
