"""The policy as a plain transformers checkpoint, and the flow heads beside it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from catalog.errors import RunError
from catalog.files import MARKER, complete, read_json, seal
from samplers.rollouts.weights import policy_weights
from trainer.scoring.flow_heads import NAME

MAKING = ".final"
"""In a run's folder, where its policy is written before it takes its place."""
HEADS = "flow_heads/flow_heads.safetensors"
"""Beside the policy, but in a folder of its own: vLLM reads every safetensors file next to a checkpoint's weights."""


def write(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    policy: dict[str, Tensor],
    heads: dict[str, Tensor],
    contents: Callable[[Path], None],
) -> None:
    """Write a checkpoint that `from_pretrained` reads: config, tokenizer, the policy's weights; and the heads'.

    contents: writes what makes it self-contained.
    """
    model.save_pretrained(folder, state_dict=policy)
    tokenizer.save_pretrained(folder)
    if heads:
        (folder / HEADS).parent.mkdir(exist_ok=True)
        save_file({name: value.contiguous() for name, value in heads.items()}, folder / HEADS)
    contents(folder)


def write_final(folder: Path, about: dict[str, Any], *parts: Any) -> None:
    """`write` a finished run's policy into its folder, all of it or nothing, and mark it so; parts: those of `write`.

    A kill leaves a folder without its marker, which is not taken for finished. Raises RunError where a weight is no
    finite number, SetupError where the disk is full; what was there before then stays.
    """
    bad = [name for table in parts[2:4] for name, value in table.items() if not value.isfinite().all()]
    if bad:
        raise RunError(
            f"{bad[0]} is no finite number everywhere, so {folder} is not written.",
            remedy="Start a new run from a checkpoint before, or with a lower learning rate.",
            file=folder,
        )
    with complete(folder / MAKING) as making:
        making.mkdir()
        write(making, *parts)
        seal(making, about)
    unmark(folder)
    for old in (*folder.glob("model*.safetensors*"), folder / HEADS):  # other shards would be read beside the new ones
        old.unlink(missing_ok=True)
    for name in read_json(folder / MAKING / MARKER, "The marker")["files"]:
        (folder / name).parent.mkdir(exist_ok=True)
        os.replace(folder / MAKING / name, folder / name)
    os.replace(folder / MAKING / MARKER, folder / MARKER)
    shutil.rmtree(folder / MAKING)


def unmark(folder: Path) -> None:
    """From here on a folder is not that of a finished run, until `write_final`."""
    (folder / MARKER).unlink(missing_ok=True)


def merged_weights(model: nn.Module, *, keep: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(the policy's weights with LoRA added, the flow heads'), in main memory; empty on a process that does not keep.

    Every process calls it, since sharded weights are gathered; a bucket of them lies in the device's memory at a time.
    """
    heads = getattr(model, NAME, nn.Module())
    parts = (policy_weights(model, skip=(NAME,)), policy_weights(heads), heads.named_buffers())
    policy, *flows = ([(name, weight.cpu().clone()) for name, weight in part if keep] for part in parts)
    return dict(policy), dict(flows[0] + flows[1])


def load_heads(model: nn.Module, folder: Path, *, parameters: bool) -> None:
    """Read the flow heads beside a checkpoint into the model's, if it has any; without parameters, what is not trained.

    DeepSpeed brings the parameters itself, but where other processes wrote them no buffers.
    """
    if (heads := getattr(model, NAME, None)) is not None:
        state = load_file(folder / HEADS)
        if parameters:
            heads.load_state_dict(state)
        else:
            for name, buffer in heads.named_buffers():
                buffer.copy_(state[name])
