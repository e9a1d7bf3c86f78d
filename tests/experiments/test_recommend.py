"""Recommending into a file: the rows, what is left out, how a broken call goes on, and what is not overwritten."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from catalog.errors import InputError, SetupError
from catalog.files import locked, read_json
from experiments import recommend_users
from experiments.recommendations import Recommendations
from interactions import leave_one_out, save_prepared
from interactions.histories import History
from interactions.provenance import Provenance
from recipes.recommend import main
from recommenders import GenerativeRecommender, RankedList, fit_recommender
from recommenders.policy_folder import PolicyRecord, write_record
from tests.distributed.launch import ENVIRONMENT, command, run
from tests.raising import raises

ROOT = Path(__file__).parents[2]


@pytest.fixture
def titled(catalog):
    return replace(catalog, titles=tuple(f"Film {n}" if n else "" for n in range(48)))


@pytest.fixture
def model(make_model, tokenizer, titled, tmp_path):
    """The folder of a small policy."""
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_record(tmp_path / "model", PolicyRecord("sft", max_history=5), titled, torch.arange(48))
    return tmp_path / "model"


def write_users(path, users):
    """Histories of 1 to 8 items, one row a user."""
    rng = np.random.default_rng(0)
    rows = [
        {"user": f"u{n}", "history": [f"item{i}" for i in rng.integers(0, 48, rng.integers(1, 9))]}
        for n in range(users)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, rows


def read(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


def left(folder, name):
    """What lies beside an output, without the file of the lock."""
    return sorted(path.name for path in folder.iterdir() if name in path.name and not path.name.endswith(".lock"))


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_a_file_has_what_recommend_gives_in_the_order_of_the_input(ending, model, tmp_path):
    histories, rows = write_users(tmp_path / "h.jsonl", 40)
    output = tmp_path / f"recs.{ending}"
    counts = recommend_users(model, output, histories=str(histories), k=5, batch_size=2)
    assert counts.pop("users_per_second") > 0
    assert counts == {"users": 40, "by_popularity": 0, "unknown_items": 0, "errors": 0}
    lists = GenerativeRecommender.from_pretrained(model).recommend([row["history"] for row in rows], 5)
    found = read(output)
    assert [row["user"] for row in found] == [row["user"] for row in rows]
    for row, expected, given in zip(found, lists, rows, strict=True):
        assert row["items"] == list(expected.items) and len(row["items"]) == 5
        assert not set(row["items"]) & set(given["history"])
        assert row["titles"] == [f"Film {item[4:]}" if item != "item0" else "" for item in row["items"]]
        np.testing.assert_allclose(row["scores"], expected.scores, rtol=1e-4)
        assert (row["source"], row["unknown"], row["error"]) == ("policy", 0, None)
    assert left(tmp_path, "recs") == [f"recs.{ending}", f"recs.{ending}.json"]


def test_one_bad_history_is_the_error_of_its_row(model, tmp_path):
    rows = [{"history": ["item1"]}, {"history": 7}, {"history": ["item2", "gone"]}, {"history": []}, {"history": ["?"]}]
    (tmp_path / "h.jsonl").write_text("\n".join(map(json.dumps, rows)))
    counts = recommend_users(model, tmp_path / "recs.jsonl", histories=str(tmp_path / "h.jsonl"))
    del counts["users_per_second"]
    assert counts == {"users": 5, "by_popularity": 2, "unknown_items": 2, "errors": 1}
    found = read(tmp_path / "recs.jsonl")
    assert [row["user"] for row in found] == ["1", "2", "3", "4", "5"]
    assert [row["error"] is None for row in found] == [True, False, True, True, True]
    assert [len(row["items"]) for row in found] == [10, 0, 10, 10, 10]
    assert [row["source"] for row in found] == ["policy", "policy", "policy", "popularity", "popularity"]
    assert [row["unknown"] for row in found] == [0, 0, 1, 0, 1]


def test_the_items_that_may_come_are_those_of_the_files(model, tmp_path):
    histories, rows = write_users(tmp_path / "h.jsonl", 12)
    (tmp_path / "stock.txt").write_text("\n".join(f"item{n}" for n in range(20)))
    (tmp_path / "shown.csv").write_text("user,item\n" + "".join(f"u3,item{n}\n" for n in range(15)) + "u4,item1\n")
    settings = {"histories": str(histories), "filter": str(tmp_path / "stock.txt"), "k": 20}
    recommend_users(model, tmp_path / "1.parquet", exclude=str(tmp_path / "shown.csv"), exclude_seen=False, **settings)
    stock, found = {f"item{n}" for n in range(20)}, read(tmp_path / "1.parquet")
    for n, row in enumerate(found):
        gone = {3: {f"item{n}" for n in range(15)}, 4: {"item1"}}.get(n, set())
        assert set(row["items"]) == stock - gone
    (tmp_path / "all.txt").write_text("item2\nitem7\n")
    recommend_users(model, tmp_path / "2.parquet", exclude=str(tmp_path / "all.txt"), **settings)
    for row, given in zip(read(tmp_path / "2.parquet"), rows, strict=True):
        assert set(row["items"]) == stock - {"item2", "item7"} - set(given["history"])


def test_the_users_of_prepared_data_and_a_guide_fitted_on_them(model, titled, tmp_path):
    rng = np.random.default_rng(0)
    items = [f"item{n}" for n in rng.integers(0, 48, 200)]
    log = pd.DataFrame({"user": np.repeat([f"u{n}" for n in range(20)], 10), "item": items, "timestamp": range(200)})
    splits = leave_one_out(log, titled.item_ids, max_history=5)
    save_prepared(tmp_path / "data", titled, splits)
    guide = fit_recommender("item_knn", {}, splits, titled, tmp_path / "guide")
    settings = {"data": str(tmp_path / "data"), "guide": str(tmp_path / "guide"), "guide_weight": 0.5}
    recommend_users(model, tmp_path / "recs.parquet", **settings)
    histories = [[titled.item_ids[n] for n in row["history"]] for row in splits.test]
    expected = GenerativeRecommender.from_pretrained(model).recommend(histories, guide=guide, guide_weight=0.5)
    found = read(tmp_path / "recs.parquet")
    assert [row["items"] for row in found] == [list(one.items) for one in expected]
    assert [row["user"] for row in found] == list(splits.test["user"])
    other = leave_one_out(log.iloc[:150], titled.item_ids, max_history=5)
    fit_recommender("item_knn", {}, other, titled, tmp_path / "other")  # has seen other rows of the same catalog
    with raises(InputError, field="splits.train"):
        recommend_users(model, tmp_path / "new.parquet", **(settings | {"guide": str(tmp_path / "other")}))
    recommend_users(model, tmp_path / "own.parquet", **(settings | {"guide": None}))


def test_new_items_of_a_grown_catalog_come_too(make_model, tokenizer, titled, tmp_path):
    make_model(catalog_fingerprint=titled.fingerprint).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_record(tmp_path / "model", PolicyRecord("sft", max_history=5), titled, torch.arange(48))
    codes = titled.trie.codes(torch.arange(48))
    grown = titled.grow(["new"], codes[:1].numpy())  # shares the semantic ID of item0
    log = pd.DataFrame({"user": ["u"] * 5, "item": [f"item{n}" for n in range(1, 6)], "timestamp": range(5)})
    save_prepared(tmp_path / "data", grown, leave_one_out(log, grown.item_ids, max_history=5))
    recommend_users(tmp_path / "model", tmp_path / "recs.jsonl", data=str(tmp_path / "data"), k=45)
    (row,) = read(tmp_path / "recs.jsonl")
    assert len(row["items"]) == 45 and "new" in row["items"]
    histories, _ = write_users(tmp_path / "h.jsonl", 2)
    settings = {"histories": str(histories), "k": 48, "exclude_seen": False}
    recommend_users(tmp_path / "model", tmp_path / "new.jsonl", catalog=str(tmp_path / "data"), **settings)
    recommend_users(tmp_path / "model", tmp_path / "old.jsonl", **settings)
    assert ["new" in row["items"] for name in ("new", "old") for row in read(tmp_path / f"{name}.jsonl")] == [
        *[True] * 2,
        *[False] * 2,
    ]
    with raises(InputError, field="catalog"):
        recommend_users(tmp_path / "model", tmp_path / "x.jsonl", data="data", catalog=str(tmp_path / "data"))
    titled.first(47).save(tmp_path / "other")
    with raises(InputError, field="catalog", value=titled.first(47).fingerprint):
        recommend_users(tmp_path / "model", tmp_path / "x.jsonl", catalog=str(tmp_path / "other"), **settings)


def test_a_call_that_makes_no_part_leaves_nothing(model, tmp_path):
    histories, _ = write_users(tmp_path / "h.jsonl", 3)
    (tmp_path / "stock.csv").write_text("name\na\n")
    for name in ("filter", "exclude"):
        for file in (tmp_path / "stock.csv", tmp_path / "nothing.txt", tmp_path):
            with raises(InputError, file=file):
                recommend_users(model, tmp_path / "recs.jsonl", histories=str(histories), **{name: str(file)})
    with raises(InputError, field="device"):
        recommend_users(model, tmp_path / "recs.jsonl", histories=str(histories), device="gpu")
    assert left(tmp_path, "recs") == []


def test_what_is_made_of_the_same_is_left_and_what_is_not_is_replaced(model, tmp_path):
    histories, _ = write_users(tmp_path / "h.jsonl", 10)
    output = tmp_path / "recs.jsonl"
    first = recommend_users(model, output, histories=str(histories))
    written = output.stat().st_mtime_ns
    again = recommend_users(model, output, histories=str(histories))
    assert output.stat().st_mtime_ns == written and "users_per_second" not in again
    assert again == {name: count for name, count in first.items() if name != "users_per_second"}
    assert "users_per_second" in recommend_users(model, output, histories=str(histories), k=3)
    assert [len(row["items"]) for row in read(output)] == [3] * 10
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    assert "users_per_second" in recommend_users(model, output, histories=str(histories), k=3)


def test_a_file_of_something_else_is_not_replaced(model, tmp_path):
    histories, _ = write_users(tmp_path / "h.jsonl", 3)
    output = tmp_path / "recs.jsonl"
    output.write_text("mine")
    with raises(InputError, field="output", file=output):
        recommend_users(model, output, histories=str(histories))
    output.unlink()
    recommend_users(model, output, histories=str(histories))
    output.write_text(output.read_text() + "\n")
    with raises(InputError, field="output", file=output):
        recommend_users(model, output, histories=str(histories), k=2)
    assert output.read_text().endswith("\n\n")


def interrupted(monkeypatch, at):
    """Makes the writing of a part the end of the process."""
    write = Recommendations.write_part

    def stop(self, number, *args):
        if number == at:
            raise KeyboardInterrupt
        write(self, number, *args)

    monkeypatch.setattr(Recommendations, "write_part", stop)


def test_a_call_goes_on_where_it_stood(model, tmp_path, monkeypatch):
    histories, _ = write_users(tmp_path / "h.jsonl", 40)
    settings = {"histories": str(histories), "batch_size": 1}
    output, parts = tmp_path / "recs.parquet", tmp_path / ".recs.parquet.parts"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupted(patched, at=3)
        recommend_users(model, output, **settings)
    assert not output.exists() and len(list(parts.glob("*.parquet"))) == 3
    made = []
    write = Recommendations.write_part
    monkeypatch.setattr(
        Recommendations, "write_part", lambda self, number, *args: (made.append(number), write(self, number, *args))
    )
    recommend_users(model, output, **settings)
    assert made == [3, 4] and not parts.exists()
    recommend_users(model, tmp_path / "whole.parquet", **settings)
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_parts_of_other_settings_are_not_mixed_in(model, tmp_path, monkeypatch, caplog):
    histories, _ = write_users(tmp_path / "h.jsonl", 20)
    settings = {"histories": str(histories), "batch_size": 1}
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupted(patched, at=2)
        recommend_users(model, tmp_path / "recs.jsonl", **settings)
    recommend_users(model, tmp_path / "recs.jsonl", k=4, **settings)
    assert "settings.k" in caplog.text
    assert [len(row["items"]) for row in read(tmp_path / "recs.jsonl")] == [4] * 20


def test_a_call_that_was_killed_between_the_record_and_the_file_goes_on(tmp_path):
    def target(k):
        return Recommendations(tmp_path / "recs.jsonl", Provenance("c", {}, {"k": k}), 1)

    def fill(one):
        assert one.missing() == [0]
        one.write_part(0, [History("u", [])], [RankedList(items=(f"item{one.made_of.settings['k']}",))])

    fill(target(1))
    target(1).put_together()
    old = (tmp_path / "recs.jsonl").read_bytes()
    fill(target(2))
    parts = {path: path.read_bytes() for path in target(2).parts_folder.iterdir()}
    target(2).put_together()
    new = (tmp_path / "recs.jsonl").read_bytes()
    assert old != new and target(2).finished() is not None and target(1).finished() is None
    (tmp_path / "recs.jsonl").write_bytes(old)  # the record is written first
    target(2).parts_folder.mkdir()
    for path, content in parts.items():
        path.write_bytes(content)
    assert target(2).finished() is None and target(2).missing() == []
    target(2).put_together()
    assert (tmp_path / "recs.jsonl").read_bytes() == new and target(2).finished() is not None


def test_two_at_a_time_are_refused(model, tmp_path):
    histories, _ = write_users(tmp_path / "h.jsonl", 3)
    with locked(tmp_path, ".recs.jsonl.lock"), raises(SetupError, file=tmp_path):
        recommend_users(model, tmp_path / "recs.jsonl", histories=str(histories))
    recommend_users(model, tmp_path / "recs.jsonl", histories=str(histories))


def test_a_full_disk_leaves_nothing_half_written_and_the_parts(model, make_model, titled, tmp_path, nearly_full_disk):
    long = replace(titled, titles=tuple(f"{n} " * 1000 for n in range(48)))
    write_record(model, PolicyRecord("sft", max_history=5), long, torch.arange(48))
    histories, _ = write_users(tmp_path / "h.jsonl", 100)
    output = tmp_path / "recs.jsonl"
    with raises(SetupError, file=output), nearly_full_disk():
        recommend_users(model, output, histories=str(histories))
    assert left(tmp_path, "recs") == [".recs.jsonl.parts"]
    recommend_users(model, output, histories=str(histories))
    assert output.stat().st_size > 1_000_000 and left(tmp_path, "recs") == ["recs.jsonl", "recs.jsonl.json"]


def test_a_part_that_the_disk_cannot_hold_is_absent(tmp_path, nearly_full_disk):
    target = Recommendations(tmp_path / "recs.parquet", Provenance("c", {}, {}), 1)
    target.missing()
    noise = np.random.default_rng(0).bytes(2_000_000).hex()
    with raises(SetupError, file=target.part_path(0)), nearly_full_disk():
        target.write_part(0, [History(noise, [])], [RankedList()])
    assert target.missing() == [0] and [path.name for path in target.parts_folder.iterdir()] == ["record.json"]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"k": 0}, "k"),
        ({"k": 49}, "k"),
        ({"k": 5, "beam_width": 4}, "beam_width"),
        ({"guide_weight": 0.0}, "guide_weight"),
        ({"diversity": -1.0}, "diversity"),
        ({"data": "data"}, "data"),
        ({"histories": None}, "histories"),
        ({"columns": {"rating": "r"}}, "columns"),
        ({"output": "recs.csv"}, "output"),
        ({"engine": "jax"}, "engine"),
    ],
)
def test_a_wrong_setting_is_refused_before_work_starts(settings, field, model, tmp_path):
    histories, _ = write_users(tmp_path / "h.jsonl", 3)
    given = {"output": tmp_path / "recs.jsonl", "histories": str(histories)} | settings
    with raises(InputError, field=field):
        recommend_users(model, **given)
    assert left(tmp_path, "recs") == []


def test_a_malformed_file_is_refused_before_work_starts(model, tmp_path):
    (tmp_path / "h.jsonl").write_text('{"history": []}\n{"history"')
    with raises(InputError, file=tmp_path / "h.jsonl", row=2):
        recommend_users(model, tmp_path / "recs.jsonl", histories=str(tmp_path / "h.jsonl"))
    with raises(InputError, file=tmp_path / "nothing"):
        recommend_users(tmp_path / "nothing", tmp_path / "recs.jsonl", histories=str(tmp_path / "h.jsonl"))
    assert left(tmp_path, "recs") == []


def options(*argv):
    return [*map(str, argv), "--batch_size", "1", "--device", "cpu"]


@pytest.mark.slow
def test_a_killed_program_goes_on_to_the_same_file(model, tmp_path, capsys):
    torch.set_num_threads(1)  # as the program has it: sums of several threads differ in the last bit
    histories, _ = write_users(tmp_path / "h.jsonl", 240)
    given = options("--model", model, "--histories", histories)
    output, parts = tmp_path / "recs.parquet", tmp_path / ".recs.parquet.parts"
    program = [sys.executable, "-m", "recipes.recommend", *given, "--output", str(output)]
    killed = subprocess.Popen(program, cwd=ROOT, env=ENVIRONMENT)
    try:
        deadline = time.monotonic() + 120
        while len(list(parts.glob("0*.parquet"))) < 3 and time.monotonic() < deadline and killed.poll() is None:
            time.sleep(0.01)
    finally:
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    made = {path.name: path.stat().st_mtime_ns for path in parts.glob("0*.parquet")}
    assert 3 <= len(made) < 30 and not output.exists()
    main([*given, "--output", str(output)])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"Output: {output}" and said[1].startswith("Figures: users 240, by_popularity 0, unknown_items 0")
    assert said[2].startswith("Next: ") and "serve --model" in said[2]
    main([*given, "--output", str(output)])
    assert "nothing is left to do" in capsys.readouterr().out
    main([*given, "--output", str(tmp_path / "whole.parquet")])
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_share_the_users(model, tmp_path):
    torch.set_num_threads(1)
    histories, _ = write_users(tmp_path / "h.jsonl", 64)
    given = options("--model", model, "--histories", histories)
    status, printed = run(command("cpu-zero2", "recipes/recommend.py", *given, "--output", tmp_path / "two.parquet"))
    assert status == 0, printed
    assert printed.count("Output: ") == 1
    main([*given, "--output", str(tmp_path / "one.parquet")])
    assert (tmp_path / "two.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()
    counts = read_json(tmp_path / "two.parquet.json", "The record")["counts"]
    assert counts == {"users": 64, "by_popularity": 0, "unknown_items": 0, "errors": 0}
