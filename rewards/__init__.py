"""What a trajectory is worth.

A `Reward` maps prompts and trajectories to values [B, K] >= 0: `Hit` (the item taken next), `SharedPrefix` (how many
codes agree), or your own, a function or class named by its import path. `WeightedSum` adds them up and checks what they
return; `log_reward` applies the floor and the temperature. A new reward is one file here and one line in `REWARDS`.
"""

from rewards.base import Reward, WeightedSum, log_reward
from rewards.hit import Hit
from rewards.load import REWARDS, build_rewards, load_reward
from rewards.similarity import SharedPrefix

__all__ = ["REWARDS", "Hit", "Reward", "SharedPrefix", "WeightedSum", "build_rewards", "load_reward", "log_reward"]
