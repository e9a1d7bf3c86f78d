"""The programs as they are started: by module, by path and as gflowgr, from any folder, and how they end."""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

import recipes.__main__ as main
from catalog.errors import InputError
from experiments.command_line import HelpAsked, ending, is_given, parse, read_recipe, setting
from experiments.train import prepare_missing, read_run, run_figures
from recipes import prepare
from semantic_ids import check_prepared
from semantic_ids.settings import DataArguments
from tests.raising import raises
from trainer import METHODS

ROOT = Path(__file__).parents[2]


def start(*command, cwd, path=ROOT):
    env = os.environ | {"PYTHONPATH": str(path)}
    return subprocess.run([sys.executable, *map(str, command)], cwd=cwd, env=env, capture_output=True, text=True)


@pytest.fixture
def log(tmp_path):
    """Ten users with six of eight items each."""
    lines = [f"u{u},i{(u + n) % 8},{u * 10 + n}" for u in range(10) for n in range(6)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,timestamp", *lines]))
    return tmp_path / "log.csv"


@pytest.mark.parametrize("how", [["-m", "recipes.train"], ["-m", "recipes", "train"], [ROOT / "recipes/train.py"]])
def test_a_program_finds_the_recipes_from_any_folder(how, tmp_path):
    done = start(*how, "--config=recipes/ml-100k/gflownet.yaml", "--reward-flor=1", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr == "error: reward_flor is not a setting. Did you mean reward_floor?\n"


@pytest.mark.parametrize("how", [["-m", "recipes.plan"], [ROOT / "recipes/plan.py"], ["-m", "recipes", "plan"]])
@pytest.mark.parametrize("name", ["rewards", "recommenders", "experiments"])
def test_a_file_that_hides_a_package_is_one_sentence(how, name, tmp_path):
    (tmp_path / f"{name}.py").write_text("")
    done = start(*how, "--model", "7b", cwd=tmp_path, path=f"{tmp_path}{os.pathsep}{ROOT}")
    assert done.returncode == 1 and done.stderr.startswith(f"error: Python finds {tmp_path / name}.py under the name")
    assert done.stderr.count("\n") == 1


def test_a_folder_recipes_of_ones_own_is_one_sentence(tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/__init__.py").write_text("")
    done = start(ROOT / "recipes/plan.py", "--model", "7b", cwd=tmp_path, path=f"{tmp_path}{os.pathsep}{ROOT}")
    assert done.returncode == 1 and "under the name recipes" in done.stderr and done.stderr.count("\n") == 1


def test_gflowgr_calls_the_same_mains(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gflowgr", "plan", "--model", "7b", "--gpus=8"])
    main.main()
    assert "zero1.yaml -m recipes.train" in capsys.readouterr().out
    for name in main.COMMANDS:
        monkeypatch.setattr(sys, "argv", ["gflowgr", name, "--help"])
        with pytest.raises(SystemExit) as stopped:
            main.main()
        assert not stopped.value.code and "Settings, as --name value" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["gflowgr", "trian"])
    with pytest.raises(SystemExit, match=r"^error: 'trian' is not a command. Did you mean train\?$"):
        main.main()
    monkeypatch.setattr(sys, "argv", ["gflowgr"])
    main.main()
    assert all(name in capsys.readouterr().out for name in ["gflowgr train"])


def test_the_recipes_named_in_every_form_are_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "recipes/ml-100k/data.yaml"
    forms = [["--config", name], [f"--config={name}"], ["--config", str(ROOT / name)]]
    read = [
        parse([*form, *out], DataArguments)[0] for form in forms for out in (["--output-dir", "o"], ["--output_dir=o"])
    ]
    assert all(one == read[0] for one in read) and read[0].output_dir == "o"
    assert setting(["--output-dir=x"], "output_dir") == "x" and is_given(["--output-dir", "x"], "output_dir")
    (tmp_path / "recipes/ml-100k").mkdir(parents=True)
    (tmp_path / name).write_text("log: mine.csv\n")
    assert read_recipe(["--config", name]) == {"log": "mine.csv"}  # one of the current folder comes first


def test_help_of_training_is_that_of_the_method():
    with pytest.raises(HelpAsked) as asked:
        read_run(["--method", "dpo", "--help"])
    shown = {setting.name for group in asked.value.groups for setting in group.settings}
    assert {one.name for one in fields(METHODS["dpo"][1]) if one.init} <= shown and "backbone" in shown


def test_a_program_ends_with_its_output_its_figures_and_what_comes_next(log, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gflowgr"])
    prepare.main(["--log", str(log), "--output-dir", str(tmp_path / "data"), "--codebook_sizes", "4", "2"])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"Output: {tmp_path / 'data'}" and said[1].startswith("Figures: users 10, items 8, ")
    assert said[2] == f"Next: gflowgr reproduce --data {tmp_path / 'data'}"
    assert ending("x", {"loss": 0.123456, "rows": 1234}) == "Output: x\nFigures: loss 0.1235, rows 1234"
    assert run_figures(tmp_path) == {}


def test_data_prepared_in_another_way_than_the_recipe_says_are_refused(log, tmp_path):
    data = tmp_path / "data"
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"log": str(log), "codebook_sizes": [4, 2]}))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"data": str(data), "data_recipe": str(tmp_path / "data.yaml")}))
    argv, recipe = ["--config", str(tmp_path / "run.yaml")], str(tmp_path / "data.yaml")
    prepare_missing(argv, str(data), recipe)  # makes them
    prepare_missing(argv, str(data), recipe)
    written = (data / "complete.json").stat().st_mtime_ns
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"log": str(log), "codebook_sizes": [4, 3]}))
    with raises(InputError, field="codebook_sizes", value=[4, 2], file=str(data)):
        prepare_missing(argv, str(data), recipe)
    with raises(InputError, field="codebook_sizes"):
        prepare_missing(["--data_recipe", recipe, "--data", str(data)], str(data), recipe)
    prepare_missing([*argv, "--data", str(data)], str(data), recipe)  # taken as it is
    prepare_missing(argv, str(data), None)
    assert (data / "complete.json").stat().st_mtime_ns == written
    moved = DataArguments(log="elsewhere/log.csv", output_dir="x", codebook_sizes=[4, 2])
    check_prepared(data, moved, recipe)
