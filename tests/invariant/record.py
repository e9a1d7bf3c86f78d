"""Trains every method for some steps and writes their losses, gradients' norms and trajectories as JSON.

python -m tests.invariant.record OUT [--steps 20] [--only NAME ...] [--engine vllm]

Alone it is one process; started by `accelerate launch` with a recipe of ZeRO it is several. A change that must not
change results is made between two of these, with `--steps 20`.
"""

import argparse
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from accelerate import PartialState
from accelerate.utils import gather_object
from peft import LoraConfig
from torch import Tensor
from transformers import TrainerCallback

from policy.causal import CausalPolicy
from policy.encoder_decoder import EncoderDecoderPolicy
from recommenders import Popularity
from tests.distributed.problem import make_trainer
from trainer.runtime.processes import leave_group

DRAWN = {"target": 1, "policy": 2, "replay": 1}
PAIRS = {"target": 1, "random": 2, "policy": 1}
DROPOUT: dict[str, Any] = {"kind": "gpt2"}
CONFIGS: dict[str, dict[str, Any]] = {
    "sft": {"method": "sft"} | DROPOUT,
    "dpo": {"method": "dpo", "samplers": PAIRS},
    "sdpo": {"method": "sdpo", "samplers": PAIRS},
    "grpo": {"method": "grpo", "samplers": {"policy": 4}, "beta": 0.1, "rewards": {"similarity": 1.0, "hit": 1.0}},
    "tb": {"objective": "tb", "samplers": DRAWN},
    "vargrad": {"objective": "vargrad", "samplers": DRAWN},
    "db": {"objective": "db", "samplers": DRAWN},
    "subtb": {"objective": "subtb", "samplers": DRAWN},
    "exact_tb": {"objective": "exact_tb", "samplers": DRAWN},
    "exact_db": {"objective": "exact_db", "samplers": DRAWN},
    "flow_kl": {"objective": "flow_kl", "samplers": DRAWN},
}
"""Every method and objective."""
FURTHER: dict[str, dict[str, Any]] = {
    "sft, target, random_cut": {"method": "sft", "sft_positions": "target", "random_cut": True} | DROPOUT,
    "sft, t5": {"method": "sft", "kind": "t5", "sft_positions": "target"},
    "dpo, precomputed": {"method": "dpo", "samplers": PAIRS, "precompute_ref_log_probs": True},
    "grpo, vocabulary": {
        "method": "grpo",
        "samplers": {"policy": 4},
        "rewards": {"similarity": 1.0},
        "normalization": "vocabulary",
    },
    "flow_kl, all positions": {"objective": "flow_kl", "flow_positions": "all", "keep_flows": True},
    "tb, relative, two micro-batches": {
        "reference_weight": 0.5,
        "samplers": DRAWN,
        "per_device_train_batch_size": 2,
        "source_weights": {"policy": 0.5},
        "residual_clip": 3.0,
        **DROPOUT,
    },
    "tb, lora": {"samplers": DRAWN, "parts": {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"])}},
    "exact_tb, schedules": {
        "objective": "exact_tb",
        "samplers": {"target": 1, "curriculum": 1, "confidence": 1, "interactions": 1},
        "rewards": {"hit": 1.0, "collaborative": 1.0},
        "reward_temperature": 1.5,
        "reward_temperature_end": 0.5,
        "reward_floor_end": 1e-4,
        "parts": {"recommender": Popularity(torch.arange(20.0, 68.0))},
    },
}
"""What changes the step in other ways; on one process."""
VLLM_SHAPE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
WITH_VLLM: dict[str, dict[str, Any]] = {
    "tb": {"samplers": DRAWN},
    "flow_kl": {"objective": "flow_kl", "samplers": {"target": 1, "policy": 3}},
    "grpo": {"method": "grpo", "samplers": {"policy": 4}, "rollout_staleness": 1},
    "sdpo": {"method": "sdpo", "samplers": PAIRS},
}
"""Methods whose policy draws by vLLM in the trainer's process."""


class StopAfter(TrainerCallback):
    """Ends the run early, whose settings still are those of 20 steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop |= state.global_step >= self.steps


def train(folder: Path, name: str, steps: int, engine: str) -> dict[str, list]:
    """losses and gradient norms of each step, and of each forward with gradients the items of every process."""
    settings = dict(CONFIGS | FURTHER)[name] if engine == "transformers" else dict(WITH_VLLM[name])
    settings = {
        "max_steps": 20,
        "use_cpu": "WORLD_SIZE" not in os.environ,
        "lr_scheduler_type": "constant",
        "seed": 5,
    } | settings
    if engine == "vllm":
        settings |= {"model": VLLM_SHAPE, "use_vllm": True}
    trainer = make_trainer(folder / name.replace(", ", "_"), **settings)
    trainer.add_callback(StopAfter(steps))
    items: list[str] = []
    with (
        patch.object(CausalPolicy, "log_probs", noting(CausalPolicy.log_probs, items)),
        patch.object(EncoderDecoderPolicy, "log_probs", noting(EncoderDecoderPolicy.log_probs, items)),
    ):
        trainer.train()
    log = [record for record in trainer.state.log_history if "loss" in record]
    result = {
        "losses": [record["loss"] for record in log],
        "grad_norms": [record["grad_norm"] for record in log],
        "items": ["".join(parts) for parts in zip(*gather_object([items]), strict=True)],
    }
    if engine == "vllm":
        trainer.rollouts.close()  # it takes the group of the processes along, so several of them have one run
    return result


def noting(log_probs: Callable, items: list[str]) -> Callable:
    """`TriePolicy.log_probs` that writes down, as a digest, which items are read where gradients are computed."""

    def wrapped(self: Any, prompts: Any, given: Tensor, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            numbers = prompts.history.tolist(), given.tolist()
            items.append(hashlib.sha256(json.dumps(numbers).encode()).hexdigest()[:8])
        return log_probs(self, prompts, given, **kwargs)

    return wrapped


def where() -> list[str]:
    """What rounding depends on: two records of one place are equal bit for bit."""
    described = Path("/proc/cpuinfo").read_text()
    found = [re.search(rf"^{name}\s*: (.*)", described, re.MULTILINE) for name in ("model name", "flags")]
    model, flags = (match.group(1) if match else "" for match in found)
    # virtual machines give several processors one model name, whose instructions, and so whose rounding, differ
    digest = hashlib.sha256(flags.encode()).hexdigest()[:8]
    return [model, digest, torch.__version__, transformers.__version__]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="The JSON file to write; runs lie beside it.")
    parser.add_argument("--steps", type=int, default=20, help="How many of the 20 steps are trained.")
    parser.add_argument("--only", nargs="+", help="Names of runs, by default all.")
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers", help="What draws.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    several = "WORLD_SIZE" in os.environ
    by_default = WITH_VLLM if args.engine == "vllm" else CONFIGS if several else CONFIGS | FURTHER
    names = args.only or [*by_default]
    result = {name: train(args.out.parent / args.out.stem, name, args.steps, args.engine) for name in names}
    if PartialState().is_main_process:
        args.out.write_text(json.dumps({"where": where(), "runs": result}) + "\n")
    leave_group()


if __name__ == "__main__":
    main()
