"""A training that is killed again and again ends with the weights of one that nobody kills."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_kill_is_resumed_to_the_same_bits():
    command = [sys.executable, "benchmarks/chaos.py", "--kills", "12"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kills"] == result["resumed"] == result["bitwise_equal"] == 12, done.stdout
    assert result["while_writing"] > 0
