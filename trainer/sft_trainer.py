"""Supervised fine-tuning."""

from dataclasses import dataclass

from trainer.config import TrajectoryConfig
from trainer.trajectory_trainer import TrajectoryTrainer


@dataclass
class SFTConfig(TrajectoryConfig):
    """Arguments of `SFTTrainer`: maximum likelihood, nothing to add."""


class SFTTrainer(TrajectoryTrainer):
    """Raises the likelihood of the items that users took; with sft_positions="all", of a whole history in one pass.

    It adds nothing to `TrajectoryTrainer`: every method trains the targets, this one trains nothing else.
    """
