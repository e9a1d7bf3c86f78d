"""What was started is what trains, or one sentence says what is amiss."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.utils import DistributedType
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import InputError
from policy.device import one_device, say_one_gpu
from tests.raising import raises
from trainer import METHODS, SFTConfig, SFTTrainer
from trainer.runtime import launch

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "accelerate").glob("*.yaml"))


@given(share=st.integers(1, 60), most=st.integers(1, 70), processes=st.integers(1, 16))
def test_a_step_takes_the_same_prompts_on_any_number_of_processes(share, most, processes):
    at_once, times = launch.resolve_batch_size(share * processes, most, processes)
    assert at_once * times * processes == share * processes and 1 <= at_once <= most
    assert all(share % size for size in range(at_once + 1, min(most, share) + 1))


@pytest.mark.parametrize(("prompts", "processes"), [(10, 3), (2, 4), (0, 1)])
def test_prompts_that_cannot_be_shared_are_refused(prompts, processes):
    with raises(InputError, field="global_batch_size", value=prompts):
        launch.resolve_batch_size(prompts, 8, processes)


def test_the_config_shares_out_the_global_batch(tmp_path, monkeypatch):
    config = SFTConfig(str(tmp_path), use_cpu=True, global_batch_size=24, per_device_train_batch_size=16)
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (12, 2)


def test_the_trainer_tells_what_it_got(make_trainer):
    trainer = make_trainer(SFTTrainer)
    weights = sum(p.numel() for p in trainer.model.parameters())
    assert trainer.runtime_info == {
        "strategy": "single",
        "processes": 1,
        "device": "cpu",
        "precision": "float32",
        "parameters": weights,
        "trained": weights,
    }
    trainer.train()
    kept = json.loads((Path(trainer.args.output_dir) / "environment.json").read_text())
    assert trainer.runtime_info.items() <= kept.items()


def accelerator(kind=DistributedType.NO, processes=1, stage=None, precision="no"):
    plugin = None if stage is None else SimpleNamespace(zero_stage=stage)
    return SimpleNamespace(
        distributed_type=kind,
        num_processes=processes,
        mixed_precision=precision,
        state=SimpleNamespace(deepspeed_plugin=plugin),
    )


@pytest.fixture
def launched_by(monkeypatch):
    def by(*command):
        parent = SimpleNamespace(cmdline=lambda: list(command))
        monkeypatch.setattr(launch.psutil, "Process", lambda: SimpleNamespace(parent=lambda: parent))

    return by


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_launch_recipe_is_refused_where_one_process_trains_alone(path, launched_by):
    launched_by("python", "/bin/accelerate", "launch", "--config_file", str(path), "recipes/train.py", "--config", "x")
    if path.stem == "single":
        launch.check_launch(accelerator(precision="bf16"))
        return
    with pytest.raises(ValueError, match="accelerate launch was told num_processes=.* and this run has 1"):
        launch.check_launch(accelerator())


@pytest.mark.parametrize(
    ("got", "message"),
    [
        (dict(), "num_processes=4 and this run has 2"),
        (dict(processes=4, kind=DistributedType.MULTI_CPU), "distributed_type=DEEPSPEED and this run has MULTI_CPU"),
        (dict(processes=4, kind=DistributedType.DEEPSPEED, stage=2), "zero_stage=3 and this run has 2"),
    ],
)
@pytest.mark.parametrize(
    "start",
    [
        ("python", "-m", "accelerate.commands.accelerate_cli", "launch"),
        ("python", "-m", "accelerate.commands.launch"),
        ("python", "/bin/accelerate-launch"),
    ],
    ids=lambda start: start[-1],
)
def test_what_the_launcher_was_told_is_compared_with_what_runs(launched_by, start, got, message):
    recipe = str(next(path for path in RECIPES if path.stem == "cpu-zero3"))
    launched_by(*start, "--num_processes", "4", "--config_file", recipe, "a.py")
    with pytest.raises(ValueError, match=message):
        launch.check_launch(accelerator(**{"processes": 2} | got))
    launch.check_launch(accelerator(DistributedType.DEEPSPEED, 4, 3))


@pytest.mark.parametrize(
    "command",
    [
        ("bash",),
        ("python", "-m", "pytest"),
        ("torchrun", "launch"),
        ("/accelerate/bin/python", "-m", "deepspeed.launcher.launch"),
    ],
    ids=lambda command: command[-1],
)
def test_other_launchers_are_not_asked(launched_by, command):
    launched_by(*command)
    launch.check_launch(accelerator())


def test_launch_recipes_say_how_to_launch_them():
    assert {path.stem for path in RECIPES} == {
        *("single", "ddp", "zero1", "zero2", "zero3", "zero3-offload", "fsdp2", "multi-node"),
        *("cpu-zero1", "cpu-zero2", "cpu-zero3"),
    }
    for path in RECIPES:
        recipe = yaml.safe_load(path.read_text())
        assert recipe["use_cpu"] is False  # it would switch DeepSpeed off
        assert f"--config_file recipes/accelerate/{path.name} -m recipes.train" in path.read_text()


def test_processes_that_did_not_find_each_other_are_refused_by_the_trainer(
    make_model, catalog, tokenizer, tmp_path, monkeypatch
):
    config = SFTConfig(str(tmp_path), use_cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with raises(InputError):
        SFTTrainer(make_model(), config, processing_class=tokenizer, catalog=catalog)


def pretend_gpus(monkeypatch, count, available):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    say_one_gpu.cache_clear()


def test_more_processes_than_gpus_are_refused_where_they_compute(tmp_path, monkeypatch):
    pretend_gpus(monkeypatch, 4, True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with raises(InputError):
        launch.check_processes(SFTConfig(str(tmp_path)))
    launch.check_processes(SFTConfig(str(tmp_path), use_cpu=True))


@pytest.mark.parametrize("available", [True, False])
@pytest.mark.parametrize("use_cpu", [True, False])
def test_every_config_can_be_built_where_several_gpus_are_visible(tmp_path, monkeypatch, caplog, available, use_cpu):
    pretend_gpus(monkeypatch, 4, available)
    for _, kind in METHODS.values():
        config = kind(str(tmp_path), use_cpu=use_cpu, per_device_train_batch_size=3)
        assert config.n_gpu <= 1 and config.train_batch_size == 3
        launch.check_processes(config)
    used = available and not use_cpu
    assert config.device == torch.device("cuda:0" if used else "cpu")
    assert len([record for record in caplog.records if "4 GPUs" in record.message]) == used  # said once


@pytest.mark.parametrize(("available", "device"), [(True, "cuda:0"), (False, "cpu")])
def test_an_evaluation_takes_the_first_of_several_gpus(monkeypatch, available, device):
    pretend_gpus(monkeypatch, 4, available)
    assert one_device() == torch.device(device)


def test_deepspeed_without_a_launcher_is_refused(tmp_path):
    with raises(InputError, field="deepspeed"):
        SFTConfig(str(tmp_path), deepspeed={"zero_optimization": {"stage": 2}})
