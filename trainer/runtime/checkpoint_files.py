"""Files of a checkpoint: written whole or not at all, found, and checked before they are read."""

import logging
import os
import re
import shutil
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch.serialization import get_unsafe_globals_in_checkpoint
from transformers.trainer import TRAINER_STATE_NAME

from catalog.errors import GFlowGRError, InputError, SetupError
from catalog.files import MARKER, broken, read_json
from interactions.provenance import Provenance

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
    except GFlowGRError:
        raise
    except Exception as error:  # a full disk is an OSError of Python, another error of safetensors and of torch
        raise SetupError(
            f"The checkpoint under {folder} could not be written ({error}).",
            remedy="The one before is whole; free space there.",
        ) from error
    finally:
        if main:
            shutil.rmtree(folder, ignore_errors=True)
    accelerator.wait_for_everyone()


def check_savable(accelerator: Accelerator) -> None:
    """Raise InputError where the launch recipe shards weights in a way that no whole model could be saved from."""
    deepspeed = getattr(accelerator.state, "deepspeed_plugin", None)
    fsdp = getattr(accelerator.state, "fsdp_plugin", None)
    if deepspeed is not None and deepspeed.zero_stage == 3:
        zero = deepspeed.deepspeed_config["zero_optimization"]
        setting, ok = "zero3_save_16bit_model", zero.get("stage3_gather_16bit_weights_on_model_save")
    elif fsdp is not None:
        setting, ok = "fsdp_state_dict_type", "FULL_STATE_DICT" in str(fsdp.state_dict_type)
    else:
        return
    if not ok:
        raise InputError(
            f"{setting} leaves every process with a part of the model, so that no whole model could be saved.",
            remedy="Set it as recipes/accelerate/zero3.yaml or fsdp2.yaml does.",
            field=setting,
        )


def put(folder: Path, place: Path) -> None:
    """Give a whole checkpoint its place, also where one of an earlier run stands there."""
    if place.exists():
        place.rename(folder.with_name("earlier"))
    folder.rename(place)


def newest(output_dir: Path) -> Path | None:
    """The checkpoint of a run that was completed last, None without one; warns of those that are not whole.

    The files of the one it returns were read and are those that were written.
    """
    whole = {}
    for path in sorted(output_dir.glob("checkpoint-*")):
        if reason := broken(path):
            logger.warning("%s is passed over: %s", path, reason)
        else:
            whole[path] = read_json(path / MARKER, "The marker")["saved_at"]
    for path in sorted(whole, key=whole.__getitem__, reverse=True):
        if not (reason := broken(path, contents=True)):
            return path
        logger.warning("%s is passed over: %s", path, reason)
    return None


def resumed(value: Any, output_dir: str | None) -> str | bool | None:
    """What resume_from_checkpoint means: True for the run's own last checkpoint, None for none, or a folder.

    Raises InputError for what is neither a yes, a no nor the folder of a checkpoint or of a run that has one.
    """
    word = str(value).lower()
    if value is None or word in ("false", "no"):
        return None
    if word in ("true", "yes"):
        return True
    folder = Path(value) if isinstance(value, str | os.PathLike) else None
    if folder is not None and re.fullmatch(r"checkpoint-\d+", folder.resolve().name):
        return str(folder)  # whether it is whole is checked where it is read
    if folder is not None and folder.is_dir():
        if output_dir is not None and folder.resolve() == Path(output_dir).resolve():
            return True
        if found := newest(folder):
            return str(found)
    raise InputError(
        f"resume_from_checkpoint={value!r} is no folder of a checkpoint.",
        remedy="Give true, false, or the folder of a checkpoint, which is called checkpoint- and its step.",
        file=folder,
        field="resume_from_checkpoint",
        value=value,
    )


def find_checkpoint(asked: str | bool | None, output_dir: Path) -> Path | None:
    """The checkpoint that `resume_from_checkpoint` means, None to begin afresh.

    asked: true, the newest of `output_dir`, or none where there is none; false or nothing; the folder of a checkpoint;
    or that of a run, then its newest. Raises InputError where there is no such folder or it holds no whole checkpoint.
    """
    word = str(asked or "false").strip().lower()
    if word in ("true", "false"):
        return newest(output_dir) if word == "true" else None
    folder = Path(str(asked))
    found = folder if (folder / MARKER).is_file() and (folder / TRAINER_STATE_NAME).is_file() else newest(folder)
    if found is None:
        missing = broken(folder) if folder.name.startswith("checkpoint-") and folder.is_dir() else None
        raise InputError(
            f"resume_from_checkpoint={asked}: {missing or 'no whole checkpoint is there.'}",
            remedy="Name a checkpoint or a run's folder, or give true for the newest of output_dir.",
            file=folder,
            field="resume_from_checkpoint",
            value=asked,
        )
    return found


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


def check_resumable(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What the marker of a checkpoint says, where the run that is `about` may go on from it.

    Raises InputError where it is damaged, holds no state of the optimizer, is of another run, or where what lies in it
    could run code when it is read.
    """
    if reason := broken(folder, contents=True):
        raise InputError(f"{folder} cannot be resumed: {reason}", remedy="Name an earlier checkpoint.", file=folder)
    was = read_json(folder / MARKER, "The marker")["of"]
    afresh = f"Start a new run from it with --model {folder}."
    if "provenance" not in was:
        raise InputError(f"{folder} does not say what it was made of.", remedy=afresh, file=folder)
    if not (was["resumable"] and about["resumable"]):
        raise InputError(
            "save_only_model: a run that is resumed needs its optimizer, schedule and random streams too.",
            remedy=afresh if about["resumable"] else "Leave out save_only_model or resume_from_checkpoint.",
            file=folder,
            field="save_only_model",
            value=True,
        )
    made, wanted = Provenance.from_dict(was["provenance"]), Provenance.from_dict(about["provenance"])
    wanted.check(made, f"The checkpoint {folder}", f"Give what it was made with. {afresh}", folder)
    check_pickles(folder)
    return was


PICKLED = {
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
    "numpy._core.multiarray._reconstruct",
    "numpy.dtype",
    "numpy.ndarray",
}
"""What DeepSpeed and transformers pickle into a checkpoint beside what torch itself takes for safe."""


def check_pickles(folder: Path) -> None:
    """Raise InputError where a file that torch reads names anything that training does not write: DeepSpeed runs it.

    The names stand in a pickle before anything is made of them, so they are read without making anything.
    """
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".pt", ".pth", ".bin")):
        try:
            found = set(get_unsafe_globals_in_checkpoint(path)) - PICKLED
        except Exception as error:  # not a file of torch.save, or one with an instruction that it never writes
            raise InputError(f"{path} is no file that torch wrote: {error}.", file=path) from error
        if found:
            raise InputError(
                f"{path} names {min(found)}, which no training here writes: reading it could run any code.",
                remedy="Use a checkpoint of your own.",
                file=path,
                value=min(found),
            )
    for latest in folder.glob("latest"):  # the folder that DeepSpeed reads its parts from
        if [latest.read_text().strip()] != [path.name for path in folder.glob("global_step*")]:
            raise InputError(f"{latest} names another folder than the checkpoint's own.", file=latest)
