"""Where trajectories come from.

A `Sampler` draws trajectories for a batch of prompts; `Mixture` puts a fixed number from each side by side.

- `target`: what the user took, the first trajectory of every prompt
- `interactions`: what else the user took
- `random`: items that the user has not met
- `curriculum`: unknown items that a recommender scores, from easy to hard as training goes on
- `confidence`: of a recommender's favorites those that the policy finds least likely
- `policy`: draws or beams of the policy itself: by transformers, the reference rollout worker, or by a `RolloutEngine`
  that is given its weights, vLLM in this process or on servers, see `samplers.rollouts`
- `replay`: trajectories of earlier steps, by reward or by error
- `reward`: draws from the target distribution itself

`build_mixture` makes a mixture of what a recipe says. A new sampler is one file here, one line in `SAMPLERS` of `load`
and its source in `catalog.SOURCES`.
"""

from samplers.base import Mixture, Sampler
from samplers.confidence import ConfidenceSampler
from samplers.curriculum import CurriculumSampler
from samplers.interactions import InteractionsSampler
from samplers.load import SAMPLERS, SamplerParts, build_mixture
from samplers.policy import PolicySampler
from samplers.random import RandomSampler
from samplers.replay import ReplaySampler
from samplers.reward import RewardSampler
from samplers.rollouts.engine import RolloutEngine
from samplers.rollouts.sampler import RolloutSampler
from samplers.target import TargetSampler

__all__ = [
    "SAMPLERS",
    "ConfidenceSampler",
    "CurriculumSampler",
    "InteractionsSampler",
    "Mixture",
    "PolicySampler",
    "RandomSampler",
    "ReplaySampler",
    "RewardSampler",
    "RolloutEngine",
    "RolloutSampler",
    "Sampler",
    "SamplerParts",
    "TargetSampler",
    "build_mixture",
]
