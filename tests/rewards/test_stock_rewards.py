"""Hit and shared prefix by hand."""

import pytest
import torch

from catalog import Trajectories
from rewards import REWARDS, Hit, SharedPrefix, WeightedSum


def test_a_hit_is_the_target_and_whatever_shares_its_leaf(shared, make_batch, draw):
    value = Hit(shared)(make_batch([0, 5]), draw(shared, [[0, 1, 4], [5, 0, 3]]))
    assert value.tolist() == [[1, 0, 1], [1, 0, 0]]
    assert Hit(shared).catalog(make_batch([4])).tolist() == [[1, 0, 0, 0, 1, 0]]


def test_a_hit_is_one_item_where_a_leaf_is_an_item(catalog, prompts):
    assert torch.equal(Hit(catalog).catalog(prompts), torch.nn.functional.one_hot(prompts.target, 48).float())


def test_similarity_is_the_share_of_levels_before_the_first_difference(shared, make_batch, draw):
    value = SharedPrefix(shared)(make_batch([0, 5]), draw(shared, [[0, 1, 2], [5, 3, 2]]))
    torch.testing.assert_close(value, torch.tensor([[3, 2, 1], [3, 2, 0]]) / 3)
    everything = SharedPrefix(shared).catalog(make_batch([4]))
    torch.testing.assert_close(everything, torch.tensor([[3, 2, 1, 0, 3, 0]]) / 3)  # 3 ends like 4, too late to count


@pytest.mark.parametrize("name", [*REWARDS, "sum"])
def test_the_catalogue_at_once_equals_a_trajectory_to_every_item(name, catalog, prompts):
    stock = {kind: build(catalog) for kind, build in REWARDS.items()}
    reward = stock.get(name) or WeightedSum(stock, {"hit": 2.0, "similarity": 0.5})
    items = torch.arange(48).expand(len(prompts), -1)
    one_by_one = reward(prompts, Trajectories.of_items(items, catalog.trie.codes(items), "random"))
    assert reward.catalog(prompts).shape == (4, 48)
    assert torch.equal(reward.catalog(prompts), one_by_one)
