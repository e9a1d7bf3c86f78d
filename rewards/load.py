"""Rewards by name: those of this package with their settings, and a user's own by import path."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from catalog import Catalog
from catalog.errors import InputError
from catalog.settings import annotations, check_known, check_table, check_value
from interactions.prompts import PromptBatch
from policy import TriePolicy
from rewards.base import Reward, WeightedSum
from rewards.behavior import Behavior
from rewards.collaborative import Collaborative
from rewards.hit import Hit
from rewards.likelihood import Likelihood
from rewards.rank import Rank
from rewards.reward_model import RewardModel
from rewards.similarity import MatchedCodes, SharedPrefix
from rewards.trl import TRLReward, is_trl

REWARDS: dict[str, Callable[..., Reward]] = {
    "hit": Hit,
    "behavior": Behavior,
    "collaborative": Collaborative,
    "likelihood": Likelihood,
    "similarity": MatchedCodes,
    "prefix": SharedPrefix,
    "rank": Rank,
}
"""The stock rewards. Arguments with names of `RewardParts` are filled with these parts; the others are settings."""

REMEDIES = {
    "recommender": "Set recommender to the folder of a fitted one.",
    "policy": "Use it where a policy is trained or evaluated, RewardParts(policy=...).",
    "tokenizer": "Give the one that writes trajectories as text, RewardParts(tokenizer=...).",
}
"""What to do where a reward needs a part that the run does not have."""


@dataclass(frozen=True)
class RewardParts:
    """The parts of a run that rewards are made of.

    recommender: prompts -> probabilities [B, items], None where the run has none; policy: the one that is trained;
    tokenizer: that of the prompts, which writes the texts for reward functions of TRL; reward_items: how many items of
    a prompt have rewards of their own, 0 for all.
    """

    catalog: Catalog
    recommender: Callable[[PromptBatch], Tensor] | None = None
    policy: TriePolicy | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    reward_items: int = 0


def load_reward(name: str, parts: RewardParts, /, **settings: Any) -> Reward:
    """The reward called `name`, or the one that the import path "my_module:my_reward" leads to.

    A class is constructed with the catalog as its first argument and with `settings`. A function is the reward itself
    and has no settings. Either may be TRL's kind of reward, see `as_reward`. Modules are also looked for in the working
    directory. Raises InputError naming what is missing.
    """
    if name in REWARDS:
        return _construct(name, REWARDS[name], parts, settings)
    imported = _import(name)
    if isinstance(imported, type):
        return as_reward(name, _construct(name, partial(imported, parts.catalog), parts, settings), parts)
    if settings:
        raise InputError(
            f"Reward {name} is a function and has no setting {min(settings)!r}.", remedy="Make it a class."
        )
    return as_reward(name, imported, parts)


def as_reward(name: str, reward: Any, parts: RewardParts) -> Reward:
    """A reward as it is; a reward function of TRL, (prompts, completions, **columns) -> list, as a reward.

    Raises InputError where the latter has no tokenizer to make its texts.
    """
    if not is_trl(reward):
        return reward
    if parts.tokenizer is None:
        raise InputError(f"Reward {name} needs a tokenizer.", remedy=REMEDIES["tokenizer"])
    return TRLReward(reward, parts.catalog.trie, parts.tokenizer)


def named_rewards(given: Sequence[Any], parts: RewardParts) -> dict[str, Reward]:
    """Rewards by name, from what a caller gives in Python.

    given: rewards, reward functions of TRL, names and import paths of rewards, and models that classify sequences or
    their folders, see `RewardModel`.
    """
    device = parts.policy.tokens.device if parts.policy else None
    rewards: dict[str, Reward] = {}
    for number, reward in enumerate(given, 1):
        name = "reward" if len(given) == 1 else f"reward_{number}"
        if isinstance(reward, str) and (reward in REWARDS or ":" in reward):
            name, made = reward, load_reward(reward, parts)
        elif isinstance(reward, str | Path):
            name = Path(reward).name
            made = as_reward(name, RewardModel.load(reward, device), parts)
        elif isinstance(reward, PreTrainedModel):
            made = as_reward(name, RewardModel.load(reward, device), parts)
        else:
            made = as_reward(name, reward, parts)
        rewards[f"{name}_{number}" if name in rewards else name] = made
    return rewards


def build_rewards(
    settings: Mapping[str, float | Mapping[str, Any]], parts: RewardParts, signed: bool = False
) -> WeightedSum:
    """The weighted sum that a recipe asks for: {hit: 1.0, behavior: {weight: 0.5, values: {like: 10, click: 1}}}.

    settings: each reward's weight, or a table of its weight, by default 1, and its settings. signed: whether values
    below 0 are allowed.
    """
    tables = {name: dict(v) if isinstance(v, Mapping) else {"weight": v} for name, v in settings.items()}
    weights = {name: table.pop("weight", 1.0) for name, table in tables.items()}
    for name, weight in weights.items():
        check_value(name, weight, float, "rewards")
    if weights and not any(weights.values()):
        raise InputError(
            f"The rewards {sorted(weights)} all have the weight 0.",
            remedy="Give one a weight above 0.",
            field="rewards",
            value=dict(settings),
        )
    rewards = {name: load_reward(name, parts, **table) for name, table in tables.items()}
    return WeightedSum(rewards, weights, parts.catalog, signed)


def settings_of(name: str) -> list[str]:
    """What the reward at an import path takes beside the parts of a run; nothing where it is a function.

    Raises InputError where the path leads nowhere.
    """
    imported = _import(name)
    if not isinstance(imported, type):
        return []
    parts = {part.name for part in fields(RewardParts)}
    arguments = list(inspect.signature(imported).parameters)[1:]  # the first one is the catalog
    return [argument for argument in arguments if argument not in parts]


def _construct(name: str, build: Callable[..., Reward], parts: RewardParts, settings: Mapping[str, Any]) -> Reward:
    signature = inspect.signature(build)
    needed = {part.name: getattr(parts, part.name) for part in fields(parts) if part.name in signature.parameters}
    if missing := [part for part, value in needed.items() if value is None]:
        raise InputError(f"Reward {name} needs a {missing[0]}.", remedy=REMEDIES[missing[0]])
    known = [setting for setting in signature.parameters if setting not in needed]
    if name in REWARDS:
        kinds = annotations(build)
        kinds = {"weight": float} | {setting: kinds[setting] for setting in known}
        check_table("rewards", settings, kinds, f"the reward {name}")
    try:
        signature.bind(**needed, **settings)
    except TypeError as error:
        raise InputError(
            f"Reward {name}: {error}.", remedy=f"Its settings are {['weight', *known]}.", field="rewards"
        ) from error
    return build(**needed, **settings)


def _import(name: str) -> Any:
    """What the import path "my_module:my_reward" leads to."""
    module_name, colon, attribute = name.partition(":")
    if not colon:
        remedy = f"Use one of {sorted(REWARDS)} or an import path module:name."
        check_known(name, REWARDS, f"There is no reward {name!r}.", field="rewards", remedy=remedy)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"Reward {name!r}: no module named {error.name!r}.",
            remedy="Put its folder on PYTHONPATH or run from there.",
        ) from error
    reward: Any = getattr(module, attribute, None)
    if not callable(reward):
        raise InputError(
            f"Reward {name!r}: {module_name} has no function or class {attribute!r}.",
            remedy=f"Python finds {getattr(module, '__file__', 'a folder')} under that name. Name a file of yours "
            "otherwise than our packages.",
            field="rewards",
            value=name,
        )
    return reward
