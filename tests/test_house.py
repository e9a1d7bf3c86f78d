"""The rules of the house, held by the tools that CONTRIBUTING names."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments import PACKAGES

ROOT = Path(__file__).parent.parent
HEAVY = ("matplotlib", "scipy.stats", "implicit", "faiss", "fastapi", "uvicorn", "vllm", "deepspeed")
TOOLS = {
    "layers": ["lint-imports"],
    "lint": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "types": ["mypy"],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_the_house_is_in_order(tool):
    command = [Path(sys.executable).with_name(TOOLS[tool][0]), *TOOLS[tool][1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_is_too_long_to_read():
    files = [path for room in (*PACKAGES, "benchmarks", "tests") for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 50
    assert not {str(path): lines for path in files if (lines := len(path.read_text().splitlines())) > 400}


def test_every_room_can_be_imported_from_elsewhere_and_loads_no_more_than_training_needs(tmp_path):
    rooms = ", ".join(PACKAGES)
    command = [sys.executable, "-c", f"import sys, {rooms}; print(*sys.modules)"]
    loaded = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split()
    assert "torch" in loaded and not {*HEAVY} & set(loaded)
