"""What a trajectory is worth.

A `Reward` maps prompts and trajectories to values [B, K] >= 0. The stock ones lie between 0 and 1, 1 is the best, and
items that share a semantic ID have the same; `rank` is the exception, a penalty for methods that take no logarithm:

- `hit`: 1 for the item that the user took next
- `behavior`: what the user did with an item, by behavior or by rating
- `collaborative`: a recommender's probability of the item
- `likelihood`: the policy's own probability of the item
- `similarity`: how many codes agree with the target's: `MatchedCodes` anywhere, `SharedPrefix` from the root
- `rank`: a penalty for a miss, the larger the likelier the policy found it
- `trl`: a reward function of TRL, (prompts, completions, **columns) -> list, as a reward
- `reward_model`: a model that classifies sequences, as a reward function of TRL
- `load`: rewards by name, with their settings, and your own, a function or class named by its import path
- `base`: `WeightedSum` adds them up and checks what they return; `log_reward` applies floor and temperature

A new reward is one file here and one line in `REWARDS`.
"""

from rewards.base import Reward, WeightedSum, log_reward
from rewards.behavior import Behavior
from rewards.collaborative import Collaborative
from rewards.hit import Hit
from rewards.likelihood import Likelihood
from rewards.load import REWARDS, RewardParts, as_reward, build_rewards, load_reward, named_rewards
from rewards.rank import Rank
from rewards.similarity import MatchedCodes, SharedPrefix
from rewards.trl import TRLReward

__all__ = [
    "REWARDS",
    "Behavior",
    "Collaborative",
    "Hit",
    "Likelihood",
    "MatchedCodes",
    "Rank",
    "Reward",
    "RewardParts",
    "SharedPrefix",
    "TRLReward",
    "WeightedSum",
    "as_reward",
    "build_rewards",
    "load_reward",
    "named_rewards",
    "log_reward",
]
