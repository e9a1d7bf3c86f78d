"""Rewards by name: those of this room, and a user's own by import path."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from catalog import Catalog
from rewards.base import Reward, WeightedSum
from rewards.hit import Hit
from rewards.similarity import SharedPrefix

REWARDS: dict[str, Callable[[Catalog], Reward]] = {"hit": Hit, "similarity": SharedPrefix}


def load_reward(name: str, catalog: Catalog) -> Reward:
    """The reward called `name`, or the one that the import path "my_module:my_reward" leads to.

    A class is constructed with the catalogue as its only argument; a function is the reward itself. Modules are also
    looked for in the working directory. Raises ValueError naming what is missing.
    """
    if name in REWARDS:
        return REWARDS[name](catalog)
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"There is no reward {name!r}. Use one of {sorted(REWARDS)} or an import path module:name.")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Reward {name!r}: no module named {error.name!r}. Put its folder on PYTHONPATH or run from there."
        ) from error
    reward: Any = getattr(module, attribute, None)
    if not callable(reward):
        raise ValueError(f"Reward {name!r}: {module_name} has no function or class {attribute!r}.")
    return reward(catalog) if isinstance(reward, type) else reward


def build_rewards(weights: Mapping[str, float], catalog: Catalog) -> WeightedSum:
    """The weighted sum of the rewards named in `weights`: {"hit": 1.0, "my_module:my_reward": 0.5}."""
    return WeightedSum({name: load_reward(name, catalog) for name in weights}, weights)
