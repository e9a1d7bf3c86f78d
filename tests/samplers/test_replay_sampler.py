import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import PADDING, SOURCES, Catalog, Trajectories
from interactions.prompts import PromptBatch
from samplers import ReplaySampler
from samplers.replay import LEAST

CODES = np.stack([np.arange(30) // 6, np.arange(30) % 6 // 2], 1)  # items 2 n and 2 n + 1 share a leaf
TRIE = Catalog.from_codes(list(map(str, range(30))), CODES, on_collision="keep").trie


def batch_of(users, target=28):
    empty = torch.zeros(len(users), 1, dtype=torch.long)
    return PromptBatch(empty, empty, empty, torch.full((len(users),), target), {"user": list(users)})


def seen(items, source="random"):
    items = torch.as_tensor(items)
    return Trajectories.from_items(items, TRIE.codes(items), source)


def filled(rewards, users=("a",), **arguments):
    """A memory that saw item 2 n with the reward rewards[n]."""
    replay = ReplaySampler(TRIE, "catalog", **arguments)
    items = 2 * torch.arange(len(rewards)).expand(len(users), -1)
    reward = torch.tensor(rewards).expand(len(users), -1)
    replay.update(batch_of(users), seen(items), reward, torch.zeros_like(reward))
    return replay


def drawn_items(drawn, row=0):
    return drawn.items[row][drawn.source[row] != PADDING].tolist()


def test_draws_are_in_proportion_to_the_priority():
    replay = filled([1.0, 2.0, 5.0, 0.0])
    counts = Counter(drawn_items(replay.sample(batch_of("a"), 1, seed))[0] for seed in range(8000))
    for item, reward in ((0, 1.0), (2, 2.0), (4, 5.0)):
        assert abs(counts[item] / 8000 - reward / 8) < 0.02
    assert 0 < filled([0.0]).users["a"][0] == pytest.approx(LEAST)


def test_draws_are_without_replacement_never_the_target_and_padded():
    replay = filled([1.0, 2.0, 5.0, 0.0])
    for seed in range(50):
        drawn = replay.sample(batch_of(["a", "stranger"], target=5), 6, seed)  # 5 is the twin of 4
        assert sorted(drawn_items(drawn, 0)) == [0, 2, 6] and drawn_items(drawn, 1) == []
        assert drawn.items.shape == (2, 6) and (drawn.items[drawn.source == PADDING] == 5).all()
        assert torch.equal(drawn.codes, TRIE.codes(drawn.items)) and drawn.log_pf.isnan().all()
        assert set(drawn.source[0].tolist()) == {SOURCES.index("replay"), PADDING}
    assert len(drawn_items(replay.sample(batch_of("a"), 2, seed=0))) == 2


@pytest.mark.parametrize(("prioritize", "expected"), [("reward", 2.0), ("error", 3.0)])
def test_the_priority_is_the_reward_or_the_size_of_the_error(prioritize, expected):
    replay = ReplaySampler(TRIE, "catalog", prioritize=prioritize)
    replay.update(batch_of("a"), seen([[6]]), torch.tensor([[2.0]]), torch.tensor([[-3.0]]))
    assert replay.users == {"a": {6: pytest.approx(expected + LEAST)}}


def test_what_is_replayed_or_met_again_gets_its_new_priority_and_no_second_place():
    replay = filled([1.0, 2.0])
    again = Trajectories.concat([seen([[0]], "replay"), seen([[3]], "policy")])  # 3 is the twin of 2
    replay.update(batch_of("a"), again, torch.tensor([[7.0, 4.0]]), torch.zeros(1, 2))
    assert replay.users["a"] == {0: pytest.approx(7 + LEAST), 2: pytest.approx(4 + LEAST)}


def test_the_target_and_padding_are_not_remembered():
    replay = ReplaySampler(TRIE, "catalog")
    drawn = Trajectories.concat([seen([[0]], "target"), seen([[2]]), seen([[4]], "policy")])
    drawn = replace(drawn, source=drawn.source.where(drawn.items != 2, PADDING))
    replay.update(batch_of("a"), drawn, torch.ones(1, 3), torch.ones(1, 3))
    assert list(replay.users["a"]) == [4]


def test_of_a_full_user_the_lowest_priority_goes():
    replay = filled([3.0, 1.0, 2.0, 5.0], size=3)
    assert list(replay.users["a"]) == [0, 4, 6]
    replay.update(batch_of("a"), seen([[8]]), torch.tensor([[0.5]]), torch.zeros(1, 1))
    assert list(replay.users["a"]) == [0, 4, 6]


steps = st.lists(
    st.tuples(
        st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True),
        st.lists(st.tuples(st.integers(0, 29), st.floats(0, 10, width=32)), min_size=1, max_size=6),
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(steps=steps, size=st.integers(1, 5), seed=st.integers(0, 2**31), count=st.integers(1, 7))
def test_memory_is_bounded_distinct_and_survives_a_round_trip(steps, size, seed, count):
    replay, latest = ReplaySampler(TRIE, "catalog", size=size), {}
    for users, entries in steps:
        items = torch.tensor([[item for item, _ in entries]]).expand(len(users), -1)
        reward = torch.tensor([[reward for _, reward in entries]]).expand(len(users), -1)
        replay.update(batch_of(users), seen(items), reward, torch.zeros_like(reward))
        latest |= {(u, item // 2 * 2): priority for u in users for item, priority in entries}
    for user, own in replay.users.items():
        assert 1 <= len(own) <= size
        assert len({int(TRIE.leaf_of_item[item]) for item in own}) == len(own)
        assert own == {item: pytest.approx(latest[user, item] + LEAST) for item in own}
    copy = ReplaySampler(TRIE, "catalog", size=size)
    copy.load_state_dict(replay.state_dict())
    assert [(u, list(own.items())) for u, own in copy.users.items()] == [
        (u, list(own.items())) for u, own in replay.users.items()
    ]
    drawn = replay.sample(batch_of("abcd"), count, seed)
    for row, user in enumerate("abcd"):
        own = set(replay.users.get(user, {})) - {28}
        got = drawn_items(drawn, row)
        assert len(set(got)) == len(got) == min(count, len(own)) and set(got) <= own
    assert torch.equal(copy.sample(batch_of("abcd"), count, seed).items, drawn.items)


def test_a_saved_memory_draws_and_goes_on_bit_for_bit(tmp_path):
    replay, path = filled([0.1, 0.7, 0.3, 0.9], users=["ü", "b", 7], size=4), tmp_path / "deep" / "replay.safetensors"
    replay.save(path)
    copy = ReplaySampler(TRIE, "catalog", size=4)
    copy.load(path)
    batch = batch_of([7, "b", "ü"])
    for memory in (replay, copy):
        memory.update(batch, seen([[10, 0]] * 3), torch.tensor([[0.2, 0.4]] * 3), torch.zeros(3, 2))
    assert json.dumps(list(copy.users.items())) == json.dumps(list(replay.users.items()))
    for seed in range(20):
        assert torch.equal(copy.sample(batch, 3, seed).items, replay.sample(batch, 3, seed).items)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_an_empty_memory_is_saved_too(tmp_path):
    ReplaySampler(TRIE, "catalog").save(tmp_path / "replay.safetensors")
    copy = filled([1.0])
    copy.load(tmp_path / "replay.safetensors")
    assert copy.users == {}


def test_another_catalog_is_refused(tmp_path):
    path = tmp_path / "replay.safetensors"
    filled([1.0]).save(path)
    with pytest.raises(ValueError, match=f"{path} .*catalog, not of another. Resume with .* or delete the file"):
        ReplaySampler(TRIE, "another").load(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "replay: size=0 remembers nothing. Set it to 1 or more"),
        ({"prioritize": "loss"}, "replay: prioritize='loss' is unknown. Set it to 'reward' or 'error'"),
    ],
)
def test_a_memory_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ReplaySampler(TRIE, "catalog", **arguments)
