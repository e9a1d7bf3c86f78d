"""How a run was started: what its launcher was told, and what the processes really got."""

import logging
import os
import warnings
from argparse import Namespace
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from torch import nn
from transformers import TrainingArguments

from catalog.errors import InputError
from policy.device import say_one_gpu

logger = logging.getLogger(__name__)


def before_processes_join() -> None:
    """Set what must be settled before the group of the processes exists."""
    # DeepSpeed calls what torch has renamed, at every step
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    if not torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed

        # shared memory between CPU processes: minutes of compiling, for the same result
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def check_processes(args: TrainingArguments) -> None:
    """Raise InputError for more processes than GPUs here, or processes that did not find each other.

    Call it before anything that all processes do together.
    """
    here, devices = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if args.device.type == "cuda" and here > devices:
        raise InputError(
            f"{here} processes were started here for {devices} GPU(s).", remedy=f"Set --num_processes {devices}."
        )
    started, joined = int(os.environ.get("WORLD_SIZE", 1)), args.world_size
    if started != joined:
        raise InputError(
            f"{started} processes were started and each would train alone, as {joined}.",
            remedy="Without a GPU use recipes/accelerate/cpu-zero2.yaml, or torchrun with use_cpu: true.",
        )


def use_one_gpu(args: TrainingArguments) -> None:
    """Let a process that nobody launched with others take the first GPU, where transformers would take them all."""
    if args.n_gpu > 1:
        args._n_gpu = 1
        if args.device.type == "cuda":
            say_one_gpu()


def resolve_batch_size(prompts: int, most: int, processes: int) -> tuple[int, int]:
    """(prompts per process at once, how many times) so that one step takes `prompts` over all processes.

    most: how many prompts a process can take at once. Raises InputError where the processes cannot share evenly.
    """
    share, rest = divmod(prompts, processes)
    if rest or not share:
        raise InputError(
            f"global_batch_size={prompts} cannot be shared among {processes} processes.",
            remedy=f"Set a multiple of {processes}.",
            field="global_batch_size",
            value=prompts,
        )
    at_once = max(size for size in range(1, min(share, most) + 1) if share % size == 0)
    return at_once, share // at_once


def describe(accelerator: Accelerator, model: nn.Module) -> dict[str, Any]:
    """What this run really got: strategy, processes, device, precision and parameters."""
    counts = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return {
        "strategy": strategy(accelerator),
        "processes": accelerator.num_processes,
        "device": accelerator.device.type,
        "precision": {"no": str(next(model.parameters()).dtype).removeprefix("torch.")}.get(
            accelerator.mixed_precision, accelerator.mixed_precision
        ),
        "parameters": sum(count for count, _ in counts),
        "trained": sum(count for count, trained in counts if trained),
    }


def strategy(accelerator: Accelerator) -> str:
    """single, ddp, fsdp1, fsdp2 or zero0 to zero3."""
    kind = accelerator.distributed_type
    if kind == DistributedType.DEEPSPEED:
        return f"zero{accelerator.state.deepspeed_plugin.zero_stage}"
    if kind == DistributedType.FSDP:
        return "fsdp2" if accelerator.is_fsdp2 else "fsdp1"
    return "single" if kind == DistributedType.NO else "ddp"


def check_launch(accelerator: Accelerator) -> None:
    """Raise InputError where `accelerate launch` was told something else than what this process finds.

    accelerate falls back silently: `use_cpu: true` switches DeepSpeed off, MULTI_CPU without MPI starts one process.
    """
    parent = psutil.Process().parent()
    asked = _asked(parent.cmdline() if parent else [])
    if asked is None:
        return
    plugin = accelerator.state.deepspeed_plugin
    for name, told, found in (
        ("num_processes", asked.num_processes, accelerator.num_processes),
        ("distributed_type", asked.distributed_type, accelerator.distributed_type.value),
        ("zero_stage", asked.zero_stage, plugin and plugin.zero_stage),
        ("mixed_precision", asked.mixed_precision, accelerator.mixed_precision),
    ):
        if told not in (None, found) and (name, told) != ("mixed_precision", "no"):
            raise InputError(
                f"accelerate launch was told {name}={told} and this run has {found}.",
                remedy="Without a GPU use one of recipes/accelerate/cpu-*.yaml; use_cpu: true switches DeepSpeed off.",
            )


def _asked(command: list[str]) -> Namespace | None:
    """What the `accelerate launch` of a command line was asked for, its options before its file; None for another.

    It is also started as accelerate-launch and as accelerate.commands.launch.
    """
    alone = ("accelerate-launch", "accelerate.commands.launch")
    starts = [place for place, word in enumerate(command, 1) if word == "launch" or word.endswith(alone)]
    options = starts[0] if starts else 0
    if "accelerate" not in " ".join(command[:options]):
        return None
    told = launch_command_parser().parse_args(command[options:])
    file = load_config_from_file(told.config_file) if told.config_file else Namespace()
    kind = getattr(file, "distributed_type", None)
    return Namespace(
        num_processes=told.num_processes or getattr(file, "num_processes", None),
        distributed_type=None if kind is None else getattr(kind, "value", kind),
        zero_stage=told.zero_stage or (getattr(file, "deepspeed_config", None) or {}).get("zero_stage"),
        mixed_precision=told.mixed_precision or getattr(file, "mixed_precision", None),
    )
