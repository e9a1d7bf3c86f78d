"""What a run can be told: one dataclass per method, each holding only what that method adds."""

import json
import os
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import TrainingArguments

from catalog import SOURCES
from trainer.launch import after_processes_joined, before_processes_join, share_out
from trainer.objectives import OBJECTIVES


@dataclass
class TrajectoryConfig(TrainingArguments):
    """Arguments of every method, on top of `transformers.TrainingArguments`."""

    global_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Prompts per optimiser step over all processes, so that a recipe means the same on any number of "
            "them. per_device_train_batch_size then is the most that a process takes at once, and "
            "gradient_accumulation_steps follows."
        },
    )
    per_device_train_batch_size: int = field(
        default=8, metadata={"help": "Prompts of a micro-batch on each process; with global_batch_size at most."}
    )
    ddp_backend: str | None = field(
        default=None, metadata={"help": "How processes talk: by default gloo without a GPU, nccl with."}
    )
    max_history: int = field(default=20, metadata={"help": "How many of a user's newest items the prompt holds."})
    prompt_template: str | None = field(
        default=None,
        metadata={
            "help": "Text around the codes of the history, for a pretrained backbone: {history} stands for the codes, "
            "{titles}, which may come before it, for the titles of the same items. By default there is no text. "
            "{titles} need sft_positions: target, since they name the items before their codes do."
        },
    )
    sft_positions: Literal["all", "target"] = field(
        default="all",
        metadata={
            "help": "Which items the SFT term learns: 'all' trains every item of the history in the same pass, "
            "'target' only the item after the prompt, as in the paper."
        },
    )
    random_cut: bool = field(
        default=False,
        metadata={
            "help": "End each prompt at a random item of its row, anew in every epoch, so that every position of a "
            "history comes to be the place where trajectories start. Behaviour and rating follow their items; other "
            "columns but user belong to the old target and are dropped."
        },
    )
    beam_width: int = field(default=50, metadata={"help": "Width of the trie-constrained beam that evaluates."})
    exclude_history: bool = field(
        default=True, metadata={"help": "Leave the items a user already has out of the ranking."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after this many evaluations without a better metric_for_best_model."},
    )
    dataloader_pin_memory: bool = field(
        default=False, metadata={"help": "Of no use here: what the dataloader hands over are rows, not tensors."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False,
        metadata={
            "help": "Must stay off: flow heads run after the backbone's forward, where DDP would call them unused."
        },
    )
    report_to: None | str | list[str] = field(default="none", metadata={"help": "Experiment trackers to report to."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay off: rows carry columns that rewards read, not the model."}
    )

    def __post_init__(self) -> None:
        if self.global_batch_size is not None:
            processes = int(os.environ.get("WORLD_SIZE", 1))
            self.per_device_train_batch_size, self.gradient_accumulation_steps = share_out(
                self.global_batch_size, self.per_device_train_batch_size, processes
            )
        if self.deepspeed and "WORLD_SIZE" not in os.environ:
            raise ValueError(
                "deepspeed: no launcher started this process. Use accelerate launch with one of recipes/accelerate."
            )
        before_processes_join()
        if os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16" and torch.cuda.is_available():
            self.bf16 = True  # the launch recipe said so, and DeepSpeed wants both to say the same
        if "WORLD_SIZE" in os.environ and not torch.cuda.is_available() and self.ddp_backend is None:
            self.ddp_backend = "gloo"
        super().__post_init__()
        after_processes_joined()
        if self.max_history < 1:
            raise ValueError(f"max_history={self.max_history}: a prompt holds at least one item. Set it to 1 or more.")
        if "{titles}" in (self.prompt_template or "") and self.sft_positions == "all":
            raise ValueError(
                "prompt_template: {titles} would tell the items of the history before they are learned. Set "
                "sft_positions: target, or leave the titles out."
            )
        if self.beam_width < 50:
            raise ValueError(f"beam_width={self.beam_width}: recall@50 needs 50 or more.")


@dataclass
class SFTConfig(TrajectoryConfig):
    """Arguments of `SFTTrainer`: maximum likelihood, nothing to add."""


@dataclass
class RolloutConfig(TrajectoryConfig):
    """Arguments of the methods that draw trajectories: which samplers, and what draws from the policy.

    The names with vllm in them are TRL's where TRL has the setting.
    """

    samplers: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Trajectories per prompt from each sampler, for instance {target: 1, curriculum: 2, policy: 1}; "
            "with settings of its own {target: 1, policy: {count: 2, beams: true}}. Known are target, interactions, "
            "random, curriculum, confidence, policy and replay."
        },
    )
    trajectories: int | None = field(
        default=None, metadata={"help": "K: where given, the counts of the samplers must sum to it."}
    )
    recommender: str | None = field(
        default=None,
        metadata={"help": "Folder of a fitted collaborative model: what collaborative, curriculum and confidence ask."},
    )
    use_vllm: bool = field(
        default=False, metadata={"help": "Draw what the sampler `policy` gives with vLLM instead of transformers."}
    )
    vllm_mode: Literal["colocate", "server"] = field(
        default="colocate",
        metadata={"help": "'colocate': in the trainer's process and on its device; 'server': by recipes/serve.py."},
    )
    vllm_server_base_url: list[str] = field(
        default_factory=lambda: ["http://127.0.0.1:8000"],
        metadata={"help": "Of each server. Their key is read from the environment variable GFLOWGR_API_KEY."},
    )
    vllm_server_timeout: float = field(
        default=120.0, metadata={"help": "Seconds after which a server that does not answer is left out."}
    )
    vllm_enable_sleep_mode: bool = field(
        default=False,
        metadata={"help": "Of 'colocate' on a GPU: hand the engine's memory to the trainer between rollouts."},
    )
    vllm_engine: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Of 'colocate': further arguments of vllm.LLM, for instance {gpu_memory_utilization: 0.3, "
            "tensor_parallel_size: 2, dtype: bfloat16}. The dtype is that of training unless it is given here."
        },
    )
    rollout_staleness: int = field(
        default=0,
        metadata={
            "help": "How many optimiser steps before it is trained on a trajectory of the policy is drawn. 0 is "
            "on-policy; with 1 the engine draws for the next step while this one is trained."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.samplers = _table("samplers", self.samplers, {"target": 1, "policy": 3})
        self.vllm_engine = _table("vllm_engine", self.vllm_engine, {})
        if self.rollout_staleness < 0:
            raise ValueError(f"rollout_staleness={self.rollout_staleness}: it must be 0 or more.")
        if self.rollout_staleness and not self.use_vllm:
            raise ValueError("rollout_staleness: only vLLM draws ahead. Set use_vllm: true, or leave it out.")
        colocated = self.use_vllm and self.vllm_mode == "colocate"
        for name in ("vllm_engine", "vllm_enable_sleep_mode"):
            if getattr(self, name) and not colocated:
                raise ValueError(f"{name} is of use_vllm: true with vllm_mode: colocate. Leave it out.")
        if self.rollout_staleness and self.vllm_enable_sleep_mode:
            raise ValueError("rollout_staleness: an engine that sleeps draws nothing. Set one of the two.")
        if self.vllm_enable_sleep_mode and self.use_cpu:
            raise ValueError("vllm_enable_sleep_mode: vLLM sleeps on GPUs only. Leave it out.")
        if not self.vllm_server_base_url:
            raise ValueError("vllm_server_base_url is empty. Give the address of a server, or leave it out.")
        if not self.vllm_server_timeout > 0:
            raise ValueError(f"vllm_server_timeout={self.vllm_server_timeout}: give a number of seconds above 0.")


@dataclass
class GFlowNetConfig(RolloutConfig):
    """Arguments of `GFlowNetTrainer`: L = L_SFT + flow_weight * mean_k L_GFN(tau_k).

    The paper sums over k, so that its lambda of 1 with N = 3 is a flow_weight of 3.
    """

    objective: str = field(
        default="tb",
        metadata={
            "help": "Flow objective. With learned flows: 'tb', 'db', 'subtb'; without: 'vargrad'; with the exact flows "
            "of a reward that scores the whole catalogue: 'exact_tb', 'exact_db', 'flow_kl'."
        },
    )
    flow_weight: float = field(
        default=1.0,
        metadata={"help": "Lambda: weight of the flow loss, a mean over K trajectories, against L_SFT."},
    )
    subtb_lambda: float = field(
        default=0.9, metadata={"help": "Of 'subtb': near 0 only single steps count, far above 1 only whole paths."}
    )
    residual_clip: float | None = field(
        default=None,
        metadata={"help": "Beyond this a flow residual counts linearly (Huber), so that its gradient is bounded."},
    )
    reference_weight: float = field(
        default=0.0,
        metadata={
            "help": "Relative trajectory balance: the target becomes R * P_ref ** reference_weight, P_ref the policy "
            "that training starts from."
        },
    )
    source_weights: dict[str, float] | str | None = field(
        default=None,
        metadata={"help": "How much a sampler's trajectories count in the flow loss, 1 if not named: {policy: 0.5}."},
    )
    rewards: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Rewards and their weights in the sum, for instance {hit: 1.0, similarity: 0.5}; with settings of "
            "its own {behaviour: {weight: 1.0, values: {like: 10, click: 1}}}. Known are hit, behaviour, "
            "collaborative, likelihood, similarity and prefix; one of yours is named by its import path, "
            "my_module:my_reward."
        },
    )
    reward_floor: float = field(default=1e-3, metadata={"help": "Smallest reward before the log; must be > 0."})
    reward_floor_end: float | None = field(
        default=None, metadata={"help": "The floor at the end of training, reached geometrically."}
    )
    reward_temperature: float = field(
        default=1.0, metadata={"help": "Divides log R: below 1 sharpens the target distribution; must be > 0."}
    )
    reward_temperature_end: float | None = field(
        default=None, metadata={"help": "The temperature at the end of training, reached geometrically."}
    )
    flow_lr_multiplier: float = field(
        default=20.0,
        metadata={"help": "Learning rate of the flow heads over the policy's; far above 1, since they must follow it."},
    )
    match_rows: int = field(
        default=64,
        metadata={
            "help": "How many of eval_dataset's rows each evaluation compares exactly with R / Z, all items at once; 0 "
            "for none. Needs a reward that scores the catalogue, of at most 50,000 items."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rewards = _table("rewards", self.rewards, {"hit": 1.0, "similarity": 1.0})
        self.source_weights = _table("source_weights", self.source_weights, {})
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective={self.objective!r} is not one of {sorted(OBJECTIVES)}.")
        for name in ("reward_floor", "reward_temperature", "flow_lr_multiplier", "subtb_lambda"):
            self._at_least(name, 0, strictly=True)
        for name in ("reward_floor_end", "reward_temperature_end", "residual_clip"):
            if getattr(self, name) is not None:
                self._at_least(name, 0, strictly=True)
        for name in ("flow_weight", "reference_weight", "match_rows"):
            self._at_least(name, 0, strictly=False)
        if self.residual_clip is not None and "clip" not in OBJECTIVES[self.objective].options:
            raise ValueError(f"residual_clip={self.residual_clip}: {self.objective} has no residual. Leave it out.")
        for name, weight in self.source_weights.items():
            if name not in SOURCES or not isinstance(weight, int | float) or not weight >= 0:
                raise ValueError(f"source_weights: {name}: {weight}. Give some of {list(SOURCES)} a number >= 0.")

    def _at_least(self, name: str, bound: float, strictly: bool) -> None:
        value = getattr(self, name)
        if not (value > bound if strictly else value >= bound) or value == float("inf"):
            raise ValueError(f"{name}={value}: it must be a finite number {'>' if strictly else '>='} {bound}.")

    def at(self, name: str, progress: float) -> float:
        """reward_floor or reward_temperature when `progress` in [0, 1] of the training is done."""
        start, end = getattr(self, name), getattr(self, f"{name}_end")
        return start if end is None else start * (end / start) ** progress


def _table(name: str, value: dict[str, Any] | str | None, default: dict[str, Any]) -> dict[str, Any]:
    if isinstance(value, str):  # from the command line
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{name}={value!r} is not JSON. Write for instance --{name} '{json.dumps(default)}'."
            ) from error
    if value is None:
        return default
    if not isinstance(value, dict):
        raise ValueError(f"{name}={value!r} is not a table such as {default}.")
    return value
