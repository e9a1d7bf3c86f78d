"""Reward functions of TRL: found by their arguments, and given what TRL's GRPOTrainer gives them."""

import asyncio
import re
import sys
from pathlib import Path

import pytest
import torch

from catalog import Trajectories
from interactions import PromptBuilder
from rewards import RewardParts, TRLReward, WeightedSum, as_reward, build_rewards, load_reward

PAGE = Path(__file__).parents[2] / "docs" / "reward.md"


@pytest.fixture
def parts(catalog, tokenizer):
    return RewardParts(catalog, tokenizer=tokenizer)


@pytest.fixture
def batch(catalog, tokenizer, rows):
    """Four prompts of up to two items, with the column `color`."""
    return PromptBuilder(catalog, tokenizer, 2)([row | {"color": f"c{i}"} for i, row in enumerate(rows)])


@pytest.fixture
def drawn(catalog, batch):
    """The target and two other items of each prompt."""
    items = torch.stack([batch.target, (batch.target + 1) % 48, (batch.target + 2) % 48], 1)
    return Trajectories.from_items(items, catalog.trie.codes(items), "random")


@pytest.fixture
def text_of(catalog):
    """The codes of an item as text."""

    def text(item):
        codes = catalog.trie.codes(torch.tensor(item)).tolist()
        return "".join(f"<{level}_{code}>" for level, code in zip("abcd", codes, strict=True))

    return text


def test_it_is_given_flat_lists_with_each_column_repeated(parts, batch, drawn, rows, text_of, tokenizer):
    seen = {}

    def mine(prompts, completions, **columns):
        seen.update(columns, prompts=prompts, completions=completions)
        return list(range(12))

    assert as_reward("mine", mine, parts)(batch, drawn).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert sorted(seen) == sorted(
        ["prompts", "completions", "completion_ids", "history", "target", "target_text", "user", "color"]
    )
    thrice = [row for row in rows for _ in range(3)]
    assert seen["completions"] == [text_of(item) for item in drawn.items.flatten().tolist()]
    assert seen["completion_ids"] == tokenizer(seen["completions"])["input_ids"]
    assert seen["prompts"] == ["<s>" + "".join(text_of(item) for item in row["history"][-2:]) for row in thrice]
    assert seen["user"] == [row["user"] for row in thrice]
    assert seen["color"] == [f"c{i}" for i in range(4) for _ in range(3)]
    assert seen["target"] == [row["target"] for row in thrice]
    assert seen["target_text"] == [text_of(row["target"]) for row in thrice]
    assert seen["history"] == [row["history"][-2:] for row in thrice]


def test_it_gets_what_it_names(parts, batch, drawn):
    def mine(prompts, completions, user, log_metric=None):
        assert log_metric is None
        return [float(name[1:]) for name in user]

    assert as_reward("mine", mine, parts)(batch, drawn)[:, 0].tolist() == [1, 3, 7, 5]


class Callable:
    def __call__(self, completions, target_text):
        return [completion == target for completion, target in zip(completions, target_text, strict=True)]


@pytest.mark.parametrize("reward", [Callable(), Callable().__call__, lambda completions, **columns: [1.0] * 12])
def test_what_has_completions_is_trls_kind(reward, parts, batch, drawn):
    assert isinstance(as_reward("mine", reward, parts), TRLReward)
    assert as_reward("mine", reward, parts)(batch, drawn)[:, 0].tolist() == [1, 1, 1, 1]


def test_what_has_none_is_ours(parts):
    for reward in (lambda batch, trajectories: None, torch.nn.Linear(1, 1), dict, max):
        assert as_reward("mine", reward, parts) is reward


def test_none_counts_0_and_async_functions_are_awaited(parts, batch, drawn):
    loops = set()

    async def mine(completions, **columns):
        await asyncio.sleep(0)
        loops.add(asyncio.get_running_loop())
        return [None, 1.0, torch.tensor(-2.0)] * 4

    reward = as_reward("mine", mine, parts)
    assert reward(batch, drawn).tolist() == [[0, 1, -2]] * 4

    async def notebook():  # where a loop runs already
        return reward(batch, drawn)

    assert asyncio.run(notebook()).tolist() == [[0, 1, -2]] * 4
    assert len(loops) == 1


def test_a_slip_is_named(catalog, parts, batch, drawn):
    def total(reward):
        return WeightedSum({"mine": as_reward("mine", reward, parts)}, catalog=catalog)(batch, drawn)

    with pytest.raises(
        RuntimeError, match=r"mine failed.*it returned 2 values for 12 completions. Return one for each"
    ):
        total(lambda completions: [1.0, 2.0])
    with pytest.raises(RuntimeError, match=r"mine failed.*it asks for 'era', but there are only \['color', 'completi"):
        total(lambda completions, era, **columns: [1.0] * 12)
    with pytest.raises(RuntimeError, match="it asks for 'trainer_state'"):
        total(lambda completions, trainer_state: [1.0] * 12)
    with pytest.raises(ValueError, match=r"mine is -1.0 for trajectory 0 of user 'u1'.*Rewards are finite and >= 0"):
        total(lambda completions: [-1.0] * 12)
    with pytest.raises(ValueError, match=r"mine needs a tokenizer.*RewardParts\(tokenizer=...\)"):
        as_reward("mine", lambda completions: [], RewardParts(catalog))


def test_the_function_of_the_page_equals_prefix(parts, batch, drawn, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    code = next(block for block in blocks if "def same_head" in block)
    (tmp_path / "trl_reward_of_the_page.py").write_text(code)
    (tmp_path / "my_trl_class.py").write_text(
        "class Same:\n"
        "    def __init__(self, catalog, worth):\n        self.worth = worth\n"
        "    def __call__(self, prompts, completions, target_text):\n"
        "        return [self.worth * (c == t) for c, t in zip(completions, target_text)]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    both = build_rewards({"prefix": 1.0, "trl_reward_of_the_page:same_head": 1.0}, parts)
    terms = both.terms(batch, drawn)
    torch.testing.assert_close(*terms.values())
    assert not both.scores_catalog and terms["prefix"].unique().numel() > 1
    worth = load_reward("my_trl_class:Same", parts, worth=3)
    assert worth(batch, drawn).tolist() == [[3, 0, 0]] * 4
