"""Two processes are one process with twice the batch."""

import json
import sys

import pytest

from tests.distributed.launch import HERE, cause, run


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_and_evaluate_like_one_with_twice_the_batch(tmp_path):
    results = []
    for processes, batch in ((1, 8), (2, 4)):
        out = tmp_path / str(processes)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        status, printed = run([*launcher, str(HERE / "worker.py"), str(out), str(batch)])
        assert status == 0, cause(printed)
        results.append(json.loads((out / "result.json").read_text()))
    one, two = results
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-6)
    assert printed.count("(eval_users)") == 1  # of two processes
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-5, abs=1e-6)
