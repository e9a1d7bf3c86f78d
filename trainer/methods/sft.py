"""Supervised fine-tuning: every method trains the targets, this one trains nothing else.

The method is `WithoutFlows` of without_flows.py without an objective; L_SFT is in `RecommenderTrainer.compute_loss`.
"""

from dataclasses import dataclass

from trainer.config import TrainingConfig


@dataclass
class SFTConfig(TrainingConfig):
    """Arguments of `SFTTrainer`: maximum likelihood, nothing to add."""
