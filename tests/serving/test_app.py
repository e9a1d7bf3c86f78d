"""A recommender over HTTP: what it answers, what it refuses, and that it goes on."""

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
import torch

from catalog.errors import DivergedError, InputError
from experiments.serve import build
from experiments.server_arguments import ServeArguments
from recommenders import Popularity
from recommenders.policy_folder import PolicyRecord, write_record
from serving.asked import MOST_BYTES, MOST_HISTORIES
from serving.served import Served
from tests.http_server import served
from tests.raising import raises

HISTORIES = [["item3"], ["item1", "item8", "item40"], ["item5", "item5", "item6", "item7", "item9", "item11"]]
KEY = "a key of more than 16 characters"


def post(url, path="/recommend", **asked):
    return requests.post(url + path, json=asked, timeout=20)


def results(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def value(url, metric):
    """A metric of the server, by its name and labels."""
    text = requests.get(url + "/metrics", timeout=20).text
    return float(re.search(rf"^{re.escape(metric)} (\S+)$", text, re.M)[1])


def test_the_lists_are_those_of_the_recommender(url, recommender):
    for asked in ({"k": 3}, {"k": 5, "exclude_seen": False, "beam_width": 20}, {"k": 4, "diversity": 2.0}):
        expected = recommender.recommend(HISTORIES, **({"beam_width": 50} | asked))
        for got, ranked in zip(results(post(url, histories=HISTORIES, **asked)), expected, strict=True):
            assert got["items"] == list(ranked.items) and got["titles"] == [""] * len(ranked)
            assert got["scores"] == pytest.approx(ranked.scores, abs=1e-4)
            assert (got["source"], got["unknown"], got["error"]) == ("policy", 0, None)
    (one,) = results(post(url, history=HISTORIES[1], k=3))
    assert one["items"] == list(recommender.recommend([HISTORIES[1]], 3)[0].items)


def test_items_are_excluded_for_all_or_for_each_history(url, recommender):
    best = [row["items"][0] for row in results(post(url, histories=HISTORIES, k=1))]
    for exclude in (best, [[item] for item in best]):
        for row, item in zip(results(post(url, histories=HISTORIES, k=10, exclude=exclude)), best, strict=True):
            assert item not in row["items"] and len(row["items"]) == 10


def test_a_history_that_cannot_be_answered_is_told_in_its_place(url, recommender):
    everything = list(recommender.catalog.item_ids)
    bad = [HISTORIES[0], "item1", ["item1", 2.5], None, ["nobody", "item3"], ["nobody"], []]
    exclude = [[], [], [], [], [], [], everything]
    found = results(post(url, histories=bad, exclude=exclude, k=2))
    assert [len(row["items"]) for row in found] == [2, 0, 0, 0, 2, 2, 0]
    assert [bool(row["error"]) for row in found] == [False, True, True, True, False, False, True]
    assert found[4]["unknown"] == 1 and found[4]["items"] == found[0]["items"]
    assert found[5]["source"] == "popularity"
    for history, row, without in zip(bad, found, exclude, strict=True):
        if history is not None:  # which is the same as none
            (one,) = results(post(url, history=history, exclude=without, k=2))
            assert all(one[name] == row[name] for name in ("items", "source", "unknown", "error"))


def test_requests_that_wait_share_batches_and_each_gets_its_own(url, recommender):
    rng = np.random.default_rng(0)
    asked = []
    for number in range(48):
        history = [f"item{n}" for n in rng.integers(48, size=rng.integers(1, 6))]
        asked.append({"history": history, "k": 1 + number % 5, "exclude": [f"item{number}"]})
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda one: results(post(url, **one)), asked))
    for one, (row,) in zip(asked, found, strict=True):
        (expected,) = recommender.recommend([one["history"]], one["k"], exclude=one["exclude"], beam_width=50)
        assert row["items"] == list(expected.items)
    assert value(url, "gflowgr_batch_histories_sum") == 48 and value(url, "gflowgr_batch_histories_count") < 40


BAD = [
    ({}, 400),
    ({"histories": []}, 400),
    ({"histories": HISTORIES, "history": HISTORIES[0]}, 400),
    ({"histories": [["item1"]] * (MOST_HISTORIES + 1)}, 400),
    ({"histories": [["item1"] * 10_001]}, 400),
    ({"history": ["item1"] * 10_001}, 400),
    ({"history": None}, 400),
    ({"history": ["item1"], "k": 0}, 400),
    ({"history": ["item1"], "k": 49}, 400),
    ({"history": ["item1"], "k": 2**70}, 400),
    ({"history": ["item1"], "k": 1.5}, 400),
    ({"history": ["item1"], "k": "3"}, 400),
    ({"history": ["item1"], "k": 5, "beam_width": 4}, 400),
    ({"history": ["item1"], "beam_width": 10**6}, 400),
    ({"history": ["item1"], "diversity": -1}, 400),
    ({"history": ["item1"], "diversity": float("nan")}, 400),
    ({"history": ["item1"], "exclude": [["item1"], ["item2"]]}, 400),
    ({"history": ["item1"], "exclude": "item1"}, 400),
    ({"history": ["item1"], "exclude": ["item1", 2.5]}, 400),
    ({"history": ["item1"], "exclude": [["item1", True]]}, 400),
    ({"history": ["item1"], "exclude": [["item1"] * 10_001]}, 400),
    ({"histories": HISTORIES, "exclude": [["item1"], "item2", []]}, 400),
    ({"history": ["item1"], "exclude_sen": True}, 400),
    ({"history": ["item1"], "catalog": "another"}, 409),
]


def test_a_bad_request_is_one_sentence_and_the_next_is_answered(url):
    def raw(asked):
        content = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
        return requests.post(url + "/recommend", data=content, timeout=20)

    for asked, status in [*BAD, *((content, 400) for content in (b"", b"{", b"[" * 50_000, b"\xff", b"null", b"7"))]:
        answer = raw(asked)
        assert answer.status_code == status and 5 < len(answer.text) <= 300, asked
        assert "\n" not in answer.text and "Traceback" not in answer.text
    assert raw(b" " * (MOST_BYTES + 1)).status_code == 413
    assert requests.get(url + "/recommend", timeout=20).status_code == 405
    assert requests.get(url + "/nothing", timeout=20).status_code == 404
    assert value(url, "gflowgr_batch_histories_count") == 0  # none of them came to the model
    assert value(url, 'gflowgr_requests_total{path="/recommend",status="413"}') == 1
    assert results(post(url, history=["item1"], k=1))


def test_draws_are_those_of_the_seed(url, recommender):
    asked = {"histories": HISTORIES, "n": 20, "temperature": 0.7, "seed": 5}
    found = results(post(url, "/sample", **asked))
    assert [row["items"] for row in found] == [
        list(one.items) for one in recommender.sample(HISTORIES, 20, temperature=0.7, seed=5)
    ]
    assert found != results(post(url, "/sample", **(asked | {"seed": 6})))
    for wrong in ({"n": 0}, {"temperature": 0}, {"seed": -1}, {"histories": HISTORIES * 3}, {"k": 3}):
        assert post(url, "/sample", **(asked | wrong)).status_code == 400


def test_health_says_what_is_served(url, recommender):
    told = requests.get(url + "/health", timeout=20).json()
    assert told["catalog"] == recommender.catalog.fingerprint and told["items"] == 48 and told["model"] == "the run"
    assert results(post(url, history=["item1"], catalog=told["catalog"]))


def test_with_a_key_nothing_is_answered_without_it(serve):
    with serve(key=KEY) as url:
        for header in ({}, {"Authorization": "Bearer another key of that size"}, {"Authorization": KEY}):
            for path in ("/health", "/metrics", "/nothing"):
                assert requests.get(url + path, headers=header, timeout=20).status_code == 401
        header = {"Authorization": f"Bearer {KEY}"}
        answer = requests.post(url + "/recommend", json={"history": ["item1"]}, headers=header, timeout=20)
        assert len(results(answer)[0]["items"]) == 10


class Fragile:
    """A recommender that fails at some histories and is slow at others."""

    def __init__(self, recommender):
        self.inner, self.catalog = recommender, recommender.catalog
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.dead = False

    def recommend(self, histories, k, **settings):
        if ["diverged"] in histories:
            raise DivergedError("The policy's log-probabilities are NaN.")
        if ["broken"] in histories or self.dead:
            raise ZeroDivisionError("of the engine")
        if ["slow"] in histories:
            self.begun.set()
            self.go_on.wait(20)
        return self.inner.recommend(histories, k, **settings)


def test_a_request_that_the_engine_fails_at_fails_alone(serve, recommender):
    fragile = Fragile(recommender)
    with serve(fragile) as url, ThreadPoolExecutor(8) as pool:
        waiting = pool.submit(post, url, history=["slow"])
        assert fragile.begun.wait(20)
        asked = [["item1"], ["broken"], ["item2"], ["diverged"], ["item3"]]
        answers = [pool.submit(post, url, history=history, k=3) for history in asked]
        while value(url, "gflowgr_waiting_histories") < 5:
            time.sleep(0.01)
        fragile.go_on.set()
        assert waiting.result().status_code == 200
        assert [answer.result().status_code for answer in answers] == [200, 500, 200, 500, 200]
        assert "ZeroDivisionError" in answers[1].result().text and "NaN" in answers[3].result().text
        assert results(answers[2].result())[0]["items"] == list(recommender.recommend([["item2"]], 3)[0].items)


def test_a_server_whose_engine_is_dead_is_not_healthy(serve, recommender):
    fragile = Fragile(recommender)
    with serve(fragile) as url:

        def healthy():
            return requests.get(url + "/health", timeout=20).status_code == 200

        assert post(url, history=["broken"]).status_code == 500 and healthy()
        fragile.dead = True
        assert healthy() and post(url, history=["item1"]).status_code == 500  # nobody knew before
        assert not healthy() and not healthy()
        fragile.dead = False
        assert healthy() and results(post(url, history=["item1"]))


def test_a_server_whose_engine_hangs_is_not_healthy_before_the_batch_has_failed(serve, recommender):
    fragile = Fragile(recommender)
    with serve(fragile, seconds=0.5) as url, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(post, url, history=["slow"])
        assert fragile.begun.wait(20) and slow.result().status_code == 504
        answer = requests.get(url + "/health", timeout=20)
        assert answer.status_code == 503 and "0.5 s" in answer.text
        fragile.go_on.set()
        while requests.get(url + "/health", timeout=20).status_code == 503:
            time.sleep(0.01)
        assert results(post(url, history=["item1"]))


def test_a_server_of_a_grown_catalog_recommends_its_new_items(make_model, tokenizer, catalog, tmp_path):
    make_model().save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    write_record(tmp_path / "run", PolicyRecord("sft", max_history=4), catalog, torch.arange(48))
    grown = catalog.grow(["new"], catalog.trie.codes(torch.arange(1)).numpy())  # shares the semantic ID of item0
    grown.save(tmp_path / "grown")
    app, what = build(ServeArguments(model=str(tmp_path / "run"), catalog=str(tmp_path / "grown"), device="cpu"), None)
    assert what == f"49 items of catalog {grown.fingerprint}"
    with served(app) as url:
        (row,) = results(post(url, history=["new", "item3"], k=48, exclude_seen=False, catalog=grown.fingerprint))
        assert row["unknown"] == 0 and {"new", "item0"} <= set(row["items"])
    catalog.first(40).save(tmp_path / "other")
    with raises(InputError, field="catalog"):
        build(ServeArguments(model=str(tmp_path / "run"), catalog=str(tmp_path / "other")), None)


def test_what_takes_too_long_or_would_wait_too_long_is_told(serve, recommender, monkeypatch):
    monkeypatch.setattr("serving.app.MOST_WAITING", 4)
    fragile = Fragile(recommender)
    with serve(fragile, seconds=1.0) as url, ThreadPoolExecutor(8) as pool:
        slow = pool.submit(post, url, history=["slow"])
        assert fragile.begun.wait(20)
        late = pool.submit(post, url, histories=[["item1"]] * 3)
        while value(url, "gflowgr_waiting_histories") < 3:
            time.sleep(0.01)
        refused = post(url, histories=[["item1"]] * 2)
        assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
        assert slow.result().status_code == late.result().status_code == 504
        fragile.go_on.set()
        assert results(post(url, history=["item1"], k=2))
        assert value(url, "gflowgr_batch_histories_sum") == 2  # what nobody waits for any more is not drawn


def test_a_guide_steers_the_lists_and_a_server_that_cannot_answer_does_not_start(recommender, serve):
    guide = Popularity(torch.eye(48)[7] + 1e-3)
    with serve(guide=guide, guide_weight=100.0) as url:
        assert results(post(url, history=["item1"], k=1))[0]["items"] == ["item7"]
    with raises(InputError, field="guide_weight"):
        Served(recommender, guide, guide_weight=-1.0).warm_up()
