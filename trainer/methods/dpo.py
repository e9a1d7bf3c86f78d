"""Direct preference optimization, and its form with several negatives: the target against other items.

The method is `WithoutFlows` of without_flows.py with the objective that `make_objective` gives.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from catalog.errors import InputError
from catalog.settings import at_least
from trainer.objectives import Objective, dpo, sdpo
from trainer.rollout_config import ReferenceConfig


@dataclass
class PreferenceConfig(ReferenceConfig):
    """Arguments of both: the target is preferred to the trajectories of all other samplers, the negatives."""

    sft_weight: float = field(
        default=0.0, metadata={"help": "Weight of L_SFT beside the objective; 0 leaves the objective alone."}
    )

    @property
    def reads_reference(self) -> bool:
        return True

    @property
    def fewest_trajectories(self) -> int:
        return 2


@dataclass
class DPOConfig(PreferenceConfig):
    """Arguments of `DPOTrainer`; beta, label_smoothing and loss_type are TRL's."""

    default_samplers = {"target": 1, "random": 1}

    beta: float = field(default=0.1, metadata={"help": "How strongly the policy is held to the reference, > 0."})
    label_smoothing: float = field(
        default=0.0, metadata={"help": "Share of the pairs believed to be the wrong way round, 0 to 0.5; of 'sigmoid'."}
    )
    loss_type: Literal["sigmoid", "ipo"] = field(
        default="sigmoid", metadata={"help": "'sigmoid': DPO; 'ipo': squared distance of the margin to 1 / (2 beta)."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "beta", strictly=True)
        if not 0 <= self.label_smoothing < 0.5:
            raise InputError(
                f"label_smoothing={self.label_smoothing}: it must be at least 0 and below 0.5.",
                field="label_smoothing",
                value=self.label_smoothing,
            )
        if self.label_smoothing and self.loss_type == "ipo":
            raise InputError(
                "label_smoothing is of loss_type: sigmoid.", remedy="Leave it out.", field="label_smoothing"
            )

    def make_objective(self) -> Objective:
        return partial(dpo, beta=self.beta, label_smoothing=self.label_smoothing, loss_type=self.loss_type)


@dataclass
class SDPOConfig(PreferenceConfig):
    """Arguments of `SDPOTrainer`."""

    default_samplers = {"target": 1, "random": 3}

    beta: float = field(default=1.0, metadata={"help": "How strongly the policy is held to the reference, > 0."})

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "beta", strictly=True)

    def make_objective(self) -> Objective:
        return partial(sdpo, beta=self.beta)
