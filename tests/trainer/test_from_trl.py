"""docs/from_trl.md says of every argument and setting of the installed TRL what this project makes of it."""

import inspect
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import trl
from transformers import TrainingArguments

from catalog.errors import InputError
from tests.raising import raises
from trainer import DPOConfig, GRPOConfig, RecommenderTrainer, SFTConfig, from_trl

PAGE = (Path(__file__).parents[2] / "docs" / "from_trl.md").read_text()
TRAINERS = {"SFT": trl.SFTTrainer, "DPO": trl.DPOTrainer, "GRPO": trl.GRPOTrainer}
CONFIGS = {"SFT": (trl.SFTConfig, SFTConfig), "DPO": (trl.DPOConfig, DPOConfig), "GRPO": (trl.GRPOConfig, GRPOConfig)}


def rows(heading: str) -> dict[str, tuple[str, str]]:
    """Name -> (of which trainers, what there is here) of the table under a heading."""
    part = PAGE.split(f"## {heading}")[1].split("\n## ")[0]
    found = re.findall(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \|$", part, re.MULTILINE)
    return {name: (kinds, here) for name, kinds, here in found}


def names(table: dict[str, set[str]]) -> dict[str, str]:
    """Name -> the kinds that have it, as the page writes them."""
    every = dict.fromkeys(name for known in table.values() for name in known)
    return {name: ", ".join(kind for kind, known in table.items() if name in known) for name in every}


def test_every_argument_of_trls_trainers_stands_on_the_page():
    theirs = names({kind: set(inspect.signature(one.__init__).parameters) - {"self"} for kind, one in TRAINERS.items()})
    page, ours = rows("Arguments of the trainers"), inspect.signature(RecommenderTrainer.__init__).parameters
    assert {name: kinds for name, (kinds, _) in page.items()} == theirs
    for name, (_, here) in page.items():
        assert here == (from_trl.same(name) if name in ours else from_trl.ARGUMENTS[name]), name


def test_every_setting_of_trls_configs_stands_on_the_page():
    base = {field.name for field in fields(TrainingArguments)}
    theirs = {kind: {field.name for field in fields(one)} - base for kind, (one, _) in CONFIGS.items()}
    ours = {kind: {field.name for field in fields(one)} for kind, (_, one) in CONFIGS.items()}
    page = rows("Settings of the configs")
    assert {name: kinds for name, (kinds, _) in page.items()} == names(theirs)
    for name, (kinds, here) in page.items():
        missing = [kind for kind in kinds.split(", ") if name not in ours[kind]]
        assert here.endswith(from_trl.SETTINGS[name]) if missing else here == from_trl.same(name), name


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_refused_says_what_there_is_instead(kind, tmp_path):
    config = CONFIGS[kind][1]
    for name in sorted(set(from_trl.SETTINGS) - {field.name for field in fields(config)}):
        with raises(InputError, field=name) as caught:
            config(output_dir=str(tmp_path), use_cpu=True, **{name: 1})
        assert from_trl.SETTINGS[name] in str(caught.value)
    with pytest.raises(TypeError):
        config(output_dir=str(tmp_path), use_cpu=True, nobody_knows_this=1)


def test_what_is_not_quite_the_same_is_said_of_names_that_both_have():
    known = {
        name: here
        for part in ("Arguments of the trainers", "Settings of the configs")
        for name, (_, here) in rows(part).items()
    }
    assert all(difference in known[name] for name, difference in from_trl.DIFFERENCES.items())


def test_num_generations_and_temperature_are_those_of_the_sampler_policy(tmp_path):
    how = dict(output_dir=str(tmp_path), use_cpu=True)
    assert GRPOConfig(**how).mixture == {"policy": 8}
    assert GRPOConfig(**how, num_generations=4).mixture == {"policy": 4}
    assert GRPOConfig(**how, num_generations=4, samplers={"policy": {"count": 4}}).mixture == {"policy": 4}
    warm = GRPOConfig(**how, num_generations=4, temperature=1.5).mixture
    assert warm == {"policy": {"count": 4, "temperature": 1.5}}
    assert DPOConfig(**how, num_generations=2).mixture == {"target": 1, "random": 1, "policy": 2}
    with raises(InputError, field="num_generations"):
        GRPOConfig(**how, num_generations=4, samplers={"policy": 3})
    with raises(InputError, field="temperature"):
        DPOConfig(**how, temperature=2.0)
    with raises(InputError, field="temperature"):
        GRPOConfig(**how, temperature=0.0)


def test_a_config_is_replaced_as_it_was_given(tmp_path):
    config = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, num_generations=4, temperature=1.5)
    assert replace(config, learning_rate=1e-3).mixture == config.mixture
    assert replace(config, temperature=0.5).mixture == {"policy": {"count": 4, "temperature": 0.5}}
    assert replace(config, num_generations=2, temperature=None).mixture == {"policy": 2}
    assert replace(config, num_generations=None, samplers={"policy": 3}, temperature=1.0).mixture == {"policy": 3}
