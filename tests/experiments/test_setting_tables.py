"""The tables that --help and slips are answered from say what the dataclasses say."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from experiments.arguments import CompareArguments, EvaluateArguments, ReproduceArguments, RunArguments
from experiments.command_line import help_text
from experiments.setting_tables import groups_of, names, training_groups, training_methods
from trainer import METHODS, TrainingConfig

ROOT = Path(__file__).parents[2]


def test_the_methods_are_those_of_the_trainer():
    assert training_methods() == sorted(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_the_source_of_a_config_says_what_the_class_says(method):
    found = names(training_groups(method))
    real = {one.name: one for one in fields(METHODS[method][1]) if one.init}
    assert found.keys() == real.keys()
    for name, setting in found.items():
        assert setting.help == real[name].metadata.get("help", ""), name
        assert not setting.choices or setting.choices == tuple(map(str, real[name].metadata["choices"])), name


@pytest.mark.parametrize("method", METHODS)
def test_our_own_settings_come_before_those_of_transformers(method):
    groups = training_groups(method)
    ours = [group.heading.startswith("transformers.") for group in groups]
    assert ours == sorted(ours) and ours[-1]
    own = {name for group in groups if not group.heading.startswith("transformers.") for name in names([group])}
    declared = vars(TrainingConfig)["__annotations__"].keys()
    assert own >= {one.name for one in fields(TrainingConfig) if one.name in declared}
    assert len(names(groups)) == sum(len(group.settings) for group in groups)


def test_a_setting_says_what_it_takes_and_its_default():
    found = names(training_groups("gflownet") + groups_of(EvaluateArguments) + groups_of(RunArguments))
    for name, value, default in [
        ("normalization", "trie|vocabulary", "trie"),
        ("samplers", "TABLE", "none"),
        ("sft_weight", "X", "1.0"),
        ("vllm_server_base_url", "TEXT ...", "http://127.0.0.1:8000"),
        ("ddp_backend", "gloo|nccl|mpi|xccl", "none"),
        ("trajectories", "N", "none"),
        ("warmup_steps", "X", "0"),
        ("exclude_history", "true|false", "true"),
        ("split", "validation|test", "test"),
        ("run", "TEXT", None),
        ("guide", "TEXT", "none"),
        ("lora", "TABLE", "none"),
    ]:
        assert (found[name].value, found[name].default) == (value, default), name


def test_settings_of_a_base_stand_below_their_own_heading():
    own, base = groups_of(ReproduceArguments)
    assert {"source", "name"} <= names([own]).keys() and names([base]).keys() == names(
        groups_of(CompareArguments)
    ).keys()


def test_the_help_is_complete_and_readable(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = help_text("What it does.\n\npython -m x", training_groups("sft"))
    assert text.startswith("What it does.\n\npython -m x\n") and max(map(len, text.splitlines())) <= 120
    for name in names(training_groups("sft")):
        assert f"--{name} " in text
    assert text.index("--max_history") < text.index("--learning_rate")


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--help"],
        ["prepare", "--help"],
        ["plan", "--help"],
        ["serve", "--help"],
        ["rollout_server", "--help"],
        ["compare", "--help"],
    ],
)
def test_help_needs_nothing_heavy(argv):
    code = (
        "import sys, importlib\n"
        f"main = importlib.import_module('recipes.{argv[0]}').main\n"
        f"try: main({argv[1:]})\n"
        "except SystemExit as end: assert not end.code\n"
        "print('loaded', *{'torch', 'transformers', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--output_dir" in done.stdout or "--model" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded"
