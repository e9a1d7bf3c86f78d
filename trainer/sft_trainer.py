"""Supervised fine-tuning."""

from samplers import Mixture, TargetSampler
from trainer.trajectory_trainer import TrajectoryTrainer


class SFTTrainer(TrajectoryTrainer):
    """Raises the likelihood of the items that users took; with sft_positions="all", of a whole history in one pass."""

    def mixture(self) -> Mixture:
        return Mixture({"target": TargetSampler(self.trie)}, {"target": 1})
