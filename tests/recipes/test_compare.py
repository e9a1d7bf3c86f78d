"""Made-up evaluations side by side: which folders are one method, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from catalog.files import write_json
from interactions import Splits, leave_one_out, save_prepared
from recipes.compare import main
from recipes.comparison import examples
from recipes.measure import list_metrics

HOW = {"beam_width": 100, "exclude_history": True, "users": 20, "hit": "item"}


@pytest.fixture
def data(catalog, tmp_path):
    """A prepared folder of 300 events of 20 users."""
    rng = np.random.default_rng(0)
    users = np.repeat([f"u{n}" for n in range(20)], 15)
    items = [catalog.item_ids[i] for i in rng.integers(0, 48, 300)]
    log = pd.DataFrame({"user": users, "item": items, "timestamp": np.arange(300)})
    titled = replace(catalog, titles=tuple(f"Film {i}" for i in range(48)))
    save_prepared(tmp_path / "data", titled, leave_one_out(log, catalog.item_ids, max_history=6))
    return tmp_path / "data"


@pytest.fixture
def evaluated(data, catalog, tmp_path):
    """Makes the folder of an evaluated run; each user's target is on top with probability `skill`."""

    def make(name, skill=0.1, seed=0, how=HOW, **more):
        folder, rng, splits = tmp_path / name, np.random.default_rng(seed), Splits.load(data / "splits")
        target = np.array(splits.test["target"])
        ranked = np.stack([np.r_[rng.permutation(48), -1, -1] for _ in target])
        hit = rng.random(20) < skill
        ranked[hit, 0] = target[hit]
        metrics = list_metrics(ranked, splits.test, catalog, splits)
        folder.mkdir(parents=True)
        write_json(folder / "metrics.json", {"test": metrics, "test_protocol": how, **more})
        (folder / "resolved.yaml").write_text(f"data: {data}\n")
        np.savez_compressed(folder / "ranked_test.npz", ranked=ranked, target=target)
        return str(folder)

    return make


@pytest.fixture
def compare(tmp_path):
    def run(*runs, **settings):
        argv = [part for name, value in settings.items() for part in (f"--{name}", value)]
        main(["--runs", *runs, "--output_dir", str(tmp_path / "out"), *argv])
        return json.loads((tmp_path / "out" / "metrics.json").read_text())

    return run


def test_folders_of_seeds_are_one_method(evaluated, compare, tmp_path):
    cost = [{"seconds": 10.0 * n, "tokens": 100, "peak_memory_mb": 7.5, "processes": 1} for n in (1, 2, 3)]
    runs = [evaluated(f"tb/seed_{n}", seed=n, cost=cost[n]) for n in range(3)]
    record = compare(*runs, evaluated("sft", seed=9))
    assert list(record["methods"]) == ["tb", "sft"]
    tb, sft = record["methods"]["tb"], record["methods"]["sft"]
    assert tb["seconds"] == {"mean": 20.0, "sd": 10.0, "seeds": [10.0, 20.0, 30.0]}
    assert tb["mrr"]["sd"] == pytest.approx(np.std(tb["mrr"]["seeds"], ddof=1))
    assert sft["mrr"] == {"mean": sft["mrr"]["mean"], "sd": None, "seeds": [sft["mrr"]["mean"]]}
    assert "seconds" not in sft and record["tests"] == {}
    page = (tmp_path / "out" / "table.md").read_text()
    assert "over the seeds 0, 1, 2" in page and "| tb | **20** ± 10 | **100** ± 0 | **8** ± 0 |" in page


def test_tests_are_over_users_with_their_seeds_averaged(evaluated, compare):
    good = [evaluated(f"good/seed_{n}", skill=0.9, seed=n) for n in range(2)]
    bad = [evaluated(f"bad/seed_{n}", skill=0.0, seed=n) for n in range(2)]
    record = compare(*good, *bad, baseline="bad")
    test = record["tests"]["ndcg@10"]["good"]
    methods = record["methods"]
    expected = methods["good"]["ndcg@10"]["mean"] - methods["bad"]["ndcg@10"]["mean"]
    assert test["difference"] == pytest.approx(expected)
    assert 0 < test["low"] < expected < test["high"] and test["holm_wilcoxon"] < 0.01 and test["holm_bootstrap"] < 0.01


def test_groups_of_users_add_up_to_all(evaluated, compare):
    record = compare(evaluated("one", skill=0.5))
    for groups in record["breakdown"].values():
        users = [bucket["users"] for bucket in groups["buckets"]]
        assert sum(users) == 20
        mean = np.average(groups["recall@10"]["one"], weights=users)
        assert mean == pytest.approx(record["methods"]["one"]["recall@10"]["mean"])


def test_examples_have_titles_and_mark_what_shares_the_targets_semantic_id(data, catalog):
    splits = Splits.load(data / "splits")
    ranked = np.tile(np.r_[np.arange(48), -1, -1], (20, 1))
    ranked[:, 1] = splits.test["target"][:]
    found = examples({"tb": ranked}, replace(catalog, titles=tuple(f"Film {i}" for i in range(48))), splits, users=4)
    assert len(found) == 4
    for example in found:
        first, second, *_ = example.lists["tb"]
        assert first.title == "Film 0" and second == (example.target, True)
        assert len(example.history) == 5 and len(example.lists["tb"]) == 5
    untitled = examples({"tb": ranked}, replace(catalog, titles=()), splits, users=1)
    assert untitled[0].lists["tb"][0].title == "item0"


def test_rewards_of_the_same_method_are_one_reward(evaluated, compare):
    match = {"match": {"tv": 0.5, "kl": 1.0}}
    runs = [
        evaluated(f"tb/seed_{n}", match_protocol={"reward_of": f"x/tb/seed_{n}", "users": 20}, **match) for n in (1, 2)
    ]
    assert compare(*runs)["protocol"]["match"] == {"reward_of": "tb", "users": 20}
    other = evaluated("sft", match_protocol={"reward_of": "x/dpo/seed_1", "users": 20}, **match)
    with pytest.raises(SystemExit, match="error: The runs were evaluated differently"):
        compare(*runs, other)


def test_runs_that_cannot_be_compared_end_in_one_sentence(evaluated, compare, tmp_path):
    one, two = evaluated("tb"), evaluated("other/tb")
    slips = [
        (([one, two], {}), "are both called tb. Rename one of the folders."),
        (([one], {"baseline": "sft"}), "baseline=sft: it is not one of the runs"),
        (([one, evaluated("wide", how=HOW | {"beam_width": 50})], {}), "evaluated differently"),
        (([one], {"references": one}), "references: tb is the name of a run too"),
        (([one], {"sweep": '{"a": {}}'}), "Give either runs, the folders to compare, or sweep"),
    ]
    for (runs, settings), message in slips:
        with pytest.raises(SystemExit) as stopped:
            compare(*runs, **settings)
        assert str(stopped.value).startswith("error: ") and message in str(stopped.value)
    (tmp_path / "tb" / "ranked_test.npz").unlink()
    with pytest.raises(SystemExit, match="is not evaluated. Run python recipes/evaluate.py"):
        compare(one)


def test_lists_of_other_users_are_refused(evaluated, compare, tmp_path):
    run = evaluated("tb")
    np.savez_compressed(tmp_path / "tb" / "ranked_test.npz", ranked=np.zeros((3, 50), int), target=np.zeros(3, int))
    with pytest.raises(SystemExit, match="was evaluated on other users or items than those of data"):
        compare(run)
