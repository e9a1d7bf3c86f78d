"""The policy's weights as a rollout engine such as vLLM loads them, whatever training has wrapped the model in."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from catalog.errors import InputError
from samplers.rollouts.engine import WeightMeta
from samplers.rollouts.low_rank import BASE, LEFT, RIGHT, ROWS, VALUES, WHOLE

Item = TypeVar("Item")


class _Source(NamedTuple):
    """One weight of a checkpoint: `make` computes it in a dtype while all `parts` are there in full.

    shape: of what it makes, by default that of the first part. exact: makes float32 whatever is asked for. lora: the
    layer whose adapters `make` adds, and their names.
    """

    name: str
    parts: list[nn.Parameter]
    make: Callable[[torch.dtype], Tensor]
    shape: tuple[int, ...] = ()
    exact: bool = False
    lora: tuple[Any, list[str]] | None = None

    def meta(self, dtype: torch.dtype | None) -> WeightMeta:
        """What `make` gives, in `dtype` where the weight's own is wider."""
        weight = self.parts[0]
        narrower = dtype is not None and weight.is_floating_point() and dtype.itemsize < weight.dtype.itemsize
        kind = torch.float32 if self.exact else dtype if dtype is not None and narrower else weight.dtype
        return WeightMeta(self.name, kind, self.shape or _full_shape(weight))


@dataclass(frozen=True)
class PolicySource:
    """`policy_weights` of these arguments as often as it is iterated, and what it will give, without a gather.

    given: "pieces" are those of `low_rank` that training changes, which a server merges with the "base", the weights
    that it does not.
    """

    model: nn.Module
    skip: Sequence[str] = ()
    bucket_bytes: int = 256 * 2**20
    dtype: torch.dtype | None = None
    given: Literal["merged", "base and pieces", "pieces"] = "merged"

    @property
    def has_pieces(self) -> bool:
        """Whether every adapter is plain LoRA, the only one of its layer and not merged into it."""
        return hasattr(_wrapped(self.model), "peft_config") and all(map(_is_alone, self.model.modules()))

    def pieces(self, *, base: bool) -> "PolicySource":
        """What a server needs that keeps the base, or with `base` lacks it."""
        return replace(self, given="base and pieces" if base else "pieces")

    def metadata(self) -> list[WeightMeta]:
        """Name, dtype and shape of each weight in the order of the iteration; no other process need call it."""
        return [source.meta(self.dtype) for source in self._sources()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return _stream(self._sources(), self.bucket_bytes, self.dtype)

    def _sources(self) -> list[_Source]:
        merged = _policy_sources(self.model, self.skip)
        if self.given == "merged":
            return merged
        sources = [piece for source in merged for piece in _pieces(source)]
        if self.given == "base and pieces":
            begin = nn.Parameter(torch.zeros(1), requires_grad=False)
            base = [_base(source) for source in merged if _has_base(source)]
            sources = [_Source(BASE, [begin], partial(_full, begin), exact=True), *sources, *base]
        # vLLM's transfer reads numbers where they lie: a wide one must not come after an odd count of narrow ones
        return sorted(sources, key=lambda source: -source.meta(self.dtype).dtype.itemsize)


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
    yield from _stream(_policy_sources(model, skip), bucket_bytes, dtype)


@torch.no_grad()
def _stream(sources: Sequence[_Source], bucket_bytes: int, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
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


def _wrapped(model: Any) -> Any:
    """The model inside DDP, DeepSpeed or torch.compile, with its adapters."""
    while isinstance(inner := getattr(model, "module", getattr(model, "_orig_mod", None)), nn.Module):
        model = inner
    return model


def _unwrapped(model: Any) -> nn.Module:
    model = _wrapped(model)
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
            merged = partial(_merged, weight, layer, adapters, sign)
            yield _Source(prefix + key, [weight, *lora], merged, lora=(layer, adapters))
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


def _is_alone(module: nn.Module) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    if not isinstance(module, BaseTunerLayer | ModulesToSaveWrapper):
        return True
    merged = isinstance(module, BaseTunerLayer) and module.merged
    return not merged and not module.disable_adapters and len(module.active_adapters) == 1


def _has_base(source: _Source) -> bool:
    """Whether something of a weight stays as training goes on."""
    weight = source.parts[0]
    return not weight.requires_grad or hasattr(weight, "trained_rows")


def _base(source: _Source) -> _Source:
    """The weight without its adapter."""
    return _Source(source.name, source.parts[:1], partial(_full, source.parts[0]))


def _pieces(source: _Source) -> list[_Source]:
    """What of a weight changes as training goes on, see `low_rank`; [] where nothing does."""
    weight, name = source.parts[0], source.name
    if source.lora and not weight.requires_grad:
        layer, (adapter,) = source.lora
        if embedding := adapter in layer.lora_embedding_A:
            inner, outer = layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
        else:
            inner, outer = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        factors = [(outer, layer.scaling[adapter]), (inner, 1.0)]  # their product is the change, or lies on its side
        turned = embedding or layer.fan_in_fan_out
        ends = zip((LEFT, RIGHT), factors[::-1] if turned else factors, strict=True)
        return [_factor(name + end, factor, scale, turned) for end, (factor, scale) in ends]
    if not weight.requires_grad:
        return []
    if (rows := getattr(weight, "trained_rows", None)) is None:
        return [_Source(name + WHOLE, source.parts, source.make)]
    numbers = nn.Parameter(rows.int(), requires_grad=False)
    values = _Source(name + VALUES, [weight], partial(_rows, weight, rows), (len(rows), *_full_shape(weight)[1:]))
    return [_Source(name + ROWS, [numbers], partial(_full, numbers)), values]


def _factor(name: str, factor: nn.Parameter, scale: float, turned: bool) -> _Source:
    shape = _full_shape(factor)
    return _Source(
        name, [factor], partial(_scaled, factor, scale, turned), shape[::-1] if turned else shape, exact=True
    )


def _scaled(factor: nn.Parameter, scale: float, turned: bool, dtype: torch.dtype) -> Tensor:
    full = scale * _full(factor, factor.dtype).to(dtype)
    return full.T.contiguous() if turned else full


def _rows(weight: nn.Parameter, rows: Tensor, dtype: torch.dtype) -> Tensor:
    return _full(weight, dtype)[rows.to(weight.device)]


def _full_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


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
