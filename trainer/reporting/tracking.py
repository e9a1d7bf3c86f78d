"""Experiment trackers, and the table of sampled trajectories that a run leaves in its folder and in each of them."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerState
from transformers.integrations import (
    INTEGRATION_TO_CALLBACK,
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
    is_tensorboard_available,
    is_trackio_available,
    is_wandb_available,
)

from catalog import PADDING, SOURCES, Catalog
from catalog.errors import InputError
from catalog.files import complete
from catalog.settings import check_known
from catalog.tokens import item_words
from evaluation.markdown import markdown_rows
from trainer.micro_batch import MicroBatch

INSTALLED = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available, "trackio": is_trackio_available}
COLUMNS = ("user", "history", "target", "item", "semantic_id", "source", "reward", "log_pf")
PROMPTS = 8
"""How many prompts of a micro-batch a table holds."""
HISTORY = 5
"""How many of the newest items of a history it names."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise InputError for a tracker in `report_to` that transformers does not know, or that is not installed."""
    for name in names:
        known = [*INTEGRATION_TO_CALLBACK]
        check_known(name, known, f"report_to: there is no tracker {name!r}.", field="report_to", remedy=f"Use {known}.")
    if missing := [name for name in names if name in INSTALLED and not INSTALLED[name]()]:
        raise InputError(
            f"report_to: {missing[0]} is not installed.",
            remedy=f"Run pip install {missing[0]}, or leave it out.",
            field="report_to",
        )


class TrajectoryTables:
    """Writes a table of sampled trajectories each `every` optimizer steps, into `folder` and into the trackers.

    every: None for none.
    """

    def __init__(self, catalog: Catalog, folder: Path, every: int | None) -> None:
        self.catalog, self.folder, self.every = catalog, folder, every
        self._last = 0  # the step of the last table

    def show(
        self, micro_batch: MicroBatch, log_pf: Tensor, state: TrainerState, trackers: Iterable[TrainerCallback]
    ) -> None:
        """A micro-batch of the step in training, the first of them counts; log_pf [B, K, L] of the current weights.

        Raises SetupError where the file cannot be written.
        """
        number = state.global_step + 1  # global_step counts the steps that are done
        if not (self.every and number % self.every == 0 and number != self._last and state.is_world_process_zero):
            return
        self._last = number
        rows = table_rows(micro_batch, log_pf, self.catalog)
        with complete(self.folder / f"step_{number}.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        for tracker in trackers:
            _put(tracker, rows, number)


def table_rows(micro_batch: MicroBatch, log_pf: Tensor, catalog: Catalog) -> list[dict[str, Any]]:
    """COLUMNS of every trajectory of the first prompts; items by title, or by id where the catalog has no titles.

    log_pf [B, K, L]; a row holds its sum over the path, in nats.
    """
    prompts, trajectories = micro_batch.prompts.rows(0, PROMPTS), micro_batch.trajectories.rows(0, PROMPTS)
    names, histories = catalog.names, prompts.item_lists()
    columns = (trajectories.items, trajectories.codes, trajectories.source, micro_batch.scores.reward, log_pf.sum(-1))
    rows = []
    for b, user in enumerate(prompts.users):
        asked = {
            "user": user,
            "history": [names[item] for item in histories[b]][-HISTORY:],
            "target": names[int(prompts.target[b])],
        }
        for item, codes, source, reward, total in zip(*(column[b].tolist() for column in columns), strict=True):
            if source != PADDING:
                (words,) = item_words(torch.tensor([codes]), catalog.trie.sizes)
                path = " ".join(word.strip("<>") for word in words)  # in brackets they would be taken for HTML
                drawn = {"item": names[item], "semantic_id": path, "source": SOURCES[source]}
                rows.append(asked | drawn | {"reward": reward, "log_pf": total})
    return rows


def _put(tracker: TrainerCallback, rows: list[dict[str, Any]], number: int) -> None:
    """Hand the table of step `number` to a tracker; to other callbacks nothing."""
    data: list[Any] = [
        [", ".join(value) if isinstance(value, list) else value for value in row.values()] for row in rows
    ]
    if isinstance(tracker, TensorBoardCallback):
        tracker.tb_writer.add_text("trajectories", markdown(data), number)
    elif isinstance(tracker, WandbCallback):
        import wandb

        wandb.log({"trajectories": wandb.Table(columns=list(COLUMNS), data=data), "train/global_step": number})
    elif isinstance(tracker, TrackioCallback):
        import trackio

        trackio.log({"trajectories": trackio.Table(columns=list(COLUMNS), data=data), "train/global_step": number})


def markdown(data: list[list[Any]]) -> str:
    """Rows of COLUMNS as a Markdown table, for TensorBoard, which shows text."""
    return markdown_rows(COLUMNS, [[_cell(value) for value in row] for row in data])


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
