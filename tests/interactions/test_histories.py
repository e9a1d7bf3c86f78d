"""Histories to recommend for: two layouts in three formats, what is wrong with a row, and what is wrong with a file."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from catalog.errors import InputError
from interactions import leave_one_out, read_histories, save_prepared, split_histories
from interactions.histories import History, in_parts, read_item_list
from interactions.streaming import READ_AT_ONCE
from tests.raising import raises

EXPECTED = [("anna", ["a", "b c"]), ("bob", []), ("cleo", ["7", "8"])]


def written(folder, name, text):
    path = folder / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def read(path, **options):
    """(user, items) of each history; none has an error."""
    found = read_histories(path, **options)
    listed = list(found)
    assert found.users == len(listed) and not [one for one in listed if one.error]
    return [(one.user, one.items) for one in listed]


@pytest.mark.parametrize("name", ["h.jsonl", "h.jsonl.gz", "h.csv", "h.csv.gz", "h.parquet", "folder"])
def test_one_row_a_user_is_read_from_every_format(name, tmp_path):
    table = pd.DataFrame({"user": ["anna", "bob", "cleo"], "history": [["a", " b c "], [], ["7", "8"]]})
    if name == "folder":
        (tmp_path / name).mkdir()
        table[:1].to_parquet(tmp_path / name / "1.parquet")
        table[1:].to_parquet(tmp_path / name / "2.parquet")
        path = tmp_path / name
    elif name == "h.parquet":
        table.to_parquet(path := tmp_path / name)
    elif "csv" in name:
        table["history"] = [json.dumps(items) for items in table["history"]]
        table["history"] = table["history"].replace({"[]": "", '["7", "8"]': " 7  8"})
        path = written(tmp_path, name, "\ufeff" + table.to_csv(index=False))
    else:
        path = written(tmp_path, name, table.to_json(orient="records", lines=True))
    assert read(path) == EXPECTED
    assert read_histories(path) == read_histories(path)


@pytest.mark.parametrize("name", ["h.jsonl", "h.csv", "h.parquet"])
def test_users_without_a_column_are_called_by_the_number_of_their_row(name, tmp_path):
    table = pd.DataFrame({"past": ["a b", "", "c"] if name == "h.csv" else [["a", "b"], [], ["c"]]})
    path = tmp_path / name
    {"h.csv": lambda: table.to_csv(path, index=False), "h.parquet": lambda: table.to_parquet(path)}.get(
        name, lambda: table.to_json(path, orient="records", lines=True)
    )()
    assert read(path, columns={"history": "past"}) == [("1", ["a", "b"]), ("2", []), ("3", ["c"])]


def test_ids_that_are_numbers_are_written_as_in_a_log(tmp_path):
    rows = [{"user": 5, "history": [1, 2]}, {"user": 6, "history": [3.0, 4.0]}, {"user": "u", "history": ["5.0"]}]
    path = written(tmp_path, "h.jsonl", "\n".join(map(json.dumps, rows)))
    assert read(path) == [("5", ["1", "2"]), ("6", ["3", "4"]), ("u", ["5"])]
    pd.DataFrame({"user": [5, 6], "history": [[1, 2], [3]]}).to_parquet(tmp_path / "h.parquet")
    assert read(tmp_path / "h.parquet") == [("5", ["1", "2"]), ("6", ["3"])]


@pytest.mark.parametrize("value", ["a b", 7, {"a": 1}, ["a", None], ["a", ["b"]], [True], [1.5, "x"], ["a", " "]])
def test_a_history_that_is_none_is_the_error_of_its_row_alone(value, tmp_path):
    rows = [{"user": "u", "history": ["a"]}, {"user": "v", "history": value}, {"user": "w", "history": ["b"]}]
    first, bad, last = read_histories(written(tmp_path, "h.jsonl", "\n".join(map(json.dumps, rows))))
    assert first == History("u", ["a"]) and last == History("w", ["b"])
    assert bad.user == "v" and bad.items == [] and bad.error


def test_a_cell_of_csv_that_begins_a_list_and_is_none_is_the_error_of_its_row(tmp_path):
    first, bad = read_histories(written(tmp_path, "h.csv", 'user,history\nu,a\nv,"[1, 2"\n'))
    assert first.error is None and bad.error and "[1, 2" in bad.error


def test_events_are_grouped_in_the_order_of_time(tmp_path):
    path = written(tmp_path, "log.csv", "uid,item,timestamp\nv,b,2\nu,x,9\nv,a,1\nu,y,8\nv,c,2\n")
    assert read(path, columns={"user": "uid"}) == [("v", ["a", "b", "c"]), ("u", ["y", "x"])]
    path = written(tmp_path, "log.jsonl", '{"user": 2, "item": 9}\n{"user": 1, "item": 5}\n{"user": 2, "item": 3}\n')
    assert read(path) == [("2", ["9", "3"]), ("1", ["5"])]  # without times the file's order
    assert read(written(tmp_path, "log.inter.json", '{"u": [3, 1]}')) == [("u", ["3", "1"])]


@pytest.mark.parametrize(
    ("name", "text", "fields"),
    [
        ("h.jsonl", '{"user": 1, "history": []}\n{"user"', {"row": 2}),
        ("h.jsonl", '{"user": 1, "history": []}\n[1]', {"row": 2}),
        ("h.jsonl", '{"user": 1, "history": []}\n{"history": []}', {"row": 2, "field": "user"}),
        ("h.jsonl", '{"history": []}\n{"user": 1, "history": []}', {"row": 2, "field": "user"}),
        ("h.jsonl", "", {}),
        ("h.csv", "user,history\nu,a\nv,b,c\n", {"row": 3}),
        ("h.csv", 'user,history\nu,"a\nv,b\n', {"row": 2}),
        ("h.csv", "user,user,history\nu,v,a\n", {"row": 1}),
        ("h.csv", "user,history\n,a\n", {"row": 2, "field": "user"}),
        ("h.csv", "user,history\n", {}),
        ("h.csv", "user,items\nu,a\n", {"field": "columns"}),
        ("log.csv", "user,item,timestamp\nu,a,noon\n", {"row": 2}),
        ("log.csv", "user,item\nu,\n", {"row": 2}),
        ("h.parquet", "no parquet", {}),
        ("h.csv.gz", None, {}),
        ("h.xlsx", "", {}),
    ],
)
def test_a_malformed_file_is_refused_with_its_row(name, text, fields, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"no gzip" if text is None else text.encode())
    with raises(InputError, file=path, **fields):
        read_histories(path)


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path):
    path = tmp_path / "h.csv"
    path.write_bytes(b"user,history\nu,a\nv,\xff\n")
    with raises(InputError, file=path, row=3):
        read_histories(path)


def test_what_is_missing_and_unknown_names_of_columns_are_refused(tmp_path):
    with raises(InputError, file=tmp_path / "h.csv"):
        read_histories(tmp_path / "h.csv")
    with raises(InputError, file=tmp_path / "h.parquet"):
        read_histories(tmp_path / "h.parquet")
    with raises(InputError, field="columns"):
        read_histories(written(tmp_path, "h.csv", "history\na\n"), {"rating": "stars"})


def test_the_digest_is_that_of_the_content(tmp_path):
    first = read_histories(written(tmp_path, "1.csv", "history\na b\n"))
    same = read_histories(written(tmp_path, "2.csv", "history\na b\n"))
    other = read_histories(written(tmp_path, "3.csv", "history\na c\n"))
    assert first.digest == same.digest != other.digest


def test_parts_cover_all_rows_also_beyond_what_is_read_at_once(tmp_path):
    rows = READ_AT_ONCE + 5
    pd.DataFrame({"history": [[f"i{n}"] for n in range(rows)]}).to_parquet(tmp_path / "h.parquet")
    parts = list(in_parts(read_histories(tmp_path / "h.parquet"), 1000))
    assert [len(part) for part in parts] == [1000] * (rows // 1000) + [rows % 1000]
    assert [one.items for part in parts for one in part] == [[f"i{n}"] for n in range(rows)]


def test_the_histories_of_a_split_are_item_ids(catalog, tmp_path):
    log = pd.DataFrame(
        {"user": np.repeat(["u", "v"], 4), "item": [f"item{n}" for n in range(8)], "timestamp": range(8)}
    )
    save_prepared(tmp_path / "data", catalog, leave_one_out(log, catalog.item_ids, max_history=2))
    found = split_histories(tmp_path / "data", "test")
    assert list(found) == [History("u", ["item0", "item1", "item2"]), History("v", ["item4", "item5", "item6"])]
    assert found.users == 2 and found.digest != split_histories(tmp_path / "data", "validation").digest


def test_item_lists_are_for_all_or_for_each_user(tmp_path):
    assert read_item_list(written(tmp_path, "items.txt", " a \n\nb\n")) == ["a", "b"]
    assert read_item_list(written(tmp_path, "items.csv", "item\n1.0\n2.0\n")) == ["1", "2"]
    path = written(tmp_path, "users.csv", "user,item\nu,a\nv,b\nu,c\n")
    assert read_item_list(path) == {"u": ["a", "c"], "v": ["b"]}
    with raises(InputError, file=tmp_path / "other.csv"):
        read_item_list(written(tmp_path, "other.csv", "name\na\n"))
