"""What a run can be told whatever its method; each method's file holds the dataclass with what that method adds."""

import os
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Self, cast

import torch
from transformers import TrainingArguments

from catalog.errors import InputError, SetupError
from catalog.settings import as_table, at_least, check_values
from evaluation.ranking import EVAL_K, check_cutoffs, ranking_names
from trainer import from_trl
from trainer.methods.base import Method, MethodParts
from trainer.methods.without_flows import WithoutFlows
from trainer.reporting.tracking import check_trackers
from trainer.runtime.best_model import settle_metric
from trainer.runtime.checkpoint_files import resumed
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
    rewards, source_weights = cast(Any, {}), cast(Any, {})
    recommender = trajectories = cast(Any, None)
    signed_rewards: ClassVar[bool] = False
    use_vllm = precompute_ref_log_probs = recommender_ahead = cast(Any, False)
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
            "afresh; or the folder of a checkpoint. The folder of a run stands for its last whole checkpoint."
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
            "help": "End each prompt at a random item of its row, another in every epoch, so that every position of a "
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
    eval_k: list[int] = field(
        default_factory=lambda: list(EVAL_K),
        metadata={
            "help": "Cut-offs of an evaluation, at most beam_width: recall of each, NDCG of those above 1 (by "
            "default 5 and 10), MRR of the largest."
        },
    )
    eval_users: int | None = field(
        default=None,
        metadata={
            "help": "How many rows of eval_dataset an evaluation ranks, at random but the same ones every time; by "
            "default all."
        },
    )
    exclude_history: bool = field(
        default=True, metadata={"help": "Leave the items a user already has out of the ranking."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations without a better metric_for_best_model, by default recall@10, or "
            "that of the cut-off nearest to 10."
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
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={
            "help": "Of no use here: a loss that is no number ends the run, and each look at one waits for a GPU."
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

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        from_trl.refuse(cls.__name__, set(settings) - {field.name for field in fields(cls)}, from_trl.SETTINGS)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        self.resume_from_checkpoint = resumed(self.resume_from_checkpoint, self.output_dir)  # type: ignore[assignment]
        check_values(self, without=("resume_from_checkpoint", "accelerator_config", "debug"))
        for name in ("lr_scheduler_kwargs", "gradient_checkpointing_kwargs"):
            if getattr(self, name) is not None:
                setattr(self, name, as_table(name, getattr(self, name)))
        check_refused(self)
        check_ranges(self)
        at_least(self, 1, "log_trajectories_steps", "max_history", "early_stopping_patience", "eval_users")
        self.eval_k = check_cutoffs(self.eval_k, self.beam_width)
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
        return ranking_names(self.eval_k)

    @property
    def mixture(self) -> dict[str, Any]:
        """The samplers of a run by name, each with its count or its settings."""
        return self.default_samplers

    @property
    def reads_reference(self) -> bool:
        """Whether the method compares with the policy that training starts from."""
        return False

    @property
    def numbers_rows(self) -> bool:
        """Whether something is kept of each training row, by its number."""
        return self.precompute_ref_log_probs

    @property
    def keeps_rows(self) -> bool:
        """Whether each process keeps what it computes of its training rows, which then stay with it."""
        return False

    @property
    def has_target(self) -> bool:
        """Whether the method has a target distribution to draw from."""
        return False

    def named_items(self, items: int) -> int:
        """How many items of a prompt have rewards of their own in a catalog of `items`, 0 where all have."""
        return 0

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
        return WithoutFlows(None, parts, {})
