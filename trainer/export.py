"""The policy as a plain transformers checkpoint, and the flow heads beside it."""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from samplers.weights import policy_weights
from trainer.flow_heads import NAME

HEADS = "flow_heads/flow_heads.safetensors"
"""Beside the policy, but in a folder of its own: vLLM reads every safetensors file next to a checkpoint's weights."""


def write(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    policy: dict[str, Tensor],
    heads: dict[str, Tensor],
) -> None:
    """Write a checkpoint that `from_pretrained` reads: config, tokenizer, the policy's weights; and the heads'."""
    model.save_pretrained(folder, state_dict=policy)
    tokenizer.save_pretrained(folder)
    if heads:
        (folder / HEADS).parent.mkdir(exist_ok=True)
        save_file({name: value.contiguous() for name, value in heads.items()}, folder / HEADS)


def merged(model: nn.Module, *, keep: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
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
