"""Two processes are one process with twice the batch."""

import json
import platform
import sys

import pytest

from catalog.errors import InputError
from interactions.provenance import Provenance
from tests.distributed.launch import HERE, cause, run
from tests.raising import raises
from trainer.runtime.preflight import Record, compare


def launcher(processes):
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_and_evaluate_like_one_with_twice_the_batch(tmp_path):
    results = []
    for processes, batch in ((1, 8), (2, 4)):
        out = tmp_path / str(processes)
        status, printed = run([*launcher(processes), str(HERE / "worker.py"), str(out), str(batch)])
        assert status == 0, cause(printed)
        results.append(json.loads((out / "result.json").read_text()))
    one, two = results
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-6)
    assert printed.count("(eval_users)") == 1  # of two processes
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-5, abs=1e-6)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_process_with_other_rows_is_named_before_the_first_step(tmp_path):
    status, printed = run([*launcher(2), str(HERE / "worker.py"), str(tmp_path), "4", "31"])
    assert status != 0 and not (tmp_path / "metrics.jsonl").exists()
    sentence = f"Process 1 on {platform.node()} has train '"
    assert printed.count(sentence) == 2 and "Give all machines the same data folder." in printed  # each process says so


def test_the_first_difference_is_one_sentence():
    same = Record("a", {"torch": "2.13.0", "vllm": None}, Provenance("f", {"train": "d"}, {"seed": 1}).as_dict())
    compare([same, same._replace(host="b")])
    for other, field, words in (
        (
            {"software": {"torch": "2.12.0", "vllm": None}},
            "software.torch",
            "has torch '2.12.0', and process 0 on a has '2.13.0'.",
        ),
        (
            {"software": {"torch": "2.13.0"} | {"vllm": "0.32.0"}},
            "software.vllm",
            "has vllm '0.32.0', and process 0 on a has None.",
        ),
        ({"provenance": Provenance("g", {"train": "d"}, {"seed": 1}).as_dict()}, "catalog", "has catalog 'g', and"),
        ({"provenance": Provenance("f", {"train": "d"}, {"seed": 2}).as_dict()}, "settings.seed", "has seed 2, and"),
    ):
        with raises(InputError, field=field) as error:
            compare([same, same, same._replace(host="b", **other)])
        assert str(error.value).startswith(f"Process 2 on b {words}")
