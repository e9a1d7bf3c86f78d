"""What the user did with an item, by hand and against a loop."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import Catalog, word_tokenizer
from interactions.prompts import PromptBuilder
from rewards import Behavior

VALUES = {"like": 10, "click": 1, "skip": 0}
EVENTS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(list(VALUES))), min_size=2, max_size=9)


def test_the_latest_event_with_a_semantic_id_is_what_counts(shared, make_batch, draw):
    batch = make_batch(
        [1, 4],
        history=[[2, 3, 2], [0]],
        behavior=["like", "click"],
        history_behavior=[["like", "click", "skip"], ["like"]],
    )
    reward = Behavior(shared, VALUES)
    expected = torch.tensor([[0, 1, 0, 0.1, 0, 0], [0.1, 0, 0, 0, 0.1, 0]])  # 0 and 4 share a leaf
    torch.testing.assert_close(reward.catalog(batch), expected)
    torch.testing.assert_close(reward(batch, draw(shared, [[1, 3], [0, 5]])), torch.tensor([[1, 0.1], [0.1, 0]]))


def test_without_values_the_rating_counts_as_a_share_of_the_best(shared, make_batch):
    batch = make_batch([1, 4], [[2, 3], [5]], rating=[5.0, 2.0], history_rating=[[1.0, 4.0], [3.5]])
    expected = torch.tensor([[0, 5, 1, 4, 0, 0], [2, 0, 0, 0, 2, 3.5]])
    torch.testing.assert_close(Behavior(shared).catalog(batch), expected / 5)
    torch.testing.assert_close(Behavior(shared, largest=10).catalog(batch), expected / 10)


def test_items_that_the_prompt_cut_off_are_not_known(catalog, make_batch):
    tokenizer = word_tokenizer(catalog.trie.sizes)
    rows = [
        {"history": [7, 8, 9], "target": 1, "rating": 5.0, "history_rating": [9.0, 2.0, 3.0]},
        {"history": [7], "target": 2, "rating": 1.0, "history_rating": [4.0]},
    ]
    value = 5 * Behavior(catalog).catalog(PromptBuilder(catalog, tokenizer, max_history=2)(rows))
    known = [{int(item): round(float(row[item])) for item in row.nonzero()} for row in value]
    assert known == [{8: 2, 9: 3, 1: 5}, {7: 4, 2: 1}]


@given(st.lists(EVENTS, min_size=1, max_size=4), st.integers(1, 9))
@settings(deadline=None, max_examples=50)
def test_it_is_a_walk_through_the_events(users, max_history):
    codes = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 1]])
    catalog = Catalog.from_codes([f"i{n}" for n in range(6)], codes, on_collision="keep")
    rows = [
        {
            "history": [item for item, _ in events[:-1]],
            "target": events[-1][0],
            "history_behavior": [name for _, name in events[:-1]],
            "behavior": events[-1][1],
        }
        for events in users
    ]
    batch = PromptBuilder(catalog, word_tokenizer(catalog.trie.sizes), max_history)(rows)
    expected = torch.zeros(len(users), 6)
    for row, events in enumerate(users):
        for item, name in events[-max_history - 1 :]:
            expected[row, [0, 4] if item in (0, 4) else item] = VALUES[name] / 10
    torch.testing.assert_close(Behavior(catalog, VALUES).catalog(batch), expected)


@pytest.mark.parametrize("column", ["rating", "history_rating"])
def test_rows_without_ratings_are_refused(column, shared, make_batch):
    columns = {"rating": [1.0], "history_rating": [[1.0]]}
    del columns[column]
    with pytest.raises(ValueError, match=rf"no column '{column}'.*log with the column 'rating', or use the reward hit"):
        Behavior(shared).catalog(make_batch([1], [[2]], **columns))


def test_an_unknown_behavior_is_named_with_those_that_are_given(shared, make_batch):
    batch = make_batch([1], [[2]], behavior=["like"], history_behavior=[["buy"]])
    with pytest.raises(ValueError, match=r"Behavior 'buy' of the rows is not among values=.*'like': 10.*'skip': 0"):
        Behavior(shared, VALUES).catalog(batch)


@pytest.mark.parametrize("rating", [5.5, -1.0])
def test_a_rating_off_the_scale_is_refused_with_its_user(rating, shared, make_batch):
    batch = make_batch([1, 1], [[2], [3]], user=["u3", "u7"], rating=[1.0, 2.0], history_rating=[[5.0], [rating]])
    with pytest.raises(ValueError, match=rf"rating of user 'u7' is {rating:g}, but .* largest=5\. Set largest"):
        Behavior(shared).catalog(batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": VALUES, "largest": 10}, "values and largest=10 are both given. Leave out largest"),
        ({"values": {}}, r"worth \[\]. Give numbers >= 0, the largest of them > 0"),
        ({"values": {"click": 0}}, r"worth \[0\]"),
        ({"values": {"like": 1, "skip": -1}}, r"worth \[1, -1\]"),
        ({"values": {"like": math.nan}}, r"worth \[nan\]"),
        ({"largest": 0}, r"worth \[0\]"),
        ({"largest": math.inf}, r"worth \[inf\]"),
    ],
)
def test_worths_that_have_no_best_are_refused(arguments, message, shared):
    with pytest.raises(ValueError, match=message):
        Behavior(shared, **arguments)
