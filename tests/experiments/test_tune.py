"""The search of settings: what is refused, what trials end how, and two methods searched for real on made-up data."""

import csv
import json
import os
import signal
import sys
import threading
from dataclasses import dataclass

import optuna
import pandas as pd
import pytest
import yaml
from optuna.trial import TrialState

import experiments.tune
from catalog.errors import InputError, RunError
from experiments import fit_trial
from experiments.arguments import CompareArguments, RecommenderArguments
from experiments.search_space import Choices, Range
from experiments.tune import check_search, finished, tune
from experiments.tune_arguments import TuneArguments
from experiments.tune_methods import read_methods
from interactions import leave_one_out, save_prepared
from recipes.tune import main
from tests.raising import raises

TRAINING = dict(
    **{"method": "sft", "data": "nowhere", "output_dir": "nowhere", "max_history": 6, "max_steps": 4, "eval_steps": 2},
    **{"per_device_train_batch_size": 32, "logging_steps": 1, "eval_strategy": "steps", "save_strategy": "no"},
    **{"learning_rate": 1e-3, "use_cpu": True, "eval_k": [5, 10], "beam_width": 10},
    backbone=dict(model_type="gpt2", n_embd=32, n_layer=1, n_head=2, n_positions=128),
)
NET = {
    **{"kind": "sasrec", "max_length": 6, "dimensions": 8, "layers": 1, "epochs": 2},
    "search": {"dropout": {"low": 0.1, "high": 0.5}, "layer": ["sasrec", "hstu"]},
}


@pytest.fixture
def folder(catalog, tmp_path):
    """Prepared data of 20 users, and the recipe sft.yaml."""
    users = [f"u{n}" for n in range(20) for _ in range(15)]
    items = [catalog.item_ids[(n * n) % 48] for n in range(300)]
    log = pd.DataFrame({"user": users, "item": items, "timestamp": range(300)})
    save_prepared(tmp_path / "data", catalog, leave_one_out(log, catalog.item_ids, max_history=6))
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(TRAINING))
    return tmp_path


@pytest.fixture
def arguments(folder):
    def make(methods=None, **changes):
        sft = {
            "config": str(folder / "sft.yaml"),
            "search": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
        }
        own = {"data": str(folder / "data"), "output_dir": str(folder / "out"), "trials": 1, "jobs": 2}
        return TuneArguments(**own | {"methods": {"sft": sft, "net": NET} | (methods or {})} | changes)

    return make


@pytest.mark.slow
def test_a_method_is_searched_and_goes_on(arguments, folder, capsys):
    args = arguments()
    argv = ["--data", args.data, "--output_dir", args.output_dir, "--methods", json.dumps({"sft": args.table["sft"]})]
    main([*argv, "--trials", "1"])
    said = capsys.readouterr().out
    assert f"Output: {folder}/out/chosen.yaml" in said and "report.html" in said
    assert f"train --config {folder}/sft.yaml" in said and "--learning_rate 0.001" in said
    found = json.loads((folder / "out/metrics.json").read_text())
    method = found["methods"]["sft"]  # the one trial has the method's own settings
    assert method["value"] == method["own_settings"] == found["trials"]["sft"][0]["value"]
    assert (method["complete"], method["pruned"], method["failed"]) == (1, 0, 0) and 0 <= method["value"] <= 1
    assert method["settings"] == {"learning_rate": 1e-3} and found["protocol"]["split"] == "validation"
    trial = folder / "out/trials/sft/0"
    assert (trial / "metrics.jsonl").is_file() and not list(trial.glob("*.safetensors"))
    assert (folder / "out/report.html").read_text().count("<svg") == 2
    with (folder / "out/trials.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["sft"]
    main([*argv, "--trials", "1"])  # nothing is left to try
    assert json.loads((folder / "out/metrics.json").read_text()) == found


def test_another_search_in_the_same_folder_is_refused(arguments):
    args = arguments()
    check_search(args, read_methods(args))
    other = NET | {"search": NET["search"] | {"layer": ["hstu", "ligr"]}}
    with raises(InputError, field="settings.net.search"):
        check_search(args, read_methods(arguments({"net": other})))
    check_search(args, read_methods(arguments(trials=9, jobs=1)))


def test_a_trial_of_a_network_tells_each_epoch_and_then_the_ranking(arguments, folder):
    net = read_methods(arguments())[1]
    command = net.command({"dropout": 0.2, "layer": "hstu"}, folder / "trial")
    assert command[1:3] == ["-m", "experiments.fit_trial"]
    fit_trial.main(command[3:])
    records = [json.loads(line) for line in (folder / "trial/metrics.jsonl").read_text().splitlines()]
    assert [(record["step"], "final" in record) for record in records] == [(1, False), (2, False), (3, True)]
    assert net.value(records) == records[2]["eval_ndcg@10"]
    own = {name: value for name, value in NET.items() if name != "search"}
    assert net.chosen({"dropout": 0.2}) == own | {"dropout": 0.2}


def test_recipes_take_up_what_was_chosen(tmp_path):
    chosen = tmp_path / "chosen.yaml"
    methods = {"sft": {"learning_rate": 1e-3}, "net": {"kind": "sasrec", "dropout": 0.2}}
    chosen.write_text(yaml.safe_dump({"methods": methods}))
    models = RecommenderArguments(data="d", output_dir="o", models={"net": {"layers": 1}}, chosen=str(chosen))
    assert models.table == {"net": {"layers": 1, "kind": "sasrec", "dropout": 0.2}}

    def sweep(**table):
        return CompareArguments(output_dir="o", data="d", sweep=table, chosen=str(chosen)).table

    other = {"config": "x.yaml"}
    assert sweep(sft={"config": "a"}, other=other) == {"sft": {"config": "a", "learning_rate": 1e-3}, "other": other}
    for table in ({"sft": {"config": "a", "learning_rate": 0.5}}, {"other": other}):
        with raises(InputError, field="chosen"):
            sweep(**table)
    chosen.write_text("title: none")
    with raises(InputError, field="chosen"):
        sweep(sft={"config": "a"})


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"learning_rat": [1, 2]}, "'learning_rat' is not a setting of sft. Did you mean learning_rate?"),
        ({"beta": [1, 2]}, "'beta' is not a setting of sft."),  # it is one of dpo
        ({}, "search is missing or empty"),
        (None, "search is missing or empty"),
        ({"learning_rate": {"low": 1e-2, "high": 1e-3}}, "low must be below high"),
        ({"learning_rate": {"low": 0, "high": 1e-3, "log": True}}, "low must be below high, above 0"),
        ({"max_history": {"low": 1.5, "high": 3}}, "both whole numbers"),
        ({"learning_rate": {"min": 1, "max": 2}}, "a list of choices or a table of low, high and log"),
        ({"learning_rate": [1e-3]}, "two values or more"),
        ({"lr_scheduler_type": {"low": 1, "high": 2}}, "is no number"),
        ({"sft_positions": ["all", "none"]}, "sft_positions"),
        ({"max_history": {"low": 0, "high": 3}}, "max_history=0"),
        ({"seed": [1, 2]}, "seed is not to be chosen"),
    ],
)
def test_slips_in_the_search_are_one_sentence(search, message, arguments):
    args = arguments()
    sft = {name: value for name, value in args.table["sft"].items() if name != "search"}
    with pytest.raises(InputError, match=message):
        read_methods(arguments({"sft": sft | ({"search": search} if search is not None else {})}))


def test_other_slips_are_refused_too(arguments, folder):
    for changes, field in (
        ({"trials": 0}, "trials"),
        ({"seconds": 0}, "seconds"),
        ({"pruner": "best"}, "pruner"),
        ({"methods": {}}, "methods"),
    ):
        with raises(InputError, field=field):
            TuneArguments(**{**vars(arguments()), **changes})
    for method, field in (
        ({"config": "a", "kind": "b"}, "methods"),
        ({"kind": "knn", "search": NET["search"]}, "methods"),
        (NET | {"search": {"dropout": [0.5, "x"]}}, "models"),
        ({"config": str(folder / "sft.yaml"), "data": "other", "search": NET["search"]}, "data"),
    ):
        with raises(InputError, field=field):
            read_methods(arguments({"net": method}))
    for metric in ("ndcg@7", "ndcg@1", "auc"):
        with raises(InputError, field="metric"):
            read_methods(arguments(metric=metric))


@dataclass
class Scripted:
    """A method whose trials are a line of Python; `v` and `kind` are what is tried, `metrics(*values)` writes."""

    code: str
    name: str = "scripted"

    space = {"v": Range(0.0, 1.0), "kind": Choices(("a", ["b"]))}
    base = {"v": 0.5, "kind": ["b"]}
    decides = {}

    def command(self, settings, folder):
        head = (
            f"import json, sys, time, pathlib; v = {settings['v']!r}; folder = pathlib.Path({str(folder)!r})\n"
            "def metrics(*values): (folder / 'metrics.jsonl').write_text(''.join("
            "json.dumps({'step': n, 'eval_ndcg@10': x}) + chr(10) for n, x in enumerate(values)))\n"
        )
        return [sys.executable, "-S", "-c", head + self.code]

    def value(self, records):
        return records[-1]["eval_ndcg@10"]

    def chosen(self, settings):
        return settings

    def prepare(self):
        pass


@pytest.fixture
def scripted(arguments, monkeypatch):
    """Searches with trials of one line; the journal's study."""
    monkeypatch.setattr(experiments.tune, "POLL", 0.02)

    def search(code, **changes):
        monkeypatch.setattr(experiments.tune, "read_methods", lambda args: [Scripted(code)])
        return tune(arguments(**changes), [])

    return search


def study_of(folder):
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "out/trials.journal"))
    return optuna.load_study(study_name="scripted", storage=optuna.storages.JournalStorage(backend))


def test_trials_are_drawn_pruned_and_stopped_within_the_budget(scripted, folder):
    found = scripted("metrics(v, v * v)", trials=12, pruner="none")["methods"]["scripted"]
    best = max(study_of(folder).trials, key=lambda trial: trial.value)
    assert found["complete"] == 12 and found["value"] == best.value and found["own_settings"] == 0.25
    assert found["settings"]["kind"] in ("a", ["b"]) and set(found["importance"]) == {"v", "kind"}
    grown = scripted("metrics(v, v * v)", trials=14, pruner="none")["methods"]["scripted"]
    assert grown["complete"] == 14
    trials = json.loads((folder / "out/metrics.json").read_text())["trials"]["scripted"]
    assert len({trial["settings"]["v"] for trial in trials}) == 14


def test_a_trial_below_the_median_ends_early_and_one_that_takes_too_long_counts_as_far_as_it_came(scripted, folder):
    code = "metrics(v)\nif v < 0.3: time.sleep(60)\nmetrics(v, v)"
    found = scripted(code, trials=14, jobs=1)["methods"]["scripted"]
    assert found["pruned"] >= 1 and found["complete"] + found["pruned"] == 14
    assert found["seconds"] < 60
    slow = scripted("metrics(0.1)\ntime.sleep(60)", output_dir=str(folder / "slow"), trials=2, trial_seconds=0.3)
    assert slow["methods"]["scripted"]["complete"] == 2
    few = scripted("metrics(0.1)\ntime.sleep(60)", output_dir=str(folder / "few"), trials=50, seconds=1.0)
    assert 1 <= few["methods"]["scripted"]["complete"] < 50


def test_a_trial_that_fails_is_counted_and_the_first_ends_the_search(scripted, folder):
    code = "metrics(v)\nif v != 0.5: raise SystemExit('error: no luck')"
    found = scripted(code, trials=4, jobs=1, pruner="hyperband")
    assert found["methods"]["scripted"]["failed"] == 3 and found["methods"]["scripted"]["value"] == 0.5
    assert study_of(folder).trials[1].user_attrs["error"] == "error: no luck"
    with pytest.raises(RunError, match="failed before any was measured; .*trial.log ends with\nerror: never"):
        scripted("raise SystemExit('error: never')", output_dir=str(folder / "bad"))


def test_a_search_that_was_asked_to_stop_goes_on_with_the_trial_that_it_was_at(scripted, folder):
    waits = (
        "metrics(v)\nif not (folder / 'again').exists(): (folder / 'again').touch(); time.sleep(60)\nmetrics(v, 1.0)"
    )
    marker = folder / "out/trials/scripted/0/again"

    def stop():
        while not marker.exists():
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(RunError, match="asked to stop. The same command goes on"):
        scripted(waits, jobs=1)
    thread.join()
    assert [trial.state for trial in study_of(folder).trials] == [TrialState.RUNNING]
    found = scripted(waits, jobs=1)["methods"]["scripted"]
    assert found["complete"] == 1 and found["value"] == 1.0 and found["trial"] == 0 and found["own_settings"] == 1.0
    assert len(finished(study_of(folder))) == 1
