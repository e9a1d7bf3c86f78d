"""Hit, matched codes and shared prefix by hand; and what every stock reward keeps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from catalog import Catalog, SparseReward, Trajectories, node_tokens, word_tokenizer
from catalog.errors import InputError
from interactions.prompts import PromptBatch, PromptBuilder
from policy import CausalPolicy
from rewards import REWARDS, Hit, MatchedCodes, RewardParts, SharedPrefix, WeightedSum, build_rewards

STOCK = [name for name in REWARDS if name != "rank"]  # which compares trajectories with one another: test_rank.py
SETTINGS = {name: {"values": {"like": 3, "click": 1}} if name == "behavior" else {} for name in STOCK}


def observed(row: dict) -> dict:
    """The row with behaviors: clicks and likes in turn, the target liked."""
    return row | {"behavior": "like", "history_behavior": ["click", "like"] * len(row["history"])}


def recommender(batch: PromptBatch) -> torch.Tensor:
    """Some probability of 48 items, which depends on the target."""
    return (batch.target.unsqueeze(1) * torch.arange(48.0)).cos().softmax(-1)


@pytest.fixture(params=["a leaf is an item", "leaves are shared"])
def given(request, catalog, make_model, rows) -> tuple[RewardParts, PromptBatch]:
    """What a run has, and four prompts of it."""
    if request.param == "leaves are shared":
        codes = catalog.trie.codes(torch.arange(48))[:, :3].numpy()
        catalog = Catalog.from_codes(catalog.item_ids, codes, on_collision="keep")
    assert catalog.leaf_is_item == (request.param == "a leaf is an item")
    tokenizer = word_tokenizer(catalog.trie.sizes)
    policy = CausalPolicy(make_model(), catalog.trie, node_tokens(tokenizer, catalog.trie))
    prompts = PromptBuilder(catalog, tokenizer, max_history=5)([observed(row) for row in rows])
    return RewardParts(catalog, recommender, policy), prompts


def test_a_hit_is_the_target_and_whatever_shares_its_leaf(shared, make_batch, draw):
    value = Hit(shared)(make_batch([0, 5]), draw(shared, [[0, 1, 4], [5, 0, 3]]))
    assert value.tolist() == [[1, 0, 1], [1, 0, 0]]
    assert Hit(shared).catalog(make_batch([4])).tolist() == [[1, 0, 0, 0, 1, 0]]


def test_a_hit_is_one_item_where_a_leaf_is_an_item(catalog, prompts):
    assert torch.equal(Hit(catalog).catalog(prompts), torch.nn.functional.one_hot(prompts.target, 48).float())


def test_the_prefix_is_the_share_of_levels_before_the_first_difference(shared, make_batch, draw):
    value = SharedPrefix(shared)(make_batch([0, 5]), draw(shared, [[0, 1, 2], [5, 3, 2]]))
    torch.testing.assert_close(value, torch.tensor([[3, 2, 1], [3, 2, 0]]) / 3)
    everything = SharedPrefix(shared).catalog(make_batch([4]))
    torch.testing.assert_close(everything, torch.tensor([[3, 2, 1, 0, 3, 0]]) / 3)  # 3 ends like 4, too late to count


CODES = np.array([[0, 0, 2], [0, 0, 1], [0, 1, 2], [1, 0, 2], [1, 0, 1]])


def test_similarity_is_the_share_of_equal_codes_wherever_they_stand(make_batch, draw):
    catalog = Catalog.from_codes("abcde", CODES)
    value = MatchedCodes(catalog)(make_batch([0, 4]), draw(catalog, [[0, 1, 2], [4, 3, 2]]))
    torch.testing.assert_close(value, torch.tensor([[3, 2, 2], [3, 2, 0]]) / 3)  # 2 and 0: first and last code
    torch.testing.assert_close(MatchedCodes(catalog).catalog(make_batch([0])), torch.tensor([[3, 2, 2, 2, 1]]) / 3)


def test_a_code_that_tells_equal_codes_apart_counts_where_all_codes_agree(make_batch):
    catalog = Catalog.from_codes("abcdef", np.r_[CODES, CODES[:1]])  # f is 0 0 2 1, and the others end with 0
    value = MatchedCodes(catalog).catalog(make_batch([0, 5]))
    torch.testing.assert_close(value, torch.tensor([[4, 2, 2, 2, 1, 3], [3, 2, 2, 2, 1, 4]]) / 4)


def test_at_least_the_shared_prefix_agrees(catalog, prompts):
    matched, prefix = MatchedCodes(catalog).catalog(prompts), SharedPrefix(catalog).catalog(prompts)
    assert (matched >= prefix).all() and (matched > prefix).any()
    assert torch.equal(matched == 1, prefix == 1)


@pytest.mark.parametrize("name", [*STOCK, "sum"])
def test_the_catalog_at_once_equals_a_trajectory_to_every_item(name, given):
    parts, prompts = given
    wanted = SETTINGS if name == "sum" else {name: SETTINGS[name]}
    reward = build_rewards({kind: {"weight": 0.5} | settings for kind, settings in wanted.items()}, parts)
    items = torch.arange(48).expand(len(prompts), -1)
    one_by_one = reward(prompts, Trajectories.from_items(items, parts.catalog.trie.codes(items), "random"))
    assert reward.scores_catalog and one_by_one.shape == (4, 48)
    assert torch.equal(reward.catalog(prompts), one_by_one)


@pytest.mark.parametrize("name", [*STOCK, "sum"])
def test_what_a_reward_names_and_the_rest_are_all_it_says(name, given):
    """reward_items of the whole catalog changes nothing; a lower one only drops what is worth less."""
    parts, prompts = given
    wanted = SETTINGS if name == "sum" else {name: SETTINGS[name]}
    trie = parts.catalog.trie
    reward, all_named, few_named = (
        build_rewards(
            {kind: {"weight": 0.5} | settings for kind, settings in wanted.items()}, replace(parts, reward_items=n)
        )
        for n in (0, 48, 6)
    )
    everything = reward.catalog(prompts)
    values, cut = all_named.sparse(prompts, trie)
    torch.testing.assert_close(values.dense(), everything)
    torch.testing.assert_close(all_named.catalog(prompts), everything)
    assert cut.max() < 1e-3
    values, cut = few_named.sparse(prompts, trie)
    assert (values.dense() < everything + 1e-5).all()
    items = torch.arange(48).expand(len(prompts), -1)
    one_by_one = few_named(prompts, Trajectories.from_items(items, trie.codes(items), "random"))
    torch.testing.assert_close(one_by_one, values.dense())
    if name in ("collaborative", "likelihood"):
        assert cut.min() > 0.01 and (values.dense() > 0).sum(1).max() < 48
        torch.testing.assert_close(values.dense().amax(1), everything.amax(1))


def test_a_reward_may_name_items_alone_and_what_it_cannot_name_is_one_sentence(catalog, prompts):
    class Named:
        def __init__(self, items, values=None, rest=None):
            self.items = torch.tensor(items).expand(4, -1)
            self.values = torch.full(self.items.shape, 2.0) if values is None else values
            self.rest = torch.ones(4) if rest is None else rest

        def __call__(self, batch, trajectories):
            return self.sparse(batch).at(trajectories.items, catalog.trie)

        def sparse(self, batch):
            return SparseReward(self.items, self.values, self.rest)

    total = WeightedSum({"named": Named([5, 7, -1])}, catalog=catalog)
    assert total.scores_catalog and not total.dense_only
    assert total.catalog(prompts).sum(1).tolist() == [50.0] * 4
    for reward, message in (
        (Named([5, 7, 5]), "Reward named names an item twice for the prompt in row 0 of a batch."),
        (Named([5, 48]), "Reward named has the items 5 to 48, but there are 0 to 47."),
        (Named([5], torch.full((4, 1), -1.0)), "has a value in sparse.batch. that is not finite, or below 0"),
        (Named([5], rest=torch.full((4,), torch.inf)), "has a value in sparse.batch. that is not finite"),
        (Named([5], torch.ones(4, 2)), "items and their values differ in shape"),
        (Named([5], rest=torch.ones(3)), "Reward named returned shape .3,. for a tensor .4. .prompts, rest."),
    ):
        with pytest.raises(InputError, match=message):
            WeightedSum({"named": reward}, catalog=catalog).sparse(prompts, catalog.trie)


@pytest.mark.parametrize("name", STOCK)
def test_every_reward_ends_at_1_and_knows_semantic_ids_alone(name, given):
    parts, prompts = given
    value = build_rewards({name: SETTINGS[name]}, parts).catalog(prompts)
    torch.testing.assert_close(value.amax(1), torch.ones(4))
    assert (value >= 0).all()
    assert torch.equal(value, value[:, parts.catalog.trie.representative(torch.arange(48))])


@pytest.mark.parametrize("name", STOCK)
def test_a_prompt_s_reward_does_not_depend_on_the_other_prompts(name, given):
    parts, prompts = given
    reward = build_rewards({name: SETTINGS[name]}, parts)
    torch.testing.assert_close(reward.catalog(prompts.rows(2, 3)), reward.catalog(prompts)[2:3])
