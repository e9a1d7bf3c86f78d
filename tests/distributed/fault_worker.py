"""Started by accelerate: eight steps with a checkpoint after every second, and something that goes wrong in one.

usage: fault_worker.py OUT_DIR FAULT

Goes on from the last whole checkpoint. What goes wrong does so in process 1, or where checkpoints are written in
process 0, while the sixth step draws its trajectories: kill, hang, reward, nan, disk; or nothing: none, and slow.
"""

import json
import os
import resource
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerState

from experiments.command_line import fail
from tests.distributed.problem import losses, make_trainer
from trainer.methods.base import MethodLoss
from trainer.runtime.watchdog import Interrupted

out, fault = Path(sys.argv[1]), sys.argv[2]


class Steps(TrainerCallback):
    done = 0

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        Steps.done = state.global_step


def reward(batch, trajectories) -> Tensor:
    values = 1.0 + (trajectories.items % 5)
    if fault == "slow":
        time.sleep(0.3)
    if Steps.done == 5 and int(os.environ["RANK"]) == (0 if fault == "disk" else 1):
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "hang":
            time.sleep(600)
        elif fault == "reward":
            raise RuntimeError("the shop does not answer")
        elif fault == "disk":  # a file that grows further fails like one on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    return values


def loss(*args: Any) -> MethodLoss:
    found = own_loss(*args)
    broken = fault == "nan" and Steps.done == 5 and int(os.environ["RANK"]) == 1
    return replace(found, loss=found.loss * torch.nan) if broken else found


trainer = make_trainer(
    out,
    kind="gpt2",  # with dropout
    parts={"reward_funcs": reward, "callbacks": [Steps()]},
    samplers={"target": 1, "policy": 2},
    max_steps=8,
    save_strategy="steps",
    save_steps=2,
    save_total_limit=1,
    ddp_timeout=10,
    match_rows=0,
)
own_loss, trainer.method.loss = trainer.method.loss, loss
try:
    trainer.train(resume_from_checkpoint=True)
except (Interrupted, OSError, FloatingPointError) as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    fail(str(error))
metrics = trainer.evaluate()
if trainer.accelerator.is_main_process:
    kept = {name: value for name, value in metrics.items() if "second" not in name}
    (out / "result.json").write_text(json.dumps({"losses": losses(trainer), "metrics": kept}))
trainer.end_training()
