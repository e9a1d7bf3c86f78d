"""Trainers that look like TRL's: `RecommenderTrainer`, and for each method its name and its config.

Once per optimizer step it draws K trajectories per prompt, scores them and averages an objective. What distinguishes
the methods is data: an objective, a pure function in `trainer/objectives/`; and a config in `trainer/methods/` whose
`make_method` says what the loss reads and what trajectories are worth. A new method is these and one line in `METHODS`.

- `trainer`: the optimizer step, and what transformers does with files and optimizers otherwise
- `batches`: rows into the prompts of a step; `rollouts`: samplers and the engine behind `policy`
- `micro_batch`: what a step is made of; `evaluating`: what an evaluation measures
- `construction`: the parts, from config and caller; `given`, `front_door`, `checks`, `from_trl`: what is refused
- `config`, `rollout_config`: settings of every method, and of those that draw
- `scoring`: target, flows, reference; `runtime`: launch, processes, checkpoints, export
- `reporting`: the run's folder, metrics, tables
"""

from trainer.methods.dpo import DPOConfig, SDPOConfig
from trainer.methods.gflownet import GFlowNetConfig
from trainer.methods.grpo import GRPOConfig
from trainer.methods.sft import SFTConfig
from trainer.reporting.metrics import METRICS
from trainer.rollout_config import RolloutConfig, TrainingConfig
from trainer.trainer import RecommenderTrainer


class SFTTrainer(RecommenderTrainer):
    """Raises the likelihood of the items that users took; with sft_positions="all", of a whole history in one pass."""

    config_class = SFTConfig


class DPOTrainer(RecommenderTrainer):
    """Prefers the target to each negative, pair by pair (arXiv 2305.18290)."""

    config_class = DPOConfig


class SDPOTrainer(RecommenderTrainer):
    """Prefers the target to all negatives at once, by a softmax (S-DPO, arXiv 2406.09215)."""

    config_class = SDPOConfig


class GRPOTrainer(RecommenderTrainer):
    """Makes likelier what has more reward than its group (arXiv 2402.03300)."""

    config_class = GRPOConfig


class GFlowNetTrainer(RecommenderTrainer):
    """Teaches the policy to sample items in proportion to their reward (GFlowGR, arXiv 2506.16114)."""

    config_class = GFlowNetConfig


METHODS: dict[str, tuple[type[RecommenderTrainer], type[TrainingConfig]]] = {
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
    "RolloutConfig",
    "SDPOConfig",
    "SDPOTrainer",
    "SFTConfig",
    "SFTTrainer",
    "TrainingConfig",
    "RecommenderTrainer",
]
