"""The policies of every kind of backbone against brute force: every item of a small catalog, one full row each."""

from itertools import pairwise, product

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from catalog import DenseFlows, node_tokens
from catalog.errors import InputError, RunError
from interactions.prompts import PromptBuilder
from policy import check_backbone, check_shared_prefix, policy_of
from policy.base import CachedBranches
from recommenders.guide import FlowGuide
from tests.raising import raises

EVERY = torch.arange(48)
KINDS = ["qwen3", "t5"]


@pytest.fixture(params=KINDS)
def policy(request, make_model, catalog, tokenizer):
    return policy_of(make_model(request.param), catalog.trie, node_tokens(tokenizer, catalog.trie))


@pytest.fixture
def exact(policy, prompts) -> Tensor:
    """Log-probability of each item [B, items], one naive row per item."""
    return policy.naive_log_probs(prompts, EVERY.expand(len(prompts), -1)).sum(-1)


def test_naive_probabilities_sum_to_one_over_the_catalog(exact):
    torch.testing.assert_close(exact.exp().sum(-1), torch.ones(4))
    assert exact.exp().max() > 0.05  # far from uniform, so that the tests below can fail


@pytest.mark.parametrize(("kind", "attention"), [*product(["gpt2", "qwen3", "llama"], ["sdpa", "eager"]), ("t5", None)])
def test_shared_prefix_equals_naive_in_values_and_gradients(kind, attention, make_model, catalog, tokenizer, prompts):
    model = make_model(kind, attn_implementation=attention)
    policy = policy_of(model, catalog.trie, node_tokens(tokenizer, catalog.trie))
    items = torch.randint(48, (4, 6), generator=torch.Generator().manual_seed(2))
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
    gradients, values = [], []
    for log_pf in (policy.log_probs(prompts, items).log_pf, policy.naive_log_probs(prompts, items)):
        model.zero_grad()
        (log_pf.sum(-1) * weight).mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
        values.append(log_pf.detach())
    torch.testing.assert_close(*values, atol=1e-5, rtol=1e-5)
    for ours, naive in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, naive, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("policy", ["qwen3"], indirect=True)
def test_one_forward_with_history_equals_a_prompt_per_position(policy, catalog, tokenizer, rows, prompts):
    output = policy.log_probs(prompts, prompts.target[:, None], history=True, children=True)
    builder = PromptBuilder(catalog, tokenizer, max_history=5)
    history = rows[3]["history"]  # 5 items, no padding
    for position in range(1, 5):
        prefix = builder([{"history": history[:position], "target": history[position]}])
        alone = policy.log_probs(prefix, prefix.target[:, None], children=True)
        torch.testing.assert_close(output.log_pf_history[3, position], alone.log_pf[0, 0], atol=1e-5, rtol=1e-5)
        every = output.child_log_pf_history[3, position]
        torch.testing.assert_close(every, alone.child_log_pf[0, 0], atol=1e-5, rtol=1e-5)
    alone = policy.log_probs(prompts, prompts.target[:, None])
    torch.testing.assert_close(output.log_pf, alone.log_pf, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.states, alone.states, atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing(policy, catalog, tokenizer, rows, prompts):
    alone = PromptBuilder(catalog, tokenizer, max_history=5)(rows[:1])
    items = EVERY[None, :8]
    torch.testing.assert_close(
        policy.log_probs(prompts, items.expand(4, -1)).log_pf[:1],
        policy.log_probs(alone, items).log_pf,
        atol=1e-5,
        rtol=1e-5,
    )


def test_exact_distribution_equals_one_row_per_item(policy, prompts, exact):
    torch.testing.assert_close(policy.distribution(prompts), exact, atol=1e-5, rtol=1e-5)


def test_exact_distribution_does_not_depend_on_the_chunks(policy, prompts, exact, monkeypatch):
    monkeypatch.setattr("policy.plan.CHUNK", 5)
    assert len(policy._plan.chunks) > 2
    torch.testing.assert_close(policy.distribution(prompts), exact, atol=1e-5, rtol=1e-5)


def test_sample_returns_legal_items_with_their_log_probabilities(policy, prompts, exact):
    items, log_pf = policy.sample(prompts, 64, torch.Generator().manual_seed(0))
    torch.testing.assert_close(log_pf.sum(-1), exact.gather(1, items), atol=1e-5, rtol=1e-5)


def test_sample_frequencies_follow_the_exact_distribution(policy, prompts, exact):
    generator = torch.Generator().manual_seed(0)
    items = torch.cat([policy.sample(prompts, 100, generator)[0] for _ in range(20)], 1)
    frequency = torch.nn.functional.one_hot(items, 48).float().mean(1)  # [B, items]
    standard_error = (exact.exp() * (1 - exact.exp()) / 2000).sqrt()
    common = exact.exp() > 0.005  # at least 10 expected draws, so that the error is nearly normal
    assert common.sum() > 40
    assert ((frequency - exact.exp()).abs() / standard_error)[common].max() < 4.5
    assert ((frequency - exact.exp()).abs()[~common]).max() < 0.01


def test_a_wide_beam_returns_the_catalog_in_exact_order(policy, prompts, exact):
    items, score = policy.beam(prompts, 48)
    assert torch.equal(items, exact.argsort(descending=True))
    torch.testing.assert_close(score, exact.sort(descending=True).values, atol=1e-5, rtol=1e-5)


def test_over_the_whole_vocabulary_a_beam_ranks_by_the_sum_of_the_model_s_own_log_probabilities(policy, prompts):
    whole = policy_of(policy.model, policy.trie, policy.tokens, full_vocabulary=True)
    exact = whole.naive_log_probs(prompts, EVERY.expand(4, -1)).sum(-1)
    assert (exact.exp().sum(-1) < 0.9).all()  # the rest is what follows nothing in the catalog
    items, score = whole.beam(prompts, 48, k=7)
    expected = exact.sort(descending=True)
    assert torch.equal(items, expected.indices[:, :7])
    torch.testing.assert_close(score, expected.values[:, :7], atol=1e-5, rtol=1e-5)


def test_branches_without_a_choice_left_are_not_read(policy, prompts, monkeypatch):
    read, advance = [], CachedBranches.advance

    def counted(branches, tokens, column):
        read.append(tokens.shape[1])
        return advance(branches, tokens, column)

    monkeypatch.setattr(CachedBranches, "advance", counted)
    policy.beam(prompts, 48)  # as wide as the catalog: it comes to every node
    levels = list(pairwise(policy.trie.level_start))[1:-1]
    assert read == [int(policy.trie.open[a:b].sum()) for a, b in levels]
    assert read[-1] < levels[-1][1] - levels[-1][0]
    read.clear()
    policy.beam(prompts, 1)  # may be settled early; processes that share a sharded model still count the same forwards
    assert read == [1] * len(levels)


def test_a_beam_passes_over_excluded_items_without_losing_places(policy, prompts, exact):
    excluded = exact.topk(9).indices[:, torch.randperm(9, generator=torch.Generator().manual_seed(0))]
    excluded[0, 3:] = -1
    excluded[1, 1] = excluded[1, 0]  # a repeated item
    items, _ = policy.beam(prompts, 48, excluded)
    for row in range(4):
        gone = set(excluded[row].tolist()) - {-1}
        expected = [i for i in exact[row].argsort(descending=True).tolist() if i not in gone]
        assert items[row].tolist() == expected + [-1] * len(gone)


def test_a_narrow_beam_returns_distinct_items(policy, prompts):
    items, score = policy.beam(prompts, 5)
    assert all(len(set(row)) == 5 and min(row) >= 0 for row in items.tolist())
    assert (score.diff() <= 0).all()


def test_gradient_checkpointing_leaves_the_shared_prefix_forward_as_it_was(policy, prompts):
    items = EVERY[None, :6].expand(4, -1)
    plain = policy.log_probs(prompts, items).log_pf
    policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    policy.model.train()
    torch.testing.assert_close(policy.log_probs(prompts, items).log_pf, plain, atol=1e-6, rtol=1e-6)


def test_self_check_passes_here_and_fails_for_a_backbone_that_ignores_the_mask(policy, prompts):
    items = EVERY[None, :6].expand(4, -1)
    assert check_shared_prefix(policy, prompts, items) < 1e-4
    forward = policy.model.forward
    own = "decoder_attention_mask" if policy.model.config.is_encoder_decoder else "attention_mask"
    policy.model.forward = lambda **given: forward(**given | {own: None})
    with raises(RunError):
        check_shared_prefix(policy, prompts, items)


def test_self_check_has_two_branches_and_a_cache_even_where_one_item_is_trained(policy, prompts):
    forward, one, before = policy.model.forward, EVERY[None, :1], torch.get_rng_state()
    policy.model.train()
    assert check_shared_prefix(policy, prompts.rows(0, 1), one) < 1e-4
    assert policy.model.training and torch.equal(torch.get_rng_state(), before)
    own = "decoder_attention_mask" if policy.model.config.is_encoder_decoder else "attention_mask"

    def forgetful(**given):  # right for whole rows, and blind to what is another branch's in a cache
        return forward(**given | ({own: None} if given.get("past_key_values") is not None else {}))

    policy.model.forward = forgetful
    with raises(RunError):
        check_shared_prefix(policy, prompts.rows(0, 1), one)

    def broken(**given):
        raise IndexError("as a backbone that knows no such mask")

    policy.model.forward = broken
    with raises(RunError):
        check_shared_prefix(policy, prompts.rows(0, 1), one)
    assert policy.model.training  # as before the error


def test_positions_that_are_places_in_the_row_are_refused(catalog, tokenizer, prompts):
    shape = dict(d_model=32, n_heads=4, n_layers=2, max_seq_len=128, vocab_size=len(tokenizer))
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("mpt", **shape)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    policy = policy_of(model, catalog.trie, node_tokens(tokenizer, catalog.trie))
    with raises(RunError):
        check_shared_prefix(policy, prompts.rows(0, 1), EVERY[None, :1])
    for config in (model.config, AutoConfig.for_model("bloom"), AutoConfig.for_model("falcon", alibi=True)):
        with raises(InputError, field="backbone", value=config.model_type):
            check_backbone(config, 40, branches=2, length=3)


def test_branches_that_do_not_fit_the_attention_window_are_refused(catalog, tokenizer, make_model, prompts):
    kinds = ["sliding_attention", "full_attention"]
    model = make_model("qwen3", layer_types=kinds, use_sliding_window=True, sliding_window=40)
    policy = policy_of(model, catalog.trie, node_tokens(tokenizer, catalog.trie))
    assert check_shared_prefix(policy, prompts, EVERY[None, :1].expand(4, -1)) < 1e-4
    with raises(InputError):
        policy.beam(prompts, 20)


def test_weights_that_are_no_numbers_are_told_and_not_drawn_from(policy, prompts):
    with torch.no_grad():
        next(policy.model.parameters()).fill_(torch.nan)
    policy.model.train()
    for draw in (
        lambda: policy.sample(prompts, 2, torch.Generator().manual_seed(0)),
        lambda: policy.beam(prompts, 2),
        lambda: policy.distribution(prompts),
        lambda: check_shared_prefix(policy, prompts, EVERY[None, :2].expand(4, -1)),
    ):
        with raises(RunError):
            draw()
        assert policy.model.training


@pytest.mark.parametrize(
    ("kind", "overrides", "prompt"),
    [
        ("qwen3", {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 45}, 40),
        ("gpt2", {"attention_layers": ["global", "local"], "window_size": 45}, 40),
        ("qwen3", {"attn_implementation": "flash_attention_2"}, 40),
        ("gpt2", {}, 126),
        ("t5", {"model_type": "bart"}, 40),
    ],
)
def test_backbones_that_would_be_silently_wrong_are_refused(kind, overrides, prompt, make_model):
    config = make_model(kind).config
    config._attn_implementation_internal = overrides.pop("attn_implementation", "sdpa")
    for name, value in overrides.items():
        setattr(config, name, value)
    with raises(InputError):
        check_backbone(config, prompt, branches=2, length=3)


def test_children_are_all_of_each_node_and_states_those_of_the_nodes(policy, prompts):
    items = torch.randint(48, (4, 6), generator=torch.Generator().manual_seed(2))
    output = policy.log_probs(prompts, items, children=True)
    path = policy.trie.path(items)
    assert output.states.shape[:3] == output.log_pf.shape
    torch.testing.assert_close(output.child_log_pf.exp().sum(-1), torch.ones(4, 6, policy.trie.levels))
    slot = path[..., 1:] - policy.trie.first_child[path[..., :-1]]
    torch.testing.assert_close(output.child_log_pf.gather(-1, slot.unsqueeze(-1)).squeeze(-1), output.log_pf)
    for left in range(6):  # equal nodes, equal states
        for right in range(6):
            same = path[:, left, :-1] == path[:, right, :-1]  # [B, L]
            torch.testing.assert_close(
                output.states[:, left][same], output.states[:, right][same], atol=1e-5, rtol=1e-5
            )


def test_a_guided_beam_ranks_by_the_policy_times_a_power_of_the_reward(policy, prompts, exact):
    log_reward = torch.randn(4, 48, generator=torch.Generator().manual_seed(5))
    guide = FlowGuide(DenseFlows(log_reward, policy.trie), weight=0.7)
    items, score = policy.beam(prompts, 48, guide=guide)  # as wide as the catalog, so that nothing is passed over
    product = exact + 0.7 * log_reward.log_softmax(-1)
    torch.testing.assert_close(score, product.sort(descending=True).values, atol=1e-4, rtol=1e-4)
    assert (items == product.argsort(descending=True)).float().mean() > 0.95
    unguided, plain = policy.beam(prompts, 48)
    torch.testing.assert_close(plain, exact.sort(descending=True).values, atol=1e-4, rtol=1e-4)
    assert not torch.equal(items, unguided)
