import gzip
import json

import pandas as pd
import pytest

from interactions import load_prepared
from semantic_ids import prepare

SETTINGS = {"min_interactions": 3, "codebook_sizes": [4, 4], "seed": 1}


@pytest.fixture
def events():
    """Fourteen users of six out of ten items; tied days, one event that is there twice, one item without metadata."""
    rows = [
        (f"A{user:012d}", f"B{(user + 3 * step * step) % 10:09d}", 86_400 * (step // 2), float(1 + (user + step) % 5))
        for user in range(14)
        for step in range(6)
    ]
    return pd.DataFrame([*rows, rows[3]], columns=["user", "item", "timestamp", "rating"])


def test_raw_files_of_amazon_2014_are_prepared_as_the_same_events_in_a_file_of_ours(events, tmp_path):
    items = sorted(events["item"].unique())
    titles = {item: f"Men's Soap & {item}" for item in items[1:]}
    with gzip.open(tmp_path / "reviews_Beauty_5.json.gz", "wt") as file:
        for row in events.itertuples():
            words = {"reviewerID": row.user, "asin": row.item, "helpful": [0, 0], "reviewText": "a 'b' \"c\""}
            file.write(json.dumps(words | {"overall": row.rating, "unixReviewTime": row.timestamp}) + "\n")
    with gzip.open(tmp_path / "meta_Beauty.json.gz", "wt") as file:
        for item, title in titles.items():
            words = {"asin": item, "title": title.replace("&", "&amp;").replace(" ", "  "), "salesRank": {"Beauty": 1}}
            file.write(repr(words) + "\n")
    events.to_csv(tmp_path / "log.csv", index=False)
    pd.DataFrame({"id": titles.keys(), "title": titles.values()}).to_csv(tmp_path / "items.csv", index=False)

    raw, ours = (
        prepare(tmp_path / log, tmp_path / folder, items=str(tmp_path / table), **SETTINGS)
        for log, table, folder in [
            ("reviews_Beauty_5.json.gz", "meta_Beauty.json.gz", "raw"),
            ("log.csv", "items.csv", "ours"),
        ]
    )
    assert raw == ours
    assert (raw["users"], raw["items"], raw["titles_matched"], raw["duplicates"]) == (14, len(items), len(items) - 1, 1)
    (catalog, splits), (expected, rows) = load_prepared(tmp_path / "raw"), load_prepared(tmp_path / "ours")
    assert catalog.fingerprint == expected.fingerprint
    assert dict(zip(catalog.item_ids, catalog.titles, strict=True)) == {items[0]: "", **titles}
    for name in ("train", "validation", "test"):
        assert getattr(splits, name).to_list() == getattr(rows, name).to_list()
