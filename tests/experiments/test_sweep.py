"""Sweeps: which stages are missing, in which order they run, and two methods trained for real on made-up data."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from filelock import FileLock

from catalog import Catalog
from catalog.errors import InputError, RunError
from catalog.files import seal
from experiments.arguments import CompareArguments
from experiments.command_line import parse
from experiments.evaluate import evaluate_run
from experiments.stages import STOPPED, STOPS, Stage, run_stages
from experiments.sweep import missing_stages, run_sweep
from experiments.sweep_settings import check_sweep
from interactions import Splits, leave_one_out, save_prepared
from recipes.compare import main
from recommenders import fit_recommender
from tests.raising import raises

TRAINING = dict(
    max_history=6,
    per_device_train_batch_size=32,
    max_steps=2,
    logging_steps=1,
    eval_strategy="steps",
    eval_steps=2,
    save_strategy="no",
    learning_rate=1e-3,
    use_cpu=True,
)
BACKBONE = dict(model_type="gpt2", n_embd=32, n_layer=1, n_head=2, n_positions=128)


def log_of(catalog, seed=0):
    """300 events of 20 users."""
    users = np.repeat([f"u{n}" for n in range(20)], 15)
    items = [catalog.item_ids[i] for i in np.random.default_rng(seed).integers(0, 48, 300)]
    return pd.DataFrame({"user": users, "item": items, "timestamp": np.arange(300)})


@pytest.fixture
def folder(catalog, tmp_path):
    """Prepared data of 20 users, and the recipes sft.yaml and tb.yaml."""
    titled = replace(catalog, titles=tuple(f"Film {i}" for i in range(48)))
    save_prepared(tmp_path / "data", titled, leave_one_out(log_of(catalog), catalog.item_ids, max_history=6))
    common = TRAINING | {"data": "nowhere", "output_dir": str(tmp_path / "alone")}
    tb = {"method": "gflownet", "samplers": {"target": 1, "random": 2}, "rewards": {"hit": 1.0}, "match_rows": 4}
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(common | {"method": "sft", "backbone": BACKBONE}))
    (tmp_path / "tb.yaml").write_text(yaml.safe_dump(common | tb))
    return tmp_path


@pytest.fixture
def sweep(folder):
    """Arguments of a sweep of SFT, TB from it, and TB with another objective."""

    def make(**changes):
        tb = {"config": str(folder / "tb.yaml"), "model": "sft"}
        methods = {"kl": tb | {"objective": "flow_kl"}, "tb": tb, "sft": {"config": str(folder / "sft.yaml")}}
        own = {"output_dir": str(folder / "out"), "data": str(folder / "data"), "reward_of": "tb"}
        return CompareArguments(**(own | {"sweep": methods, "seeds": [1, 2], "jobs": 2} | changes))

    return make


def missing(args):
    return missing_stages(args, check_sweep(args))


def finish(args, *runs):
    """Make runs look trained and evaluated with the settings that the sweep has for them."""
    for number, run in enumerate(runs):
        stage = missing(args)[f"train {run}"]
        (recipe, config), path = settings_of(stage), Path(args.output_dir) / run
        path.mkdir(parents=True)
        (path / "resolved.yaml").write_text(yaml.safe_dump(vars(recipe) | json.loads(config.to_json_string())))
        (path / "model.safetensors").write_bytes(b"")
        os.utime(path / "model.safetensors", (1000 + number, 1000 + number))
        seal(path, {})


def settings_of(stage):
    from experiments.arguments import RunArguments
    from experiments.command_line import setting
    from trainer import METHODS

    return parse(stage.command[2:], RunArguments, METHODS[setting(stage.command[2:], "method")][1])


def test_every_method_is_trained_from_the_checkpoint_of_its_seed(sweep, folder):
    stages = missing(sweep())
    assert len(stages) == 2 * 3 * 2
    recipe, config = settings_of(stages["train kl/seed_2"])
    assert recipe.model == str(folder / "out/sft/seed_2") and recipe.data == str(folder / "data")
    assert (config.objective, config.seed, config.resume_from_checkpoint) == ("flow_kl", 2, True)
    assert config.output_dir == str(folder / "out/kl/seed_2")
    assert stages["train kl/seed_2"].needs == {"prepare", "train sft/seed_2"}
    reward = {"train tb/seed_1"}  # is asked of all
    assert stages["evaluate sft/seed_1"].needs == {"prepare", "train sft/seed_1"} | reward
    assert stages["evaluate sft/seed_1"].command[-2:] == ("--reward_of", str(folder / "out/tb/seed_1"))


def test_guided_decoding_is_an_evaluation_alone(sweep, folder):
    fit_recommender(
        "popularity", {}, Splits.load(folder / "data/splits"), Catalog.load(folder / "data"), folder / "knn"
    )
    args = sweep()
    methods = args.table | {"guided": {"evaluate": "tb", "guide": str(folder / "knn"), "guide_weight": 0.5}}
    stages = missing(replace(args, sweep=methods))
    assert "train guided/seed_1" not in stages
    command = stages["evaluate guided/seed_1"].command
    assert command[command.index("--guide_weight") + 1] == "0.5"
    assert command[command.index("--run") + 1] == str(folder / "out/tb/seed_1")
    assert command[command.index("--output_dir") + 1] == str(folder / "out/guided/seed_1")


def test_what_is_finished_is_kept(sweep):
    args = sweep()
    finish(args, "sft/seed_1", "tb/seed_1")
    stages = missing(args)
    assert not {"train sft/seed_1", "train tb/seed_1"} & set(stages)
    assert {"train kl/seed_1", "train sft/seed_2", "evaluate tb/seed_1"} <= set(stages)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_run_with_other_settings_is_neither_used_nor_resumed(interrupted, sweep, folder):
    args = sweep()
    finish(args, "sft/seed_1", "tb/seed_1")
    if interrupted:
        (folder / "out/tb/seed_1/model.safetensors").unlink()
    changed = args.table | {"tb": args.table["tb"] | {"learning_rate": 0.5}}
    with raises(InputError, file=folder / "out/tb/seed_1", field="learning_rate", value=0.001):
        missing(replace(args, sweep=changed))


def test_a_run_from_an_older_checkpoint_is_refused(sweep, folder):
    args = sweep()
    finish(args, "sft/seed_1", "tb/seed_1")
    os.utime(folder / "out/sft/seed_1/model.safetensors")
    with raises(InputError, file=folder / "out/tb/seed_1"):
        missing(args)
    (folder / "out/sft/seed_1/model.safetensors").unlink()
    with raises(InputError, file=folder / "out/tb/seed_1"):
        missing(args)


def test_data_and_recommenders_come_first_and_parts_before_their_mixture(sweep, folder):
    models = {"als": {}, "item_knn": {}, "mixture": {"weights": {"item_knn": 1.0}}}
    recipe = {"models": models, "data": "d", "output_dir": "o"}
    (folder / "models.yaml").write_text(yaml.safe_dump(recipe))
    args = sweep(data=str(folder / "new"), data_recipe="data.yaml", recommender_recipe=str(folder / "models.yaml"))
    methods = {
        name: settings | {"recommender": str(folder / "fitted/mixture")} for name, settings in args.table.items()
    }
    methods["sft"] = args.table["sft"]
    stages = missing(replace(args, sweep=methods))
    fitting = f"recommenders {folder / 'fitted'}"
    assert stages[fitting].command[-3:] == ("--only", "item_knn", "mixture")
    assert stages[fitting].needs == {"prepare"}
    assert stages["train kl/seed_1"].needs == {"prepare", fitting, "train sft/seed_1"}
    assert stages["train sft/seed_1"].needs == {"prepare"}  # asks no recommender
    with raises(InputError, file=folder / "fitted/mixture"):
        missing(replace(args, sweep=methods, recommender_recipe=None))
    with raises(InputError, file=folder / "fitted/sasrec"):
        missing(replace(args, references=[str(folder / "fitted/sasrec")]))


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"sweep": {"tb": {}}, "reward_of": None}, "sweep", "tb"),
        ({"sweep": {"tb": {"evaluate": "sft"}}, "reward_of": None}, "sweep: tb: evaluate", "sft"),
        ({"sweep": {"../tb": {"config": "tb.yaml"}}, "reward_of": None}, "sweep", "../tb"),
        ({"sweep": {"comparison": {"config": "tb.yaml"}}, "reward_of": None}, "sweep", "comparison"),
        ({"sweep": {"tb": {"config": "tb.yaml", "seed": 3}}, "reward_of": None}, "seed", None),
        ({"evaluation": {"output_dir": "elsewhere"}}, "output_dir", None),
        ({"references": ["fitted/tb"]}, "references", "tb"),
        ({"reward_of": "grpo"}, "reward_of", "grpo"),
        ({"baseline": "grpo"}, "baseline", "grpo"),
        ({"jobs": 0}, "jobs", 0),
        ({"seeds": [1, 1]}, "seeds", [1, 1]),
        ({"data": None}, None, None),
        ({"runs": ["a"]}, None, None),
    ],
)
def test_a_slip_in_a_sweep_is_one_sentence(changes, field, value, sweep):
    with raises(InputError, field=field, value=value):
        check_sweep(sweep(**changes))


def test_what_could_not_stand_in_one_table_is_refused_before_anything_is_trained(sweep, folder):
    args = sweep()
    with raises(InputError, field="beam_width", value=20):
        missing(replace(args, evaluation={"beam_width": 20}))
    with raises(InputError, field="split", value="train"):
        evaluate_run("run", args.data, split="train")
    missing(replace(args, evaluation={"beam_width": 20, "eval_k": [5, 10, 20]}))
    missing(replace(args, sweep=args.table | {"other": {"evaluate": "tb", "eval_k": [5, 7]}}))
    with raises(InputError, field="eval_k", value=[7]):
        missing(replace(args, sweep=args.table | {"apart": {"evaluate": "tb", "eval_k": [7]}}))
    with raises(InputError, field="beam_width", value=100):
        missing(replace(args, eval_k=[10, 101]))
    wide = args.table | {"wide": {"evaluate": "tb", "beam_width": 70}}
    with raises(InputError, field="beam_width", value=70):
        missing(replace(args, sweep=wide))
    other = args.table | {"ranked": args.table["tb"] | {"rewards": {"prefix": 1.0}}}
    with raises(InputError, field="reward_of"):
        missing(replace(args, sweep=other, reward_of=None))
    missing(replace(args, sweep=other))
    with raises(InputError, field="reward_of", value="sft"):
        missing(replace(args, reward_of="sft"))
    with raises(InputError, file=folder / "nothing"):
        missing(replace(args, data=str(folder / "nothing")))


def test_references_and_recommenders_of_other_data_are_refused_before_anything_is_trained(sweep, folder, catalog):
    log = pd.DataFrame({"user": np.repeat(["a", "b"], 8), "item": catalog.item_ids[:16], "timestamp": np.arange(16)})
    fit_recommender("popularity", {}, leave_one_out(log, catalog.item_ids, 6), catalog, folder / "other")
    args = sweep()
    with raises(InputError, file=folder / "other"):
        missing(replace(args, references=[str(folder / "other")]))
    guided = args.table | {"guided": {"evaluate": "tb", "guide": str(folder / "other")}}
    with raises(InputError, file=folder / "other"):
        missing(replace(args, sweep=guided))


def test_slips_in_settings_are_found_before_anything_is_trained(sweep):
    args = sweep()
    for change, message in [
        ({"learning_rat": 1}, "learning_rat is not a setting. Did you mean learning_rate?"),
        ({"objective": "gan"}, "gan"),
        ({"method": "gan"}, "method='gan' of .*tb.yaml is not one of"),
        ({"learning_rate": None}, "sweep: tb: learning_rate has no value"),
    ]:
        with pytest.raises((SystemExit, ValueError), match=message):
            missing(replace(args, sweep=args.table | {"tb": args.table["tb"] | change}))
    around = args.table | {"sft": args.table["sft"] | {"model": "tb"}}
    with raises(InputError, field="sweep"):
        missing(replace(args, sweep=around))


def python(code, log, *needs):
    return Stage((sys.executable, "-c", code), log, set(needs))


def test_stages_run_after_those_they_need_and_share_the_cores(tmp_path):
    note = "import os; print(os.environ['OMP_NUM_THREADS'], file=open({!r}, 'a'))"
    after = f"assert len(open({str(tmp_path / 'out')!r}).readlines()) == 2"
    first = {name: python(note.format(str(tmp_path / "out")), tmp_path / name) for name in ("a", "b")}
    run_stages({"c": python(after, tmp_path / "c", "a", "b", "done before"), **first}, 2, {}, tmp_path / "times")
    threads = str(max(1, (os.cpu_count() or 1) // 2))
    assert (tmp_path / "out").read_text().split() == [threads, threads]
    run_stages({"a": first["a"]}, 2, {"OMP_NUM_THREADS": "7"}, tmp_path / "times")
    assert (tmp_path / "out").read_text().split()[2:] == ["7"]
    times = [json.loads(line) for line in (tmp_path / "times").read_text().splitlines()]
    assert {line["stage"] for line in times[:2]} == {"a", "b"} and [line["stage"] for line in times[2:]] == ["c", "a"]
    assert all(line["seconds"] >= 0 and line["status"] == 0 for line in times)


def test_a_stage_that_fails_ends_the_sweep_with_its_last_words(tmp_path):
    stages = {
        "bad": python("raise SystemExit('error: no luck')", tmp_path / "run" / "train.log"),
        "after": python(f"open({str(tmp_path / 'never')!r}, 'w')", tmp_path / "after.log", "bad"),
    }
    with pytest.raises(RuntimeError, match=r"-c .* failed; .*train.log ends with\nerror: no luck"):
        run_stages(stages, 1, {}, tmp_path / "times")
    assert not (tmp_path / "never").exists() and "no luck" in (tmp_path / "run" / "train.log").read_text()
    assert json.loads((tmp_path / "times").read_text())["status"] == 1


def test_a_second_sweep_in_the_same_folder_is_refused(tmp_path):
    stages = {"a": python("pass", tmp_path / "a")}
    with FileLock(tmp_path / "stages.lock"), raises(RunError, file=tmp_path):
        run_stages(stages, 1, {}, tmp_path / "times")
    run_stages(stages, 1, {}, tmp_path / "times")
    assert (tmp_path / "times").is_file()


def test_a_killed_sweep_takes_its_stages_with_it_and_none_begins_until_they_have_ended(tmp_path):
    ready, asked, over = (tmp_path / name for name in ("ready", "asked", "over"))
    training = f"""
import pathlib, signal, time
signal.signal(15, lambda *_: pathlib.Path({str(asked)!r}).touch())
pathlib.Path({str(ready)!r}).touch()
while not pathlib.Path({str(over)!r}).exists(): time.sleep(0.02)  # the checkpoint takes its time
"""
    code = f"""
import pathlib, sys
from experiments.stages import Stage, run_stages
log = pathlib.Path({str(tmp_path)!r}) / "train.log"
run_stages({{"train": Stage((sys.executable, "-c", {training!r}), log)}}, 1, {{}}, log.with_name("times"))
"""
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.getcwd()}) as killed:
        wait_for(ready)
        killed.kill()
    wait_for(asked)
    stages = {"again": python("pass", tmp_path / "again.log")}
    with raises(RunError, file=tmp_path):
        run_stages(stages, 1, {}, tmp_path / "times")
    over.touch()
    deadline = time.monotonic() + 20
    while True:
        try:
            return run_stages(stages, 1, {}, tmp_path / "times")
        except RunError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(params=STOPS)
def sign(request):
    """A signal that is not ignored, as nohup would have it."""
    before = signal.signal(request.param, signal.SIG_DFL)
    yield request.param
    signal.signal(request.param, before)


def test_a_sweep_that_is_asked_to_stop_asks_its_stages(sign, tmp_path):
    ready, stopped = tmp_path / "ready", tmp_path / "stopped"
    handler = f"lambda *_: (open({str(stopped)!r}, 'w'), sys.exit(3))"
    code = f"import signal, sys; signal.signal(15, {handler}); open({str(ready)!r}, 'w'); signal.pause()"
    stages = {
        "train": python(code, tmp_path / "train.log"),
        "next": python(f"open({str(tmp_path / 'never')!r}, 'w')", tmp_path / "next.log"),
    }

    def ask():
        while not ready.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), sign)

    threading.Thread(target=ask, daemon=True).start()
    with pytest.raises(RuntimeError, match=STOPPED):
        run_stages(stages, 1, {}, tmp_path / "times")
    assert stopped.exists() and not (tmp_path / "never").exists()
    assert signal.getsignal(sign) == signal.SIG_DFL


@pytest.mark.slow
def test_a_sweep_trains_compares_and_then_finds_everything_done(sweep, folder, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    args = sweep()
    methods = {name: args.table[name] for name in ("sft", "tb")}
    recipe = {"sweep": methods, "baseline": "sft", "reward_of": "tb", "seeds": [1], "jobs": 2, "data": args.data}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(recipe | {"output_dir": args.output_dir}))
    main(["--config", str(folder / "sweep.yaml")])
    record = json.loads((folder / "out/comparison/metrics.json").read_text())
    assert list(record["methods"]) == ["sft", "tb"] and len(record["methods"]["tb"]["mrr@50"]["seeds"]) == 1
    assert {"seconds", "tokens", "tv"} <= record["methods"]["tb"].keys() and "tv" in record["methods"]["sft"]
    assert record["protocol"]["match"]["reward_of"] == "tb" and "tb" in record["tests"]["recall@10"]
    assert (folder / "out/tb/seed_1/train.log").stat().st_size
    assert "Film" in (folder / "out/comparison/table.md").read_text()

    args = replace(args, sweep=methods, seeds=[1])
    assert missing(args) == {}
    assert run_sweep(args) == [str(folder / f"out/{name}/seed_1") for name in methods]
    assert list(missing(replace(args, reward_of=None))) == ["evaluate sft/seed_1"]  # that has no reward of its own
    both = {"evaluate sft/seed_1", "evaluate tb/seed_1"}
    assert missing(replace(args, split="validation")).keys() == both
    assert missing(replace(args, evaluation={"beam_width": 60})).keys() == both
    (folder / "out/sft/seed_1/evaluation/test/ranked.npz").unlink()
    assert list(missing(args)) == ["evaluate sft/seed_1"]
    catalog = Catalog.load(folder / "data")
    save_prepared(folder / "new", catalog, leave_one_out(log_of(catalog, seed=1), catalog.item_ids, 6))
    with raises(InputError, file=folder / "out/sft/seed_1"):  # trained on other events of the same items
        evaluate_run(folder / "out/sft/seed_1", folder / "new")
