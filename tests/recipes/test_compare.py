"""Made-up evaluations side by side: which folders are one method, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from catalog.errors import InputError
from catalog.files import seal, write_json
from evaluation.ranking import EVAL_K
from experiments import comparison
from experiments.comparison import examples, over_users, user_numbers
from experiments.evaluate import list_metrics
from experiments.evaluations import data_provenance, write_evaluation, writing
from interactions import Splits, leave_one_out, save_prepared
from recipes.compare import main
from tests.raising import raises

HOW = {
    **{"split": "test", "held_out": "each user's last item", "trained_on": "all but each user's last two items"},
    **{"exclude_history": True, "users": 20, "unrankable": 0, "untrained_targets": 0, "untrained_users": 0},
    **{"hit": "item", "beam_width": 100},
}


@pytest.fixture
def data(catalog, tmp_path):
    """A prepared folder of 300 events of 20 users."""
    return prepared(catalog, tmp_path / "data")


def prepared(catalog, folder, seed=0):
    users = np.repeat([f"u{n}" for n in range(20)], 15)
    items = [catalog.item_ids[i] for i in np.random.default_rng(seed).integers(0, 48, 300)]
    log = pd.DataFrame({"user": users, "item": items, "timestamp": np.arange(300)})
    titled = replace(catalog, titles=tuple(f"Film {i}" for i in range(48)))
    save_prepared(folder, titled, leave_one_out(log, catalog.item_ids, max_history=6))
    return folder


@pytest.fixture
def evaluated(data, catalog, tmp_path):
    """Makes the folder of an evaluated run; each user's target is on top with probability `skill`."""

    def make(name, skill=0.1, seed=0, how=HOW, cost=None, data=data, eval_k=EVAL_K, **more):
        folder, rng, splits = tmp_path / name, np.random.default_rng(seed), Splits.load(data / "splits")
        rows = getattr(splits, how["split"])
        target = np.array(rows["target"])
        ranked = np.stack([np.r_[rng.permutation(48), -1, -1] for _ in target])
        hit = rng.random(20) < skill
        ranked[hit, 0] = target[hit]
        metrics = list_metrics(ranked, rows, catalog, splits, eval_k)
        record = {"metrics": metrics, "protocol": how, "data": str(data)} | more
        of = replace(data_provenance(catalog, splits), settings={"split": how["split"]})
        with writing(folder, of) as temporary:
            write_evaluation(temporary, record, ranked, target)
        if cost:
            write_json(folder / "metrics.json", {"cost": cost})
        return str(folder)

    return make


@pytest.fixture
def compare(tmp_path):
    def run(*runs, output_dir=tmp_path / "out", **settings):
        argv = [part for name, value in settings.items() for part in (f"--{name}", value)]
        main.__wrapped__(["--runs", *runs, "--output_dir", str(output_dir), *argv])
        return json.loads((output_dir / "comparison" / "metrics.json").read_text())

    return run


def test_folders_of_seeds_are_one_method(evaluated, compare, tmp_path):
    cost = [{"seconds": 10.0 * n, "tokens": 100, "peak_memory_mb": 7.5, "processes": 1} for n in (1, 2, 3)]
    runs = [evaluated(f"tb/seed_{n}", seed=n, cost=cost[n]) for n in range(3)]
    record = compare(*runs, evaluated("sft", seed=9))
    assert list(record["methods"]) == ["tb", "sft"]
    tb, sft = record["methods"]["tb"], record["methods"]["sft"]
    assert tb["seconds"] == {"mean": 20.0, "sd": 10.0, "seeds": [10.0, 20.0, 30.0]}
    assert tb["mrr@50"]["sd"] == pytest.approx(np.std(tb["mrr@50"]["seeds"], ddof=1))
    assert sft["mrr@50"] == {"mean": sft["mrr@50"]["mean"], "sd": None, "seeds": [sft["mrr@50"]["mean"]]}
    assert "seconds" not in sft and record["tests"] == {}
    page = (tmp_path / "out/comparison/table.md").read_text()
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


def test_a_user_with_several_rows_is_one_sample():
    """Three rows of one user and one of another: the mean over users, and as many samples."""
    rows = Dataset.from_list([{"user": user, "history": [0], "target": 1} for user in "aaba"])
    places = {"one": np.array([1.0, 0.0, 1.0, 1.0]), "none": np.zeros(4)}
    hits = {method: [{"recall@10": hit, "ndcg@10": hit}] for method, hit in places.items()}
    found = over_users(hits, [10], "none", {}, user_numbers(rows))
    assert found.tests["recall@10"]["one"].difference == pytest.approx((2 / 3 + 1) / 2)
    assert user_numbers(rows.select([0, 2])) is None


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
    found = examples(
        {"tb": ranked}, replace(catalog, titles=tuple(f"Film {i}" for i in range(48))), splits.test, users=4
    )
    assert len(found) == 4
    for example in found:
        first, second, *_ = example.lists["tb"]
        assert first.title == "Film 0" and second == (example.target, True)
        assert len(example.history) == 5 and len(example.lists["tb"]) == 5
    untitled = examples({"tb": ranked}, replace(catalog, titles=()), splits.test, users=1)
    assert untitled[0].lists["tb"][0].title == "item0"


def test_policies_are_compared_with_one_reward(evaluated, compare):
    def matched(name, reward_of, **reward):
        against = {"reward_of": f"x/{reward_of}", "reward": {"rewards": reward}, "users": 20}
        return evaluated(name, match_protocol=against, match={"tv": 0.5, "kl": 1.0})

    runs = [matched(f"tb/seed_{n}", f"tb/seed_{n}", hit=1.0) for n in (1, 2)]
    same = matched("db", "db/seed_1", hit=1.0)
    how = compare(*runs, same)["protocol"]["match"]
    assert how == {"reward_of": "tb", "reward": {"rewards": {"hit": 1.0}}, "users": 20}
    other = matched("sft", "dpo/seed_1", hit=2.0)
    with raises(InputError, field="reward", file=Path(other) / "evaluation/test"):
        compare(*runs, other)


def test_what_cannot_stand_in_one_table_is_refused(evaluated, compare, tmp_path):
    one, two = evaluated("tb"), evaluated("other/tb")
    wide = evaluated("wide", how=HOW | {"beam_width": 50})
    with raises(InputError, field="runs", value="tb"):
        compare(one, two)
    with raises(InputError, field="baseline", value="sft"):
        compare(one, baseline="sft")
    with raises(InputError, field="beam_width", value=50):
        compare(one, wide)
    with raises(InputError, field="references", value="tb"):
        compare(one, references=one)
    with raises(InputError, file=tmp_path / "nothing"):
        compare(one, str(tmp_path / "nothing"))
    with pytest.raises(SystemExit, match="^error: .* are both called tb"):
        main(["--runs", one, two, "--output_dir", str(tmp_path / "out")])


def test_runs_are_compared_at_the_cutoffs_they_have_in_common(evaluated, compare, tmp_path):
    runs = [evaluated("tb", skill=0.5), evaluated("sft", seed=1, eval_k=[5, 7, 10, 20])]
    reference = evaluated("knn", seed=2, eval_k=[5, 10, 12])
    record = compare(*runs, references=reference, baseline="sft")
    ranking = {"recall@5", "recall@10", "ndcg@5", "ndcg@10", "mrr@10"}
    for name in ("tb", "sft", "knn"):
        assert {metric for metric in record["methods"][name] if metric[:3] in ("rec", "ndc", "mrr")} == ranking, name
    assert record["tests"].keys() - {"baseline", "resamples"} == {"recall@10", "ndcg@10"}
    assert all({"recall@10", "ndcg@10"} <= groups.keys() for groups in record["breakdown"].values())
    own = json.loads((tmp_path / "tb/evaluation/test/metrics.json").read_text())["metrics"]
    assert record["methods"]["tb"]["ndcg@5"]["mean"] == own["ndcg@5"]
    # the reciprocal ranks of all are over lists of 10, whatever each was measured at
    with np.load(tmp_path / "tb/evaluation/test/ranked.npz") as file:
        places = [row.tolist().index(item) + 1 for row, item in zip(file["ranked"], file["target"], strict=True)]
    expected = np.mean([1 / place if place <= 10 else 0.0 for place in places])
    assert record["methods"]["tb"]["mrr@10"]["mean"] == pytest.approx(expected) and own["mrr@50"] != expected


def test_runs_without_a_common_cutoff_are_refused(evaluated, compare):
    one, two, three = evaluated("tb"), evaluated("sft", eval_k=[5, 7]), evaluated("dpo", eval_k=[7, 20])
    with raises(InputError, field="eval_k", value=[7, 20]):
        compare(one, three)
    with raises(InputError, field="eval_k", value=[7, 20]):
        compare(one, two, references=three)
    with raises(InputError, file=Path(evaluated("old", metrics={"tv": 0.5})) / "evaluation/test/metrics.json"):
        compare(str(Path(one).parent / "old"))
    main(["--runs", one, three, "--output_dir", f"{one}_out", "--eval_k", "3", "30"])
    methods = json.loads(Path(f"{one}_out/comparison/metrics.json").read_text())["methods"]
    assert {"recall@3", "recall@30", "ndcg@3", "mrr@30"} <= methods["tb"].keys() == methods["dpo"].keys()
    with raises(InputError, field="eval_k", value=51):
        main.__wrapped__(["--runs", one, three, "--output_dir", f"{one}_out", "--eval_k", "51"])


def test_an_evaluation_of_before_is_read_by_the_names_of_its_metrics(evaluated, compare):
    old = evaluated("old", metrics={"recall@5": 0.5, "recall@10": 0.6, "mrr": 0.4, "gini@10": 0.9})
    record = compare(old, evaluated("new"))
    assert record["methods"]["old"].keys() == {"recall@5", "recall@10", "ndcg@5", "ndcg@10", "mrr@10", "gini@10"}


def test_another_split_is_compared_when_it_is_asked_for(evaluated, compare):
    run = evaluated("tb", skill=1.0, how=HOW | {"split": "validation"})
    record = compare(run, split="validation")
    assert record["protocol"]["ranking"]["split"] == "validation" and record["methods"]["tb"]["recall@1"]["mean"] == 1
    with raises(InputError, file=run):  # its test items are not evaluated
        compare(run)


def test_what_was_ranked_on_other_rows_is_refused(evaluated, compare, catalog, data, tmp_path):
    run, other = evaluated("tb"), prepared(catalog, tmp_path / "later", seed=1)
    theirs = evaluated("sft", data=other)
    for references in ([], ["--references", theirs]):
        with raises(InputError, field="splits.train", file=Path(theirs) / "evaluation/test"):
            compare(run, *(references or [theirs]))


def test_a_ranking_that_is_not_whole_or_does_not_fit_is_refused(evaluated, compare, tmp_path):
    run = Path(evaluated("tb")) / "evaluation/test"
    content = (run / "ranked.npz").read_bytes()
    (run / "ranked.npz").write_bytes(content[:-200])
    with raises(InputError, file=run):
        compare(str(tmp_path / "tb"))
    (run / "ranked.npz").write_bytes(bytes(len(content)))
    with raises(InputError, file=run / "ranked.npz"):
        compare(str(tmp_path / "tb"))
    for ranked in (np.zeros((3, 50), int), np.full((20, 50), 48), np.zeros((20, 50))):
        np.savez_compressed(run / "ranked.npz", ranked=ranked, target=np.zeros(len(ranked), int))
        seal(run, sealed_as(run))
        with raises(InputError, file=run / "ranked.npz"):
            compare(str(tmp_path / "tb"))


def sealed_as(folder):
    return json.loads((folder / "complete.json").read_text())["of"]


def test_an_evaluation_of_other_weights_is_refused(evaluated, compare, tmp_path):
    run = evaluated("tb")
    (tmp_path / "tb" / "model.safetensors").write_bytes(b"trained further")
    with raises(InputError, file=run):
        compare(run)


def test_a_comparison_changes_nothing_of_the_runs_and_is_replaced_as_a_whole(evaluated, compare, tmp_path, monkeypatch):
    run = evaluated("tb", cost={"seconds": 1.0})
    files = {path: path.read_bytes() for path in (tmp_path / "tb").rglob("*") if path.is_file()}
    compare(run, output_dir=tmp_path / "tb")
    assert files == {path: path.read_bytes() for path in files}
    before = {path: path.read_bytes() for path in (tmp_path / "tb/comparison").iterdir()}
    assert {path.name for path in before} == {"metrics.json", "table.md", "report.html", "complete.json"}

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "write_report", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(run, output_dir=tmp_path / "tb", title="Another")
    assert before == {path: path.read_bytes() for path in (tmp_path / "tb/comparison").iterdir()}
    (tmp_path / "mine/comparison").mkdir(parents=True)
    with raises(InputError, file=tmp_path / "mine/comparison"):  # somebody's own folder
        compare(run, output_dir=tmp_path / "mine")
