"""Recipe files and command lines: what is read, and what a slip is answered with."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import experiments
import recipes
from catalog.errors import InputError, SetupError
from catalog.settings import check_name
from experiments.arguments import (
    CompareArguments,
    EvaluateArguments,
    ExportArguments,
    RecommenderArguments,
    ReproduceArguments,
    RunArguments,
)
from experiments.command_line import parse, program, setting
from experiments.plan import PlanArguments
from experiments.server_arguments import RolloutServerArguments, ServeArguments
from experiments.tune_arguments import TuneArguments
from semantic_ids.settings import DataArguments
from tests.raising import raises
from trainer import METHODS, GFlowNetConfig, SFTConfig

FOLDER = Path(recipes.__file__).parent
RECIPES = sorted(path for path in FOLDER.rglob("*.yaml") if path.parent.name != "accelerate")


def types_of(path):
    known = {"data.yaml": DataArguments, "tune.yaml": TuneArguments}
    known |= {"recommenders.yaml": RecommenderArguments}
    known |= {"compare.yaml": CompareArguments, "ablations.yaml": CompareArguments}
    if path.name in ("cpu.yaml", "gpu.yaml"):
        return (ReproduceArguments,)
    if path.name in known:
        return (known[path.name],)
    return RunArguments, METHODS[yaml.safe_load(path.read_text())["method"]][1]


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe; returns the command line that names it."""

    def write(text):
        (tmp_path / "recipe.yaml").write_text(text)
        return ["--config", str(tmp_path / "recipe.yaml")]

    return write


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_recipe_is_read_in_full(path):
    parsed = parse(["--config", str(path)], *types_of(path))
    for name, value in yaml.safe_load(path.read_text()).items():
        (read,) = [getattr(part, name) for part in parsed if hasattr(part, name)]
        assert read == value, name


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_recipes_lead_to_recipes_that_exist(path):
    recipe = yaml.safe_load(path.read_text())
    for other in {"data_recipe", "recommender_recipe"} & set(recipe):
        assert (FOLDER.parent / recipe[other]) in RECIPES


DATA = "output_dir: out\nlog: log.csv\n"


@pytest.mark.parametrize(
    ("text", "extra", "wanted", "near"),
    [
        (DATA + "min_interaction: 3\n", [], {"field": "min_interaction"}, "min_interactions"),
        (DATA, ["--max_histori", "3"], {"field": "max_histori"}, "max_history"),
        (DATA, ["--codebook_size=3"], {"field": "codebook_size"}, "codebook_sizes"),
        (DATA, ["--no_seeed"], {"field": "no_seeed"}, ""),
        (DATA, ["--seed", "0", "more"], {"value": "more"}, ""),
        (DATA, ["--seed"], {"field": "seed"}, ""),
        (DATA + "zzz: 1\n", [], {"field": "zzz"}, "--help"),
        (DATA + "no_seed: 1\n", [], {"field": "no_seed"}, ""),
        ("log: log.csv\n", [], {"field": "output_dir"}, ""),
        ("- output_dir\n- log\n", [], {}, "name: value"),
        ("", [], {}, "name: value"),
        ("log: [1, 2\n", [], {"row": 2}, "name: value"),
        (DATA + "seed: 1\nlog: b.csv\n", [], {"field": "log", "row": 4}, ""),
        (DATA + "columns:\n  user: a\n  item: b\n  user: c\n", [], {"field": "user", "row": 6}, ""),
        (DATA, ["--columns", '["a"]'], {"field": "columns"}, ""),
        (DATA, ["--columns", '{"user": "a", "user": "b"}'], {"field": "columns", "value": "user"}, ""),
        (DATA + "columns: [a]\n", [], {"field": "columns", "value": ["a"]}, ""),
        (DATA + "columns: {user: 3}\n", [], {"field": "columns"}, ""),
        (DATA + "on_collision: Extend\n", [], {"field": "on_collision", "value": "Extend"}, ""),
        (DATA, ["--on_collision", "kep"], {"field": "on_collision", "value": "kep"}, ""),
        (DATA + "max_history: [1, 2]\n", [], {"field": "max_history", "value": [1, 2]}, ""),
        (DATA + "max_history: 2.5\n", [], {"field": "max_history", "value": 2.5}, ""),
        (DATA + "max_history:\n", [], {"field": "max_history", "value": None}, ""),
        (DATA + "seed: true\n", [], {"field": "seed", "value": True}, ""),
        ("output_dir: out\nlog: 3\n", [], {"field": "log", "value": 3}, ""),
        (DATA, ["--seed", "many"], {"field": "seed", "value": "many"}, ""),
        (DATA, ["--users", "0"], {"field": "users", "value": 0}, ""),
        (DATA, ["--min_interactions", "0"], {"field": "min_interactions", "value": 0}, ""),
        (DATA, ["--max_history", "-1"], {"field": "max_history", "value": -1}, ""),
        (DATA, ["--codebook_sizes", "8", "0"], {"field": "codebook_sizes", "value": [8, 0]}, ""),
        (DATA + "codebook_sizes: []\n", [], {"field": "codebook_sizes", "value": []}, ""),
    ],
)
def test_a_slip_is_named(text, extra, wanted, near, recipe):
    with raises(InputError, **wanted) as caught:
        parse([*recipe(text), *extra], DataArguments)
    assert near in caught.value.remedy


def test_a_missing_recipe_is_named(tmp_path):
    for argv in (["--config", str(tmp_path / "none.yaml")], [f"--config={tmp_path / 'none.yaml'}"]):
        with raises(InputError, file=tmp_path / "none.yaml"):
            parse(argv, DataArguments)
    with raises(InputError, field="config"):
        parse(["--config"], DataArguments)


@pytest.mark.parametrize(
    ("kind", "settings", "field"),
    [
        (DataArguments, {"log": "l", "on_collision": "Extend"}, "on_collision"),
        (DataArguments, {"log": "l", "users": 0}, "users"),
        (ExportArguments, {"data": "d", "sampler": "target"}, "sampler"),
        (ExportArguments, {"data": "d", "negatives": 0}, "negatives"),
        (EvaluateArguments, {"run": "r", "data": "d", "split": "train"}, "split"),
        (EvaluateArguments, {"run": "r", "data": "d", "beam_width": 0}, "beam_width"),
        (EvaluateArguments, {"run": "r", "data": "d", "guide_weight": float("inf")}, "guide_weight"),
        (RolloutServerArguments, {"model": "m", "data": "d", "port": 70000}, "port"),
        (RolloutServerArguments, {"model": "m", "data": "d", "engine": "[1]"}, "engine"),
        (ServeArguments, {"model": "m", "max_batch": 0}, "max_batch"),
        (ServeArguments, {"model": "m", "engine": "tensorrt"}, "engine"),
        (ServeArguments, {"model": "m", "timeout": 0.0}, "timeout"),
        (CompareArguments, {"output_dir": "o", "runs": ["a"], "seeds": [-1]}, "seeds"),
        (CompareArguments, {"output_dir": "o", "data": "d", "sweep": {"../x": {"config": "c"}}}, "sweep"),
        (RecommenderArguments, {"data": "d", "output_dir": "o", "models": {"/x": {}}}, "models"),
        (RecommenderArguments, {"data": "d", "output_dir": "o", "models": {"als": 3}}, "models"),
        (RecommenderArguments, {"data": "d", "output_dir": "o", "models": {"als": {}}, "only": ["bls"]}, "only"),
        (RunArguments, {"method": "sft", "data": "d", "backbone": {"n_layer": 1}}, "backbone"),
        (RunArguments, {"method": "sft", "data": "d", "backbone": {"model_type": "gtp2"}}, "backbone"),
        (RunArguments, {"method": "sft", "data": "d", "backbone": {"model_type": "gpt2", "n_layers": 1}}, "backbone"),
        (RunArguments, {"method": "sft", "data": "d", "backbone": {"model_type": "gpt2", "n_layer": "x"}}, "backbone"),
        (RunArguments, {"method": "sft", "data": "d", "lora": {"rank": 4}}, "lora"),
        (RunArguments, {"method": "sft", "data": "d", "lora": {"r": 0}}, "lora"),
        (RunArguments, {"method": "sft", "data": "d", "lora": {"r": "4"}}, "lora"),
        (PlanArguments, {"model": "7b", "batch": 0}, "batch"),
        (PlanArguments, {"model": "7b", "method": "dpo"}, "method"),
    ],
    ids=lambda value: str(value),
)
def test_a_value_is_refused_in_python_as_in_a_recipe(kind, settings, field, recipe):
    with raises(InputError, field=field):
        kind(**({"output_dir": "o"} if "output_dir" in kind.__dataclass_fields__ else {}) | settings)
    argv = recipe(
        yaml.safe_dump({"output_dir": "o"} | settings if "output_dir" in kind.__dataclass_fields__ else settings)
    )
    with raises(InputError, field=field):
        parse(argv, kind)


def test_the_nearest_name_is_given_for_a_backbone(recipe):
    with raises(InputError, field="backbone", value="n_layers") as caught:
        RunArguments(method="sft", data="d", backbone={"model_type": "gpt2", "n_layers": 1})
    assert "n_layer?" in caught.value.remedy


@pytest.mark.parametrize("name", ["", "..", "../x", "/x", "a/b", "a\\b", ".x", " x", "C:x", "a\0", 3, None])
def test_a_name_that_could_lead_out_of_its_folder_is_refused(name):
    with raises(InputError, field="sweep", value=name):
        check_name("sweep", name)


def test_names_of_methods_are_free_otherwise():
    for name in ("sft", "S-DPO (3)", "gflownet+history", "\u03bb=0.5", "a.b"):
        check_name("sweep", name)


def test_what_a_config_refuses_is_refused_in_a_recipe(recipe, tmp_path):
    argv = recipe(f"method: gflownet\ndata: d\noutput_dir: {tmp_path}\nreward_floor: 0\n")
    with raises(InputError, field="reward_floor", value=0.0):
        parse(argv, RunArguments, GFlowNetConfig)


def test_a_number_in_scientific_notation_is_one_in_tables_too(recipe, tmp_path):
    argv = recipe(f"method: gflownet\ndata: d\noutput_dir: {tmp_path}\nlearning_rate: 1e-3\nrewards: {{hit: 1e-1}}\n")
    _, config = parse(argv, RunArguments, GFlowNetConfig)
    assert (config.learning_rate, config.rewards) == (1e-3, {"hit": 0.1})


def test_one_value_where_a_list_is_asked_for_is_a_list_of_it(recipe):
    (args,) = parse(recipe(DATA + "codebook_sizes: 16\nvectors: als\n"), DataArguments)
    assert (args.codebook_sizes, args.vectors) == ([16], ["als"])


def test_both_forms_of_a_setting_mean_the_same_and_the_last_one_counts(recipe, tmp_path):
    (_, path) = recipe(DATA + "max_history: 7\n")
    for argv in (["--config", path], [f"--config={path}"]):
        assert parse([*argv, "--seed=3"], DataArguments)[0].max_history == 7
        assert parse([*argv, "--max_history=8", "--max_history", "9"], DataArguments)[0].max_history == 9
        assert setting([*argv, "--max_history=8", "--max_history", "9"], "max_history") == "9"
        assert setting([*argv, "--max_history", "9", "--max_history=8"], "max_history") == "8"
        assert setting(argv, "max_history") == 7


def test_a_program_ends_with_one_sentence():
    @program
    def main():
        raise InputError("This is wrong.", remedy="Right it.")

    with pytest.raises(SystemExit) as stopped:
        main()
    assert str(stopped.value) == "error: This is wrong. Right it."


@pytest.mark.parametrize("origin", ["/home/somebody/rewards.py", None])
def test_a_file_that_hides_a_package_is_named(origin, monkeypatch):
    found = importlib.util.find_spec

    def find_spec(name):
        return SimpleNamespace(origin=origin, submodule_search_locations=["/x"]) if name == "rewards" else found(name)

    experiments.check_packages()
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(SystemExit) as stopped:
        experiments.check_packages()
    assert "rewards" in str(stopped.value) and (origin or "/x") in str(stopped.value)


def test_the_command_line_overrides_the_recipe_and_the_recipe_the_default(recipe):
    argv = recipe(DATA + "max_history: 7\nmin_interactions: 2\ncodebook_sizes: [8, 8]\n")
    (args,) = parse([*argv, "--max_history", "9", "--codebook_sizes", "4", "2"], DataArguments)
    assert (args.log, args.min_interactions, args.max_history, args.codebook_sizes) == ("log.csv", 2, 9, [4, 2])
    assert args.seed == 0
    (args,) = parse([*argv, "--max_history=11"], DataArguments)
    assert args.max_history == 11


def test_switches_are_named_or_denied():
    named = ["--run", "r", "--data", "d"]
    assert parse(named, EvaluateArguments)[0].exclude_history is True
    assert parse([*named, "--no_exclude_history"], EvaluateArguments)[0].exclude_history is False
    assert parse([*named, "--exclude_history", "false"], EvaluateArguments)[0].exclude_history is False


def test_tables_come_from_the_recipe_or_as_json_from_the_command_line(recipe, tmp_path):
    argv = recipe(
        f"method: gflownet\ndata: d\noutput_dir: {tmp_path}\nbackbone: {{model_type: gpt2, n_layer: 1}}\n"
        "samplers: {target: 1, random: 2}\nrewards: {hit: 0.5}\n"
    )
    run, config = parse(argv, RunArguments, GFlowNetConfig)
    assert run.backbone == {"model_type": "gpt2", "n_layer": 1}
    assert (config.samplers, config.rewards) == ({"target": 1, "random": 2}, {"hit": 0.5})
    given = ["--samplers", '{"target": 1, "policy": 4}', "--rewards", '{"my_module:mine": 2.0}']
    _, config = parse([*argv, *given], RunArguments, GFlowNetConfig)
    assert (config.samplers, config.rewards) == ({"target": 1, "policy": 4}, {"my_module:mine": 2.0})


@pytest.mark.parametrize("value", ["target: 1", "[1, 2]"])
def test_a_table_that_is_none_ends_in_one_sentence(value, tmp_path):
    argv = ["--method", "gflownet", "--data", "d", "--output_dir", str(tmp_path), "--samplers", value]
    with raises(InputError, field="samplers"):
        parse(argv, RunArguments, GFlowNetConfig)


def test_one_setting_is_read_ahead_the_command_line_first(recipe):
    argv = recipe("method: sft\n")
    assert setting(argv, "method") == "sft"
    assert setting([*argv, "--method", "gflownet"], "method") == "gflownet"
    assert setting(argv, "model") is None
    assert setting([], "method") is None


def test_nothing_is_read_from_one_parse_to_the_next(tmp_path):
    first = ["--method", "sft", "--data", "d", "--output_dir", str(tmp_path), "--max_history", "3"]
    assert parse(first, RunArguments, SFTConfig)[1].max_history == 3
    assert parse(first[:-2], RunArguments, SFTConfig)[1].max_history == SFTConfig(output_dir=str(tmp_path)).max_history


def test_a_torchvision_that_breaks_transformers_is_named(tmp_path, monkeypatch):
    (tmp_path / "torchvision.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    monkeypatch.syspath_prepend(tmp_path)
    with raises(SetupError):
        parse(["--runs", "a", "--output_dir", "b"], CompareArguments)


def test_what_a_model_is_made_of_is_fitted_before_it():
    table = {
        "net": {},
        "out": {"kind": "cross_fitted", "of": "net"},
        "knn": {},
        "mixture": {"weights": {"out": 1, "knn": 1}},
    }
    models = RecommenderArguments(data="d", output_dir="o", models=table)
    wanted = {"net": ["net"], "out": ["net", "out"], "mixture": ["net", "out", "knn", "mixture"]}
    assert {name: models.needed(name) for name in wanted} == wanted
