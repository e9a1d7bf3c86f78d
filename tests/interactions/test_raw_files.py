"""The raw files of public data sets, each with the column names and the oddities of the real one."""

import csv
import gzip
import json
import tracemalloc
from datetime import UTC, datetime

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interactions import read_items, read_log, tables
from interactions.numbers import timestamps
from tests.raising import raises

EVENTS = [
    ("A1YJEY40YUW4SE", "7806397051", 1.0, 1391040000),
    ("A60XNB876KYML", "B004756YJA", 5.0, 1397779200),
    ("A1YJEY40YUW4SE", "B004756YJA", 3.0, 1378425600),
]
NUMBERED = [("1", "1193", 5.0, 978300760), ("1", "661", 3.5, 978302109), ("2", "1193", 4.0, 978298413)]


def packed(lines):
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)


def review_2014(event):
    user, item, rating, time = event
    text = 'Don\'t: "5" stars\tor\\ 1 <br />'
    words = {"reviewerID": user, "asin": item, "reviewerName": "Andrea", "helpful": [3, 4], "reviewText": text}
    return words | {"overall": rating, "summary": "No", "unixReviewTime": time, "reviewTime": "01 30, 2014"}


def review_2018(event):
    user, item, rating, time = event
    words = {"overall": rating, "verified": True, "reviewTime": "09 1, 2016", "reviewerID": user, "asin": item}
    odd = {"style": {"Size:": " 1"}, "vote": "3", "image": ["https://a"]} if rating == 3 else {}
    return words | odd | {"reviewText": "é \U0001f600", "unixReviewTime": time}


def review_2023(event):
    user, item, rating, time = event
    words = {"rating": rating, "title": "Great!", "text": "a<br />b", "images": [], "asin": "B00VARIANT"}
    more = {"parent_asin": item, "user_id": user, "timestamp": time * 1000 + 7, "helpful_vote": 0}
    return words | more | {"verified_purchase": True}


def review_of_yelp(event):
    user, item, rating, time = event
    date = datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")
    words = {"review_id": "r", "user_id": user, "business_id": item, "stars": rating, "useful": 0}
    return words | {"text": "a\nb", "date": date}


def review_of_steam(event):
    user, item, _, time = event
    date = datetime.fromtimestamp(time, UTC).date().isoformat()
    return (
        f"{{u'username': u'{user}', u'hours': 0.1, u'product_id': u'{item}', u'page_order': 0, u'date': u'{date}', "
        "u'text': u\"It's \\U0001f600 \\xe9\\n\", u'early_access': False, u'compensation': None}"
    )


def amazon_csv(event):
    user, item, rating, time = event
    return f"{user},{item},{rating},{time}"


def swapped(event):
    user, item, rating, time = event
    return f"{item},{user},{rating},{time}"


def with_header(names, lines):
    return "".join(f"{line}\n" for line in (names, *lines)).encode()


FILES = {
    "reviews_Beauty_5.json.gz": packed(json.dumps(review_2014(event)) for event in EVENTS),
    "reviews_Beauty.json.gz": packed(repr(review_2014(event)) for event in EVENTS),
    "All_Beauty_5.json.gz": packed(json.dumps(review_2018(event)) for event in EVENTS),
    "All_Beauty.json": gzip.decompress(packed(json.dumps(review_2018(event)) for event in EVENTS)),
    "ratings_Beauty.csv": with_header(amazon_csv(EVENTS[0]), map(amazon_csv, EVENTS[1:])),
    "All_Beauty.csv": with_header(swapped(EVENTS[0]), map(swapped, EVENTS[1:])),
}


@pytest.mark.parametrize("name", FILES)
def test_reviews_of_amazon_2014_and_2018(name, tmp_path):
    (tmp_path / name).write_bytes(FILES[name])
    log = read_log(tmp_path / name)
    assert list(log[["user", "item", "rating", "timestamp"]].itertuples(index=False, name=None)) == EVENTS
    assert log["timestamp"].dtype == "int64"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("All_Beauty.jsonl.gz", packed(json.dumps(review_2023(event)) for event in EVENTS)),
        (
            "All_Beauty.csv",
            with_header(
                "user_id,parent_asin,rating,timestamp,history",
                (f"{user},{item},{rating},{time}007,B000 B001" for user, item, rating, time in EVENTS),
            ),
        ),
    ],
)
def test_reviews_of_amazon_2023_have_milliseconds_and_the_parent_as_item(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    log = read_log(tmp_path / name)
    expected = [(user, item, rating, time * 1000 + 7) for user, item, rating, time in EVENTS]
    assert list(log[["user", "item", "rating", "timestamp"]].itertuples(index=False, name=None)) == expected


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ratings.dat", "".join(f"{u}::{i}::{r:g}::{t}\r\n" for u, i, r, t in NUMBERED).encode()),
        (
            "ratings.csv",
            with_header("userId,movieId,rating,timestamp", (f"{u},{i},{r},{t}" for u, i, r, t in NUMBERED)),
        ),
        (
            "ratings.csv.gz",
            packed(["userId,movieId,rating,timestamp", *(f"{u},{i},{r},{t}" for u, i, r, t in NUMBERED)]),
        ),
    ],
)
def test_ratings_of_movielens(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    log = read_log(tmp_path / name)
    assert list(log[["user", "item", "rating", "timestamp"]].itertuples(index=False, name=None)) == NUMBERED


@pytest.mark.parametrize(
    ("name", "review", "unit"),
    [
        ("yelp_academic_dataset_review.json", lambda event: json.dumps(review_of_yelp(event)), 1),
        ("steam_reviews.json.gz", review_of_steam, 86400),
    ],
)
def test_reviews_of_yelp_and_steam_have_dates(name, review, unit, tmp_path):
    content = packed(map(review, EVENTS))
    (tmp_path / name).write_bytes(content if name.endswith(".gz") else gzip.decompress(content))
    log = read_log(tmp_path / name)
    assert list(zip(log["user"], log["item"], strict=True)) == [event[:2] for event in EVENTS]
    times = pd.Series([event[3] // unit * unit for event in EVENTS])
    assert (log["timestamp"] % times == 0).all() and (log["timestamp"] // times).nunique() == 1
    assert ("rating" in log) == (name[0] == "y")


@given(st.lists(st.integers(0, 4_102_444_800), min_size=1, max_size=6), st.sampled_from(["T", " "]), st.booleans())
@settings(deadline=None, max_examples=50)
def test_dates_are_the_times_that_they_spell_in_one_unit(seconds, separator, utc):
    texts = [datetime.fromtimestamp(s, UTC).replace(tzinfo=UTC if utc else None).isoformat(separator) for s in seconds]
    read = timestamps(pd.Series(texts, name="date"), "log.csv")
    assert any((read == pd.Series(seconds) * unit).all() for unit in (1, 10**3, 10**6, 10**9))


def item_2014(asin, **words):
    return repr({"asin": asin, "salesRank": {"Beauty": 1}, "categories": [["Beauty", "Men's"]], **words})


ITEM_FILES = {
    "meta_Beauty.json.gz": packed(
        [
            item_2014("B1", description="no title: 'x'"),
            item_2014("B2", title="AT&amp;T  5&quot;\n Case"),
            item_2014("B3", title="Men's \xe9"),
        ]
    ),
    "meta_All_Beauty.json.gz": packed(
        json.dumps(row)
        for row in [
            {"category": [], "title": "", "also_buy": [], "asin": "B1"},
            {"category": [], "title": "AT&amp;T 5&quot; Case", "asin": "B2"},
            {"category": [], "title": "AT&amp;T 5&quot; Case, again", "asin": "B2"},
            {"category": [], "title": "Men&#39;s é", "asin": "B3"},
        ]
    ),
    "meta_All_Beauty.jsonl.gz": packed(
        json.dumps({"main_category": "Beauty", "title": title, "details": {"a": 1}, "parent_asin": asin})
        for asin, title in [("B1", None), ("B2", 'AT&T 5" Case'), ("B3", "Men's é")]
    ),
    "yelp_academic_dataset_business.json": gzip.decompress(
        packed(
            json.dumps({"business_id": item, "name": name, "address": "1 St", "hours": None})
            for item, name in [("B1", " "), ("B2", 'AT&T 5" Case'), ("B3", "Men's é")]
        )
    ),
    "movies.csv": with_header("movieId,title,genres", ["B1,,Drama", 'B2,"AT&T 5"" Case",Drama', "B3,Men's é,x|y"]),
    "steam_games.json.gz": packed(
        [
            "{u'publisher': u'K', u'id': u'B1', u'specs': [u'VR']}",
            "{u'app_name': u'AT&amp;T 5\" Case', u'id': u'B2', u'price': 4.99}",
            "{u'app_name': u'other', u'title': u\"Men's \\xe9\", u'id': u'B3'}",
            "{u'url': u'http://store.steampowered.com/', u'app_name': None}",
        ]
    ),
}


@pytest.mark.parametrize("name", ITEM_FILES)
def test_titles_of_raw_files(name, tmp_path):
    (tmp_path / name).write_bytes(ITEM_FILES[name])
    assert read_items(tmp_path / name) == {"B1": "", "B2": 'AT&T 5" Case', "B3": "Men's é"}


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_movies_of_movielens_in_either_encoding(encoding, tmp_path):
    (tmp_path / "movies.dat").write_bytes(
        "1::Toy Story (1995)::Animation|Children's\r\n73::Misérables, Les (1995)::Drama\r\n".encode(encoding)
    )
    assert read_items(tmp_path / "movies.dat") == {"1": "Toy Story (1995)", "73": "Misérables, Les (1995)"}


def test_columns_of_a_raw_file_can_be_replaced(tmp_path):
    (tmp_path / "log.jsonl.gz").write_bytes(packed(json.dumps(review_2023(event)) for event in EVENTS))
    log = read_log(tmp_path / "log.jsonl.gz", {"item": "asin", "behavior": "title"})
    assert set(log["item"]) == {"B00VARIANT"} and set(log["behavior"]) == {"Great!"}
    assert log["rating"].tolist() == [event[2] for event in EVENTS]


@pytest.mark.parametrize(
    ("name", "text", "row", "field"),
    [
        ("reviews.json", json.dumps(review_2014(EVENTS[0])) + '\n{"reviewerID": "A1", "asin": "B1"\n', 2, None),
        ("reviews.json", repr(review_2014(EVENTS[0])) + "\n{'reviewerID': open('x'), 'asin': 'B1'}\n", 2, None),
        ("reviews.json", json.dumps(review_2014(EVENTS[0])) + "\n{'a': {[]: 1}}\n", 2, None),
        ("reviews.json", '{"reviewerID": "A1", "asin": "B1"}\n', None, None),
        (
            "reviews.json",
            json.dumps(review_2014(EVENTS[0])) + '\n\n{"reviewerID": "A1", "asin": "B1"}\n',
            3,
            "unixReviewTime",
        ),
        ("review.json", '{"user_id": "u", "business_id": "b", "date": "yesterday"}\n', 1, "date"),
        ("ratings.dat", "1::2::3::4\n1::2::3\n", 2, None),
        ("users.dat", "1::F::1::10::48067\n", 1, None),
        ("meta.json", '{"asin": "B1", "title": "a"}\n', None, None),
        ("movies.dat", "1::Toy Story (1995)::Animation\n", None, None),
    ],
)
def test_what_a_log_cannot_be_is_refused_with_its_line(name, text, row, field, tmp_path):
    (tmp_path / name).write_text(text)
    with raises(file=tmp_path / name, row=row, field=field):
        read_log(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text", "row"),
    [
        ("reviews.jsonl", json.dumps(review_2023(EVENTS[0])) + "\n", None),  # it has titles, of reviews
        ("reviews.json", json.dumps(review_2014(EVENTS[0])) + "\n", None),
        ("ratings.csv", amazon_csv(EVENTS[0]) + "\n", None),
        ("meta.json", "{'asin': 'B1', 'description': 'd'}\n{'asin': 'B2'}\n", None),
        ("meta.json", "{'asin': 'B1', 'title': 'a'}\n{'asin': 'B2', 'title': \n", 2),
        ("meta.json", "{'asin': 'B1', 'title': ['a']}\n", "B1"),
    ],
)
def test_what_an_item_table_cannot_be_is_refused(name, text, row, tmp_path):
    (tmp_path / name).write_text(text)
    with raises(file=tmp_path / name, row=row):
        read_items(tmp_path / name)


def test_a_packed_file_that_is_cut_off_is_named(tmp_path):
    path = tmp_path / "reviews.json.gz"
    path.write_bytes(packed(json.dumps(review_2014(event)) for event in EVENTS)[:-12])
    with raises(file=path):
        read_log(path)


def test_the_texts_of_reviews_are_not_held(tmp_path):
    row, text = review_2018(EVENTS[0]), "x" * 10_000
    with gzip.open(tmp_path / "log.json.gz", "wt", compresslevel=1) as file:
        file.writelines(json.dumps(row | {"reviewText": text, "unixReviewTime": time}) + "\n" for time in range(3_000))
    tracemalloc.start()
    try:
        log = read_log(tmp_path / "log.json.gz")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(log) == 3_000 and peak < 3_000 * len(text) / 10


@pytest.mark.parametrize("chunk", [1, 2, 200_000])
def test_a_csv_file_is_the_same_in_any_chunks(chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "CHUNK", chunk)
    path = tmp_path / "log.csv"
    rows = [["user", "text", "item", "timestamp"], ["u", 'a "b", c', "x", 1], ["u", "", "y", 2], [], ["v", "d", "x", 3]]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert read_log(path)["item"].tolist() == ["x", "y", "x"]
    with path.open("a", newline="") as file:
        csv.writer(file).writerow(["v", "d", "", 4])
    with raises(file=path, row=6, field="item"):
        read_log(path)
