"""The colocated engine, for real: tests/vllm/in_process.py in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.vllm
def test_everything_in_the_trainers_process():
    command = [sys.executable, "-m", "pytest", "-q", "tests/vllm/in_process.py"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout[-6000:]
