"""What an evaluation of the policy in training measures."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from transformers.trainer_utils import PredictionOutput

from evaluation.ranking import mean_metrics, ranking_metrics
from interactions.rows import sample_rows
from recommenders import GenerativeRecommender
from trainer.checks import check_rows
from trainer.front_door import as_rows

if TYPE_CHECKING:
    from trainer.trainer import RecommenderTrainer


def evaluate(trainer: "RecommenderTrainer", rows: Any, prefix: str) -> dict[str, float]:
    """The metrics of one data set, or of each in a dictionary of several; logged, and told to the callbacks.

    rows: None for the trainer's own.
    """
    rows = trainer.eval_dataset if rows is None else rows
    if isinstance(rows, Mapping):
        found: dict[str, float] = {}
        for name, part in rows.items():
            found |= evaluate(trainer, part, f"{prefix}_{name}")
        return found
    sample = sample_rows(as_rows("eval_dataset", rows), trainer.args.eval_users)
    metrics = predict(trainer, sample, prefix, name="eval_dataset").metrics
    assert metrics is not None
    trainer.log(metrics)
    trainer.control = trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, metrics)
    return metrics


def predict(trainer: "RecommenderTrainer", rows: Any, prefix: str, name: str = "test_dataset") -> PredictionOutput:
    """The ranking of every row, and metrics where there is a column `target`. name: of the rows, for messages."""
    rows = as_rows(name, rows, targets=False)
    if "target" not in rows.column_names:
        return PredictionOutput(rank(trainer, rows), None, {})
    check_rows(name, rows, len(trainer.catalog), 1)
    ranked, target = rank(trainer, rows), np.array(rows["target"])
    leaf = trainer.catalog.trie.representative(torch.from_numpy(target)).numpy()  # [rows]
    means = mean_metrics(ranking_metrics(ranked, leaf, trainer.args.eval_k))
    means |= trainer.method.held_out_metrics(rows, trainer.args.per_device_eval_batch_size)
    return PredictionOutput(ranked, target, {f"{prefix}_{name}": value for name, value in means.items()})


def rank(trainer: "RecommenderTrainer", rows: Dataset) -> np.ndarray:
    """The items [rows, beam_width] that a beam finds for each row, best first, -1 behind the last; every process calls.

    Every process ranks an equal part, padded by repetition, so that sharded forwards stay in step.
    """
    world, process = trainer.accelerator.num_processes, trainer.accelerator.process_index
    part = -(-len(rows) // world)
    index = torch.arange(process * part, (process + 1) * part)
    part_rows = rows.select((index % len(rows)).tolist())
    ranked = GenerativeRecommender(trainer.policy, trainer.prompts, trainer.catalog).rank(
        part_rows["history"],
        trainer.args.beam_width,
        exclude_history=trainer.args.exclude_history,
        batch_size=trainer.args.per_device_eval_batch_size,
    )
    every = trainer.accelerator.gather(torch.from_numpy(ranked).to(trainer.args.device))
    return every[: len(rows)].cpu().numpy()
