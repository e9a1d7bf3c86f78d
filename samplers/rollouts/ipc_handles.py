"""Handles of CUDA memory as JSON, so that nothing is pickled between a run and its server on the same GPU."""

import base64
from collections.abc import Mapping
from typing import Any

import torch

from catalog.errors import InputError

FIELDS = (
    *("tensor_cls", "size", "stride", "offset", "storage_cls", "dtype", "device", "handle", "storage_bytes"),
    *("storage_offset", "requires_grad", "ref_counter", "ref_counter_offset", "event", "event_sync"),
)
"""The arguments of `torch.multiprocessing.reductions.rebuild_cuda_tensor`, in their order."""

FIXED = {
    "tensor_cls": torch.Tensor,
    "storage_cls": torch.storage.TypedStorage,
    "dtype": torch.uint8,
    "requires_grad": False,
}
"""Those of a packed buffer, which both sides know."""

BYTES = ("handle", "ref_counter", "event")


def to_json(handles: Mapping[str, tuple]) -> dict[str, dict[str, Any]]:
    """handles: GPU -> what `reduce_tensor` of a buffer of bytes returned. Raises AssertionError for other tensors."""
    told = {}
    for gpu, arguments in handles.items():
        named = dict(zip(FIELDS, arguments, strict=True))
        assert {name: named.pop(name) for name in FIXED} == FIXED, arguments
        told[gpu] = {name: _told(value) for name, value in named.items()}
    return told


def _told(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return list(value) if isinstance(value, tuple) else value


def from_json(told: Any) -> dict[str, tuple]:
    """Raises InputError for what `to_json` did not write."""
    try:
        return {gpu: tuple(_read(named | FIXED, name) for name in FIELDS) for gpu, named in told.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError("ipc_handles: these are no handles of CUDA memory.", field="ipc_handles") from error


def _read(named: dict[str, Any], name: str) -> Any:
    value = named[name]
    if name in FIXED:
        return value
    if name in BYTES:
        return base64.b64decode(value, validate=True)
    numbers = value if name in ("size", "stride") else [value]
    if not all(isinstance(number, int) for number in numbers):
        raise TypeError(name)
    return torch.Size(value) if name == "size" else tuple(value) if name == "stride" else value
