"""How far a run's policy is from a reward: its own, or that of another run."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoTokenizer

from catalog import Catalog
from catalog.errors import InputError
from evaluation.match import MATCH_ITEMS, match_metrics
from evaluation.metric_help import MATCH, METRIC_HELP
from experiments.evaluations import check_recommender, run_settings
from interactions import PromptBatch, PromptBuilder, Splits
from interactions.provenance import Provenance
from policy import TriePolicy
from recommenders import BatchRecommender, load_recommender
from rewards import RewardParts, WeightedSum, build_rewards, named_rewards
from rewards.load import settings_of
from trainer import GFlowNetConfig
from trainer.runtime.contents import PYTHON, reward_settings
from trainer.scoring.target import Target

logger = logging.getLogger(__name__)

MATCH_USERS = 200
"""Of so many users the policy's exact distribution is compared with the reward."""


class Match(NamedTuple):
    """Metrics of `match_metrics`, and log (R / Z) and log P_F of some pairs."""

    metrics: dict[str, float]
    points: dict[str, list[float]]


def comparable(catalog: Catalog) -> bool:
    """Whether a policy over the catalog is compared with rewards, item by item."""
    return catalog.leaf_is_item and len(catalog) <= MATCH_ITEMS


def reward_record(source: Path, data: Provenance) -> dict[str, Any] | None:
    """What an evaluation against the reward of the run `source` is made of, None where the run has no reward.

    Raises InputError where the recommender that the reward asks was fitted on other data.
    """
    if not (found := reward_settings(settings := run_settings(source))):
        return None
    named = settings.get("recommender") if not (settings.get(PYTHON) or {}).get("recommender") else None
    return found | {"fitted": check_recommender(named, data).as_dict() if named else None}


def match_reward(
    source: Path,
    own: bool,
    policy: TriePolicy,
    rows: Dataset,
    prompts: PromptBuilder,
    catalog: Catalog,
    splits: Splits,
) -> Match | None:
    """How far the policy is from the reward of the run `source`; None where that is not compared item by item.

    own: whether it is the policy's own run. Its reward may be one that cannot be made again, which a warning says; that
    of a run that was named is then refused with an InputError.
    """
    if not (comparable(catalog) and reward_settings(run_settings(source))):
        return None
    try:
        target = load_target(source, policy, catalog, splits)
    except Unrecorded as error:
        if not own:
            raise
        logger.warning("%s", error)
        return None
    if not target.reward.scores_catalog:
        return None
    return calibration(policy, rows, prompts, target.catalog)


class Unrecorded(InputError):
    """A reward that a run was given in Python and that its folder cannot bring back."""


def load_target(run: Path, policy: TriePolicy, catalog: Catalog, splits: Splits) -> Target:
    """What a run's policy should be proportional to at the end of its training.

    A reference policy is left out: the run does not keep it. Raises InputError for a run without a reward, where its
    recommender was fitted on other rows than `splits`, and where the reward cannot be made again.
    """
    resolved = run_settings(run)
    found, given = reward_settings(resolved), resolved.get(PYTHON) or {}
    if not found:
        raise InputError(f"{run} was trained without a reward.", remedy="Name another run.", file=run, field="rewards")
    settings = {name: value for name, value in found.items() if value is not None}
    if "recommender" in given:
        del settings["recommender"]
    config = GFlowNetConfig(output_dir=".", use_cpu=True, **settings)
    recommender = None
    if config.recommender:
        recommender = BatchRecommender(load_recommender(config.recommender, catalog, splits.rows))
    tokenizer = AutoTokenizer.from_pretrained(run, trust_remote_code=False)
    parts = RewardParts(catalog, recommender, policy, tokenizer, config.named_items(len(catalog)))
    try:
        reward = _make_reward(config, given, parts)
    except InputError as error:
        if lost := [name for name in ("rewards", "recommender") if name in given]:
            value = ", ".join(given["rewards"]) if lost[0] == "rewards" else given["recommender"]
            raise _unrecorded(run, lost[0], value) from error
        raise
    return Target(reward, policy.trie, lambda name: config.at(name, 1.0), whole="dense", exact=False)


def _make_reward(config: GFlowNetConfig, given: Mapping[str, Any], parts: RewardParts) -> WeightedSum:
    """The reward of any method's run; what is below 0 is the floor."""
    if not (weights := given.get("rewards")):
        assert isinstance(config.rewards, dict)
        return build_rewards(config.rewards, parts, signed=True)
    for name in weights:
        if ":" in name and settings_of(name):  # of an object it is not known how it was made
            raise InputError(f"The reward {name} has settings.", field="rewards", value=name)
    rewards = named_rewards(list(weights), parts)
    return WeightedSum(rewards, dict(zip(rewards, weights.values(), strict=True)), parts.catalog, signed=True)


def _unrecorded(run: Path, name: str, value: Any) -> Unrecorded:
    return Unrecorded(
        f"{run} was given its {name} in Python ({value}), so its reward cannot be made again.",
        remedy="Name the reward by its import path in the settings, or compare with a run that does: --reward_of.",
        file=run,
        field=name,
        value=value,
    )


def calibration(
    policy: TriePolicy, rows: Dataset, prompts: PromptBuilder, log_target: Callable[[PromptBatch], Tensor]
) -> Match:
    """log(R / Z) and log P_F of 20,000 (user, item) pairs of the first rows, and the mean distance of the two.

    log_target: a batch -> log R of every item [B, items]. Three of four items are drawn evenly; the rest have the
    highest rewards, since elsewhere most rewards are the floor. Both are exact distributions over the catalog.
    """
    rng, table = np.random.default_rng(0), rows.to_list()[:MATCH_USERS]
    pairs: list[np.ndarray] = []
    distances: list[dict[str, Tensor]] = []
    for start in range(0, len(table), 20):
        batch = prompts(table[start : start + 20]).to(policy.tokens.device)
        scores, log_prob = log_target(batch).log_softmax(-1), policy.distribution(batch)  # [B, items]
        distances.append(match_metrics(log_prob, scores, policy.trie))
        both = torch.stack([scores, log_prob], -1).cpu().numpy()  # [B, items, 2]
        best = scores.topk(min(25, policy.trie.items)).indices.cpu().numpy()
        items = np.concatenate([rng.choice(policy.trie.items, (len(batch), 75)), best], 1)
        pairs.append(both[np.arange(len(batch))[:, None], items].reshape(-1, 2))
    points = np.concatenate(pairs).round(4)
    match = {name: torch.cat([d[name] for d in distances]).mean().item() for name in distances[0]}
    shown = {name: value for name, value in match.items() if name in METRIC_HELP and METRIC_HELP[name].group == MATCH}
    return Match(shown, {"log_reward": points[:, 0].tolist(), "log_prob": points[:, 1].tolist()})
