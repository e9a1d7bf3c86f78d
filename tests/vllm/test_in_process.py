"""The engine in this process, for real: each file in a process of its own, which vLLM changes for good."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
V2 = {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("file", ["in_process.py", "in_process_policy.py", "v2_runner.py"])
def test_everything_in_one_process(file):
    command = [sys.executable, "-m", "pytest", "-q", f"tests/vllm/{file}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (V2 if file == "v2_runner.py" else {})
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:]
