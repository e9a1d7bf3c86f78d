"""What `evaluate.py` and `recommenders.py` measure: a policy's ranking and calibration, and the classical baselines."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from catalog import Catalog
from catalog.errors import InputError
from catalog.progress import progress
from evaluation import diversity_metrics, mean_metrics, ranking_metrics
from evaluation.draws import draw_metrics
from evaluation.ranking import EVAL_K, without
from experiments.arguments import EvaluateArguments, RecommenderArguments
from experiments.evaluations import (
    HELD_OUT,
    check_data,
    check_recommender,
    data_provenance,
    has_weights,
    run_settings,
    weights_digest,
    write_evaluation,
    writing,
)
from experiments.match import MATCH_USERS, comparable, match_reward, reward_record
from interactions import Splits, load_prepared, training_counts, untrained
from interactions.provenance import Provenance
from interactions.rows import sample_rows, unrankable
from policy import inference, policy_of
from recommenders import (
    GenerativeRecommender,
    Guide,
    Recommender,
    fit_recommender,
    load_recommender,
    made_of,
    rank,
    scored,
)
from trainer.runtime.contents import reward_settings

logger = logging.getLogger(__name__)

DRAWN_USERS = 2000
"""Of so many users at most it is measured what draws show; expectations vary less than hits."""

TOP = 10
"""How many places of a list are what a user is shown."""


def evaluate_run(run: str | Path, data: str | Path, **settings: Any) -> dict[str, float]:
    """Rank the held-out items of one split by a finished run; see `write_evaluation` for what stays.

    Args:
        run: the run's folder.
        data: the prepared folder that it was trained on.
        settings: the others of `EvaluateArguments`: `split`, `beam_width`, `guide`, `output_dir` and so on.

    Returns:
        The metrics by name, as `evaluation.METRIC_HELP` explains them.

    Raises:
        InputError: a setting is wrong, the run has no model or was trained on other data, or what it is compared with
            was.
        SetupError: another process evaluates the same, or the disk is full.
    """
    args = EvaluateArguments(run=str(run), data=str(data), **settings)
    run, (catalog, splits) = Path(run), load_prepared(data)
    of = planned(args, catalog, data_provenance(catalog, splits))
    some = with_users(splits, args.split, args.eval_users)
    rows = getattr(some, args.split)
    output = output_folder(args)
    if has_weights(output) and weights_digest(output) != of.settings["run"]:
        raise InputError(
            f"output_dir={output} is another run's folder.",
            remedy="Choose one of no run.",
            field="output_dir",
            value=args.output_dir,
        )
    with writing(output, of) as folder:
        trained = GenerativeRecommender.from_pretrained(run, catalog=catalog)
        policy, prompts = trained.policy, trained.prompts
        guide = None
        if args.guide:
            recommender = load_recommender(args.guide, catalog, splits.rows)
            guide = Guide(recommender, args.guide_weight, args.guide_floor, args.guide_confidence)
        ranked = _ranker(trained, args.normalization).rank(
            rows["history"],
            args.beam_width,
            exclude_history=args.exclude_history,
            batch_size=args.batch_size,
            guide=guide,
        )
        metrics = list_metrics(ranked, rows, catalog, splits, args.eval_k)
        if not args.exclude_history:
            metrics |= unseen_metrics(ranked, rows, catalog)
        if not args.guide:
            metrics |= drawn_metrics(trained, rows, args.batch_size)
        how = protocol(some, catalog, args.split, args.exclude_history) | {"beam_width": args.beam_width}
        record: dict[str, Any] = {"metrics": metrics, "protocol": how, "data": args.data, **_scores(args)}
        if args.exact_users:
            record["beam_equals_exact_top10"] = _exactness(args, ranked, trained, rows)
        match = None
        if args.guide:
            record["guide"] = {"model": args.guide, **_guiding(args)}
        else:
            source = Path(args.reward_of or run)
            match = match_reward(source, args.reward_of is None, policy, rows, prompts, catalog, splits)
        if match:
            users = min(len(rows), MATCH_USERS)
            against = {"reward_of": str(source), "reward": of.settings["reward"], "users": users}
            record |= {"match": match.metrics, "match_protocol": against}
        write_evaluation(folder, record, ranked, np.array(rows["target"]), match and match.points)
    return metrics


def _ranker(trained: GenerativeRecommender, normalization: str) -> GenerativeRecommender:
    """The same policy, whose beam adds up what `normalization` says."""
    of = trained.policy
    policy = policy_of(of.model, of.trie, of.tokens, full_vocabulary=normalization == "vocabulary")
    return GenerativeRecommender(policy, trained.prompts, trained.catalog, trained.counts)


def _scores(args: EvaluateArguments) -> dict[str, str]:
    """What the beam adds up where it is not the usual, so that older evaluations need no repetition."""
    return {} if args.normalization == "trie" else {"normalization": args.normalization}


def output_folder(args: EvaluateArguments) -> Path:
    """Where the evaluation goes unless it is said: into the run's own folder, for another search beside it."""
    other = "_guided" if args.guide else "_vocabulary" if args.normalization == "vocabulary" else ""
    return Path(args.output_dir or f"{args.run}{other}")


def planned(args: EvaluateArguments, catalog: Catalog, data: Provenance) -> Provenance:
    """What the evaluation that is asked for is made of: an old one that is made of the same need not be repeated.

    Raises InputError where it cannot be made.
    """
    run = Path(args.run)
    check_data(run, args.data, data, catalog)
    settings = {n: getattr(args, n) for n in ("split", "beam_width", "exclude_history", "exact_users")}
    settings |= {"run": weights_digest(run)} | _scores(args)
    if args.eval_users:
        settings["eval_users"] = args.eval_users
    if "{titles}" in (run_settings(run).get("prompt_template") or ""):
        settings["titles"] = catalog.titles_digest  # titles do not belong to the catalog's fingerprint
    if args.guide:
        fitted = check_recommender(args.guide, data).as_dict()
        settings["guide"] = {**_guiding(args), "fitted": fitted}
    else:
        source = Path(args.reward_of or run)
        settings["reward"] = reward_record(source, data) if comparable(catalog) else None
        if args.reward_of and not reward_settings(run_settings(source)):
            raise InputError(
                f"reward_of={source}: that run was trained without a reward.",
                remedy="Name one that has a reward.",
                field="reward_of",
                value=args.reward_of,
            )
        if args.reward_of:
            check_data(source, args.data, data, catalog)
    return Provenance(data.catalog, data.splits, settings)


def _guiding(args: EvaluateArguments) -> dict[str, float]:
    """How the guide is counted; its confidence only where it counts, so that older evaluations need no repetition."""
    how = {"weight": args.guide_weight, "floor": args.guide_floor}
    return how | ({"confidence": args.guide_confidence} if args.guide_confidence else {})


def with_users(splits: Splits, split: str, users: int | None) -> Splits:
    """The splits with `users` random rows of one of them, the same ones for each call; with all of None."""
    return replace(splits, **{split: sample_rows(getattr(splits, split), users)})


def protocol(splits: Splits, catalog: Catalog, split: str, exclude_history: bool) -> dict[str, Any]:
    """What two evaluations must share to stand in one table, beside the data.

    unrankable: how many held-out items their user already has, which with `exclude_history` nothing can rank.
    untrained_targets, untrained_users: how many rows have a target, or a user, that training never saw.
    """
    rows = getattr(splits, split)
    lost = int(unrankable(rows).sum()) if exclude_history else 0
    if lost:
        logger.warning("%d of %d users already have their %s item, which is not ranked", lost, len(rows), split)
    return {
        "split": split,
        "held_out": getattr(splits.held_out, split),
        "trained_on": splits.held_out.training,
        "exclude_history": exclude_history,
        "users": len(rows),
        "unrankable": lost,
        "hit": "item" if catalog.leaf_is_item else "semantic ID",
    } | untrained(splits, len(catalog), split)


def _exactness(args: EvaluateArguments, ranked: np.ndarray, trained: GenerativeRecommender, rows: Dataset) -> float:
    """Share of the first users for whom the beam's top 10 are the leaves of the exact ranking, in its order."""
    some = rows.select(range(len(rows) if args.exact_users < 0 else min(args.exact_users, len(rows))))
    exact = trained.rank_exactly(some["history"][:], TOP, exclude_history=args.exclude_history)
    catalog = trained.catalog
    return float((representatives(exact, catalog) == representatives(ranked[: len(some), :TOP], catalog)).all(1).mean())


def list_metrics(
    ranked: np.ndarray, rows: Dataset, catalog: Catalog, splits: Splits, eval_k: Sequence[int] = EVAL_K
) -> dict[str, float]:
    """Accuracy of ranked items [users, length] at some cut-offs, and the variety of their top 10, if it is as long."""
    accuracy = mean_metrics(user_metrics(ranked, np.array(rows["target"]), catalog, eval_k))
    if ranked.shape[1] < TOP:
        return accuracy
    first_codes = catalog.trie.codes(torch.arange(len(catalog)))[:, 0].numpy()
    popularity = training_counts(splits, len(catalog))
    return accuracy | diversity_metrics(ranked, popularity, first_codes, TOP)


def unseen_metrics(ranked: np.ndarray, rows: Dataset, catalog: Catalog) -> dict[str, float]:
    """Accuracy of the lists [users, length] without the items of the histories, which no further search finds.

    Nothing where some list has fewer than ten others: that would count another search's misses.
    """
    others = without(ranked, rows["history"][:])
    if ranked.shape[1] < TOP or (others[:, :TOP] < 0).any():
        return {}
    found = user_metrics(others, np.array(rows["target"]), catalog, [TOP])
    return {f"unseen_{name}": float(found[name].mean()) for name in (f"recall@{TOP}", f"ndcg@{TOP}")}


def drawn_metrics(trained: GenerativeRecommender, rows: Dataset, batch_size: int) -> dict[str, float]:
    """What ten draws from the policy show of the held-out item and of the first codes, the mean over some users."""
    policy, found = trained.policy, []
    table = sample_rows(rows, DRAWN_USERS).to_list()
    with inference(policy.model):
        for start in progress(range(0, len(table), batch_size), desc="draws", unit="batch"):
            some = table[start : start + batch_size]
            batch = trained.prompts(some).to(policy.tokens.device)
            target = torch.tensor([[row["target"]] for row in some], device=policy.tokens.device)
            probs = policy.log_probs(batch, target, children=True)
            assert probs.child_log_pf is not None
            found.append(draw_metrics(probs.log_pf.sum(-1)[:, 0], probs.child_log_pf[:, 0, 0]))
    return {name: torch.cat([one[name] for one in found]).mean().item() for name in found[0]}


def user_metrics(
    ranked: np.ndarray, target: np.ndarray, catalog: Catalog, eval_k: Sequence[int]
) -> dict[str, np.ndarray]:
    """Accuracy of ranked items [users, length] for each user, [users]; any with the target's semantic ID is a hit."""
    return ranking_metrics(representatives(ranked, catalog), representatives(target, catalog), eval_k)


def representatives(items: np.ndarray, catalog: Catalog) -> np.ndarray:
    """One item in place of all that share a semantic ID with it; -1 stays."""
    first = catalog.trie.representative(torch.arange(len(catalog))).numpy()  # [items]
    return np.where(items >= 0, first[items], -1)


def rank_recommender(model: Recommender, rows: Dataset, exclude_history: bool, k: int) -> np.ndarray:
    """The k best items of a recommender for each row, with or without those of its history: [users, k]."""
    parts = [
        rank(scores, histories if exclude_history else [[]] * len(histories), k)
        for histories, scores in scored(model, rows["history"])
    ]
    return np.concatenate(parts)


def fit_recommenders(
    data: str | Path, output_dir: str | Path, models: Mapping[str, Any] | None = None, **settings: Any
) -> dict[str, dict[str, float]]:
    """Fit recommenders where they are not fitted yet, measure them, and write both evaluations of each.

    Args:
        data: a prepared folder.
        output_dir: each model's folder lies in it, called like the model.
        models: name -> settings, in the order of fitting.
        settings: the others of `RecommenderArguments`: `only`, `exclude_history`.

    Returns:
        Name -> metrics of the test items.

    Raises:
        InputError: a kind or a setting is unknown, or a part of a mixture is missing.
    """
    args = RecommenderArguments(data=str(data), output_dir=str(output_dir), models=dict(models or {}), **settings)
    catalog, splits = load_prepared(args.data)
    rows_of, measured = data_provenance(catalog, splits), {}
    for name in progress(args.only or list(args.table), desc="models", unit="model"):
        folder, how_fitted = Path(args.output_dir) / name, dict(args.table[name] or {})
        model = fit_recommender(how_fitted.pop("kind", name), how_fitted, splits, catalog, folder)
        fitted = dict(made_of(folder).settings)
        for split in HELD_OUT:
            some = with_users(splits, split, args.eval_users)
            rows = getattr(some, split)
            ranked = rank_recommender(model, rows, args.exclude_history, max(TOP, *args.eval_k))
            metrics = list_metrics(ranked, rows, catalog, some, args.eval_k)
            if not args.exclude_history:
                metrics |= unseen_metrics(ranked, rows, catalog)
            how = protocol(some, catalog, split, args.exclude_history)
            of = {"split": split, "exclude_history": args.exclude_history, "fitted": fitted}
            of |= {"eval_users": args.eval_users} if args.eval_users else {}
            with writing(folder, Provenance(rows_of.catalog, rows_of.splits, of)) as temporary:
                record = {"metrics": metrics, "protocol": how, "data": args.data}
                write_evaluation(temporary, record, ranked, np.array(rows["target"]))
        measured[name] = metrics
    return measured
