"""What a run can be told whatever its method; each method's file holds the dataclass with what that method adds."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast

import torch
from transformers import TrainingArguments

from catalog import SOURCES
from catalog.errors import InputError, SetupError
from catalog.settings import as_table, at_least, check_table, check_values
from evaluation.metric_help import METRIC_HELP, RANKING
from trainer.methods.base import Method, MethodParts
from trainer.methods.policy import PolicyMethod
from trainer.objectives import Objective
from trainer.reporting.tracking import check_trackers
from trainer.runtime.best_model import settle_metric
from trainer.runtime.checkpoints import resumed
from trainer.runtime.launch import before_processes_join, resolve_batch_size, use_one_gpu
from trainer.runtime.training_arguments import check_optimizer, check_ranges, check_refused


@dataclass
class TrainingConfig(TrainingArguments):
    """Arguments of every method, on top of `transformers.TrainingArguments`.

    What stands here without a help text is what a method has that draws nothing but the target; the configs of the
    others make settings of it. `make_method` says what the settings mean.
    """

    default_samplers: ClassVar[dict[str, Any]] = {"target": 1}
    default_rewards: ClassVar[dict[str, Any]] = {}
    samplers, rewards, source_weights = cast(Any, default_samplers), cast(Any, {}), cast(Any, {})
    recommender = trajectories = cast(Any, None)
    signed_rewards: ClassVar[bool] = False
    use_vllm = precompute_ref_log_probs = cast(Any, False)
    sft_weight, rollout_staleness = cast(Any, 1.0), cast(Any, 0)

    global_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Prompts per optimizer step over all processes, so that a recipe means the same on any number of "
            "them. per_device_train_batch_size then is the most that a process takes at once, and "
            "gradient_accumulation_steps follows."
        },
    )
    per_device_train_batch_size: int = field(
        default=8, metadata={"help": "Prompts of a micro-batch on each process; with global_batch_size at most."}
    )
    ddp_backend: str | None = field(
        default=None,
        metadata={
            "help": "How processes talk: by default gloo without a GPU, nccl with.",
            "choices": ["gloo", "nccl", "mpi", "xccl"],
        },
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "true: go on from the run's last whole checkpoint, or begin where there is none; false: begin "
            "anew; or the folder of a checkpoint. The folder of a run stands for its last whole checkpoint."
        },
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
            "history comes to be the place where trajectories start. Behavior and rating follow their items; other "
            "columns but user belong to the old target and are dropped."
        },
    )
    normalization: Literal["trie", "vocabulary"] = field(
        default="trie",
        metadata={
            "help": "What the losses' log-probabilities sum to 1 over: 'trie', the codes that lead to an item, or "
            "'vocabulary', every token, as TRL's trainers have it. Draws and beams keep to the trie."
        },
    )
    beam_width: int = field(default=50, metadata={"help": "Width of the trie-constrained beam that evaluates."})
    exclude_history: bool = field(
        default=True, metadata={"help": "Leave the items a user already has out of the ranking."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations without a better metric_for_best_model, by default recall@10."
        },
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
    report_to: None | str | list[str] = field(
        default="none", metadata={"help": "Experiment trackers to report to: tensorboard, wandb, trackio, ..."}
    )
    log_trajectories_steps: int | None = field(
        default=None,
        metadata={"help": "Log a table of sampled trajectories each N optimizer steps, to a file and the trackers."},
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay off: rows carry columns that rewards read, not the model."}
    )

    def __post_init__(self) -> None:
        self.resume_from_checkpoint = resumed(self.resume_from_checkpoint, self.output_dir)  # type: ignore[assignment]
        check_values(self, without=("resume_from_checkpoint", "accelerator_config", "debug"))
        for name in ("lr_scheduler_kwargs", "gradient_checkpointing_kwargs"):
            if getattr(self, name) is not None:
                setattr(self, name, as_table(name, getattr(self, name)))
        check_refused(self)
        check_ranges(self)
        at_least(self, 1, "log_trajectories_steps", "max_history", "early_stopping_patience")
        at_least(self, 50, "beam_width")  # of recall@50
        settle_metric(self, self.eval_metrics)
        if "{titles}" in (self.prompt_template or "") and self.sft_positions == "all":
            raise InputError(
                "prompt_template: {titles} would tell the items of the history before they are learned.",
                remedy="Set sft_positions: target, or leave the titles out.",
                field="prompt_template",
                value=self.prompt_template,
            )
        self._start()
        check_trackers(self.report_to)  # type: ignore[arg-type]  # a list by now
        check_optimizer(self)

    def _start(self) -> None:
        """What `TrainingArguments` makes of the settings: it looks for the device and lets processes join."""
        if self.global_batch_size is not None:
            processes = int(os.environ.get("WORLD_SIZE", 1))
            self.per_device_train_batch_size, self.gradient_accumulation_steps = resolve_batch_size(
                self.global_batch_size, self.per_device_train_batch_size, processes
            )
        if self.deepspeed and "WORLD_SIZE" not in os.environ:
            raise InputError(
                "deepspeed: no launcher started this process.",
                remedy="Use accelerate launch with one of recipes/accelerate.",
                field="deepspeed",
            )
        before_processes_join()
        if os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16" and torch.cuda.is_available():
            self.bf16 = True  # the launch recipe said so, and DeepSpeed wants both to say the same
        if "WORLD_SIZE" in os.environ and not torch.cuda.is_available() and self.ddp_backend is None:
            self.ddp_backend = "gloo"
        try:
            super().__post_init__()
        except (ValueError, TypeError) as error:
            raise InputError(f"transformers refuses these settings: {error}.", remedy="Correct them.") from error
        except ImportError as error:
            raise SetupError(
                f"A package is missing: {error}.", remedy="Install it, or leave the setting out."
            ) from error
        if self.fp16 and self.device.type == "cpu":
            raise InputError(
                "fp16 computes on GPUs only.", remedy="Use bf16, or leave it out.", field="fp16", value=True
            )
        use_one_gpu(self)

    @property
    def eval_metrics(self) -> list[str]:
        """The metrics with a meaning that an evaluation of the run gives."""
        return [name for name, metric in METRIC_HELP.items() if metric.group == RANKING]

    @property
    def reads_reference(self) -> bool:
        """Whether the method compares with the policy that training starts from."""
        return False

    @property
    def numbers_rows(self) -> bool:
        """Whether something is kept of each training row, by its number."""
        return self.precompute_ref_log_probs

    @property
    def flow_head(self) -> str | None:
        """Which flows are learned: "prompt", of the root; "nodes", of every node; None for none."""
        return None

    @property
    def fewest_trajectories(self) -> int:
        """How many trajectories a prompt needs at least."""
        return 1

    def make_method(self, parts: MethodParts) -> Method:
        """The method of a run with these settings."""
        return PolicyMethod(None, parts, {})


@dataclass
class RolloutConfig(TrainingConfig, ABC):
    """Arguments of the methods that draw trajectories: which samplers and rewards, and what draws from the policy.

    A method's own config adds its settings and says with `loss` what they mean. The names with vllm in them are TRL's
    where TRL has the setting.
    """

    default_samplers: ClassVar[dict[str, Any]] = {"target": 1, "policy": 3}
    default_rewards: ClassVar[dict[str, Any]] = {}
    needs_target: ClassVar[bool] = True
    """Whether the objective reads the target's own trajectory, whatever sft_weight is."""
    signed_rewards: ClassVar[bool] = True
    """Whether rewards may be below 0."""

    sft_weight: float = field(
        default=1.0,
        metadata={"help": "Weight of L_SFT beside the method's own objective; 0 leaves the objective alone."},
    )
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
    source_weights: dict[str, float] | str | None = field(
        default=None,
        metadata={"help": "How much a sampler's trajectories count in the objective, 1 if not named: {policy: 0.5}."},
    )
    rewards: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Rewards and their weights in the sum, for instance {hit: 1.0, similarity: 0.5}; with settings of "
            "its own {behavior: {weight: 1.0, values: {like: 10, click: 1}}}. Known are hit, behavior, "
            "collaborative, likelihood, similarity, prefix and rank; one of yours is named by its import path, "
            "my_module:my_reward. dpo and sdpo log them and read none."
        },
    )
    recommender: str | None = field(
        default=None,
        metadata={"help": "Folder of a fitted recommender: what collaborative, curriculum and confidence ask."},
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
            "help": "How many optimizer steps before it is trained on a trajectory of the policy is drawn. 0 is "
            "on-policy; with 1 the engine draws for the next step while this one is trained."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.samplers = as_table("samplers", self.samplers, self.default_samplers)
        self.rewards = as_table("rewards", self.rewards, self.default_rewards)
        self.source_weights = as_table("source_weights", self.source_weights)
        at_least(self, 0, "sft_weight")
        at_least(self, 1, "trajectories")
        check_table("source_weights", self.source_weights, dict.fromkeys(SOURCES, float), "the trajectories' sources")
        weights = [self.source_weights.get(name, 1.0) for name in self.samplers]
        if not any(weights) or min(self.source_weights.values(), default=0.0) < 0:
            raise InputError(
                f"source_weights={self.source_weights}: a weight is below 0, or no trajectory counts.",
                remedy="Give each source a number of at least 0, and one that is sampled a number above 0.",
                field="source_weights",
                value=self.source_weights,
            )
        self._check_samplers()
        self._check_engine()

    def _check_samplers(self) -> None:
        if self.needs_target or self.sft_weight or "target" in self.samplers:  # type: ignore[operator]
            if self.samplers.get("target") != 1:  # type: ignore[union-attr]
                raise InputError(
                    f"samplers={self.samplers}: target: 1 is missing, the trajectory that the SFT term or the "
                    "objective learns.",
                    field="samplers",
                    value=self.samplers,
                )
            self.samplers = {"target": 1} | self.samplers  # type: ignore[operator]  # in front, in whatever order
        if self.use_vllm and not self.samplers.get("policy"):  # type: ignore[union-attr]
            raise InputError(
                f"use_vllm: none of samplers={self.samplers} is policy, which vLLM draws.",
                remedy="Leave it out.",
                field="use_vllm",
            )

    def _check_engine(self) -> None:
        self.vllm_engine = as_table("vllm_engine", self.vllm_engine)
        at_least(self, 0, "rollout_staleness")
        at_least(self, 0, "vllm_server_timeout", strictly=True)
        if self.rollout_staleness and not self.use_vllm:
            raise InputError(
                "rollout_staleness: only vLLM draws ahead.",
                remedy="Set use_vllm: true, or leave it out.",
                field="rollout_staleness",
            )
        colocated = self.use_vllm and self.vllm_mode == "colocate"
        for name in ("vllm_engine", "vllm_enable_sleep_mode"):
            if getattr(self, name) and not colocated:
                raise InputError(
                    f"{name} is of use_vllm: true with vllm_mode: colocate.", remedy="Leave it out.", field=name
                )
        if self.rollout_staleness and self.vllm_enable_sleep_mode:
            raise InputError(
                "rollout_staleness: an engine that sleeps draws nothing.",
                remedy="Set one of the two.",
                field="rollout_staleness",
            )
        if self.vllm_enable_sleep_mode and self.use_cpu:
            raise InputError(
                "vllm_enable_sleep_mode: vLLM sleeps on GPUs only.",
                remedy="Leave it out.",
                field="vllm_enable_sleep_mode",
            )
        if not self.vllm_server_base_url:
            raise InputError(
                "vllm_server_base_url is empty.",
                remedy="Give the address of a server, or leave it out.",
                field="vllm_server_base_url",
            )

    @abstractmethod
    def loss(self) -> Objective:
        """What a step minimizes, with its settings bound: FlowInputs -> LossOutput."""

    def make_method(self, parts: MethodParts) -> Method:
        return PolicyMethod(self.loss(), parts, self.source_weights)  # type: ignore[arg-type]  # a table by now


@dataclass
class ReferenceConfig(RolloutConfig):
    """Arguments of the methods whose objective compares with the policy that training starts from."""

    precompute_ref_log_probs: bool = field(
        default=False,
        metadata={
            "help": "Ask the reference policy once, before training, for every item after every training row, and keep "
            "rows x items x 4 bytes instead of a frozen copy of the model. LoRA has no copy anyway."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precompute_ref_log_probs:
            if not self.reads_reference:
                raise InputError(
                    "precompute_ref_log_probs: with beta 0 there is no reference policy.",
                    remedy="Leave it out.",
                    field="precompute_ref_log_probs",
                )
            if self.random_cut or self.normalization == "vocabulary":
                raise InputError(
                    "precompute_ref_log_probs is of whole rows and of items.",
                    remedy="Leave out either it, or random_cut and normalization.",
                    field="precompute_ref_log_probs",
                )
