"""A checkpoint is whole, or it is passed over; and it is resumed by the run that it is of."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from trainer import SFTTrainer
from trainer.checkpoints import MARKER, broken, newest

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
    save = trainer._save_rng_state
    seen = []
    trainer._save_rng_state = lambda path: seen.append([newest(folder), names(folder)]) or save(path)
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
    ("name", "value", "message"),
    [
        ("method", "DPOTrainer", "method DPOTrainer, this one has SFTTrainer"),
        ("catalog", "0123", "catalog 0123, this one has .* Give the data"),
        ("model", "gpt2 of 7 parameters, 7 trained", "model gpt2 of 7"),
        ("strategy", "zero3", "strategy zero3, this one has single. Launch it as it was"),
        ("prompts_per_step", 7, "prompts_per_step 7, .* Set global_batch_size"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(saved, make_trainer, name, value, message):
    _, folder = saved
    marker = folder / "checkpoint-6" / MARKER
    table = json.loads(marker.read_text())
    table["of"][name] = value
    marker.write_text(json.dumps(table))
    with pytest.raises(ValueError, match=message):
        make_trainer(SFTTrainer, **KEPT).train(resume_from_checkpoint=True)


def test_a_broken_checkpoint_that_is_named_is_refused(saved, make_trainer):
    _, folder = saved
    (folder / "checkpoint-6" / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match="checkpoint-6 cannot be resumed: optimizer.pt is missing"):
        make_trainer(SFTTrainer, **KEPT).train(resume_from_checkpoint=str(folder / "checkpoint-6"))


def test_a_checkpoint_of_an_earlier_run_makes_room(saved, make_trainer):
    _, folder = saved
    before = json.loads((folder / "checkpoint-2" / MARKER).read_text())["saved_at"]
    make_trainer(SFTTrainer, **KEPT | {"max_steps": 2}).train()
    assert json.loads((folder / "checkpoint-2" / MARKER).read_text())["saved_at"] > before
    assert newest(folder) == folder / "checkpoint-2"  # the last that was completed, not the largest number
