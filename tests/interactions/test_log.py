import csv
import gzip
import json
import logging
import re
import string

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import InputError
from interactions import in_order, k_core, read_log
from tests.raising import raises

IDS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=5).filter(
    lambda text: text == text.strip() and not text.endswith(".0")
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
ROWS = st.lists(st.tuples(IDS, IDS, NUMBERS, IDS, NUMBERS), min_size=1, max_size=8, unique_by=lambda row: row[:4])
HEADER = "user,item,timestamp\n"


def make_log(rows, names=("user", "item", "timestamp", "behavior", "rating")):
    return pd.DataFrame([row[: len(names)] for row in rows], columns=list(names))


def read(path):
    """The log with its ids as plain text."""
    log = read_log(path)
    assert isinstance(log["user"].dtype, pd.CategoricalDtype) and isinstance(log["item"].dtype, pd.CategoricalDtype)
    return log.astype({name: "str" for name in ("user", "item", "behavior") if name in log})


def written(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("logs")


@given(ROWS)
@settings(deadline=None)
def test_csv_round_trip(folder, rows):
    log = make_log(rows)
    log.to_csv(folder / "log.csv", index=False)
    pd.testing.assert_frame_equal(read(folder / "log.csv"), log)


@given(ROWS)
@settings(deadline=None)
def test_atomic_round_trip_takes_quotes_as_they_are(folder, rows):
    header = "user_id:token\titem_id:token\ttimestamp:float\tbehavior:token\trating:float\n"
    path = written(folder, "log.inter", header + "".join("\t".join(map(str, row)) + "\n" for row in rows))
    pd.testing.assert_frame_equal(read(path), make_log(rows))


@given(ROWS)
@settings(deadline=None)
def test_parquet_round_trip(folder, rows):
    log = make_log(rows)
    log.to_parquet(folder / "log.parquet")
    pd.testing.assert_frame_equal(read(folder / "log.parquet"), log)


@given(st.dictionaries(IDS, st.lists(st.integers(), min_size=1) | st.lists(IDS, min_size=1), min_size=1))
@settings(deadline=None)
def test_json_round_trip_keeps_order_and_repeats(folder, sequences):
    path = written(folder, "log.inter.json", json.dumps(sequences))
    rows = [(user, str(item), t) for user, items in sequences.items() for t, item in enumerate(items)]
    pd.testing.assert_frame_equal(read(path), make_log(rows, ("user", "item", "timestamp")))


@given(st.text(alphabet=string.ascii_letters + string.digits + ',."\n\t '))
@settings(deadline=None)
def test_any_text_is_read_or_refused_by_name(folder, text):
    path = written(folder, "any.csv", text)
    try:
        assert len(read_log(path))
    except ValueError as error:
        assert str(path) in str(error)


def test_columns_are_mapped_and_others_left_out(tmp_path):
    path = written(tmp_path, "log.csv", "uid,item,time,act,city\n1,007,5,buy,Rome\n")
    log = read_log(path, {"user": "uid", "timestamp": "time", "behavior": "act"})
    assert log.to_dict("records") == [{"user": "1", "item": "007", "timestamp": 5.0, "behavior": "buy"}]


def test_blank_lines_are_skipped_and_na_is_an_id(tmp_path):
    path = written(tmp_path, "log.csv", HEADER + "\nNA,null,1\n\n")
    assert read_log(path)[["user", "item"]].to_numpy().tolist() == [["NA", "null"]]


def test_exact_duplicates_are_dropped_and_counted(tmp_path, caplog):
    rows = "u,a,1,view,3\nu,a,1,view,4\nu,a,1,buy,3\nu,a,2,view,3\n"
    with caplog.at_level(logging.INFO, logger="interactions.log"):
        log = read_log(written(tmp_path, "log.csv", "user,item,timestamp,behavior,rating\n" + rows))
    assert log["behavior"].tolist() == ["view", "buy", "view"]
    assert "dropped 1 exact duplicates of 4" in caplog.text


def test_time_order_keeps_users_by_first_appearance_and_ties_as_in_the_file():
    rows = [("b", "w", 2.0), ("a", "x", 1.0), ("b", "z", 1.0), ("b", "y", 1.0), ("a", "v", 0.0)]
    ordered = in_order(make_log(rows, ("user", "item", "timestamp")))
    assert ordered["user"].str.cat(ordered["item"]).tolist() == ["bz", "by", "bw", "av", "ax"]
    pd.testing.assert_frame_equal(in_order(ordered), ordered)


def test_k_core_repeats_until_nothing_changes():
    pairs = ["ax", "ay", "bx", "by", "cy", "cz", "dz"]  # d falls first, then z, then c
    core = k_core(make_log(map(tuple, pairs), ("user", "item")), 2)
    assert core["user"].str.cat(core["item"]).tolist() == pairs[:4]
    with pytest.raises(ValueError, match="3-core. Lower k=3"):
        k_core(core, 3)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.txt", "", "unknown format. Use a name that ends in .inter, .inter.json, .csv, .jsonl"),
        ("log.json", "{}", "no column 'user' (columns: none)"),
        ("log.csv", "", "not a well-formed UTF-8 table: No columns"),
        ("log.csv", HEADER, "no interactions"),
        ("log.csv", HEADER + "u,a,1\nu,b,2,x\n", "Expected 3 fields in line 3, saw 4"),
        ("log.csv", HEADER + "u,a,1,x\nu,b,2,x\n", "Expected 3 fields in line 2, saw 4"),
        ("log.csv", HEADER + 'u,a,1\nu,"b,2\n', "EOF inside string starting at line 3"),
        ("log.csv", HEADER + "u,a,1\n\nu,b\n", "line 4 has no timestamp (1 such in all). Correct or delete this line"),
        ("log.csv", HEADER + ",a,1\nu,,2\n", "line 2 has no user"),
        ("log.csv", HEADER + "u,a,1\nu,b,2014-07-01\n", "line 3 has a timestamp that is not a number: '2014-07-01'"),
        ("log.csv", HEADER + "u,  ,1\n", "which is empty"),
        ("log.csv", HEADER + 'u,"a,1\nu,b",2\n', "a cell of line 2 goes on in the next line"),
        ("log.csv", HEADER + "u,a,1\nu,b,9223372036854775808\n", "too large to be kept exactly"),
        ("log.jsonl", '{"user": "u"}\n[]\n', "line 2 is no JSON object of UTF-8 text"),
        ("log.csv", HEADER + "u,a,inf\n", "line 2 has a timestamp that is not a number: 'inf'"),
        ("log.csv", "user,item,timestamp,rating\nu,a,1,good\n", "line 2 has a rating that is not a number: 'good'"),
        ("log.csv", "user,item,rating,timestamp,rating\nu,a,1,2,3\n", "two columns 'rating'"),
        (
            "log.csv",
            "user_id,item,timestamp\nu,a,1\n",
            "no column 'user' (columns: user_id, item, timestamp, nearest: 'user_id'). "
            "Rename the column or give columns={'user': 'user_id'}",
        ),
        ("log.inter", "user_id:token\titem_id:token\trating:float\nu\ta\t1\n", "no column 'timestamp'"),
        ("log.inter.json", '{"u": [1,\n 2,]}', "line 2, column"),
        ("log.inter.json", "[[1, 2]]", "holds a list, not users"),
        ("log.inter.json", "{}", "no interactions"),
        ("log.inter.json", '{"u": [1], "v": []}', "user 'v' has an empty list. Correct or drop this user"),
        ("log.inter.json", '{"u": [1], "v": 2}', "user 'v' has something other than a list of integers or strings"),
        ("log.inter.json", '{"u": [1, null]}', "user 'u' has something other than a list of integers or strings"),
        ("log.inter.json", '{"u": [1], "v": [2], "u": [3]}', "lists 'u' 2 times"),
        ("log.parquet", "no parquet", "not readable parquet"),
    ],
)
def test_bad_files_are_refused_in_one_clear_message(tmp_path, name, text, message):
    path = written(tmp_path, name, text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_log(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["none.csv", "none.inter", "none.inter.json", "none.parquet"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(InputError, match=f"{name} does not exist. Check the path."):
        read_log(tmp_path / name)


def test_files_that_are_not_utf8_are_refused(tmp_path):
    (tmp_path / "log.csv").write_bytes(HEADER.encode() + b"u,\xff,1\n")
    with pytest.raises(ValueError, match="log.csv is not a well-formed UTF-8 table"):
        read_log(tmp_path / "log.csv")


def test_parquet_rows_are_counted_from_one(tmp_path):
    log = pd.DataFrame({"user": ["u", "u"], "item": ["a", None], "timestamp": [1, 2]})
    log.to_parquet(tmp_path / "log.parquet")
    with raises(file=tmp_path / "log.parquet", row=2, field="item"):
        read_log(tmp_path / "log.parquet")


def test_times_are_exact_whatever_they_are_written_as(tmp_path):
    near = [1_700_000_000_000_000_001, 1_700_000_000_000_000_000]
    log = pd.DataFrame({"user": "u", "item": ["a", "b"], "timestamp": near})
    log.to_csv(tmp_path / "log.csv", index=False)
    log.to_csv(tmp_path / "log.csv.gz", index=False)
    log.to_json(tmp_path / "log.jsonl", orient="records", lines=True)
    log.assign(timestamp=pd.to_datetime(near)).to_parquet(tmp_path / "log.parquet")
    log.assign(timestamp=pd.to_datetime(near).map(lambda time: time.isoformat())).to_csv(
        tmp_path / "iso.csv", index=False
    )
    for name in ("log.csv", "log.csv.gz", "log.jsonl", "log.parquet", "iso.csv"):
        read = read_log(tmp_path / name)
        assert read["timestamp"].tolist() == near and in_order(read)["item"].tolist() == ["b", "a"]


def test_ids_have_one_form_and_what_was_changed_is_counted(tmp_path):
    path = written(tmp_path, "log.csv", HEADER + "u , 12.0,1\nu,12.0,1\nu,7.0,2\n")
    log = read_log(path)
    assert log["item"].tolist() == ["12", "7"] and log["user"].tolist() == ["u", "u"]
    assert log.attrs == {"duplicates": 1, "ids_stripped": 2, "ids_made_integer": 3}
    pd.DataFrame({"user": ["u"], "item": [2.0**53], "timestamp": [1]}).to_parquet(tmp_path / "log.parquet")
    with raises(row=1, field="item", value=2.0**53):
        read_log(tmp_path / "log.parquet")


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "jsonl", "parquet"])
def test_the_files_of_a_pattern_are_one_log(kind, tmp_path):
    log = make_log(
        [("u", "a", 1), ("v", "b", 2), ("u", "b", 3), ("w", "c", 4), ("u", "a", 1)], HEADER.strip().split(",")
    )
    for number, part in enumerate([log[:2], log[2:]]):
        path = tmp_path / f"day-{number}.{kind}"
        if kind == "parquet":
            part.to_parquet(path)
        elif kind == "jsonl":
            part.to_json(path, orient="records", lines=True)
        else:
            part.to_csv(path, index=False)
    read_together = read(tmp_path / f"day-*.{kind}")
    pd.testing.assert_frame_equal(read_together, log[:4], check_flags=False)
    with raises(file=tmp_path / f"night-*.{kind}"):
        read_log(tmp_path / f"night-*.{kind}")


def test_the_files_of_a_pattern_have_the_same_columns_and_count_rows_together(tmp_path):
    written(tmp_path, "1.csv", HEADER + "u,a,1\n\nv,b,2\n")
    written(tmp_path, "2.csv", HEADER + "w,,3\n")
    with raises(file=tmp_path / "*.csv", row=3, field="item"):
        read_log(tmp_path / "*.csv")
    written(tmp_path, "2.csv", "user,item,time\nw,a,3\n")
    with raises(file=tmp_path / "2.csv"):
        read_log(tmp_path / "*.csv")


def test_a_quote_inside_a_cell_is_a_letter(tmp_path):
    path = written(tmp_path, "log.csv", HEADER + 'u,5" disk,1\nv,007,2\n')
    assert read(path).to_dict("list") == {"user": ["u", "v"], "item": ['5" disk', "007"], "timestamp": [1, 2]}


def test_packed_files_that_are_cut_off_are_named(tmp_path):
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(HEADER.encode() + b"u,a,1\n" * 99)[:-12])
    with raises(file=path):
        read_log(path)


def test_the_columns_argument_is_checked(tmp_path):
    with pytest.raises(ValueError, match=r"unknown keys \['usr'\]"):
        read_log(tmp_path / "log.csv", {"usr": "uid"})
    with pytest.raises(ValueError, match="is JSON and has no columns"):
        read_log(tmp_path / "log.inter.json", {"user": "uid"})
    path = written(tmp_path, "log.csv", HEADER + "u,a,1\n")
    with pytest.raises(ValueError, match="no column 'act'"):
        read_log(path, {"behavior": "act"})


def test_csv_quoting_follows_the_standard(tmp_path):
    with (tmp_path / "log.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["user", "item", "timestamp"], ['a "b", c', "two", 1]])
    assert read_log(tmp_path / "log.csv").iloc[0].tolist() == ['a "b", c', "two", 1.0]
