"""What `evaluate.py` and `recommenders.py` measure: a policy's ranking and calibration, and the classical baselines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoTokenizer

from catalog import Catalog
from catalog.errors import InputError
from catalog.files import complete, read_json, write_json
from collaborative import Recommender, Teacher, fit_recommender, load_recommender, rank
from evaluation import METRIC_HELP, diversity_metrics, mean_metrics, ranking_metrics
from evaluation.match import MATCH_ITEMS, match_metrics
from evaluation.ranker import guidance, rank_by_beam, rank_exactly
from interactions import PromptBatch, PromptBuilder, Splits, training_counts
from policy import TriePolicy, auto_class, policy_of
from recipes.arguments import EvaluateArguments, RecommenderArguments
from recipes.parts import load_data
from rewards import RewardParts, build_rewards
from trainer import GFlowNetConfig
from trainer.launch import one_device
from trainer.target import Target

MATCH_USERS = 200
"""Of so many users the policy's exact distribution is compared with the reward."""


def evaluate_run(args: EvaluateArguments) -> dict[str, float]:
    """Metrics of one run on one split; merged into metrics.json, with ranked.npz and calibration.json beside it."""
    run, (catalog, splits) = Path(args.run), load_data(args.data)
    rows = getattr(splits, args.split)
    policy, prompts = load_policy(run, catalog)
    guide = args.guide and _guide(args, catalog)
    ranked = rank_by_beam(
        policy,
        rows,
        prompts,
        width=args.beam_width,
        exclude_history=args.exclude_history,
        batch_size=args.batch_size,
        guide=guide or None,
    )
    folder = Path(args.output_dir or (f"{run}_guided" if guide else run))
    table = read_json(folder / "metrics.json", "The metrics file") if (folder / "metrics.json").is_file() else {}
    if args.exact_users:
        some = rows.select(range(len(rows) if args.exact_users < 0 else min(args.exact_users, len(rows))))
        exact = rank_exactly(policy, some, prompts, k=10, exclude_history=args.exclude_history)
        table["beam_equals_exact_top10"] = float((exact == ranked[: len(some), :10]).all(1).mean())
    metrics = list_metrics(ranked, rows, catalog, splits)
    how = {
        "beam_width": args.beam_width,
        "exclude_history": args.exclude_history,
        "users": len(rows),
        "hit": _hit(catalog),
    }
    table |= {args.split: metrics, f"{args.split}_protocol": how}
    if guide:
        table["guide"] = {"model": args.guide, "weight": args.guide_weight, "floor": args.guide_floor}
    else:
        table |= match_reward(Path(args.reward_of or run), policy, rows, prompts, catalog, folder)
    write_json(folder / "metrics.json", table)
    with complete(folder / f"ranked_{args.split}.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, ranked=ranked, target=np.array(rows["target"]))
    return metrics


def load_policy(run: Path, catalog: Catalog) -> tuple[TriePolicy, PromptBuilder]:
    """The policy that a run left, and what builds its prompts."""
    settings = _settings(run)
    device = one_device()
    model = (
        auto_class(AutoConfig.from_pretrained(run, trust_remote_code=False))
        .from_pretrained(run, dtype=torch.float32, trust_remote_code=False)
        .to(device)
    )
    catalog.check_trained(model.config)
    template = settings.get("prompt_template")  # runs of before there were templates do not say
    prompts = PromptBuilder(
        catalog, AutoTokenizer.from_pretrained(run, trust_remote_code=False), settings["max_history"], template
    )
    return policy_of(model, catalog.trie.to(device), prompts.tokens.to(device)), prompts


def _guide(args: EvaluateArguments, catalog: Catalog) -> Callable[[PromptBatch], Tensor]:
    """What the collaborative model adds to each step; it reads histories alone, so it cannot know the target."""
    assert args.guide is not None
    teacher, trie = Teacher(load_recommender(args.guide, catalog)), catalog.trie
    floor, weight = args.guide_floor, args.guide_weight
    return lambda batch: guidance(teacher(batch).clamp(min=floor).log(), trie.to(batch.target.device), weight)


def match_reward(
    source: Path, policy: TriePolicy, rows: Dataset, prompts: PromptBuilder, catalog: Catalog, folder: Path
) -> dict[str, Any]:
    """How far the policy is from the reward of the run `source`; calibration.json goes into `folder`."""
    if not (catalog.leaf_is_item and len(catalog) <= MATCH_ITEMS) or _settings(source).get("rewards", True) in (
        {},
        None,
    ):
        return {}
    target = load_target(source, policy, catalog)
    if not target.reward.scores_catalog:
        return {}
    points, match = calibration(policy, rows, prompts, target.catalog)
    write_json(folder / "calibration.json", points)
    return {"match": match, "match_protocol": {"reward_of": str(source), "users": min(len(rows), MATCH_USERS)}}


def load_target(run: Path, policy: TriePolicy, catalog: Catalog) -> Target:
    """What a run's policy should be proportional to at the end of its training; the defaults where it knows no reward.

    A reference policy is left out: the run does not keep it.
    """
    settings = _settings(run)
    known = {name: settings[name] for name in GFlowNetConfig.__dataclass_fields__ if name in settings}
    names = (
        "rewards",
        "recommender",
        *(f"reward_{n}" for n in ("floor", "floor_end", "temperature", "temperature_end")),
    )
    config = GFlowNetConfig(output_dir=".", use_cpu=True, **{name: known[name] for name in names if name in known})
    teacher = Teacher(load_recommender(config.recommender, catalog)) if config.recommender else None
    assert isinstance(config.rewards, dict)
    parts = RewardParts(catalog, teacher, policy, AutoTokenizer.from_pretrained(run, trust_remote_code=False))
    reward = build_rewards(config.rewards, parts, signed=True)  # of any method's run; what is below 0 is the floor
    return Target(reward, policy.trie, lambda name: config.at(name, 1.0), whole=True, exact=False)


def list_metrics(ranked: np.ndarray, rows: Dataset, catalog: Catalog, splits: Splits) -> dict[str, float]:
    """Accuracy and variety of ranked items [users, k]."""
    per_user = user_metrics(ranked, np.array(rows["target"]), catalog)
    first_codes = catalog.trie.codes(torch.arange(len(catalog)))[:, 0].numpy()
    popularity = training_counts(splits, len(catalog))
    return mean_metrics(per_user) | diversity_metrics(ranked, popularity, first_codes)


def user_metrics(ranked: np.ndarray, target: np.ndarray, catalog: Catalog) -> dict[str, np.ndarray]:
    """Accuracy of ranked items [users, k] for each user, [users]; of items that share a semantic ID any is a hit."""
    return ranking_metrics(same_leaf(ranked, catalog), same_leaf(target, catalog))


def same_leaf(items: np.ndarray, catalog: Catalog) -> np.ndarray:
    """One item in place of all that share a semantic ID with it; -1 stays."""
    first = catalog.trie.representative(torch.arange(len(catalog))).numpy()  # [items]
    return np.where(items >= 0, first[items], -1)


def rank_recommender(model: Recommender, rows: Dataset, exclude_history: bool) -> np.ndarray:
    """The 50 best items of a collaborative model for each row, with or without those of its history: [users, 50]."""
    histories = rows["history"][:]
    some = [histories[start : start + 1024] for start in range(0, len(histories), 1024)]
    return np.concatenate([rank(model.score(h), h if exclude_history else [[]] * len(h), 50) for h in some])


def fit_recommenders(args: RecommenderArguments) -> dict[str, dict[str, float]]:
    """Fit and measure collaborative models: writes each one's metrics.json and returns those of the test."""
    catalog, splits = load_data(args.data)
    measured = {}
    for name in tqdm(args.only or list(args.table), desc="models", unit="model"):
        folder, settings = Path(args.output_dir) / name, dict(args.table[name] or {})
        model = fit_recommender(settings.pop("kind", name), settings, splits, catalog, folder)
        metrics = {
            split: list_metrics(rank_recommender(model, rows, args.exclude_history), rows, catalog, splits)
            for split, rows in (("validation", splits.validation), ("test", splits.test))
        }
        seconds = read_json(folder / "recommender.json", "The recommender's record")["seconds"]
        how = {"exclude_history": args.exclude_history, "users": len(splits.test), "hit": _hit(catalog)}
        write_json(folder / "metrics.json", {**metrics, "test_protocol": how, "seconds": seconds})
        measured[name] = metrics["test"]
    return measured


def calibration(
    policy: TriePolicy, rows: Dataset, prompts: PromptBuilder, log_target: Callable[[PromptBatch], Tensor]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """log(R / Z) and log P_F of 20,000 (user, item) pairs of the first rows, and the mean distance of the two.

    log_target: a batch -> log R of every item [B, items]. Three of four items are drawn evenly; the rest have the
    highest rewards, since elsewhere most rewards are the floor. Both are exact distributions over the catalogue.
    """
    rng, table = np.random.default_rng(0), rows.to_list()[:MATCH_USERS]
    pairs: list[np.ndarray] = []
    distances: list[dict[str, Tensor]] = []
    for start in range(0, len(table), 20):
        batch = prompts(table[start : start + 20]).to(policy.tokens.device)
        scores, log_prob = log_target(batch).log_softmax(-1), policy.distribution(batch)  # [B, items]
        distances.append(match_metrics(log_prob, scores, policy.trie))
        both = torch.stack([scores, log_prob], -1).cpu().numpy()  # [B, items, 2]
        best = scores.topk(25).indices.cpu().numpy()
        items = np.concatenate([rng.choice(policy.trie.items, (len(batch), 75)), best], 1)
        pairs.append(both[np.arange(len(batch))[:, None], items].reshape(-1, 2))
    points = np.concatenate(pairs).round(4)
    match = {name: torch.cat([d[name] for d in distances]).mean().item() for name in distances[0]}
    shown = {name: value for name, value in match.items() if name in METRIC_HELP}
    return {"log_reward": points[:, 0].tolist(), "log_prob": points[:, 1].tolist()}, shown


def _hit(catalog: Catalog) -> str:
    return "item" if catalog.leaf_is_item else "semantic ID"


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "resolved.yaml"
    if not path.is_file():
        raise InputError(
            f"{folder} is not the folder of a run: it has no resolved.yaml.", remedy="Train first.", file=folder
        )
    return yaml.safe_load(path.read_text())
