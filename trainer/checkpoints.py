"""Checkpoints that are whole or absent."""

import logging
import shutil
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from catalog.errors import InputError, SetupError
from catalog.files import MARKER, broken, read_json

logger = logging.getLogger(__name__)


@contextmanager
def unfinished(output_dir: Path, accelerator: Accelerator, *, main: bool) -> Iterator[Path]:
    """An empty folder for a checkpoint in the making, the same for all processes; gone at the end. main: makes it."""
    folder = output_dir / ".unfinished"
    if main:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        yield folder
    except Exception as error:  # a full disk is an OSError of Python, another error of safetensors and of torch
        raise SetupError(
            f"The checkpoint under {folder} could not be written ({error}).",
            remedy="The one before is whole; free space there.",
        ) from error
    finally:
        if main:
            shutil.rmtree(folder, ignore_errors=True)
    accelerator.wait_for_everyone()


def put(folder: Path, place: Path) -> None:
    """Give a whole checkpoint its place, also where one of an earlier run stands there."""
    if place.exists():
        place.rename(folder.with_name("earlier"))
    folder.rename(place)


def newest(output_dir: Path) -> Path | None:
    """The checkpoint of a run that was completed last, None without one; warns of those that are not whole."""
    whole = []
    for path in sorted(output_dir.glob("checkpoint-*")):
        if reason := broken(path):
            logger.warning("%s is passed over: %s", path, reason)
        else:
            whole.append(path)
    return max(whole, key=lambda path: read_json(path / MARKER, "The marker")["saved_at"], default=None)


def make_universal(folder: Path) -> None:
    """Put DeepSpeed's parts of a checkpoint together, beside them, so that any number of processes can load them."""
    from deepspeed.checkpoint import ds_to_universal

    (step,) = folder.glob("global_step*")
    shutil.rmtree(folder / "universal", ignore_errors=True)
    ds_to_universal.main(
        Namespace(
            input_folder=str(step),
            output_folder=str(folder / "universal"),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,
        )
    )


def check_resumable(folder: Path, about: dict[str, Any]) -> bool:
    """Raise InputError where a checkpoint is broken or of another run; returns whether it had as many processes."""
    if reason := broken(folder):
        raise InputError(f"{folder} cannot be resumed: {reason} Name an earlier checkpoint.", file=folder)
    was = read_json(folder / MARKER, "The marker")["of"]
    for name, remedy in (
        ("method", "Start a new run from it with --model instead"),
        ("catalog", "Give the data it was trained with"),
        ("model", "Give the backbone it was trained with"),
        ("strategy", "Launch it as it was, or start a new run from it with --model"),
        ("prompts_per_step", "Set global_batch_size to the former"),
    ):
        if was[name] != about[name]:
            raise InputError(
                f"{folder} is of a run with {name} {was[name]}, this one has {about[name]}. {remedy}.", file=folder
            )
    return was["processes"] == about["processes"]
