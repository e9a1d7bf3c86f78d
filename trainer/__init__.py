"""Trainers that look like TRL's: one small class and one config per method.

`TrajectoryTrainer` (on transformers.Trainer) draws K trajectories per prompt once per optimizer step, scores them and
averages an objective; on top of it `RolloutTrainer` draws from a mixture of samplers, with vLLM if asked, and
`ObjectiveTrainer` has rewards and a reference policy. The objectives are pure functions in `trainer/objectives/`. A new
method is such a function, a config whose `loss` binds it, and one line in `METHODS`.
"""

from trainer.config import RolloutConfig, TrajectoryConfig
from trainer.dpo_trainer import DPOConfig, DPOTrainer, SDPOConfig, SDPOTrainer
from trainer.gflownet_trainer import GFlowNetConfig, GFlowNetTrainer
from trainer.grpo_trainer import GRPOConfig, GRPOTrainer
from trainer.metrics import METRICS
from trainer.objective_trainer import ObjectiveTrainer
from trainer.rollout_trainer import RolloutTrainer
from trainer.sft_trainer import SFTConfig, SFTTrainer
from trainer.trajectory_trainer import TrajectoryTrainer

METHODS: dict[str, tuple[type[TrajectoryTrainer], type[TrajectoryConfig]]] = {
    "sft": (SFTTrainer, SFTConfig),
    "dpo": (DPOTrainer, DPOConfig),
    "sdpo": (SDPOTrainer, SDPOConfig),
    "grpo": (GRPOTrainer, GRPOConfig),
    "gflownet": (GFlowNetTrainer, GFlowNetConfig),
}
"""Every method by its recipe name."""

__all__ = [
    "METHODS",
    "METRICS",
    "DPOConfig",
    "DPOTrainer",
    "GFlowNetConfig",
    "GFlowNetTrainer",
    "GRPOConfig",
    "GRPOTrainer",
    "ObjectiveTrainer",
    "RolloutConfig",
    "RolloutTrainer",
    "SDPOConfig",
    "SDPOTrainer",
    "SFTConfig",
    "SFTTrainer",
    "TrajectoryConfig",
    "TrajectoryTrainer",
]
