"""Beams over random catalogs: cut to their best k, and among the items of a stock, against the whole beam."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from catalog import Catalog, Trie, exact_log_flow, node_tokens, word_tokenizer
from interactions.prompts import PromptBatch, PromptBuilder
from policy import TriePolicy, auto_class, policy_of
from policy.base import CachedBranches
from tests.conftest import SMALL

SIZES = (4, 3, 4)
KINDS = ["qwen3", "t5"]


@cache
def backbone(kind: str) -> PreTrainedModel:
    """One backbone for all catalogs, with weights of which some choices are nearly certain and others are not."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **({"vocab_size": len(word_tokenizer(SIZES))} | SMALL[kind]))
    model = auto_class(config).from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


@dataclass
class Table:
    """A guide from a table of what each step into a node adds [B, nodes]."""

    steps: Tensor
    trie: Trie

    @property
    def falls(self) -> bool:
        return not bool((self.steps > 0).any())

    def __call__(self, nodes: Tensor, level: int) -> Tensor:
        child = self.trie.children(nodes, self.trie.max_children[level]).clamp(min=0)
        return self.steps.gather(1, child.flatten(1)).view_as(child)


@dataclass
class Case:
    policy: TriePolicy
    prompts: PromptBatch
    excluded: Tensor
    allowed: Tensor
    guide: Table

    @property
    def exact(self) -> Tensor:
        """What the guided beam adds up to for each item that is left, -inf for the others: [B, items]."""
        trie, rows = self.policy.trie, len(self.prompts)
        left = self.allowed.expand(rows, -1).clone()
        for row, items in enumerate(self.excluded.tolist()):
            left[row, [item for item in items if item >= 0]] = False
        leaf_left = torch.zeros(rows, trie.nodes, dtype=torch.int).index_add_(1, trie.leaf_of_item, left.int()) > 0
        steps = self.guide.steps[:, trie.path(torch.arange(trie.items))[:, 1:]].sum(-1)
        total = self.policy.distribution(self.prompts) + steps
        return total.masked_fill(~leaf_left[:, trie.leaf_of_item], -torch.inf)


@st.composite
def cases(draw: Callable, kind: str) -> Case:
    """A catalog of 2 to 40 items, some of which share their codes, with exclusions, a stock and a guide."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    count = draw(st.integers(2, 40))
    codes = rng.integers(0, SIZES, (count, 3))
    catalog = Catalog.from_codes([str(i) for i in range(count)], codes, sizes=SIZES, on_collision="keep")
    builder = PromptBuilder(catalog, word_tokenizer(catalog.trie.sizes), max_history=3)
    prompts = builder([{"history": rng.integers(0, count, n).tolist(), "target": 0} for n in (1, 3)])
    policy = policy_of(backbone(kind), catalog.trie, node_tokens(word_tokenizer(catalog.trie.sizes), catalog.trie))
    trie = catalog.trie
    flow = exact_log_flow(torch.from_numpy(rng.normal(size=(2, count))).float(), trie)
    fall = torch.nn.functional.pad(flow[:, 1:] - flow[:, trie.parent(torch.arange(1, trie.nodes))], (1, 0))
    other = torch.from_numpy(rng.normal(size=(2, trie.nodes))).float()
    guides = [torch.zeros(2, trie.nodes), 0.5 * fall, -other.abs(), other]
    return Case(
        policy,
        prompts,
        excluded=torch.from_numpy(rng.integers(-1, count, (2, draw(st.integers(0, count))))),
        allowed=torch.from_numpy(rng.random(count) < draw(st.sampled_from([0.1, 0.5, 1.0]))),
        guide=Table(guides[draw(st.integers(0, 3))], trie),
    )


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_best_k_are_the_first_k_of_the_whole_beam(kind, data):
    case = data.draw(cases(kind))
    width = data.draw(st.integers(1, 20))
    k = data.draw(st.integers(1, width))
    items, score = case.policy.beam(case.prompts, width, case.excluded, case.guide, allowed=case.allowed)
    best = case.policy.beam(case.prompts, width, case.excluded, case.guide, k=k, allowed=case.allowed)
    torch.testing.assert_close(best[1], score[:, :k], atol=1e-5, rtol=1e-5)
    apart = (score.diff().abs() > 1e-4).all() and not (score == -torch.inf).any()  # no near ties, left to rounding
    if apart:
        assert torch.equal(best[0], items[:, :k])
    assert torch.equal(best[0] < 0, items[:, :k] < 0)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_wide_beam_ranks_exactly_the_leaves_that_are_left(kind, data):
    case = data.draw(cases(kind))
    trie = case.policy.trie
    leaves = trie.nodes_at(trie.levels)
    expected = case.exact[:, trie.item(leaves)].sort(descending=True).values  # one item a leaf
    items, score = case.policy.beam(case.prompts, trie.leaves, case.excluded, case.guide, allowed=case.allowed)
    torch.testing.assert_close(score, expected, atol=1e-4, rtol=1e-4)
    for row, found in enumerate(items):
        held = found[found >= 0]
        assert len(held.unique()) == len(held) == (expected[row] > -torch.inf).sum()
        torch.testing.assert_close(case.exact[row, held], score[row, : len(held)], atol=1e-4, rtol=1e-4)


def test_no_stock_leaves_every_place_empty(policy, prompts):
    items, score = policy.beam(prompts, 6, k=3, allowed=torch.zeros(48, dtype=torch.bool))
    assert torch.equal(items, torch.full((4, 3), -1)) and bool((score == -torch.inf).all())


def test_branches_that_have_lost_are_not_read_and_those_of_a_guide_that_can_raise_them_are(make_model, monkeypatch):
    codes = np.array([[a, b, c] for a in range(4) for b in range(3) for c in range(1 if b else 4)])
    catalog = Catalog.from_codes([str(i) for i in range(len(codes))], codes, sizes=SIZES)
    tokenizer = word_tokenizer(SIZES)
    model = make_model("qwen3", vocab_size=len(tokenizer))
    policy = policy_of(model, catalog.trie, node_tokens(tokenizer, catalog.trie))
    prompts = PromptBuilder(catalog, tokenizer, max_history=5)([{"history": [0, 7, 9], "target": 3}])
    read, advance = [], CachedBranches.advance

    def counted(branches, tokens, column):
        read.append(tokens.shape[1])
        return advance(branches, tokens, column)

    monkeypatch.setattr(CachedBranches, "advance", counted)
    rising = torch.zeros(1, catalog.trie.nodes)
    rising[:, -1] = 1e-3
    for guide, k in ((None, None), (None, 1), (Table(rising, catalog.trie), 1)):
        policy.beam(prompts, 12, guide=guide, k=k)
    assert read[1::2][0] == read[1::2][2] == 4 and read[1::2][1] < 4  # below the second code


def test_what_a_guide_takes_on_the_rest_of_a_certain_branch_is_counted_before_others_are_given_up(make_model):
    codes = np.array([[0, 0, 0], [1, 0, 0], [1, 0, 1]])  # one item below the first code, two below the second
    catalog = Catalog.from_codes(["a", "b", "c"], codes, sizes=SIZES)
    tokenizer = word_tokenizer(SIZES)
    model = make_model("qwen3", vocab_size=len(tokenizer))
    policy = policy_of(model, catalog.trie, node_tokens(tokenizer, catalog.trie))
    prompts = PromptBuilder(catalog, tokenizer, max_history=5)([{"history": [0, 1], "target": 2}])
    guide = torch.zeros(1, catalog.trie.nodes)
    guide[:, catalog.trie.path(torch.tensor(1))[1]] = -20.0  # at first the certain branch is ahead
    guide[:, catalog.trie.leaf_of_item[0]] = -100.0
    items, _ = policy.beam(prompts, 3, guide=Table(guide, catalog.trie))
    assert items[0, -1] == 0
    assert policy.beam(prompts, 3, guide=Table(guide, catalog.trie), k=1)[0].item() == items[0, 0]
