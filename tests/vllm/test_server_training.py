"""Whole runs whose trajectories come from servers, some of which are killed in the middle of a step."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import TrainerCallback

from tests.vllm.servers import KEY, ROOT, SHAPE

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

SETTINGS = dict(
    model=SHAPE,
    max_steps=12,  # of 10 steps an epoch
    samplers={"target": 1, "policy": 3},
    use_vllm=True,
    vllm_mode="server",
    rollout_timeout=30,
)


class Kill(TrainerCallback):
    """Kills servers when a step has been trained: while the next draw is under way, if there is one."""

    def __init__(self, servers, numbers, step):
        self.servers, self.numbers, self.step = servers, numbers, step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            for number in self.numbers:
                self.servers.kill(number)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("GFLOWGR_API_KEY", KEY)


def logged(trainer, name):
    return [record[name] for record in trainer.state.log_history if name in record]


@pytest.fixture
def run(servers, make_trainer):
    """A trained run of SETTINGS, and each of its losses."""

    def train(kill=(), step=0, **settings):
        trainer = make_trainer(**(SETTINGS | {"vllm_server_base_url": servers.urls} | settings))
        trainer.add_callback(Kill(servers, kill, step))
        trainer.train()
        return trainer, logged(trainer, "loss")

    return train


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_server_that_dies_in_the_middle_of_a_step_changes_nothing(staleness, run, servers, caplog):
    whole, losses = run(name="whole", rollout_staleness=staleness)
    assert logged(whole, "sampler/valid_share") == [1.0] * 12
    assert logged(whole, "sampler/age") == ([0.0] + [float(staleness)] * 9 + [0.0, float(staleness)])
    assert whole.rollouts.gap < 1e-4 and (staleness or max(logged(whole, "sampler/log_pf_gap_max")) < 1e-4)
    with caplog.at_level(logging.WARNING):
        _, killed = run(name="killed", kill=[1], step=4, rollout_staleness=staleness)
    assert killed == pytest.approx(losses, rel=1e-4)
    assert any(servers.urls[1] in record.getMessage() for record in caplog.records)


def test_a_run_without_servers_ends_with_a_checkpoint_that_resumes_exactly(run, servers, make_trainer, caplog):
    _, losses = run(name="whole")
    with pytest.raises(RuntimeError, match="No rollout server answers"):
        run(name="stopped", kill=[0, 1], step=7)
    (checkpoint,) = Path(make_trainer(name="stopped").args.output_dir).glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-7"
    servers.revive()
    again = make_trainer(**(SETTINGS | {"vllm_server_base_url": servers.urls, "name": "stopped"}))
    again.train(resume_from_checkpoint=str(checkpoint))
    assert logged(again, "loss") == pytest.approx(losses, rel=1e-4)


def test_what_does_not_fit_is_told_before_training(servers, make_trainer, monkeypatch):
    settings = SETTINGS | {"vllm_server_base_url": servers.urls}
    with pytest.raises(ValueError, match="none of samplers"):
        make_trainer(**(settings | {"samplers": {"target": 1, "random": 1}}))
    with pytest.raises(ValueError, match="was started for vocabulary"):
        make_trainer(**(settings | {"model": SHAPE | {"vocab_size": 64}}))
    with pytest.raises(ValueError, match="larger --max_history"):
        make_trainer(**(settings | {"max_history": 25}))
    with pytest.raises(ValueError, match="sends from a GPU"):
        make_trainer(**(settings | {"weight_transfer": "nccl"}))
    with pytest.raises(ValueError, match="vllm_server_base_url is empty"):
        make_trainer(**(settings | {"vllm_server_base_url": []}))
    with pytest.raises(ValueError, match="vllm_enable_sleep_mode is of"):
        make_trainer(**(settings | {"vllm_enable_sleep_mode": True}))
    with pytest.raises(ValueError, match="sleeps on GPUs only"):
        make_trainer(use_vllm=True, vllm_enable_sleep_mode=True)
    with pytest.raises(ValueError, match="tensor_parallel_size=2 processes"):
        make_trainer(use_vllm=True, vllm_engine={"tensor_parallel_size": 2})
    with pytest.raises(ValueError, match="only vLLM draws ahead"):
        make_trainer(rollout_staleness=1)
    monkeypatch.delenv("GFLOWGR_API_KEY")
    with pytest.raises(ValueError, match="GFLOWGR_API_KEY is not set"):
        make_trainer(**settings)


def test_two_processes_draw_the_same_wherever_their_engine_is(servers, tmp_path):
    """An engine in each, one that both share (tensor parallel), and servers."""
    results = []
    for name, tensor_parallel, urls in (("each", 1, []), ("shared", 2, []), ("servers", 1, servers.urls)):
        out = tmp_path / name
        command = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "tests/vllm/processes.py"]
        done = subprocess.run(
            [sys.executable, "-m", *command, out, str(tensor_parallel), *urls],
            cwd=ROOT,
            timeout=240,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert done.returncode == 0, done.stderr + "".join(servers.log(port)[-3000:] for port in servers.ports)
        assert "Traceback" not in done.stderr  # the engine leaves the processes' group before they do
        results.append(json.loads((out / "result.json").read_text()))
    for result in results:
        assert result["processes"] == 2 and result["gap"] < 1e-4
        assert max(record["sampler/log_pf_gap_max"] for record in result["log"]) < 1e-4
        assert result["drawn"] == results[0]["drawn"]
        losses, first = ([record["loss"] for record in one["log"]] for one in (result, results[0]))
        assert losses == pytest.approx(first, rel=1e-4)
    assert len({tuple(row) for row in results[0]["drawn"]}) > 4  # the two processes draw for prompts of their own
