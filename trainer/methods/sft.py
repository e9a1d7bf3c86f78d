"""Supervised fine-tuning: every method trains the targets, this one trains nothing else."""

from dataclasses import dataclass

from trainer.config import TrainingConfig


@dataclass
class SFTConfig(TrainingConfig):
    """Arguments of `SFTTrainer`: maximum likelihood, nothing to add."""
