"""What every run leaves behind."""

import json
import platform
import resource
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.utils import gather_object
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from catalog.errors import InputError
from catalog.files import complete, write_json

PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets")


class RunFolder(TrainerCallback):
    """Writes resolved.yaml, environment.json, metrics.jsonl and, at the end, metrics.json into the output folder.

    It also counts what the run costs: tokens and seconds are kept in the trainer's state, and so in checkpoints.

    recipe: settings beside the trainer's own that resolved.yaml should hold, such as the data and the backbone.
    """

    def __init__(self, recipe: dict[str, Any] | None = None) -> None:
        self.recipe = recipe or {}
        self.runtime_info: dict[str, Any] = {}
        self.python_parts: dict[str, Any] = {}
        self.is_over = False  # whether nothing is left to train: then what is written stays
        self.tokens_in_step = 0  # of the optimizer step in training, over all processes
        self._clock = 0.0  # when the seconds in the state were last brought up to date

    def connect(self, runtime_info: dict[str, Any], python_parts: dict[str, Any]) -> None:
        """Say what the trainer's processes are, and what it was given in Python."""
        self.runtime_info, self.python_parts = runtime_info, python_parts

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._clock = time.perf_counter()
        if not state.is_world_process_zero or self.is_over:
            return
        folder = Path(args.output_dir)
        settings = self.recipe | json.loads(args.to_json_string())
        if self.python_parts:
            settings["python_parts"] = self.python_parts
        with complete(folder / "resolved.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(settings, sort_keys=False))
        write_json(folder / "environment.json", environment() | self.runtime_info)
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
        if state.is_world_process_zero and logs:
            with (Path(args.output_dir) / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        state.num_input_tokens_seen += self.tokens_in_step  # not before, or a step begun again would count twice
        self._seconds(state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._seconds(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        cost = {
            "seconds": self._seconds(state),
            "tokens": state.num_input_tokens_seen,
            "peak_memory_mb": max(gather_object([peak_memory(args.device)])),
            "processes": args.world_size,
        }
        path = Path(args.output_dir) / "metrics.json"
        if state.is_world_process_zero and not (self.is_over and path.is_file()):
            last: dict[str, float] = {}
            for record in read_log(Path(args.output_dir)):
                last |= record
            best = {"best_metric": state.best_metric, "best_checkpoint": state.best_model_checkpoint}
            write_json(path, {"train": last | best, "cost": cost})

    def _seconds(self, state: TrainerState) -> float:
        """Seconds of training until now, those before the checkpoint that was resumed included."""
        now = time.perf_counter()
        # the one place of the state that takes any value; checkpoints of before it was counted have none
        callbacks: Any = state.stateful_callbacks  # a dict, whatever it is annotated as
        kept = callbacks.setdefault("cost", {"seconds": 0.0})
        kept["seconds"] += now - self._clock
        self._clock = now
        return kept["seconds"]


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The records of a run's metrics.jsonl, [] if it has none yet.

    A last line that a kill or a full disk has torn is left out. Raises InputError where another is no JSON.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = path.read_text(errors="replace").split("\n")
    records = []
    for number, line in enumerate(lines[:-1], 1):  # behind the last line break is nothing, or what was torn
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(
                f"Line {number} of {path} is no JSON: {error.msg}.", remedy="Delete the line.", file=path, row=number
            ) from error
    return records


def peak_memory(device: torch.device) -> float:
    """The most memory that this process held, in MiB: tensors of torch on a GPU, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # Linux counts KiB


def environment() -> dict[str, Any]:
    """Versions, commit and device that a run's figures belong to."""
    commit = _git("rev-parse", "HEAD")
    changed = commit and _git("status", "--porcelain", "--untracked-files=no")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "commit": commit or None,
        "uncommitted_changes": bool(changed) if commit else None,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _git(*command: str) -> str:
    """What git says of this project, "" where it is no checkout or there is no git."""
    try:
        done = subprocess.run(["git", "-C", str(Path(__file__).parent), *command], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()
