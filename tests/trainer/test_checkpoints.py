"""A checkpoint is whole, or it is passed over; and it is resumed by the run that it is of."""

import json
import logging
import os
import pickle
import shutil
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from datasets import Dataset

from catalog.errors import InputError
from catalog.files import MARKER, broken, seal, sealed
from tests.raising import raises
from trainer import METHODS, SFTTrainer
from trainer.runtime.checkpoint_files import check_pickles, check_savable, newest
from trainer.runtime.provenance import FREE

KEPT = dict(save_strategy="steps", save_steps=2, max_steps=6)


@pytest.fixture
def saved(make_trainer):
    """(a trainer that has finished, its folder)."""
    trainer = make_trainer(SFTTrainer, **KEPT)
    trainer.train()
    return trainer, Path(trainer.args.output_dir)


def names(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def test_checkpoints_are_sealed_and_nothing_unfinished_stays(saved):
    _, folder = saved
    assert names(folder) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert not any(broken(folder / name) for name in names(folder))
    assert newest(folder) == folder / "checkpoint-6" and not (folder / ".unfinished").exists()


@pytest.mark.parametrize("harm", ["marker", "missing", "short"])
def test_a_checkpoint_that_is_not_whole_is_passed_over_for_the_one_before(saved, harm, caplog):
    _, folder = saved
    weights = folder / "checkpoint-6" / "model.safetensors"
    if harm == "marker":
        (folder / "checkpoint-6" / MARKER).unlink()
    elif harm == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-7])
    with caplog.at_level(logging.WARNING):
        assert newest(folder) == folder / "checkpoint-4"
    assert "checkpoint-6 is passed over" in caplog.text


def test_resuming_goes_on_from_the_last_whole_one_or_begins(make_trainer, saved):
    first, folder = saved
    (folder / "checkpoint-6" / MARKER).unlink()
    second = make_trainer(SFTTrainer, **KEPT)
    steps = []
    second.training_step = lambda *args, **kwargs: steps.append(1) or SFTTrainer.training_step(second, *args, **kwargs)
    second.train(resume_from_checkpoint=True)
    assert len(steps) == 2 and second.state.global_step == 6
    assert [r["loss"] for r in second.state.log_history if "loss" in r] == [
        r["loss"] for r in first.state.log_history if "loss" in r
    ]
    for name in names(folder):
        shutil.rmtree(folder / name)
    steps.clear()
    make_trainer(SFTTrainer, **KEPT).train(resume_from_checkpoint="true")
    assert names(folder) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


def test_the_limit_counts_whole_checkpoints_and_never_takes_the_last(make_trainer):
    trainer = make_trainer(SFTTrainer, **KEPT, save_total_limit=1)
    folder = Path(trainer.args.output_dir)
    save = trainer.rollouts.save
    seen = []
    trainer.rollouts.save = lambda *args: seen.append([newest(folder), names(folder)]) or save(*args)
    trainer.train()
    assert seen == [
        [None, []],
        [folder / "checkpoint-2", ["checkpoint-2"]],  # still there while the next one is written
        [folder / "checkpoint-4", ["checkpoint-4"]],
    ]
    assert names(folder) == ["checkpoint-6"]


def test_the_best_checkpoint_is_known_by_its_own_name(make_trainer):
    trainer = make_trainer(
        SFTTrainer,
        **KEPT,
        eval_strategy="steps",
        eval_steps=2,
        metric_for_best_model="mrr@50",
        load_best_model_at_end=True,
    )
    trainer.train()
    folder = Path(trainer.args.output_dir)
    best = f"checkpoint-{trainer.state.best_global_step}"
    assert trainer.state.best_model_checkpoint == str(folder / best)
    state = json.loads((folder / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(folder / best)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"learning_rate": 0.5}, "settings.learning_rate"),
        ({"optim": "sgd"}, "settings.optim"),
        ({"seed": 8}, "settings.seed"),
        ({"max_history": 3}, "settings.max_history"),
        ({"normalization": "vocabulary"}, "settings.normalization"),
        ({"per_device_train_batch_size": 2}, "settings.prompts_per_step"),
        ({"model": {"attention_dropout": 0.1}}, "settings.backbone.attention_dropout"),
    ],
)
def test_what_decides_a_run_is_compared_and_named(saved, make_trainer, change, field):
    _, folder = saved
    before = (folder / "resolved.yaml").read_text()
    with raises(InputError, field=field, file=folder / "checkpoint-6"):
        make_trainer(SFTTrainer, **KEPT | change).train(resume_from_checkpoint=True)
    assert (folder / "resolved.yaml").read_text() == before


def test_other_rows_are_another_run(saved, make_trainer, train_rows):
    rows = train_rows.to_list()
    rows[7]["target"] = 3
    with raises(InputError, field="splits.train"):
        make_trainer(SFTTrainer, rows=Dataset.from_list(rows), **KEPT).train(resume_from_checkpoint=True)


def test_what_may_change_does_not_stop_a_run_from_going_on(saved, make_trainer):
    first, folder = saved
    free = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "logging_steps": 2, "save_steps": 3}
    trainer = make_trainer(SFTTrainer, **KEPT | free | {"max_steps": 9})  # the schedule is constant
    trainer.train(resume_from_checkpoint=str(folder))
    assert trainer.state.global_step == 9
    assert yaml.safe_load((folder / "resolved.yaml").read_text())["max_steps"] == 9


def test_every_free_setting_is_one_of_some_method():
    known = {field.name for _, config in METHODS.values() for field in fields(config)}
    named = [name for names in FREE.values() for name in names]
    assert set(named) <= known and len(set(named)) == len(named)


def test_a_longer_run_is_another_one_where_the_schedule_knows_its_end(make_trainer):
    decaying = KEPT | {"lr_scheduler_type": "linear"}
    make_trainer(SFTTrainer, **decaying).train()
    with raises(InputError, field="settings.max_steps", value=6):
        make_trainer(SFTTrainer, **decaying | {"max_steps": 9}).train(resume_from_checkpoint=True)


def test_fewer_steps_than_are_done_are_refused(saved, make_trainer):
    with raises(InputError, field="max_steps", value=3):
        make_trainer(SFTTrainer, **KEPT | {"max_steps": 3}).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"])
def test_flipped_bytes_are_noticed(saved, make_trainer, name):
    _, folder = saved
    path = folder / "checkpoint-6" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert newest(folder) == folder / "checkpoint-4"
    with raises(InputError, file=path.parent):
        make_trainer(SFTTrainer, **KEPT).train(resume_from_checkpoint=str(path.parent))


class Harm:
    def __reduce__(self):
        return os.system, ("true",)


def test_a_file_that_could_run_code_is_not_read(saved, make_trainer, tmp_path):
    _, folder = saved
    check_pickles(folder / "checkpoint-6")
    about = sealed(folder / "checkpoint-6", "The checkpoint")
    torch.save({"state": Harm()}, folder / "checkpoint-6" / "optimizer.pt")
    seal(folder / "checkpoint-6", about)
    with raises(InputError, file=folder / "checkpoint-6" / "optimizer.pt", value="posix.system"):
        make_trainer(SFTTrainer, **KEPT).train(resume_from_checkpoint=True)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "model.bin").write_bytes(pickle.dumps(Harm()))
    with raises(InputError, file=tmp_path / "plain" / "model.bin"):
        check_pickles(tmp_path / "plain")


def test_weights_alone_are_not_resumed(make_trainer, caplog):
    alone = KEPT | {"save_only_model": True}
    with caplog.at_level(logging.WARNING):
        make_trainer(SFTTrainer, **alone).train()
    assert "cannot be resumed" in caplog.text
    for settings in (alone, KEPT):
        with raises(InputError, field="save_only_model"):
            make_trainer(SFTTrainer, **settings).train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("plugin", "field"),
    [
        ({"zero_stage": 3, "deepspeed_config": {"zero_optimization": {}}}, "zero3_save_16bit_model"),
        ({"state_dict_type": "SHARDED_STATE_DICT"}, "fsdp_state_dict_type"),
    ],
)
def test_a_launch_that_could_save_no_whole_model_is_refused(plugin, field):
    name = "deepspeed_plugin" if "zero_stage" in plugin else "fsdp_plugin"
    state = SimpleNamespace(**{name: SimpleNamespace(**plugin)})
    with raises(InputError, field=field):
        check_savable(SimpleNamespace(state=state))


@pytest.mark.parametrize("asked", ["nowhere", "checkpoint-5"])
def test_a_checkpoint_that_is_not_there_is_refused(saved, make_trainer, asked):
    with raises(InputError, field="resume_from_checkpoint"):
        make_trainer(SFTTrainer, **KEPT).train(resume_from_checkpoint=str(saved[1] / asked))


def test_a_broken_checkpoint_that_is_named_is_refused(saved, make_trainer):
    _, folder = saved
    (folder / "checkpoint-6" / "optimizer.pt").unlink()
    with raises(InputError, file=folder / "checkpoint-6"):
        make_trainer(SFTTrainer, **KEPT).train(resume_from_checkpoint=str(folder / "checkpoint-6"))


def test_a_checkpoint_of_an_earlier_run_makes_room(saved, make_trainer):
    _, folder = saved
    before = json.loads((folder / "checkpoint-2" / MARKER).read_text())["saved_at"]
    make_trainer(SFTTrainer, **KEPT | {"max_steps": 2}).train()
    assert json.loads((folder / "checkpoint-2" / MARKER).read_text())["saved_at"] > before
    assert newest(folder) == folder / "checkpoint-2"  # the last that was completed, not the largest number
