"""Flows of a reward that names few items are those of the same reward item by item."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from catalog import DenseFlows, SparseFlows, SparseReward, SparseValues, Trie, draw_items
from catalog.sparse_flows import ListedOnPath

SIZES = (4, 3, 4)


def by_item(reward: SparseReward, trie: Trie) -> Tensor:
    """What the docstring of `SparseReward` says, item by item: [B, items]."""
    value = torch.empty(len(reward.rest), trie.items)
    for row in range(len(reward.rest)):
        for item in range(trie.items):
            found = reward.rest[row]
            for node in trie.path(torch.tensor(item)):
                place = (reward.nodes[row] == node).nonzero()
                found = reward.node_values[row, place[0, 0]] if len(place) else found
            place = (reward.items[row] == item).nonzero()
            value[row, item] = reward.values[row, place[0, 0]] if len(place) else found
    return value


@st.composite
def cases(draw: Callable) -> tuple[Trie, list[SparseReward]]:
    """A trie whose leaves may be shared, and two rewards of three prompts that name items and subtrees."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    count = draw(st.integers(2, 30))
    codes = rng.integers(0, SIZES, (count, 3))
    trie = Trie.build(np.unique(codes, axis=0) if draw(st.booleans()) else codes, SIZES)

    def numbers(below: int, most: int) -> Tensor:
        rows = [rng.choice(below, min(below, most), replace=False) for _ in range(3)]
        found = torch.from_numpy(np.stack(rows))
        return found.masked_fill(torch.rand(found.shape) < 0.2, -1)

    rewards = []
    for _ in range(2):
        # no leaf as a node, which an item of it would name again
        items, nodes = numbers(trie.items, draw(st.integers(0, 30))), numbers(trie.first_leaf, 4)
        parts = torch.rand(items.shape), torch.rand(3), nodes, torch.rand(nodes.shape)
        rewards.append(SparseReward(items, *parts))
    return trie, rewards


@settings(max_examples=40, deadline=None)
@given(case=cases(), weight=st.floats(0.1, 3))
def test_sparse_flows_are_the_dense_ones(case, weight):
    trie, rewards = case
    values = SparseValues.from_rewards(rewards, [1.0, weight], trie)
    everything = by_item(rewards[0], trie) + weight * by_item(rewards[1], trie)
    assert torch.equal(values.dense(), everything)
    assert values.own.min() >= 0 and torch.equal(
        torch.zeros(3).long().index_add(0, values.row, values.own), trie_items(trie)
    )
    dense = DenseFlows(everything.clamp(min=0.2).log() / 0.5, trie)
    sparse = SparseFlows(values, values.value.clamp(min=0.2).log() / 0.5)
    items = torch.randint(trie.items, (3, 5))
    path = trie.path(items)
    close = {"atol": 1e-5, "rtol": 1e-5}
    for mine, other in zip(sparse.on_path(path), dense.on_path(path), strict=True):
        torch.testing.assert_close(mine, other, **close)
    every = torch.arange(trie.nodes).expand(3, -1)
    torch.testing.assert_close(sparse.at(every), dense.at(every), **close)
    torch.testing.assert_close(sparse.of_items(items), dense.of_items(items))
    for level in range(trie.levels):
        nodes = path[..., level]
        torch.testing.assert_close(sparse.steps(nodes, level), dense.steps(nodes, level), **close)
    mass = dense.log_reward.softmax(-1)
    poor, leaf = everything < 0.5, trie.leaf_of_item[items[:, 0]].long()
    torch.testing.assert_close(sparse.share(values.value < 0.5).float(), (poor * mass).sum(1), **close)
    below = trie.same_leaf(torch.arange(trie.items), items[:, :1])
    torch.testing.assert_close(sparse.share(values.value < 0.5, leaf).float(), (poor * below * mass).sum(1), **close)
    kept = sparse.listed_on_path(path[:, 0])
    child = trie.children(path[:, 0, :-1], max(trie.max_children))
    again = ListedOnPath.concat([kept], trie).children(child, trie)
    torch.testing.assert_close(again, dense.on_path(path[:, :1])[1].squeeze(1), **close)


def trie_items(trie: Trie) -> Tensor:
    return torch.full((3,), trie.items)


def test_the_flow_of_the_root_by_hand():
    """Two of four items are worth 5 and 3, the others 1, and all below the second first code but the named one 2."""
    trie = Trie.build(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), (2, 2))
    named = SparseReward(torch.tensor([[0, 3]]), torch.tensor([[5.0, 3.0]]), torch.ones(1))
    flows = SparseFlows(values := SparseValues.from_rewards([named], [1.0], trie), values.value.log())
    assert flows.at(torch.tensor([[0, 1, 2]])).exp()[0].tolist() == pytest.approx([10, 6, 4])
    subtree = SparseReward(named.items, named.values, named.rest, torch.tensor([[2]]), torch.tensor([[2.0]]))
    flows = SparseFlows(values := SparseValues.from_rewards([subtree], [1.0], trie), values.value.log())
    assert flows.at(torch.tensor([[0, 1, 2]])).exp()[0].tolist() == pytest.approx([11, 6, 5])


def test_nothing_cancels_where_the_named_items_are_the_poor_ones():
    codes = np.stack(np.meshgrid(range(30), range(30), indexing="ij"), -1).reshape(-1, 2)
    trie = Trie.build(codes, (30, 30))
    named = SparseReward(torch.arange(30).unsqueeze(0), torch.full((1, 30), 1e-20), torch.ones(1))  # all below node 1
    flows = SparseFlows(values := SparseValues.from_rewards([named], [1.0], trie), values.value.log())
    assert flows.at(torch.tensor([[1]])).item() == pytest.approx(np.log(30e-20), rel=1e-6)
    assert flows.at(torch.tensor([[0]])).item() == pytest.approx(np.log(870), rel=1e-6)


@pytest.mark.parametrize("shared", [True, False])
def test_draws_come_in_proportion_to_the_reward(shared):
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]])
    trie = Trie.build(np.concatenate([codes, codes[:2]]) if shared else codes, (2, 3))
    reward = SparseReward(
        torch.tensor([[0, 4], [2, 3]]), torch.tensor([[6.0, 3.0], [2.0, 9.0]]), torch.tensor([1.0, 0.5])
    )
    values = SparseValues.from_rewards([reward], [1.0], trie)
    chances = values.dense() / values.dense().sum(1, keepdim=True)
    for flows in (SparseFlows(values, values.value.log()), DenseFlows(values.dense().log(), trie)):
        drawn = draw_items(flows, 2, 20_000, torch.Generator().manual_seed(0))
        counts = torch.stack([row.bincount(minlength=trie.items) for row in drawn]) / 20_000
        torch.testing.assert_close(counts, chances, atol=0.012, rtol=0)
