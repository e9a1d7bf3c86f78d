"""Recipes for a log of one's own: written, refused, understood, and rehearsed to the table."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from catalog.errors import InputError
from experiments.arguments import ReproduceArguments, RunArguments
from experiments.command_line import parse
from experiments.recipe_file import load_recipe
from experiments.suggest import choose, suggest_recipes
from experiments.suggested import with_recipes
from experiments.suggested_settings import Facts, Mass, Places, Sizes, gflownet, sft
from experiments.sweep import missing_stages
from experiments.sweep_settings import check_sweep
from interactions import Splits, load_prepared, save_prepared
from recipes import reproduce, suggest
from semantic_ids import check_prepared, prepare
from semantic_ids.settings import DataArguments
from tests.raising import raises
from tests.stages import run_here
from trainer import METHODS

BEAUTY = Facts(items=12101, levels=3, events=153776, train=23607, validation=22363, test=22363, longest=20, repeats=0.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A log of 70 users with six to nine of 40 items each, prepared, and its recipes."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("mine")
    rows = [(u, item, n) for u in range(70) for n, item in enumerate(rng.permutation(40)[: rng.integers(6, 10)])]
    lines = ["user,item,timestamp", *(f"u{user},i{item},{time}" for user, item, time in rows)]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    prepare(folder / "log.csv", folder / "data")
    suggest_recipes(folder / "data")
    return folder


def test_every_recipe_is_understood_and_begins_with_its_command(base, monkeypatch):
    monkeypatch.chdir(base.parent)
    assert {path.stem for path in (base / "recipes").iterdir()} == {
        *("data", "recommenders", "sft", "sft_continued", "gflownet", "reproduce")
    }
    for name in ("sft", "sft_continued", "gflownet"):
        path = base / f"recipes/{name}.yaml"
        recipe, config = parse(["--config", str(path)], RunArguments, METHODS[name.split("_")[0]][1])
        assert recipe.data == str(base / "data") and config.eval_users == 70 and config.max_history == 6
        assert f"#   gflowgr train --config {path}" in path.read_text()
    (data,) = parse(["--config", str(base / "recipes/data.yaml")], DataArguments)
    check_prepared(base / "data", data, "data.yaml")
    (args,) = parse(["--config", str(base / "recipes/reproduce.yaml")], ReproduceArguments)
    stages = missing_stages(args, check_sweep(args))  # whose recommenders are fitted and measured already
    assert {name.split("/")[0] for name in stages} == {
        *("train sft", "train sft_continued", "train gflownet"),
        *("evaluate sft", "evaluate sft_continued", "evaluate gflownet", "evaluate sft_guided"),
    }
    validation = replace(args, split="validation")
    assert all("validation" in s.command for n, s in missing_stages(validation, args.table).items() if "evaluate" in n)


@pytest.mark.slow
def test_prepared_data_alone_are_rehearsed_to_the_table(base, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.sweep.run_stages", run_here)
    reproduce.main(["--data", str(base / "data"), "--smoke", str(tmp_path / "smoke")])
    methods = json.loads((tmp_path / f"smoke/{base.name}.json").read_text())
    assert {"sft", "sft_continued", "gflownet", "sft_guided", "mixture", "sasrec", "als"} <= methods.keys()
    assert "60 test rows" in (tmp_path / f"smoke/{base.name}.md").read_text()
    assert not (base / "runs").exists() and not (base / "results").exists()


def test_recipes_are_not_overwritten(base):
    sweep, text = base / "recipes/reproduce.yaml", (base / "recipes/reproduce.yaml").read_text()
    assert suggest_recipes(base / "data") == sweep and sweep.read_text() == text
    sft_of, before = base / "recipes/sft.yaml", (base / "recipes/sft.yaml").read_text()
    sft_of.write_text(before + "optim: adamw_torch\n")
    with pytest.raises(SystemExit, match="sft.yaml holds other content than what would be written there. Move it away"):
        suggest.main(["--data", str(base / "data")])
    assert with_recipes(["--data", str(base / "data")]) == ["--config", str(sweep), "--data", str(base / "data")]
    sft_of.write_text(before)
    with raises(InputError, field="data", value=str(base / "data")):
        with_recipes(["--data", str(base / "other")])


def test_what_is_no_prepared_folder_or_holds_too_little_out_is_one_sentence(base, tmp_path):
    with pytest.raises(SystemExit, match="holds no prepared data. Prepare it again"):
        suggest.main(["--data", str(tmp_path)])
    catalog, splits = load_prepared(base / "data")
    save_prepared(tmp_path / "data", catalog, Splits(splits.train, splits.validation, splits.test.select(range(3))))
    with pytest.raises(SystemExit, match="has 3 test rows: with fewer than 20 .* Prepare a longer log"):
        suggest.main(["--data", str(tmp_path / "data")])
    assert not (tmp_path / "recipes").exists()


def test_the_temperature_is_the_flattest_with_a_tenth_of_the_mass_on_the_target():
    def masses(*rows):
        return [Mass(t, f, target, floor, 1 - target - floor, 256) for t, f, target, floor in rows]

    found = masses(
        (1.0, 1e-3, 0.03, 0.18),
        (1.0, 1e-4, 0.04, 0.01),
        (0.5, 1e-3, 0.14, 0.01),
        (0.5, 1e-4, 0.14, 0.0),
        (0.2, 1e-3, 0.5, 0.0),
    )
    assert choose(found)[:2] == (0.5, 1e-3)
    assert choose(found[:2])[:2] == (1.0, 1e-4)  # none has so much: the sharpest, at a floor that weighs little
    text = gflownet(Sizes(BEAUTY), Places(Path("runs/mine/data"), Path("runs/mine/recipes"), False), choose(found))
    assert (
        "reward_temperature: 0.5  # 14 % of the reward on the target, 1 % on the floor, 85 % on what the recommender "
        "expects (mean of 256 training rows)" in text
    )


def test_what_trains_on_beauty_is_what_was_tuned_there():
    letter = Sizes(replace(BEAUTY, levels=4))
    ours = yaml.safe_load(sft(letter, Places(Path("runs/mine/data"), Path("runs/mine/recipes"), False)))
    tuned = load_recipe(Path("recipes/beauty/sft-cpu.yaml"))
    elsewhere = {"data", "data_recipe", "output_dir", "per_device_eval_batch_size", "eval_strategy"}
    assert {name: ours[name] for name in tuned.keys() - elsewhere} == {n: tuned[n] for n in tuned.keys() - elsewhere}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ["n_embd: 128, n_layer: 4", "global_batch_size: 64", "num_train_epochs: 14", "eval_users: 2000"]),
        (
            {"events": 97_000, "train": 2400, "validation": 943, "longest": 50},
            ["n_embd: 96", "n_positions: 256", "32  "],
        ),
        ({"train": 900_000, "events": 8e6}, ["num_train_epochs: 3", "eval_strategy: steps", "eval_steps: 1758"]),
        ({"repeats": 0.1}, ["exclude_history: false  # 10.0 % of the held-out targets"]),
    ],
)
def test_sizes_follow_the_data(changed, said):
    text = sft(Sizes(replace(BEAUTY, **changed)), Places(Path("runs/mine/data"), Path("runs/mine/recipes"), False))
    assert all(part in text for part in said), text
