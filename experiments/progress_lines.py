"""How far a training is where there is no terminal: a line a minute in place of transformers' bar."""

import sys
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from catalog.progress import progress

SHOWN = {"loss": "loss", "eval_recall@10": "recall@10"}


class ProgressLines(TrainerCallback):
    """Steps done of all, the time they took and are likely to take, the newest loss and recall."""

    def __init__(self) -> None:
        self.lines: Any = None
        self.latest: dict[str, str] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.lines = progress(total=state.max_steps, initial=state.global_step, desc="training", unit="step")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.lines is not None:
            self.lines.update(state.global_step - self.lines.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if self.lines is not None:
            self.latest |= {SHOWN[name]: f"{value:.3g}" for name, value in (logs or {}).items() if name in SHOWN}
            self.lines.set_postfix(self.latest, refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.lines is not None:
            self.lines.close()


def show_as_lines(trainer: Any) -> None:
    """Let a trainer that would draw a bar write lines where there is no terminal; disable_tqdm stays as it is."""
    bars = [one for one in trainer.callback_handler.callbacks if isinstance(one, ProgressCallback)]
    if bars and not sys.stderr.isatty():
        for bar in bars:
            trainer.remove_callback(bar)
        trainer.add_callback(ProgressLines())
