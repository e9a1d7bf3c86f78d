"""A policy computed by vLLM against the same one on transformers; run by test_in_process.py in a process of its own."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import AutoConfig, AutoModelForCausalLM

from catalog import DenseFlows, node_tokens
from catalog.errors import InputError
from interactions.prompts import PromptBuilder
from policy import CausalPolicy, Exploration
from recommenders.guide import FlowGuide
from samplers.rollouts.engine_policy import EnginePolicy
from tests.raising import raises
from tests.vllm.servers import SHAPE

MAX_HISTORY = 5


@pytest.fixture(scope="module")
def folder(catalog, tokenizer, tmp_path_factory):
    """A checkpoint as a run leaves it, with its catalog inside."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen3", vocab_size=len(tokenizer), catalog_fingerprint=catalog.fingerprint, **SHAPE)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("run")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    catalog.save(folder / "catalog")
    return folder


@pytest.fixture(scope="module")
def by_engine(folder, catalog, tokenizer):
    return EnginePolicy.from_pretrained(folder, folder / "catalog", PromptBuilder(catalog, tokenizer, MAX_HISTORY))


@pytest.fixture(scope="module")
def policy(folder, catalog, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return CausalPolicy(model, catalog.trie, node_tokens(tokenizer, catalog.trie))


def excluded(catalog, prompts):
    """The likeliest items of each prompt, and padding."""
    best = torch.arange(20).expand(len(prompts), -1).clone()
    best[1, 5:] = -1
    return {"excluded": best}


def guide(catalog, prompts):
    log_reward = 3 * torch.randn(len(prompts), len(catalog), generator=torch.Generator().manual_seed(1))
    return {"guide": FlowGuide(DenseFlows(log_reward, catalog.trie), 1.0)}


def allowed(catalog, prompts):
    return {"allowed": torch.arange(len(catalog)) % 3 > 0}


def best(catalog, prompts):
    return {"k": 2}


ARGUMENTS = [[], [excluded], [guide], [excluded, guide], [best], [allowed], [excluded, guide, best, allowed]]


@pytest.mark.parametrize("width", [3, 20, 60])  # 60 is more than there are items
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda makes: "-".join(make.__name__ for make in makes) or "plain")
def test_both_find_the_same_beams(arguments, width, by_engine, policy, prompts, catalog):
    settings = {name: value for make in arguments for name, value in make(catalog, prompts).items()}
    items, score = by_engine.beam(prompts, width, **settings)
    expected, expected_score = policy.beam(prompts, width, **settings)
    assert torch.equal(items, expected)
    torch.testing.assert_close(score, expected_score, atol=1e-4, rtol=0)


def test_a_beam_asks_for_each_open_node_once(by_engine, prompts, catalog, monkeypatch):
    asked = []
    extend = by_engine.engine.extend

    def noting(begun, prefix, width):
        asked.extend((tuple(prompt), prefix) for prompt in begun)
        return extend(begun, prefix, width)

    monkeypatch.setattr(by_engine.engine, "extend", noting)
    items, _ = by_engine.beam(prompts, 20)
    assert len(set(asked)) == len(asked)
    nodes = catalog.trie.path(items)[..., :-1]  # what a beam must have come through
    for row, prompt in enumerate(prompts.token_lists()):
        begun = [(len(whole), depth) for whole, depth in asked if list(whole[: len(whole) - depth]) == prompt]
        assert begun.count((len(prompt), 0)) == 1
        through = nodes[row].unique()
        assert len(begun) >= int(catalog.trie.open[through].sum())
    codes = torch.tensor([whole[-1] for whole, depth in asked if depth == 1])
    first = {int(by_engine.tokens[node]): bool(catalog.trie.open[node]) for node in catalog.trie.nodes_at(1)}
    assert all(first[code] for code in codes.tolist())


def test_both_give_paths_and_items_the_same_log_probabilities(by_engine, policy, prompts, catalog):
    items = torch.randint(len(catalog), (len(prompts), 30), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = policy.log_probs(prompts, items, children=True)
    found = by_engine.log_probs(prompts, items, children=True)
    torch.testing.assert_close(found.log_pf, expected.log_pf, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.child_log_pf, expected.child_log_pf, atol=1e-4, rtol=0)
    torch.testing.assert_close(by_engine.distribution(prompts), policy.distribution(prompts), atol=1e-4, rtol=0)


def test_draws_follow_the_policy_and_their_seed(by_engine, policy, prompts):
    def draw(count, seed):
        return by_engine.sample(prompts, count, torch.Generator().manual_seed(seed))

    items, log_pf = draw(2000, 1)
    with torch.no_grad():
        expected = policy.log_probs(prompts, items[:, :50]).log_pf
    torch.testing.assert_close(log_pf[:, :50], expected, atol=1e-4, rtol=0)
    chances = policy.distribution(prompts).double().softmax(-1) * items.shape[1]  # [B, items]
    for row in range(len(prompts)):
        often = chances[row] >= 5  # the usual condition; what is rare is one class
        counts = items[row].bincount(minlength=chances.shape[1]).double()
        pairs = [np.append(v[often], v[~often].sum()) for v in (counts, chances[row])]
        assert often.sum() > 5 and chisquare(*pairs).pvalue > 1e-3
    assert torch.equal(draw(20, 1)[0], items[:, :20]) and not torch.equal(draw(20, 2)[0], items[:, :20])


@pytest.mark.parametrize("exploration", [Exploration(temperature=1.5), Exploration(0.8, 0.3)], ids=str)
def test_exploring_draws_are_those_of_the_policy(exploration, by_engine, policy, prompts):
    drawn = [one.sample(prompts, 50, torch.Generator().manual_seed(3), exploration) for one in (by_engine, policy)]
    assert torch.equal(drawn[0][0], drawn[1][0])
    torch.testing.assert_close(drawn[0][1], drawn[1][1], atol=1e-4, rtol=0)


def test_what_cannot_be_computed_is_refused(by_engine, prompts, folder, catalog, tokenizer, tmp_path):
    with raises(InputError):
        by_engine.log_probs(prompts, torch.zeros(len(prompts), 1, dtype=torch.long), history=True)
    longer = PromptBuilder(catalog, tokenizer, MAX_HISTORY + 1)([{"history": [0] * (MAX_HISTORY + 1)}])
    with raises(InputError):
        by_engine.beam(longer, 3)
    (tmp_path / "resolved.yaml").touch()  # of a run that has not ended
    with raises(InputError, file=tmp_path):
        EnginePolicy.from_pretrained(tmp_path, folder / "catalog", PromptBuilder(catalog, tokenizer, MAX_HISTORY))
