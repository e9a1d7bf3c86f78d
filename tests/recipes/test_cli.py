"""Recipe files and command lines: what is read, and what a slip is answered with."""

from pathlib import Path

import pytest
import yaml

import recipes
from recipes.arguments import CompareArguments, DataArguments, EvaluateArguments, RecommenderArguments, RunArguments
from recipes.cli import parse, setting
from recipes.results import ReproduceArguments
from trainer import METHODS, GFlowNetConfig, SFTConfig

FOLDER = Path(recipes.__file__).parent
RECIPES = sorted(path for path in FOLDER.rglob("*.yaml") if path.parent.name != "accelerate")


def types_of(path):
    known = {"data.yaml": DataArguments, "collaborative.yaml": RecommenderArguments}
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
    ("text", "extra", "message"),
    [
        (DATA + "min_interaction: 3\n", [], "min_interaction is not a setting. Did you mean min_interactions?"),
        (DATA, ["--max_histori", "3"], "max_histori is not a setting. Did you mean max_history?"),
        (DATA, ["--codebook_size=3"], "codebook_size is not a setting. Did you mean codebook_sizes?"),
        (DATA + "zzz: 1\n", [], "zzz is not a setting. See --help."),
        ("- output_dir\n- log\n", [], "is not a table of settings. Write one `name: value` a line."),
        ("", [], "is not a table of settings"),
        ("log: [1, 2\n", [], "is not valid YAML"),
    ],
)
def test_a_slip_ends_in_one_sentence(text, extra, message, recipe):
    with pytest.raises(SystemExit) as stopped:
        parse([*recipe(text), *extra], DataArguments)
    assert str(stopped.value).startswith("error: ") and message in str(stopped.value)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"error: The recipe .*none\.yaml does not exist"):
        parse(["--config", str(tmp_path / "none.yaml")], DataArguments)


def test_a_value_that_a_config_refuses_ends_in_its_sentence(recipe, tmp_path):
    argv = recipe(f"method: gflownet\ndata: d\noutput_dir: {tmp_path}\nreward_floor: 0\n")
    with pytest.raises(SystemExit, match="error: reward_floor=0.*must be a finite number > 0"):
        parse(argv, RunArguments, GFlowNetConfig)


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
    with pytest.raises(SystemExit, match="error: samplers="):
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
    with pytest.raises(SystemExit, match="pip uninstall -y torchvision"):
        parse(["--runs", "a", "--output_dir", "b"], CompareArguments)
