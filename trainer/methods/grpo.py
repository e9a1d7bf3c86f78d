"""Group-relative policy optimization: what has more reward than its group becomes likelier.

The method is `WithoutFlows` of without_flows.py with the objective that `make_objective` gives.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from catalog.errors import InputError
from catalog.settings import at_least
from trainer.objectives import Objective, grpo
from trainer.rollout_config import ReferenceConfig


@dataclass
class GRPOConfig(ReferenceConfig):
    """Arguments of `GRPOTrainer`; all but sft_weight and early_clip are TRL's, with its defaults."""

    default_samplers = {"policy": 8}
    default_rewards = {"hit": 1.0}
    needs_target = False

    sft_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of L_SFT beside the objective; above 0 the samplers need the target, in the group."},
    )
    beta: float = field(
        default=0.0, metadata={"help": "Weight of KL(P_F || P_ref); 0 needs no reference policy and saves its forward."}
    )
    epsilon: float = field(
        default=0.2,
        metadata={"help": "Clip of the ratio to the policy that drew, which is 1 without rollout_staleness."},
    )
    epsilon_high: float | None = field(default=None, metadata={"help": "Its upper side, epsilon if not given."})
    scale_rewards: Literal["group", "none"] = field(
        default="group", metadata={"help": "'group' divides advantages by the group's standard deviation."}
    )
    use_bias_correction_kl: bool = field(
        default=True,
        metadata={"help": "Multiply KL by the ratio: the gradient then is that of the reverse KL (arXiv 2512.02556)."},
    )
    early_clip: float | None = field(
        default=None,
        metadata={
            "help": "Delta of ECPO (OneRec, arXiv 2506.13695): bounds the ratio of negative advantages; 0.1 there."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "beta", "epsilon", "epsilon_high", "early_clip")
        if self.normalization == "vocabulary" and self.rollout_staleness:
            raise InputError(
                "normalization: the ratio to older policies needs 'trie', in which they drew.",
                remedy="Set one of the two.",
                field="normalization",
            )

    def make_objective(self) -> Objective:
        names = ("beta", "epsilon", "epsilon_high", "scale_rewards", "early_clip", "use_bias_correction_kl")
        return partial(grpo, **{name: getattr(self, name) for name in names})

    @property
    def reads_reference(self) -> bool:
        return self.beta > 0

    @property
    def fewest_trajectories(self) -> int:
        return 2
