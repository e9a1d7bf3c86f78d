"""Trainers that look like TRL's: one small subclass and one config per method.

`TrajectoryTrainer` (on transformers.Trainer) draws K trajectories per prompt once per optimiser step, scores them and
averages an objective; on top of it `RolloutTrainer` draws from a mixture of samplers, with vLLM if asked. `SFTTrainer`
and `GFlowNetTrainer` say which trajectories, rewards and objective. The objectives are pure functions in
`trainer/objectives/`. A new method is a subclass, a config and one line in `METHODS`.
"""

from trainer.config import GFlowNetConfig, RolloutConfig, SFTConfig, TrajectoryConfig
from trainer.gflownet_trainer import GFlowNetTrainer
from trainer.metrics import METRICS
from trainer.rollout_trainer import RolloutTrainer
from trainer.sft_trainer import SFTTrainer
from trainer.trajectory_trainer import TrajectoryTrainer

METHODS: dict[str, tuple[type[TrajectoryTrainer], type[TrajectoryConfig]]] = {
    "sft": (SFTTrainer, SFTConfig),
    "gflownet": (GFlowNetTrainer, GFlowNetConfig),
}
"""Every method by its recipe name."""

__all__ = [
    "METHODS",
    "METRICS",
    "GFlowNetConfig",
    "GFlowNetTrainer",
    "RolloutConfig",
    "RolloutTrainer",
    "SFTConfig",
    "SFTTrainer",
    "TrajectoryConfig",
    "TrajectoryTrainer",
]
