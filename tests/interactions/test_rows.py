from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from interactions import cut, prefixes
from interactions.rows import by_length, sample_rows

ROW = {
    "user": "u7",
    "history": [4, 5, 6],
    "target": 7,
    "history_rating": [1.0, 2.0, 3.0],
    "rating": 4.0,
    "behavior": "like",
    "title_of_target": "Seven",
}


def test_a_sample_is_random_and_always_the_same():
    rows = Dataset.from_dict({"history": [[i] for i in range(200)], "target": list(range(200))})
    some = sample_rows(rows, 20)["target"][:]
    assert len(set(some)) == 20 and some == sorted(some) and some[0] > 0 and some[-1] > 100
    assert sample_rows(rows, 20)["target"][:] == some and set(some) < set(sample_rows(rows, 21)["target"][:])
    assert sample_rows(rows, None) is rows and sample_rows(rows, 200) is rows and sample_rows(rows, 300) is rows


def test_a_row_ends_earlier_and_what_is_known_of_an_item_follows_it():
    assert cut(ROW, 1) == {
        "user": "u7",
        "history": [4],
        "target": 5,
        "future_items": [6, 7],
        "history_rating": [1.0],
        "rating": 2.0,
    }


def test_a_row_cut_at_its_end_keeps_its_target():
    short = cut(ROW, 3)
    assert {name: short[name] for name in ("history", "target", "history_rating", "rating")} == {
        name: ROW[name] for name in ("history", "target", "history_rating", "rating")
    }
    assert short["future_items"] == []


def test_a_row_of_no_user_has_none_afterwards():
    assert cut({"history": [1, 2], "target": 3}, 1) == {"history": [1], "target": 2, "future_items": [3]}


EVENT = st.tuples(st.integers(0, 9), st.integers(1, 5), st.sampled_from("abc"))


@given(st.lists(EVENT, min_size=2, max_size=9), st.data())
@settings(max_examples=50)
def test_no_event_is_lost_or_moved(events, data):
    items, ratings, behaviors = map(list, zip(*events, strict=True))
    row = {
        **{"history": items[:-1], "history_rating": ratings[:-1], "history_behavior": behaviors[:-1]},
        **{"target": items[-1], "rating": ratings[-1], "behavior": behaviors[-1]},
    }
    end = data.draw(st.integers(1, len(items) - 1))
    short = cut(row, end)
    assert len(short["history"]) == end
    assert [*short["history"], short["target"], *short["future_items"]] == items
    assert [*short["history_rating"], short["rating"]] == ratings[: end + 1]
    assert [*short["history_behavior"], short["behavior"]] == behaviors[: end + 1]


@given(st.lists(st.lists(st.integers(1, 30), max_size=6), max_size=5))
def test_batches_by_length_keep_their_sizes_and_their_rows(lengths):
    batches = [
        [{"user": (b, n), "history": [0] * length} for n, length in enumerate(row)] for b, row in enumerate(lengths)
    ]
    sorted_batches = by_length(batches)
    assert list(map(len, sorted_batches)) == list(map(len, batches))
    rows = [row for batch in sorted_batches for row in batch]
    assert sorted(row["user"] for row in rows) == sorted(row["user"] for batch in batches for row in batch)
    found = [len(row["history"]) for row in rows]
    assert found == sorted(found) or len(batches) == 1 and sorted_batches == batches


def test_prefixes_are_the_row_at_each_item_but_the_first():
    whole = ROW | {"user_items": [4, 5, 6, 7]}
    assert prefixes(whole) == [cut(ROW, end) | {"user_items": [4, 5, 6, 7]} for end in (1, 2)]
    assert [row["target"] for row in prefixes(ROW)] == [5, 6]
    assert prefixes({"history": [1], "target": 2}) == []
