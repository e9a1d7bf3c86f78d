"""Samplers by name: those of this package with their settings, and samplers of a user."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from catalog import Trie
from catalog.errors import InputError
from catalog.settings import annotations, check_known, check_table, check_value
from interactions.prompts import PromptBatch
from policy import Exploration, TriePolicy
from samplers.base import Mixture, Sampler
from samplers.confidence import ConfidenceSampler
from samplers.curriculum import CurriculumSampler
from samplers.interactions import InteractionsSampler
from samplers.policy import PolicySampler
from samplers.random import RandomSampler
from samplers.replay import ReplaySampler
from samplers.reward import DrawReward, RewardSampler
from samplers.rollouts.engine import RolloutEngine
from samplers.rollouts.sampler import RolloutSampler
from samplers.target import TargetSampler


def policy_sampler(
    policy: TriePolicy,
    engine: RolloutEngine | None,
    beams: bool = False,
    temperature: float = 1.0,
    epsilon: float = 0.0,
) -> PolicySampler | RolloutSampler:
    """The rollout worker: the engine where the run has one, else the policy itself."""
    exploration = Exploration(temperature, epsilon)
    if engine is None:
        return PolicySampler(policy, beams, exploration)
    return RolloutSampler(engine, policy, beams, exploration)


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "target": TargetSampler,
    "random": RandomSampler,
    "policy": policy_sampler,
    "interactions": InteractionsSampler,
    "curriculum": CurriculumSampler,
    "confidence": ConfidenceSampler,
    "replay": ReplaySampler,
    "reward": RewardSampler,
}
"""The stock samplers. Arguments with names of `SamplerParts` are filled with these parts; the others are settings."""


@dataclass(frozen=True)
class SamplerParts:
    """The parts of a run that samplers are made of.

    recommender: prompts -> probabilities [B, items], None where the run has none; progress: the share of training that
    is done, 0..1; engine: draws from the policy, None for transformers; draw_reward: draws from the target
    distribution, None where the method has none.
    """

    trie: Trie
    policy: TriePolicy
    recommender: Callable[[PromptBatch], Tensor] | None
    progress: Callable[[], float]
    catalog_fingerprint: str
    engine: RolloutEngine | None = None
    draw_reward: DrawReward | None = None


def build_sampler(name: str, settings: Mapping[str, Any], parts: SamplerParts) -> Sampler:
    """The stock sampler called `name`. Raises InputError for a setting it does not have and a part that is missing."""
    arguments = annotations(SAMPLERS[name])
    needed = {part.name: getattr(parts, part.name) for part in fields(parts) if part.name in arguments}
    known = {"count": int} | {setting: kind for setting, kind in arguments.items() if setting not in needed}
    check_table("samplers", settings, known, f"the sampler {name}")
    if "recommender" in needed and parts.recommender is None:
        raise InputError(
            f"samplers: {name} needs a recommender.",
            remedy="Set recommender to the folder of a fitted one.",
            field="samplers",
        )
    if "draw_reward" in needed and parts.draw_reward is None:
        raise InputError(
            "samplers: reward draws from the target distribution, and only gflownet has one.",
            remedy="Leave it out.",
            field="samplers",
        )
    return SAMPLERS[name](**needed, **settings)


def build_mixture(
    settings: Mapping[str, int | Mapping[str, Any]], parts: SamplerParts, own: Mapping[str, Sampler]
) -> Mixture:
    """The mixture that a recipe asks for: {target: 1, curriculum: {count: 2, pool: 100}}.

    settings: each sampler's count, or a table of its count and its settings. own: samplers of a user by name. They
    replace stock samplers or add to them, and have no setting but the count. A sampler with the count 0 is left out.
    """
    samplers: dict[str, Sampler] = {}
    counts: dict[str, int] = {}
    for name, value in settings.items():
        table = dict(value) if isinstance(value, Mapping) else {"count": value}
        known = sorted({*SAMPLERS, *own})
        check_known(
            name, known, f"samplers: there is no sampler {name!r}.", field="samplers", remedy=f"Use some of {known}."
        )
        if "count" not in table:
            raise InputError(
                f"samplers: {name} has no count.",
                remedy="Add how many trajectories it gives, count: 1.",
                field="samplers",
            )
        check_value("count", table["count"], int, f"samplers: {name}")
        if count := table.pop("count"):
            if name in own:
                check_table("samplers", table, {"count": int}, f"the sampler {name}, which is yours")
            samplers[name] = own[name] if name in own else build_sampler(name, table, parts)
            counts[name] = count
    return Mixture(samplers, counts)
