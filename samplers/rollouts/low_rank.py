"""Adapters that travel without the weights they are added to: what the pieces are called, and who merges them.

The first transfer of a run brings both, the later ones the pieces alone. A piece's name is that of its weight, with one
of the endings below, which no name of a module can have.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from catalog.errors import InputError
from samplers.rollouts.engine import WeightMeta

LEFT, RIGHT = ":left", ":right"
"""Two matrices whose product, in float32, is added to the weight: [out, r] and [r, in], the scaling in one of them."""
ROWS, VALUES = ":rows", ":values"
"""Numbers of rows [n] int32, and what the weight has there [n, ...]."""
WHOLE = ":whole"
"""A weight that is trained itself."""
BASE = ":base"
"""The first piece of a transfer that brings all weights: what was kept before is dropped. One number, of no meaning."""


def is_piece(name: str) -> bool:
    """Whether this names a piece and not a weight of a checkpoint."""
    return ":" in name


class KeptWeights:
    """The `Weights` of a run with adapters: what these are added to, in main memory, and the newest pieces on `device`.

    While weights arrive it stands in the place of a model of vLLM, by `load_weights`. Iterated it merges, a weight at a
    time, and raises InputError for pieces of weights that never came.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._base: dict[str, Tensor] = {}
        self._pieces: dict[str, Tensor] = {}

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Keep copies; the tensors may be views of a buffer that is used again."""
        for name, tensor in weights:
            if name == BASE:
                self._base, self._pieces = {}, {}
            elif is_piece(name):
                self._pieces[name] = tensor.to(self.device, copy=True)
            else:
                self._base[name] = tensor.to("cpu", copy=True)

    def metadata(self) -> list[WeightMeta]:
        whole = {name.removesuffix(WHOLE): piece for name, piece in self._pieces.items() if name.endswith(WHOLE)}
        return [WeightMeta(name, one.dtype, tuple(one.shape)) for name, one in (self._base | whole).items()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        pieces = dict(self._pieces)
        for name, weight in self._base.items():
            ours = {end: pieces.pop(name + end) for end in (LEFT, RIGHT, ROWS, VALUES) if name + end in pieces}
            if LEFT in ours:
                change = ours[LEFT].float() @ ours[RIGHT].float()
                weight = (weight.to(self.device).float() + change).to(weight.dtype)
            if ROWS in ours:
                weight = weight.to(self.device, copy=True)
                weight[ours[ROWS].long()] = ours[VALUES].to(weight.dtype)
            yield name, weight
        for name, piece in pieces.items():
            if not name.endswith(WHOLE):
                lost = name.partition(":")[0]
                raise InputError(f"{lost} has an adapter and never came itself.", remedy="Send all weights.")
            yield name.removesuffix(WHOLE), piece


def collect(worker: Any) -> None:
    """On a worker of vLLM, before weights arrive by its own transfer: keep them instead of loading them."""
    if not hasattr(worker, "kept_weights"):
        worker.kept_weights = KeptWeights(worker.device)
    worker.weight_transfer_engine.model = worker.kept_weights


def stop_collecting(worker: Any) -> None:
    """What arrives, and what vLLM does when an update ends, is of the model again."""
    worker.weight_transfer_engine.model = worker.model_runner.get_model()


def load_collected(worker: Any) -> None:
    """Load what `collect` kept, merged; on a worker, before vLLM ends the update."""
    from vllm.config import set_current_vllm_config

    stop_collecting(worker)
    with set_current_vllm_config(worker.vllm_config):
        worker.model_runner.get_model().load_weights(iter(worker.kept_weights))


def drop_collected(worker: Any) -> None:
    """Forget what was kept, since weights come that are merged already."""
    if hasattr(worker, "kept_weights"):
        del worker.kept_weights
