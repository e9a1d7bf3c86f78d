"""Started by accelerate, or alone for the figures of one process: what a ZeRO stage must do.

usage: zero_worker.py OUT_DIR [CASE ...]

One launch for all of it, since most of a launch goes into imports. The first process writes {case: result} to
OUT_DIR/result.json and the policies it exports beside it.
"""

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from peft import LoraConfig
from torch import Tensor
from transformers import TrainerCallback

from catalog import Trajectories
from interactions import PromptBatch
from policy import inference
from tests.distributed.problem import CATALOG, losses, make_model, make_trainer, weights
from trainer import RecommenderTrainer

out = Path(sys.argv[1])
DRAWN = {"target": 1, "policy": 2, "replay": 1}
TWENTY = dict(max_steps=20, save_strategy="steps", save_steps=10, weight_decay=0.1)
SGD = dict(optim="sgd", learning_rate=0.05)
PAIRS = SGD | {"samplers": {"target": 1, "interactions": 9}}  # all of a row, so that no draw depends on the process


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max((ours[name].float() - theirs[name].float()).abs().max().item() for name in ours)


def log_pf(trainer: RecommenderTrainer) -> list:
    """What the policy in training gives ten items after each of four prompts."""
    batch = trainer.prompts(trainer.train_dataset.select(range(4)).to_list())
    with inference(trainer.model):
        return trainer.policy.log_probs(batch, torch.arange(10).expand(4, 10)).log_pf.float().tolist()


def train(name: str, export: bool = False, **kwargs: Any) -> dict[str, Any]:
    trainer = make_trainer(out / name, **kwargs)
    trainer.train()
    if export:
        trainer.save_model(str(out / name / "export"))
    return {"losses": losses(trainer), "log_pf": log_pf(trainer), "got": trainer.runtime_info}


def half() -> dict[str, Any]:
    with patch("transformers.training_args.is_torch_bf16_gpu_available", lambda: True):  # it is a CPU that computes
        return train("bf16", export=True, bf16=True, **SGD)


def resume() -> dict[str, Any]:
    """Dropout, trajectories of the policy and of a memory: six steps at once, and three and three."""
    settings = dict(kind="gpt2", samplers=DRAWN, save_strategy="steps", save_steps=3, max_steps=6)
    whole = make_trainer(out / "whole", **settings)
    whole.train()
    second = make_trainer(out / "second", **settings)
    second.train(resume_from_checkpoint=str(out / "whole" / "checkpoint-3"))
    return {
        "losses": losses(whole),
        "resumed": losses(second),
        "moved": difference(weights(whole.model), weights(second.model)),
    }


def other_processes() -> dict[str, Any]:
    """The second half of "adamw", from a checkpoint that another number of processes wrote."""
    trainer = make_trainer(out / "adamw", **TWENTY)
    trainer.train(resume_from_checkpoint=str(out / "adamw" / "checkpoint-10"))
    return {"losses": losses(trainer), "processes": trainer.runtime_info["processes"]}


def lora() -> dict[str, Any]:
    parts = {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"])}
    trainer = make_trainer(out / "lora", parts=parts, **SGD)
    before = make_model().get_input_embeddings().weight
    trainer.train()
    trainer.save_model(str(out / "lora" / "export"))
    after = weights(trainer.model)["model.embed_tokens.weight"]
    moved = (after - before).abs().amax(1)
    return {"losses": losses(trainer), "log_pf": log_pf(trainer), "moved": moved.nonzero().flatten().tolist()}


def sharded() -> dict[str, Any]:
    """DPO from a model that ZeRO-3 shards as it is made, so that its reference is copied shard by shard."""
    with patch("tests.distributed.problem.zero3_init_disabled", nullcontext):
        trainer = make_trainer(out / "sharded", method="dpo", **PAIRS)
    trainer.train()
    margins = [record["rewards/margins"] for record in trainer.state.log_history if "rewards/margins" in record]
    reference = trainer.method.reference.policy.model.parameters()
    return {"margins": margins, "held": sum(parameter.ds_tensor.numel() for parameter in reference)}


def reward_model() -> dict[str, Any]:
    parts = {"reward_funcs": str(out / "classifier")}
    trainer = make_trainer(out / "reward_model", method="grpo", beta=0.1, parts=parts, **PAIRS)
    trainer.train()
    return {"losses": losses(trainer)}


def logged() -> dict[str, Any]:
    """How many forwards without gradients each step has, and whether it logs what such a forward is for."""
    trainer = make_trainer(out / "logged", samplers={"target": 1, "policy": 2})
    forwards = [0] * trainer.args.max_steps

    def count(*_: Any) -> None:
        forwards[trainer.state.global_step] += not torch.is_grad_enabled()

    hook = trainer.model.register_forward_pre_hook(count)
    trainer.train()
    hook.remove()
    gaps = ["sampler/log_pf_gap" in record for record in trainer.state.log_history if "loss" in record]
    return {"forwards": forwards, "gaps": gaps}


class Elsewhere:
    """Draws as an engine does, without a forward of the model in training."""

    def sample(self, batch: PromptBatch, count: int, seed: int) -> Trajectories:
        items = torch.randint(48, (len(batch), count), generator=torch.Generator().manual_seed(seed))
        drawn = Trajectories.from_items(items, CATALOG.trie.codes(items), "policy")
        return replace(drawn, log_pf=torch.zeros(*items.shape, CATALOG.trie.levels))


def traced() -> dict[str, Any]:
    """What DeepSpeed knows after the backward of each step about the order in which weights are needed."""
    trainer = make_trainer(
        out / "traced", samplers={"target": 1, "policy": 2}, max_steps=5, parts={"samplers": {"policy": Elsewhere()}}
    )
    modes: list[str] = []

    def look(*_: Any, **__: Any) -> None:
        coordinator = trainer.deepspeed.optimizer.parameter_offload.get_param_coordinator()
        modes.append(coordinator._PartitionedParameterCoordinator__trace_mode.name)

    callback = TrainerCallback()
    callback.on_step_end = look
    trainer.add_callback(callback)
    trainer.train()
    gaps = ["sampler/log_pf_gap" in record for record in trainer.state.log_history if "loss" in record]
    return {"modes": modes, "gaps": gaps}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "adamw": lambda: train("adamw", export=True, **TWENTY),
    "sgd": lambda: train("sgd", **SGD),
    "accumulated": lambda: train("accumulated", per_device_train_batch_size=2, **SGD),
    "checkpointed": lambda: train("checkpointed", gradient_checkpointing=True, **SGD),
    "checkpointed, reentrant": lambda: train(
        "reentrant", gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": True}, **SGD
    ),
    "lora": lora,
    "dpo": lambda: train("dpo", method="dpo", **PAIRS),
    "grpo": lambda: train("grpo", method="grpo", beta=0.1, rewards={"similarity": 1.0}, **PAIRS),
    "relative": lambda: train("relative", reference_weight=1.0, **SGD),
    "t5": lambda: train(
        "t5", export=True, kind="t5", sft_positions="target", eval_strategy="steps", eval_steps=4, **PAIRS
    ),
    "reward model": reward_model,
    "logged": logged,
    "resume": resume,
    "bf16": half,
    "other processes": other_processes,
    "sharded": sharded,
    "traced": traced,
}


def main() -> None:
    results = {name: CASES[name]() for name in sys.argv[2:] or [*CASES][:-4]}
    trainer = make_trainer(out / "last")
    if trainer.accelerator.is_main_process:
        (out / "result.json").write_text(json.dumps(results))
    trainer.end_training()


if __name__ == "__main__":
    main()
