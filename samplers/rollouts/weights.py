"""The policy's weights as a rollout engine such as vLLM loads them, whatever training has wrapped the model in."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from catalog.errors import InputError
from samplers.rollouts.engine import WeightMeta

Item = TypeVar("Item")


class _Source(NamedTuple):
    """One weight of a checkpoint: `make` computes it in a dtype while all `parts` are there in full."""

    name: str
    parts: list[nn.Parameter]
    make: Callable[[torch.dtype], Tensor]

    def meta(self, dtype: torch.dtype | None) -> WeightMeta:
        """What `make` gives, in `dtype` where the weight's own is wider."""
        weight = self.parts[0]
        narrower = dtype is not None and weight.is_floating_point() and dtype.itemsize < weight.dtype.itemsize
        shape = tuple(getattr(weight, "ds_shape", weight.shape))
        return WeightMeta(self.name, dtype if dtype is not None and narrower else weight.dtype, shape)


@dataclass(frozen=True)
class PolicySource:
    """`policy_weights` of these arguments as often as it is iterated, and what it will give, without a gather."""

    model: nn.Module
    skip: Sequence[str] = ()
    bucket_bytes: int = 256 * 2**20
    dtype: torch.dtype | None = None

    def metadata(self) -> list[WeightMeta]:
        """Name, dtype and shape of each weight in the order of the iteration; no other process need call it."""
        return [source.meta(self.dtype) for source in _policy_sources(self.model, self.skip)]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return policy_weights(self.model, self.skip, self.bucket_bytes, self.dtype)


@torch.no_grad()
def policy_weights(
    model: nn.Module,
    skip: Sequence[str] = (),
    bucket_bytes: int = 256 * 2**20,
    dtype: torch.dtype | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """(name, full tensor) of every weight that `save_pretrained` would store of the merged model.

    The model may be plain or in DDP, a DeepSpeed engine of any ZeRO stage, FSDP2 or torch.compile, and have LoRA, which
    is added on the way; the trained weights keep their bits. Of tied weights only the original comes, and no buffers,
    which training leaves alone. Names are those of the modules: models whose checkpoints are arranged differently
    (fused experts) are not served. skip: names of modules that are no part of the policy, such as the flow heads.
    dtype: wider weights are rounded to it, those of FSDP2 before they are gathered.

    **Every rank calls this and iterates to the end**, also one that throws the tensors away: under ZeRO-3 and FSDP2 all
    ranks gather each weight together. If one stops early, the others hang until their process group times out.

    **A tensor is valid until the next one is asked for.** It may be the parameter itself, and under ZeRO-3 it is given
    back with its bucket of at most `bucket_bytes`. Copy what you keep, as `buckets` does. Until the end neither run the
    model nor change it.

    Raises InputError on every rank, before any gather, for adapters that are not base weight + LoRA delta and for tied
    weights that an adapter has set apart.
    """
    sources = _policy_sources(model, skip)
    for group in _groups(sources, lambda source: sum(map(_full_bytes, source.parts)), bucket_bytes):
        with _gathered([part for source in group for part in source.parts]):
            for source in group:
                yield source.name, source.make(source.meta(dtype).dtype)


def buckets(weights: Iterable[tuple[str, Tensor]], bucket_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Consecutive weights in groups of at most bucket_bytes; a larger tensor is alone.

    The tensors are copies and the caller's to keep. One bucket and the tensor after it are in memory at a time.
    """
    copies = ((name, tensor.clone()) for name, tensor in weights)
    for group in _groups(copies, lambda weight: weight[1].nbytes, bucket_bytes):
        yield dict(group)


def _groups(items: Iterable[Item], size: Callable[[Item], int], limit: int) -> Iterator[list[Item]]:
    group: list[Item] = []
    filled = 0
    for item in items:
        if group and filled + size(item) > limit:
            yield group
            group, filled = [], 0
        group.append(item)
        filled += size(item)
    if group:
        yield group


def _policy_sources(model: nn.Module, skip: Sequence[str]) -> list[_Source]:
    """The weights of the policy, of tied ones the original alone."""
    model = _unwrapped(model)
    sources = {source.name: source for source in _sources(model, skip, adapted=hasattr(model, "peft_config"))}
    for copy, original in getattr(model, "all_tied_weights_keys", {}).items():
        if copy in sources and original in sources:
            pairs = zip(sources[copy].parts, sources[original].parts, strict=False)
            if len(sources[copy].parts) != len(sources[original].parts) or any(a is not b for a, b in pairs):
                raise InputError(
                    f"The model's config ties {copy!r} to {original!r}, and so will the engine, but an adapter has "
                    "set them apart: take them out of target_modules and modules_to_save, or load the model with "
                    "tie_word_embeddings=False."
                )
            del sources[copy]
    return list(sources.values())


def _unwrapped(model: Any) -> nn.Module:
    while isinstance(inner := getattr(model, "module", getattr(model, "_orig_mod", None)), nn.Module):
        model = inner
    kinds = {config.peft_type.value for config in getattr(model, "peft_config", {}).values()} - {"LORA"}
    if kinds:
        raise InputError(f"Adapters of the kind {sorted(kinds)} cannot be given to an engine as weights: use LoRA.")
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _sources(
    module: nn.Module, skip: Sequence[str], *, adapted: bool, prefix: str = "", layer: Any = None
) -> Iterator[_Source]:
    """The weights of `module` and all below; layer: the LoRA layer around it."""
    adapters, sign = _pending(layer, prefix) if layer is not None else ([], 1)
    for key, weight in module.named_parameters(recurse=False):
        if key == "weight" and adapters:
            lora = [parameter for name, parameter in layer.named_parameters() if not name.startswith("base_layer.")]
            yield _Source(prefix + key, [weight, *lora], partial(_merged, weight, layer, adapters, sign))
        else:
            yield _Source(prefix + key, [weight], partial(_full, weight))
    for key, child in module.named_children():
        if (name := prefix + key) not in skip:
            child, around = _without_adapter(child) if adapted else (child, None)
            yield from _sources(child, skip, adapted=adapted, prefix=f"{name}.", layer=around)


def _without_adapter(module: nn.Module) -> tuple[nn.Module, Any]:
    """(the module whose weights count, the tuner layer around it or None)."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    if isinstance(module, ModulesToSaveWrapper):
        active = [] if module.disable_adapters else module.active_adapters
        return (module.modules_to_save[active[0]] if active else module.original_module), None
    return (module.get_submodule("base_layer"), module) if isinstance(module, BaseTunerLayer) else (module, None)


def _pending(layer: Any, prefix: str) -> tuple[list[str], int]:
    """How the base weight differs from what `layer` computes: (adapters to add, 1) or (adapters to take away, -1)."""
    from peft.tuners.lora import Embedding, Linear

    adapters, sign = layer.active_adapters, 1
    if layer.disable_adapters:
        adapters, sign = layer.merged_adapters, -1
    elif layer.merged:  # then a forward pass ignores adapters that are active but not merged
        adapters = []
    if type(layer) in (Linear, Embedding):  # their subclasses hold quantized weights or compute something else
        adapters = [name for name in adapters if name in layer.scaling]
        kinds = [type(layer.lora_variant[name]).__name__ for name in adapters if name in layer.lora_variant]
        kinds += ["lora_bias" for name in adapters if layer.lora_bias.get(name)]
    else:
        kinds = [type(layer).__name__]
    if kinds:
        raise InputError(
            f"The adapter of {prefix[:-1]!r} is of the kind {kinds[0]}, which is not base weight + LoRA delta: use "
            "plain LoRA (use_dora=False, lora_bias=False) on linear or embedding layers that are not quantized."
        )
    return adapters, sign


def _merged(weight: nn.Parameter, layer: Any, adapters: list[str], sign: int, dtype: torch.dtype) -> Tensor:
    # peft's merge and unmerge would leave rounding in the frozen weight at each sync
    merged = _full(weight, weight.dtype)
    for adapter in adapters:
        delta = layer.get_delta_weight(adapter)
        merged = torch.add(merged, _full(delta, delta.dtype), alpha=sign)
    return merged.to(weight.dtype).to(dtype)


def _full(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = tensor.detach().to(dtype)  # a shard before it is gathered
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _full_bytes(parameter: nn.Parameter) -> int:
    return getattr(parameter, "ds_numel", parameter.numel()) * parameter.element_size()


def _gathered(parameters: list[nn.Parameter]) -> AbstractContextManager[None]:
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters)
