"""What `evaluate.py` and `compare.py` measure: one policy's ranking and calibration, and the classical baselines."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from catalog import Catalog
from catalog.files import complete, read_json, write_json
from collaborative import ItemKNN, Popularity, Recommender, rank
from evaluation import diversity_metrics, markdown_table, mean_metrics, ranking_metrics, write_report
from evaluation.ranker import rank_by_beam, rank_exactly
from interactions import PromptBatch, PromptBuilder, Splits, training_counts, training_matrix
from policy import CausalPolicy
from recipes.cli import CompareArguments, EvaluateArguments
from recipes.parts import load_data
from rewards import WeightedSum, build_rewards, log_reward
from trainer import GFlowNetConfig
from trainer.run_folder import read_log

CALIBRATION_ITEMS = 50_000
"""Catalogues up to this size get a plot of reward against exact probability."""


def evaluate_run(args: EvaluateArguments) -> dict[str, float]:
    """Metrics of one run on one split; merged into the run's metrics.json, with ranked.npz and calibration.json."""
    folder, (catalog, splits) = Path(args.run), load_data(args.data)
    settings = _settings(folder)
    rows = getattr(splits, args.split)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
    catalog.check_trained(model.config)
    prompts = PromptBuilder(catalog, AutoTokenizer.from_pretrained(folder), settings["max_history"])
    policy = CausalPolicy(model, catalog.trie.to(device), prompts.tokens.to(device))
    ranked = rank_by_beam(
        policy, rows, prompts, width=args.beam_width, exclude_history=args.exclude_history, batch_size=args.batch_size
    )
    metrics = list_metrics(ranked, rows, catalog, splits)
    table = read_json(folder / "metrics.json", "The run's metrics file")
    if args.exact_users:
        some = rows.select(range(len(rows) if args.exact_users < 0 else min(args.exact_users, len(rows))))
        exact = rank_exactly(policy, some, prompts, k=10, exclude_history=args.exclude_history)
        table["beam_equals_exact_top10"] = float((exact == ranked[: len(some), :10]).all(1).mean())
    how = {
        "beam_width": args.beam_width,
        "exclude_history": args.exclude_history,
        "users": len(rows),
        "hit": "item" if catalog.leaf_is_item else "semantic ID",
    }
    write_json(folder / "metrics.json", {**table, args.split: metrics, f"{args.split}_protocol": how})
    with complete(folder / f"ranked_{args.split}.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, ranked=ranked, target=np.array(rows["target"]))
    reward, floor, temperature = _reward(_settings(Path(args.reward_of or args.run)), catalog)
    if reward.scores_catalog and catalog.leaf_is_item and len(catalog) <= CALIBRATION_ITEMS:
        target = partial(log_reward, floor=floor, temperature=temperature)
        write_json(
            folder / "calibration.json", calibration(policy, rows, prompts, lambda batch: target(reward.catalog(batch)))
        )
    return metrics


def list_metrics(ranked: np.ndarray, rows: Dataset, catalog: Catalog, splits: Splits) -> dict[str, float]:
    """Accuracy and variety of ranked items [users, k]; where items share a semantic ID, any of them is a hit."""
    same = catalog.trie.representative(torch.arange(len(catalog))).numpy()  # [items]
    places = np.where(ranked >= 0, same[ranked], -1)
    per_user = ranking_metrics(places, same[np.array(rows["target"])])
    first_codes = catalog.trie.codes(torch.arange(len(catalog)))[:, 0].numpy()
    popularity = training_counts(splits, len(catalog))
    return mean_metrics(per_user) | diversity_metrics(ranked, popularity, first_codes)


def baseline_metrics(
    catalog: Catalog, splits: Splits, split: str, *, neighbours: int, decay: float, exclude_history: bool
) -> dict[str, dict[str, float]]:
    """item_knn and popularity, fitted on the training interactions, ranked and measured as a policy is."""
    rows = getattr(splits, split)
    matrix = training_matrix(splits, len(catalog))
    models: dict[str, Recommender] = {
        "item_knn": ItemKNN.fit(matrix, neighbours, decay),
        "popularity": Popularity.fit(matrix),
    }
    histories = [row["history"] for row in rows.to_list()]
    seen = histories if exclude_history else [[]] * len(histories)
    return {
        name: list_metrics(rank(model.score(histories), seen, 50), rows, catalog, splits)
        for name, model in models.items()
    }


def calibration(
    policy: CausalPolicy, rows: Dataset, prompts: PromptBuilder, log_rewards: Callable[[PromptBatch], Tensor]
) -> dict[str, list[float]]:
    """log(R / Z) and log P_F of 20,000 (user, item) pairs of the first 200 rows, from the exact distributions.

    log_rewards: a batch -> log R of every item [B, items]. Three of four items are drawn evenly; the rest have the
    highest rewards, since elsewhere most rewards are the floor.
    """
    rng, table = np.random.default_rng(0), rows.to_list()[:200]
    pairs: list[np.ndarray] = []
    for start in range(0, len(table), 20):
        batch = prompts(table[start : start + 20]).to(policy.tokens.device)
        scores = log_rewards(batch).log_softmax(-1)  # [B, items]
        both = torch.stack([scores, policy.distribution(batch)], -1).cpu().numpy()  # [B, items, 2]
        best = scores.topk(25).indices.cpu().numpy()
        items = np.concatenate([rng.choice(policy.trie.items, (len(batch), 75)), best], 1)
        pairs.append(both[np.arange(len(batch))[:, None], items].reshape(-1, 2))
    points = np.concatenate(pairs).round(4)
    return {"log_reward": points[:, 0].tolist(), "log_prob": points[:, 1].tolist()}


def _reward(settings: dict[str, Any], catalog: Catalog) -> tuple[WeightedSum, float, float]:
    """A run's reward, floor and temperature; those of GFlowNetConfig for methods that know none."""
    default = GFlowNetConfig(output_dir=".", use_cpu=True)
    names = ("rewards", "reward_floor", "reward_temperature")
    weights, floor, temperature = (settings.get(name) or getattr(default, name) for name in names)
    return build_rewards(weights, catalog), floor, temperature


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "resolved.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not the folder of a run: it has no resolved.yaml. Train first.")
    return yaml.safe_load(path.read_text())


def compare_runs(args: CompareArguments) -> str:
    """Write metrics.json, table.md and report.html over evaluated runs; returns the table."""
    catalog, splits = load_data(args.data)
    tables = {Path(run).name: read_json(Path(run) / "metrics.json", "The run's metrics file") for run in args.runs}
    if missing := [name for name, table in tables.items() if "test" not in table]:
        raise ValueError(f"Run {missing[0]} is not evaluated. Run python recipes/evaluate.py --run ... first.")
    protocols = [table["test_protocol"] for table in tables.values()]
    if any(protocol != protocols[0] for protocol in protocols):
        raise ValueError(f"The runs were evaluated differently: {protocols}. Evaluate them alike.")
    how = protocols[0]
    rows = {name: table["test"] for name, table in tables.items()} | baseline_metrics(
        catalog, splits, "test", neighbours=args.neighbours, decay=args.decay, exclude_history=how["exclude_history"]
    )
    notes = [
        f"{how['users']:,} users, {len(catalog):,} items; test item: each user's last one. Models and baselines are "
        "trained on all but the last two items of each user.",
        f"A hit is {'an' if how['hit'] == 'item' else 'a'} {how['hit']}. Trie-constrained beam of width "
        f"{how['beam_width']}; items the user already has are {'not ' if how['exclude_history'] else ''}ranked.",
        f"item_knn: {args.neighbours} neighbours, decay {args.decay}.",
    ]
    folder = Path(args.output_dir)
    curves = {Path(run).name: read_log(Path(run)) for run in args.runs}
    plots = {
        Path(run).name: read_json(path, "The calibration")
        for run in args.runs
        if (path := Path(run) / "calibration.json").is_file()
    }
    table = markdown_table(rows)
    write_json(folder / "metrics.json", rows)
    with complete(folder / "table.md") as temporary:
        temporary.write_text(table + "\n")
    write_report(folder / "report.html", args.title, notes, rows, curves, plots)
    return table
