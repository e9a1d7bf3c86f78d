"""Where trajectories come from.

A `Sampler` draws trajectories for a batch of prompts: `TargetSampler` (what the user took), `RandomSampler` (what the
user has not met) and `PolicySampler` (the policy itself, the reference rollout worker). `Mixture` puts a fixed number
from each side by side. A new sampler is one file here and one line where the trainer lists them.
"""

from samplers.base import Mixture, Sampler
from samplers.policy import PolicySampler
from samplers.random import RandomSampler
from samplers.target import TargetSampler

__all__ = ["Mixture", "PolicySampler", "RandomSampler", "Sampler", "TargetSampler"]
