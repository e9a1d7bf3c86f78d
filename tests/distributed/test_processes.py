"""Two processes are one process with twice the batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("worker.py")


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_and_evaluate_like_one_with_twice_the_batch(tmp_path):
    results = []
    for processes, batch in ((1, 8), (2, 4)):
        out = tmp_path / str(processes)
        command = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", WORKER, out, str(batch)]
        subprocess.run(
            [sys.executable, "-m", *command], check=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        results.append(json.loads((out / "result.json").read_text()))
    one, two = results
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-6)
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-6)
