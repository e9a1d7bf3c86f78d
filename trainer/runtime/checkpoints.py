"""The checkpoints of a run: whole, without weights that are no numbers, and only ever resumed by the same run."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints

from catalog.errors import DivergedError, InputError
from catalog.files import broken, seal, sealed
from interactions.provenance import Provenance
from policy.folders import finished
from trainer.config import TrainingConfig
from trainer.runtime.checkpoint_files import (
    check_resumable,
    check_savable,
    find_checkpoint,
    make_universal,
    newest,
    put,
    unfinished,
)
from trainer.runtime.export import unmark
from trainer.runtime.preflight import check_alike
from trainer.runtime.processes import Processes
from trainer.runtime.provenance import IN_MEMORY

logger = logging.getLogger(__name__)

LENGTH = ("max_steps", "num_train_epochs", "early_stopping_patience", "load_best_model_at_end")
"""What says when a run is finished and which of its weights it then has."""


class RunCheckpoints:
    """What a run writes into its folder to be resumed from, and what it finds there.

    provenance: what decides the run; processes and their number are told by `runtime_info`. saving: where a checkpoint
    is being written, None at other times. began_at: the step that the run in training went on from. is_over: whether
    all its steps were done before.
    """

    def __init__(
        self, args: TrainingConfig, processes: Processes, model: nn.Module, runtime_info: dict[str, Any]
    ) -> None:
        self._args, self._processes, self._model, self._runtime_info = args, processes, model, runtime_info
        check_savable(processes.accelerator)
        self._folder = Path(args.output_dir)
        self.saving: Path | None = None
        self.saved_at = 0  # the step of the last checkpoint
        self.same_processes = True  # as many as the run that is resumed had
        self.began_at = 0
        self.is_over = False

    @property
    def _accelerator(self) -> Accelerator:
        return self._processes.accelerator

    def about(self, provenance: Provenance, step: int) -> dict[str, Any]:
        """What the markers of checkpoints and of the finished run say."""
        return {
            "provenance": provenance.as_dict(),
            "processes": self._runtime_info["processes"],
            "step": step,
            "length": [getattr(self._args, name) for name in LENGTH],
            "resumable": not self._args.save_only_model,
        }

    # to go on

    def find(self, asked: str | bool | None, provenance: Provenance) -> Path | None:
        """The checkpoint to resume, None to begin; every process calls it.

        Raises InputError for one of another run, and where another process has another run.
        """
        check_alike(self._accelerator, provenance)

        def look() -> tuple[Path, dict[str, Any]] | None:
            folder = find_checkpoint(asked, self._folder)
            return None if folder is None else (folder, check_resumable(folder, self.about(provenance, 0)))

        found = self._processes.from_main(look)
        self.saved_at, self.same_processes = 0, True
        if found is None:
            if self._args.save_only_model:
                logger.warning(
                    "save_only_model: checkpoints hold weights alone, from which this run cannot be resumed."
                )
            return None
        folder, was = found
        self.saved_at, self.same_processes = was["step"], was["processes"] == self._runtime_info["processes"]
        if IN_MEMORY in str(provenance.settings.get("python_parts")):
            logger.warning("What was given in Python has no import path: nothing tells whether it is the former.")
        return folder

    def is_finished(self, provenance: Provenance) -> bool:
        """Whether output_dir holds this very run after its last step. Raises InputError where it holds another one."""

        def look() -> bool:
            if not finished(self._folder):
                return False
            was = sealed(self._folder, "The run")
            remedy = "Choose another output_dir, or start again without resume_from_checkpoint."
            provenance.check(
                Provenance.from_dict(was["provenance"]), f"The run in {self._folder}", remedy, self._folder
            )
            return was["length"] == self.about(provenance, 0)["length"]

        return self._processes.from_main(look)

    def begin(self, state: TrainerState, callbacks: Sequence[TrainerCallback]) -> None:
        """Look where a run goes on from, and whether it was over; if not, its folder is no finished run's from here."""
        self.began_at = state.global_step
        early = [callback for callback in callbacks if isinstance(callback, EarlyStoppingCallback)]
        states: Any = state.stateful_callbacks
        kept = states.get(EarlyStoppingCallback.__name__, [])
        if self.began_at:
            for callback, was in zip(early, kept if isinstance(kept, list) else [kept], strict=False):
                callback.early_stopping_patience_counter = was["attributes"]["early_stopping_patience_counter"]
        stopped = (callback.early_stopping_patience_counter >= callback.early_stopping_patience for callback in early)
        self.is_over = self.began_at > 0 and (self.began_at >= state.max_steps or any(stopped))
        if self.began_at > state.max_steps:
            raise InputError(
                f"The checkpoint has {self.began_at} steps behind it, and this run is to have {state.max_steps}.",
                remedy="Name an earlier checkpoint, or train for longer.",
                field="max_steps",
                value=state.max_steps,
            )
        if not self.is_over and self._args.should_save:
            unmark(self._folder)

    def to_universal(self, folder: Path) -> None:
        """Put what another number of processes wrote into a form that DeepSpeed loads with any number."""
        if self._accelerator.is_main_process:
            make_universal(folder)
        self._accelerator.wait_for_everyone()

    def check_best(self, best: Path, provenance: Provenance) -> bool:
        """Whether the best checkpoint was written by as many processes. Raises InputError where it is damaged."""
        if reason := broken(best, contents=True):
            raise InputError(
                f"{best}, the best checkpoint, cannot be loaded: {reason}",
                remedy="Set load_best_model_at_end: false to keep the last one, and start the run again.",
                file=best,
            )
        was = check_resumable(best, self.about(provenance, 0)) if self._args.deepspeed_plugin is not None else None
        return was is None or was["processes"] == self._runtime_info["processes"]

    # to write

    @contextmanager
    def writing(self, state: TrainerState, provenance: Provenance) -> Iterator[Path]:
        """Where to write the checkpoint of a step; it gets its name, and older ones are deleted, once it is whole."""
        step = state.global_step
        try:
            with unfinished(self._folder, self._accelerator, main=self._args.should_save) as self.saving:
                yield self.saving / f"checkpoint-{step}"
                self._accelerator.wait_for_everyone()  # the others write their parts too
                if state.best_global_step == step:
                    state.best_model_checkpoint = str(self._folder / f"checkpoint-{step}")
                if self._args.should_save:
                    folder = self.saving / f"checkpoint-{step}"
                    state.save_to_json(str(folder / TRAINER_STATE_NAME))
                    seal(folder, self.about(provenance, step))
                    put(folder, self._folder / folder.name)
                    limit, best = self._args.save_total_limit, state.best_model_checkpoint
                    rotate_checkpoints(str(self._folder), limit, best, use_mtime=True)
        finally:
            self.saving = None
        self.saved_at = step

    def check_finite(self, step: int) -> None:
        """Raise DivergedError on every process where a weight or buffer of any of them is no finite number."""
        tensors = [t for t in (*self._model.parameters(), *self._model.buffers()) if t.is_floating_point()]
        rank, device = self._accelerator.process_index, self._accelerator.device
        # with offloading some lie in main memory and some on the device
        good = [_own_part(tensor, rank).isfinite().all().to(device) for tensor in tensors]
        bad = ~torch.stack(good).all()
        if not self._accelerator.gather(bad.reshape(1)).any():
            return
        last = newest(self._folder) if self._args.should_save else None
        remedy = "Lower the learning rate or the reward's range."
        if last is not None:
            remedy = f"{last} is the last good checkpoint: start a new run from it (--model), with a lower rate."
        raise DivergedError(
            f"The weights after step {step} are no finite numbers, so they are not kept.", remedy=remedy
        )


def _own_part(tensor: torch.Tensor, rank: int) -> torch.Tensor:
    """What lies in this process of a weight that ZeRO-3 or FSDP shards, without what pads it; else all of it."""
    if (part := getattr(tensor, "ds_tensor", None)) is not None:
        return part.detach()[: max(0, tensor.ds_numel - rank * part.numel())]  # type: ignore[attr-defined]
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()


def restore_groups(optimizer: torch.optim.Optimizer, groups: Sequence[dict[str, Any]], rates: Sequence[float]) -> None:
    """Undo what DeepSpeed's ZeRO-3 does where another number of processes wrote the checkpoint.

    It gives every group the rate and decay of the first, and all parameters one step counter. groups: the options that
    each group was made with; rates: those of the schedule now.
    """
    for group, own, rate in zip(optimizer.param_groups, groups, rates, strict=True):
        group.update(own | {"lr": rate, "initial_lr": own["lr"]})
    for state in optimizer.state.values():
        state["step"] = state["step"].clone()
