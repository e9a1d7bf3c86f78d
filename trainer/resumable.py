"""Processes that stop together, and checkpoints that are whole: what every trainer here does with both."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints

from catalog import Catalog
from catalog.errors import InputError, RunError
from catalog.files import broken, seal, sealed
from interactions.provenance import Provenance
from policy.checkpoints import finished
from trainer.checkpoints import check_resumable, check_savable, find_checkpoint, make_universal, newest, put, unfinished
from trainer.config import TrajectoryConfig
from trainer.export import unmark
from trainer.launch import check_launch, check_processes, describe
from trainer.provenance import IN_MEMORY, run_provenance
from trainer.run_folder import RunFolder
from trainer.watchdog import Interrupted, Watchdog

logger = logging.getLogger(__name__)


def _own_part(tensor: torch.Tensor, rank: int) -> torch.Tensor:
    """What lies in this process of a weight that ZeRO-3 or FSDP shards, without what pads it; else all of it."""
    if (part := getattr(tensor, "ds_tensor", None)) is not None:
        return part.detach()[: max(0, tensor.ds_numel - rank * part.numel())]  # type: ignore[attr-defined]
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()


LENGTH = ("max_steps", "num_train_epochs", "early_stopping_patience", "load_best_model_at_end")
"""What says when a run is finished and which of its weights it then has."""


class ResumableTrainer(Trainer):
    """transformers' trainer, whose runs end in order and go on exactly.

    A process that fails takes the others with it, after a checkpoint of the steps done where all still answer. So do a
    request to stop and the death of the launcher; and a process that is stuck is named (`Watchdog`).
    """

    args: TrajectoryConfig
    model: PreTrainedModel
    catalog: Catalog
    folder: RunFolder

    def __init__(self, model: PreTrainedModel, args: TrajectoryConfig, **kwargs: Any) -> None:
        check_processes(args)
        super().__init__(model=model, args=args, **kwargs)
        check_launch(self.accelerator)
        check_savable(self.accelerator)
        self.runtime_info = describe(self.accelerator, self.model)
        self.watchdog = Watchdog(args.ddp_timeout)
        self._saving: Path | None = None  # where a checkpoint is being written
        self._saved_at = 0  # the step of the last checkpoint
        self._same_processes = True  # as many as the run that is resumed had
        self.began_at = 0  # the step that the run in training went on from
        self.is_over = False  # whether all its steps were done before

    # all processes stop together, and what was done is kept

    @contextmanager
    def fail_together(self) -> Iterator[None]:
        """Whatever fails inside on any process, a user's reward say, ends all of them; every process comes here."""
        error = None
        try:
            yield
        except Exception as caught:
            error = caught
        self.watchdog.heartbeat(f"step {self.state.global_step}")
        failed = self.accelerator.gather(torch.tensor([error is not None], device=self.args.device)).nonzero()
        if len(failed):
            self._abort(
                error or Interrupted(f"Process {failed[0].item()} failed, see its message; this one stops too.")
            )

    def _abort(self, error: Exception) -> NoReturn:
        """Keep the steps done in a checkpoint and raise; RunError where they led to weights that are no numbers."""
        if self.state.global_step:
            self._check_finite(error)
            self._save_checkpoint(self.model, None)
            kept = "is kept" if self.args.save_only_model else "resumes"
            logger.error("Stopped. %s/checkpoint-%d %s.", self.args.output_dir, self.state.global_step, kept)
        raise error

    def _check_finite(self, cause: Exception | None = None) -> None:
        """Raise RunError on every process where a weight or buffer of any of them is no finite number."""
        tensors = [t for t in (*self.model.parameters(), *self.model.buffers()) if t.is_floating_point()]
        # with offloading some lie in main memory and some on the device
        good = [_own_part(t, self.accelerator.process_index).isfinite().all().to(self.args.device) for t in tensors]
        bad = ~torch.stack(good).all()
        if not self.accelerator.gather(bad.reshape(1)).any():
            return
        last = newest(Path(self.args.output_dir)) if self.args.should_save else None
        remedy = "Lower the learning rate or the reward's range."
        if last is not None:
            remedy = f"{last} is the last good checkpoint: start a new run from it (--model), with a lower rate."
        raise RunError(
            f"The weights after step {self.state.global_step} are no finite numbers, so they are not kept.",
            remedy=remedy,
        ) from cause

    # checkpoints

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train; `resume_from_checkpoint` True goes on from the last whole checkpoint, or begins where there is none.

        It may also be the folder of a checkpoint, or of a run, then of its last one. Where all steps are done already,
        nothing is trained. Raises InputError for a checkpoint that is damaged or of another run, and `Interrupted`
        after SIGTERM, SIGINT (Ctrl-C) or SIGHUP.
        """
        _ = self.provenance  # of the backbone as it was given: transformers adapts its config to the tokenizer
        found = self._find(resume_from_checkpoint)
        self._saved_at, self._same_processes = 0, True
        if found:
            folder, was = found
            self._saved_at, self._same_processes = was["step"], was["processes"] == self.runtime_info["processes"]
            if self.is_deepspeed_enabled and not self._same_processes:
                self.accelerator.state.deepspeed_plugin.deepspeed_config["checkpoint"] = {"load_universal": True}
                self._to_universal_checkpoint(folder)
        elif self.args.save_only_model:
            logger.warning("save_only_model: checkpoints hold weights alone, from which this run cannot be resumed.")
        with self.watchdog:
            return super().train(found and str(found[0]), *args, **kwargs)

    def _find(self, asked: str | bool | None) -> tuple[Path, dict[str, Any]] | None:
        """(the checkpoint to resume, what its marker says)."""

        def find() -> tuple[Path, dict[str, Any]] | None:
            folder = find_checkpoint(asked, Path(self.args.output_dir))
            return None if folder is None else (folder, check_resumable(folder, self.about))

        found = self._from_main(find)
        if found and IN_MEMORY in str(self.python_parts):
            logger.warning("What was given in Python has no import path: nothing tells whether it is the former.")
        return found

    def is_finished(self) -> bool:
        """Whether output_dir holds this very run after its last step. Raises InputError where it holds another one."""

        def look() -> bool:
            folder = Path(self.args.output_dir)
            if not finished(folder):
                return False
            was = sealed(folder, "The run")
            remedy = "Choose another output_dir, or start anew without resume_from_checkpoint."
            self.provenance.check(Provenance.from_dict(was["provenance"]), f"The run in {folder}", remedy, folder)
            return was["length"] == self.about["length"]

        return self._from_main(look)

    def _from_main(self, read: Callable[[], Any]) -> Any:
        """What one process finds in a folder, for all of them; an InputError is raised in all too."""
        found, error = None, None
        if self.accelerator.is_main_process:
            try:
                found = read()
            except InputError as caught:
                error = caught
        found, error = broadcast_object_list([found, error])
        if error:
            raise error
        return found

    def _init_training_state(self, *args: Any) -> tuple[int, int]:
        place = super()._init_training_state(*args)
        self.began_at = self.state.global_step
        early = [
            callback for callback in self.callback_handler.callbacks if isinstance(callback, EarlyStoppingCallback)
        ]
        kept = self.state.stateful_callbacks.get(EarlyStoppingCallback.__name__, [])
        if self.began_at:
            for callback, was in zip(early, kept if isinstance(kept, list) else [kept], strict=False):
                callback.early_stopping_patience_counter = was["attributes"]["early_stopping_patience_counter"]
        stopped = (callback.early_stopping_patience_counter >= callback.early_stopping_patience for callback in early)
        self.is_over = self.folder.is_over = self.began_at > 0 and (
            self.began_at >= self.state.max_steps or any(stopped)
        )
        if self.began_at > self.state.max_steps:
            raise InputError(
                f"The checkpoint has {self.began_at} steps behind it, and this run is to have {self.state.max_steps}.",
                remedy="Name an earlier checkpoint, or train for longer.",
                field="max_steps",
                value=self.state.max_steps,
            )
        if not self.is_over and self.args.should_save:
            unmark(Path(self.args.output_dir))
        return place

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.is_over:  # transformers would train a step before it looks
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _to_universal_checkpoint(self, checkpoint: Path) -> None:
        """Put what another number of processes wrote into a form that DeepSpeed deals out to any."""
        if self.accelerator.is_main_process:
            make_universal(checkpoint)
        self.accelerator.wait_for_everyone()

    def create_optimizer(self, *args: Any) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args)
        self._groups = [{name: v for name, v in group.items() if name != "params"} for group in optimizer.param_groups]
        return optimizer

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint and self.is_deepspeed_enabled and not self._same_processes:
            # dealing anew, DeepSpeed's ZeRO-3 gives every group the rate and decay of the first, and one step counter
            for group, own, rate in zip(
                self.optimizer.param_groups, self._groups, self.lr_scheduler.get_last_lr(), strict=True
            ):
                group.update(own | {"lr": rate, "initial_lr": own["lr"]})
            for state in self.optimizer.state.values():
                state["step"] = state["step"].clone()
            self.deepspeed._config.load_universal_checkpoint = False  # the run's own checkpoints are not of that form

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint)
        if reason := broken(best, contents=True):
            raise InputError(
                f"{best}, the best checkpoint, cannot be loaded: {reason}",
                remedy="Set load_best_model_at_end: false to keep the last one, and start the run again.",
                file=best,
            )
        if (
            self.is_deepspeed_enabled
            and check_resumable(best, self.about)["processes"] != self.runtime_info["processes"]
        ):
            self._to_universal_checkpoint(best)
            self.deepspeed._config.load_universal_checkpoint = True
        super()._load_best_model()

    @property
    def prompts_per_step(self) -> int:
        """Prompts of one optimizer step over all processes."""
        args = self.args
        return args.per_device_train_batch_size * args.gradient_accumulation_steps * self.accelerator.num_processes

    @cached_property
    def provenance(self) -> Provenance:
        """What decides this run: catalogue, rows, backbone, settings, and what was given in Python."""
        splits = {"train": self.train_dataset, "validation": self.eval_dataset}
        further = {
            "method": type(self).__name__,
            "strategy": self.runtime_info["strategy"],
            "precision": self.runtime_info["precision"],
            "parameters": [self.runtime_info["parameters"], self.runtime_info["trained"]],
            "prompts_per_step": self.prompts_per_step,
            "python_parts": self.python_parts,
            "titles": self.catalog.titles_digest if "{titles}" in (self.args.prompt_template or "") else None,
        }
        return run_provenance(self.args, self.model, self.catalog.fingerprint, splits, further)

    @property
    def python_parts(self) -> dict[str, Any]:
        """The import paths of what was given to this trainer in Python and changes what it learns."""
        return {}

    @property
    def about(self) -> dict[str, Any]:
        """What the markers of checkpoints and of the finished run say."""
        return {
            "provenance": self.provenance.as_dict(),
            "processes": self.runtime_info["processes"],
            "step": self.state.global_step,
            "length": [getattr(self.args, name) for name in LENGTH],
            "resumable": not self.args.save_only_model,
        }

    def _get_output_dir(self, trial: Any = None) -> str:
        return str(self._saving or self.args.output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """As transformers, but under another name until it is whole; only then do older ones make room."""
        step, output_dir = self.state.global_step, Path(self.args.output_dir)
        if step == self._saved_at:
            return
        self.watchdog.heartbeat("")
        self._check_finite()
        try:
            with unfinished(output_dir, self.accelerator, main=self.args.should_save) as self._saving:
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()  # the others write their parts too
                if self.state.best_global_step == step:
                    self.state.best_model_checkpoint = str(output_dir / f"checkpoint-{step}")
                if self.args.should_save:
                    folder = self._saving / f"checkpoint-{step}"
                    self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
                    seal(folder, self.about)
                    put(folder, output_dir / folder.name)
                    rotate_checkpoints(
                        str(output_dir), self.args.save_total_limit, self.state.best_model_checkpoint, use_mtime=True
                    )
        finally:
            self._saving = None
        self._saved_at = step
