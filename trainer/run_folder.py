"""What every run leaves behind, and the progress bar."""

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from catalog.files import complete, write_json

PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets")
SHOWN = {
    "loss": "loss",
    "flow/residual_rms": "residual",
    "eval_tv": "TV",
    "sampler/valid_share": "valid",
    "time/prompts_per_second": "prompts/s",
    "eval_recall@10": "recall@10",
}


class RunFolder(TrainerCallback):
    """Writes resolved.yaml, environment.json, metrics.jsonl and, at the end, metrics.json into the output folder.

    recipe: settings beside the trainer's own that resolved.yaml should hold, such as the data and the backbone.
    """

    def __init__(self, recipe: dict[str, Any] | None = None) -> None:
        self.recipe = recipe or {}
        self.got: dict[str, Any] = {}  # what the trainer's processes really are

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        with complete(folder / "resolved.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(self.recipe | json.loads(args.to_json_string()), sort_keys=False))
        write_json(folder / "environment.json", environment() | self.got)
        kept = [record for record in read_log(folder) if record["step"] <= state.global_step]  # of a resumed run
        with complete(folder / "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero:
            with (Path(args.output_dir) / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            last: dict[str, float] = {}
            for record in read_log(Path(args.output_dir)):
                last |= record
            write_json(
                Path(args.output_dir) / "metrics.json",
                {"train": {**last, "best_metric": state.best_metric, "best_checkpoint": state.best_model_checkpoint}},
            )


class Progress(ProgressCallback):
    """transformers' bar with the numbers that matter behind it, instead of a line per log."""

    def __init__(self) -> None:
        super().__init__()
        self.latest: dict[str, str] = {}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and self.training_bar is not None:
            self.latest |= {SHOWN[name]: f"{value:.3g}" for name, value in (logs or {}).items() if name in SHOWN}
            self.training_bar.set_postfix(self.latest)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The records of a run's metrics.jsonl, [] if it has none yet."""
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def environment() -> dict[str, Any]:
    """Versions, commit and device that a run's figures belong to."""
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True)
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "commit": commit.stdout.strip() or None,
        "uncommitted_changes": bool(changed.stdout.strip()),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "threads": torch.get_num_threads(),
    }
