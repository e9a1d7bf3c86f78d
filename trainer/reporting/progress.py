"""How far a training is: a bar on a terminal, elsewhere a line a minute, with the numbers that matter behind it."""

from typing import Any

from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from catalog.progress import progress

SHOWN = {
    "loss": "loss",
    "flow/residual_rms": "residual",
    "eval_tv": "TV",
    "sampler/valid_share": "valid",
    "time/prompts_per_second": "prompts/s",
    "eval_recall@10": "recall@10",
}
"""Metrics that are shown -> how they are called there."""


class Progress(TrainerCallback):
    """Steps done of all, the time they took and are likely to take, and the newest of `SHOWN`."""

    def __init__(self) -> None:
        self.shown: Any = None
        self.latest: dict[str, str] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.shown = progress(total=state.max_steps, initial=state.global_step, desc="training", unit="step")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.shown is not None:
            self.shown.update(state.global_step - self.shown.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if self.shown is not None:
            self.latest |= {SHOWN[name]: f"{value:.3g}" for name, value in (logs or {}).items() if name in SHOWN}
            self.shown.set_postfix(self.latest, refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.shown is not None:
            self.shown.close()


def use_progress(trainer: Trainer) -> None:
    """Show `Progress`, or nothing with disable_tqdm, in place of transformers' bar and lines."""
    for stock in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(stock)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(Progress())
