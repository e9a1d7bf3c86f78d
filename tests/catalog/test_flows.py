"""Exact flows against enumeration, and the balance that defines them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import Catalog, Trie, exact_log_flow


@st.composite
def tries(draw) -> Trie:
    levels, items = draw(st.integers(1, 4)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = rng.integers(1, 6, levels)
    codes = rng.integers(0, sizes, (items, levels))
    return Catalog.from_codes([str(i) for i in range(items)], codes, on_collision="keep").trie


@settings(max_examples=60, deadline=None)
@given(tries(), st.integers(0, 10**6), st.integers(1, 400))
def test_the_flow_of_a_node_is_the_total_reward_of_the_items_below_it(trie, seed, chunk):
    log_reward = 20 * torch.randn(3, trie.items, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    flow = exact_log_flow(log_reward, trie, chunk=chunk)
    path = trie.path(torch.arange(trie.items))  # [items, L + 1]
    for node in range(trie.nodes):
        below = (path == node).any(1)
        torch.testing.assert_close(flow[:, node], log_reward[:, below].logsumexp(-1))


def test_flow_is_conserved_at_every_node(catalog):
    trie = catalog.trie
    flow = exact_log_flow(torch.randn(2, 48, dtype=torch.float64), trie)
    inner = torch.arange(trie.level_start[-2])
    child = trie.children(inner)
    into = flow[:, child.clamp(min=0)].masked_fill(child < 0, -torch.inf).logsumexp(-1)
    torch.testing.assert_close(into, flow[:, inner])


def test_rewards_of_any_scale_neither_overflow_nor_vanish(catalog):
    for scale in (-1e4, 1e4):
        log_reward = torch.full((1, 48), scale)
        assert exact_log_flow(log_reward, catalog.trie)[0, 0].item() == pytest.approx(scale + np.log(48), rel=1e-6)


def test_items_without_any_reward_have_no_flow(catalog):
    log_reward = torch.full((1, 48), -torch.inf)
    log_reward[0, 7] = 1.5
    flow = exact_log_flow(log_reward, catalog.trie)[0]
    path = catalog.trie.path(torch.tensor(7))
    assert (flow[path] == 1.5).all() and torch.isneginf(flow).sum() == catalog.trie.nodes - len(path)
