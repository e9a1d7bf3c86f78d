"""Processes that stop together, and checkpoints that are whole: what every trainer here does with both."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints

from catalog import Catalog
from catalog.files import seal
from trainer.checkpoints import check_resumable, make_universal, newest, put, unfinished
from trainer.config import TrajectoryConfig
from trainer.launch import check_launch, check_processes, describe
from trainer.watch import Interrupted, Watch

logger = logging.getLogger(__name__)


class ResumableTrainer(Trainer):
    """transformers' trainer, whose runs end in order and go on exactly.

    A process that fails takes the others with it, after a checkpoint of the steps done where all still answer; SIGTERM
    and the death of the launcher end a run the same way, and a process that is stuck is named (`Watch`).
    """

    args: TrajectoryConfig
    model: PreTrainedModel
    catalog: Catalog

    def __init__(self, model: PreTrainedModel, args: TrajectoryConfig, **kwargs: Any) -> None:
        check_processes(args)
        super().__init__(model=model, args=args, **kwargs)
        check_launch(self.accelerator)
        self.got = describe(self.accelerator, self.model)
        self.watch = Watch(args.ddp_timeout)
        self._saving: Path | None = None  # where a checkpoint is being written
        self._saved_at = 0  # the step of the last checkpoint
        self._same_processes = True  # as many as the run that is resumed had

    # all processes stop together, and what was done is kept

    @contextmanager
    def together(self) -> Iterator[None]:
        """Whatever fails inside on any process, a user's reward say, ends all of them; every process comes here."""
        error = None
        try:
            yield
        except Exception as caught:
            error = caught
        self.watch.beat(f"step {self.state.global_step}")
        failed = self.accelerator.gather(torch.tensor([error is not None], device=self.args.device)).nonzero()
        if len(failed):
            self._end(error or Interrupted(f"Process {failed[0].item()} failed, see its message; this one stops too."))

    def _end(self, error: Exception) -> NoReturn:
        """Keep the steps done in a checkpoint and raise."""
        if self.state.global_step:
            self._save_checkpoint(self.model, None)
            logger.error("Stopped. %s/checkpoint-%d resumes.", self.args.output_dir, self.state.global_step)
        raise error

    # checkpoints

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train; `resume_from_checkpoint` True goes on from the last whole checkpoint, or begins where there is none.

        Raises InputError for a checkpoint that is broken or of another run, and `Interrupted` after a SIGTERM.
        """
        found: Any = resume_from_checkpoint
        if found in (True, "true"):  # the latter from a command line
            [found] = broadcast_object_list([newest(Path(self.args.output_dir))])
        self._saved_at = 0
        if found:
            self._saved_at = int(Path(found).name.split("-")[-1])
            self._same_processes = check_resumable(Path(found), self._about)
            if self.is_deepspeed_enabled and not self._same_processes:
                self.accelerator.state.deepspeed_plugin.deepspeed_config["checkpoint"] = {"load_universal": True}
                self._deal_anew(Path(found))
        with self.watch:
            return super().train(found and str(found), *args, **kwargs)

    def _deal_anew(self, checkpoint: Path) -> None:
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
        if self.is_deepspeed_enabled and not check_resumable(best, self._about):
            self._deal_anew(best)
            self.deepspeed._config.load_universal_checkpoint = True
        super()._load_best_model()

    @property
    def prompts_per_step(self) -> int:
        """Prompts of one optimiser step over all processes."""
        args = self.args
        return args.per_device_train_batch_size * args.gradient_accumulation_steps * self.accelerator.num_processes

    @property
    def _about(self) -> dict[str, Any]:
        """What a run must have in common with a checkpoint to resume it."""
        config, got = self.model.config, self.got
        return {
            "method": type(self).__name__,
            "catalog": self.catalog.fingerprint,
            "model": f"{config.model_type} of {got['parameters']} parameters, {got['trained']} trained",
            "strategy": got["strategy"],
            "processes": got["processes"],
            "prompts_per_step": self.prompts_per_step,
        }

    def _get_output_dir(self, trial: Any = None) -> str:
        return str(self._saving or self.args.output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """As transformers, but under another name until it is whole; only then do older ones make room."""
        step, output_dir = self.state.global_step, Path(self.args.output_dir)
        if step == self._saved_at:
            return
        self.watch.beat("")
        with unfinished(output_dir, self.accelerator, main=self.args.should_save) as self._saving:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # the others write their parts too
            if self.state.best_global_step == step:
                self.state.best_model_checkpoint = str(output_dir / f"checkpoint-{step}")
            if self.args.should_save:
                folder = self._saving / f"checkpoint-{step}"
                self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
                seal(folder, self._about)
                put(folder, output_dir / folder.name)
                rotate_checkpoints(
                    str(output_dir), self.args.save_total_limit, self.state.best_model_checkpoint, use_mtime=True
                )
        self._saving, self._saved_at = None, step
