"""What a run can be told: one dataclass per method, each holding only what that method adds."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import TrainingArguments

from trainer.objectives import OBJECTIVES


@dataclass
class TrajectoryConfig(TrainingArguments):
    """Arguments of every method, on top of `transformers.TrainingArguments`."""

    max_history: int = field(default=20, metadata={"help": "How many of a user's newest items the prompt holds."})
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
            "history comes to be the place where trajectories start. What the rows tell of their target (behaviour, "
            "rating) belongs to another item then and is dropped."
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
        super().__post_init__()
        if self.max_history < 1:
            raise ValueError(f"max_history={self.max_history}: a prompt holds at least one item. Set it to 1 or more.")
        if self.beam_width < 50:
            raise ValueError(f"beam_width={self.beam_width}: recall@50 needs 50 or more.")


@dataclass
class SFTConfig(TrajectoryConfig):
    """Arguments of `SFTTrainer`: maximum likelihood, nothing to add."""


@dataclass
class GFlowNetConfig(TrajectoryConfig):
    """Arguments of `GFlowNetTrainer`: L = L_SFT + flow_weight * mean_k L_GFN(tau_k)."""

    objective: str = field(
        default="tb", metadata={"help": "Flow objective: 'tb' with a learned log Z(u), or 'vargrad' without one."}
    )
    flow_weight: float = field(
        default=1.0, metadata={"help": "Lambda, the weight of the flow loss against the SFT loss. The paper's is 1."}
    )
    samplers: dict[str, int] | str | None = field(
        default=None,
        metadata={
            "help": "Trajectories per prompt from each sampler, for instance {target: 1, policy: 3}. "
            "Known are target, random and policy."
        },
    )
    rewards: dict[str, float] | str | None = field(
        default=None,
        metadata={
            "help": "Rewards and their weights in the sum, for instance {hit: 1.0, similarity: 0.5}. "
            "A reward of yours is named by its import path, my_module:my_reward."
        },
    )
    reward_floor: float = field(default=1e-3, metadata={"help": "Smallest reward before the log; must be > 0."})
    reward_temperature: float = field(
        default=1.0, metadata={"help": "Divides log R: below 1 sharpens the target distribution; must be > 0."}
    )
    flow_learning_rate: float = field(
        default=1e-2, metadata={"help": "Learning rate of log Z; far above the policy's, since it must follow it."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.samplers = _table("samplers", self.samplers, {"target": 1, "policy": 3})
        self.rewards = _table("rewards", self.rewards, {"hit": 1.0, "similarity": 1.0})
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective={self.objective!r} is not one of {sorted(OBJECTIVES)}.")
        for name in ("reward_floor", "reward_temperature", "flow_learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: it must be > 0, for instance 1e-3.")
        if not self.flow_weight >= 0:
            raise ValueError(f"flow_weight={self.flow_weight}: it must be >= 0; 1 is the paper's.")


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
    if not isinstance(value, dict) or any(
        not isinstance(v, int | float) or isinstance(v, bool) for v in value.values()
    ):
        raise ValueError(f"{name}={value!r} is not a table of names and numbers such as {default}.")
    return value
