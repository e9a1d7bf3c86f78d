"""What a run's checkpoints hold beside weights and tokenizer: the catalog, how prompts are made, the reward, a card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerState

from catalog import Catalog
from catalog.files import complete
from recommenders.policy_folder import CARD, PolicyRecord, count_items, write_record
from trainer.config import TrainingConfig
from trainer.reporting.run_folder import RunFolder
from trainer.runtime.model_card import model_card

REWARD_SHAPE = ("reward_floor", "reward_floor_end", "reward_temperature", "reward_temperature_end")
PYTHON = "python_parts"
"""In a run's settings: what it was given in Python, by its import path where it has one, rewards with weights."""


class PolicyContents:
    """Completes the checkpoints of a run.

    trainer: the name of its class. folder: what it writes beside them, and the settings that it was started with.
    """

    def __init__(
        self,
        trainer: str,
        args: TrainingConfig,
        catalog: Catalog,
        rows: Dataset | None,
        folder: RunFolder,
    ) -> None:
        self.catalog, self.rows, self.data = catalog, rows, folder.recipe.get("data")
        self.settings = json.loads(args.to_json_string()) | {PYTHON: folder.python_parts}
        method = trainer.removesuffix("Trainer").lower()
        self.record = PolicyRecord(method, args.max_history, args.prompt_template, reward_settings(self.settings))
        self.counts = count_items(rows, len(catalog))

    def write(self, folder: Path, state: TrainerState) -> None:
        """Write them into a checkpoint."""
        write_record(folder, self.record, self.catalog, self.counts)
        logged = {name: value for record in state.log_history for name, value in record.items()}
        card = model_card(
            self.record,
            self.catalog,
            self.settings,
            rows=0 if self.rows is None else len(self.rows),
            steps=state.global_step,
            measured={name: value for name, value in logged.items() if name.startswith("eval_") and "@" in name},
            data=self.data,
        )
        with complete(folder / CARD) as temporary:
            temporary.write_text(card, encoding="utf-8")


def reward_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the reward of a run with these settings, {} for a run without one.

    A reward that the run was given in Python is named by its import path, or as what it is where it has none.
    """
    given = settings.get(PYTHON) or {}
    rewards = given.get("rewards") or settings.get("rewards")
    if not rewards:
        return {}
    recommender = given.get("recommender") or settings.get("recommender")
    shape = {name: settings[name] for name in REWARD_SHAPE if name in settings}
    return {"rewards": rewards, "recommender": recommender} | shape
