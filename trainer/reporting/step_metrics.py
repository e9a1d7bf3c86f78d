"""The metrics of the steps between two logs."""

import time
from collections import defaultdict
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import TrainerState, TrainingArguments

from trainer.reporting.metrics import check_names


def will_log(args: TrainingArguments, state: TrainerState, began_at: int) -> bool:
    """Whether the step to come is logged, so that what only a metric needs is computed.

    Not in the second one of a process under ZeRO-3, whose prefetching a forward more there would stop for good.
    began_at: the step that the process went on from.
    """
    done, plugin = state.global_step, args.deepspeed_plugin
    if plugin is not None and plugin.zero_stage == 3 and done - began_at == 1:
        return False
    if done == 0 and args.logging_first_step:
        return True
    if args.logging_strategy == "steps":
        return (done + 1) % max(1, int(state.logging_steps or 1)) == 0
    return args.logging_strategy == "epoch"  # whichever of its steps is the last


class StepMetrics:
    """Collects scalars; `means` averages them since the last log and over processes, of those in _max the largest."""

    def __init__(self) -> None:
        self._noted: defaultdict[str, list[Tensor | float]] = defaultdict(list)
        self._step_started: float | None = None

    def note(self, metrics: Mapping[str, Tensor | float]) -> None:
        for name, value in metrics.items():  # kept as tensors: to read one here would wait for a GPU
            self._noted[name].append(value.detach() if isinstance(value, Tensor) else value)

    def note_rollout(self, prompts: int, seconds: float) -> None:
        """How fast the step before was, and which share of it the rollout of `seconds` took."""
        now = time.perf_counter()
        if self._step_started is not None:
            whole = now - self._step_started
            self.note({"time/prompts_per_second": prompts / whole, "time/rollout_share": seconds / whole})
        self._step_started = now

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Everything that was noted, by name; every process calls it and has noted the same names. Forgets it."""
        if not self._noted:
            return {}
        names = sorted(self._noted)
        check_names(names)
        device = accelerator.device
        largest = torch.tensor([name.endswith("_max") for name in names], device=device)
        values = [torch.tensor([float(value) for value in self._noted[name]]) for name in names]
        own = torch.stack([v.max() if top else v.mean() for v, top in zip(values, largest, strict=True)])
        every = accelerator.gather(own.to(device).unsqueeze(0))  # [processes, names]
        self._noted.clear()
        return dict(zip(names, every.mean(0).where(~largest, every.amax(0)).tolist(), strict=True))
