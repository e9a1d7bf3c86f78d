"""A run that has ended stays as it is, one that has not is not taken for ended, and one that diverged is not kept."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from torch.distributed import TCPStore

from catalog.errors import InputError, RunError
from catalog.files import MARKER, sealed
from policy.folders import check_finished, finished
from rewards import Hit
from tests.raising import raises
from trainer import GFlowNetTrainer, SFTTrainer
from trainer.reporting.run_folder import environment, read_log
from trainer.runtime.checkpoint_files import newest
from trainer.runtime.provenance import IN_MEMORY, import_path
from trainer.runtime.watchdog import Interrupted, Watchdog

KEPT = dict(save_strategy="steps", save_steps=2, max_steps=4)
STOPPING = dict(
    max_steps=20,
    save_strategy="steps",
    save_steps=1,
    eval_strategy="steps",
    eval_steps=1,
    metric_for_best_model="mrr@50",
    greater_is_better=True,
    early_stopping_patience=2,
    learning_rate=0.0,  # so that nothing gets better
)


def state_of(folder):
    """Name -> content of all that a run left."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("settings", [KEPT, STOPPING], ids=["all steps", "early stopping"])
def test_a_finished_run_that_is_started_again_trains_nothing(make_trainer, settings):
    first = make_trainer(SFTTrainer, **settings)
    first.train(), first.save_model()
    folder = Path(first.args.output_dir)
    (folder / "metrics.json").write_text(json.dumps({"test": {"mrr": 0.5}, "match": {"tv": 0.1}}))
    before = state_of(folder)
    for _ in range(2):
        again = make_trainer(SFTTrainer, **settings)
        assert again.is_finished()
        again.train(resume_from_checkpoint=True)
        assert again.state.global_step == first.state.global_step < 20
        assert state_of(folder) == before
        for ours, theirs in zip(first.model.parameters(), again.model.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_a_run_that_was_stopped_keeps_its_patience(make_trainer):
    whole = make_trainer(SFTTrainer, **STOPPING)
    whole.train()
    again = make_trainer(SFTTrainer, **STOPPING)
    again.train(resume_from_checkpoint=str(Path(whole.args.output_dir) / "checkpoint-2"))
    assert again.state.global_step == whole.state.global_step == 3


def test_a_kill_between_the_last_checkpoint_and_the_end_loses_nothing(make_trainer):
    trainer = make_trainer(SFTTrainer, **KEPT)
    trainer.train()
    folder = Path(trainer.args.output_dir)
    (folder / "metrics.json").unlink()
    again = make_trainer(SFTTrainer, **KEPT)
    assert not again.is_finished()
    again.train(resume_from_checkpoint=True)
    again.save_model()
    assert finished(folder) and json.loads((folder / "metrics.json").read_text())["train"]["step"] == 4


def test_a_longer_run_goes_on_from_a_finished_one(make_trainer):
    trainer = make_trainer(SFTTrainer, **KEPT)
    trainer.train(), trainer.save_model()
    longer = make_trainer(SFTTrainer, **KEPT | {"max_steps": 6})
    assert not longer.is_finished()
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == 6 and not finished(longer.args.output_dir)


def test_a_finished_run_of_other_settings_is_refused(make_trainer):
    trainer = make_trainer(SFTTrainer, **KEPT)
    trainer.train(), trainer.save_model()
    with raises(InputError, field="settings.learning_rate", file=trainer.args.output_dir):
        make_trainer(SFTTrainer, **KEPT | {"learning_rate": 0.5}).is_finished()


def test_a_kill_at_any_moment_of_the_final_save_leaves_a_run_that_is_not_finished(make_trainer, monkeypatch):
    trainer = make_trainer(objective="tb")
    trainer.train()
    folder = Path(trainer.args.output_dir)
    trainer.save_model()
    check_finished(folder)
    moved = len(sealed(folder, "The run")) and len(json.loads((folder / MARKER).read_text())["files"])
    assert moved > 5 and not (folder / ".final").exists()
    move = os.replace

    class Killed(BaseException):
        pass

    for moment in range(1, moved + 1):
        left = iter(range(moment))

        def replace(source, target, left=left):
            if ".final/" in str(source) and next(left, None) is None:
                raise Killed
            move(source, target)

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            trainer.save_model()
        monkeypatch.setattr(os, "replace", move)
        assert not finished(folder)
        with raises(InputError, file=folder):
            check_finished(folder)
    trainer.save_model()
    check_finished(folder)


def test_a_policy_with_flipped_bytes_is_refused(make_trainer):
    trainer = make_trainer(SFTTrainer, max_steps=1)
    trainer.save_model()
    path = Path(trainer.args.output_dir) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 255
    path.write_bytes(content)
    with raises(InputError, file=path.parent):
        check_finished(path.parent)


def test_a_best_checkpoint_that_was_damaged_is_not_loaded(make_trainer):
    best = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "mrr@50", "greater_is_better": True}
    trainer = make_trainer(SFTTrainer, **KEPT, **best, load_best_model_at_end=True, learning_rate=0.0)
    trainer.train()
    path = Path(trainer.state.best_model_checkpoint)
    (path / "model.safetensors").write_bytes(b"")
    with raises(InputError, file=path):
        trainer._load_best_model()


def test_a_folder_without_a_tokenizer_is_refused(make_trainer, tmp_path):
    trainer = make_trainer(SFTTrainer, max_steps=1)
    trainer.model.save_pretrained(tmp_path / "plain")
    with raises(InputError, file=tmp_path / "plain"):
        check_finished(tmp_path / "plain")
    trainer.processing_class.save_pretrained(tmp_path / "plain")
    check_finished(tmp_path / "plain"), check_finished("a/name-of-a-hub")


class AfterSteps:
    """A reward of 1 that does something while the step after so many draws."""

    trainer = None

    def __init__(self, steps, act):
        self.steps, self.act = steps, act

    def __call__(self, batch, trajectories):
        if self.trainer is not None and self.trainer.state.global_step == self.steps:
            self.act(self.trainer)
        return torch.ones(trajectories.items.shape)


def spoil(trainer):
    with torch.no_grad():
        next(trainer.model.parameters())[:] = torch.nan


@pytest.mark.parametrize("every", [1, 2, 6])
def test_weights_that_are_no_numbers_never_displace_a_good_checkpoint(make_trainer, every):
    reward = AfterSteps(5, spoil)
    settings = dict(max_steps=8, save_strategy="steps", save_steps=every, save_total_limit=1, match_rows=0)
    trainer = make_trainer(rewards=reward, **settings)
    reward.trainer = trainer
    with raises(RunError):
        trainer.train()
    folder = Path(trainer.args.output_dir)
    good = {1: "checkpoint-5", 2: "checkpoint-4"}.get(every)
    assert [path.name for path in folder.glob("checkpoint-*")] == ([good] if good else [])
    assert newest(folder) == (folder / good if good else None)
    with raises(RunError, file=folder):
        trainer.save_model()
    assert not (folder / MARKER).exists() and not (folder / "model.safetensors").exists()


def test_a_run_that_is_stopped_in_the_middle_of_a_step_resumes_exactly(make_trainer):
    how = dict(model={"kind": "gpt2"}, samplers={"target": 1, "policy": 1, "replay": 1}, max_steps=5, match_rows=0)
    whole = make_trainer(**how, name="whole")
    whole.train()
    part = make_trainer(**how, name="part")
    loss = part.method.loss

    def asks_to_stop(*inputs):
        if part.state.global_step == 2:
            part.watchdog.stop()
        return loss(*inputs)

    part.method.loss = asks_to_stop  # after the dropout of the step is drawn
    with raises(Interrupted):
        part.train()
    again = make_trainer(**how, name="part")
    again.train(resume_from_checkpoint=True)
    for mine, theirs in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def number(request):
    """A signal that is not ignored, as nohup would have it."""
    before = signal.getsignal(request.param)
    if before == signal.SIG_IGN:
        signal.signal(request.param, signal.SIG_DFL)
    yield request.param
    signal.signal(request.param, before)


def test_every_request_to_stop_leaves_a_checkpoint_that_resumes(make_trainer, number):
    before = signal.getsignal(number)
    reward = AfterSteps(2, lambda trainer: os.kill(os.getpid(), number))
    reward.trainer = trainer = make_trainer(rewards=reward, max_steps=4, match_rows=0)
    with raises(Interrupted):
        trainer.train()
    assert newest(Path(trainer.args.output_dir)).name == "checkpoint-3"
    assert signal.getsignal(number) == before


def test_the_watch_ends_at_once_where_another_process_has_left_without_a_word(monkeypatch):
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for name, value in (told | {"MASTER_PORT": str(store.port)}).items():
        monkeypatch.setenv(name, value)
    started = time.monotonic()
    with Watchdog(timeout=100):
        while not store.check(["gflowgr/watch/0"]):
            time.sleep(0.01)
    assert time.monotonic() - started < 5


def test_a_torn_line_is_left_out_and_gone_after_the_next_start(make_trainer):
    trainer = make_trainer(SFTTrainer, **KEPT)
    trainer.train()
    path = Path(trainer.args.output_dir) / "metrics.jsonl"
    whole = read_log(path.parent)
    path.write_text(path.read_text() + '{"step": 5, "lo')
    assert read_log(path.parent) == whole
    make_trainer(SFTTrainer, **KEPT | {"max_steps": 6}).train(resume_from_checkpoint=True)
    assert [record["step"] for record in map(json.loads, path.read_text().splitlines()) if "loss" in record] == [
        *range(1, 7)
    ]
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{", *lines[1:]]) + "\n")
    with raises(InputError, file=path, row=2):
        read_log(path.parent)


def test_without_git_a_run_has_no_commit(monkeypatch):
    assert environment()["commit"]
    monkeypatch.setenv("PATH", "")
    assert environment()["commit"] is None


def known(batch, trajectories):
    return torch.ones(trajectories.items.shape)


def test_what_was_given_in_python_is_recorded_by_its_import_path(make_trainer, catalog):
    trainer = make_trainer(rewards=known, max_steps=1, save_strategy="steps")
    trainer.train()
    recorded = yaml.safe_load((Path(trainer.args.output_dir) / "resolved.yaml").read_text())["python_parts"]
    assert recorded == {"rewards": {f"{__name__}:known": 1.0}}
    with raises(InputError, field="settings.python_parts"):
        make_trainer(GFlowNetTrainer, max_steps=1).train(resume_from_checkpoint=True)
    assert import_path(lambda: None) == import_path(Hit(catalog)) == IN_MEMORY
