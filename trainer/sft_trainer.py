"""Supervised fine-tuning."""

from trainer.trajectory_trainer import TrajectoryTrainer


class SFTTrainer(TrajectoryTrainer):
    """Raises the likelihood of the items that users took; with sft_positions="all", of a whole history in one pass.

    It adds nothing to `TrajectoryTrainer`: every method trains the targets, this one trains nothing else.
    """
