"""What goes wrong in one process ends all, leaves a whole checkpoint, and the run goes on from it to the same end."""

import json
import signal
import time

import psutil
import pytest

from tests.distributed.launch import HERE, cause, command, run, start
from trainer.runtime.checkpoint_files import broken, newest

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


def worker(folder, fault, recipe="cpu-zero2"):
    return command(recipe, HERE / "fault_worker.py", folder, fault)


def finish(folder, recipe="cpu-zero2"):
    status, printed = run(worker(folder, "none", recipe))
    assert status == 0, cause(printed)
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    return finish(tmp_path_factory.mktemp("whole"))


def steps_of(folder):
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.parametrize("recipe", ["cpu-zero2", "cpu-zero3"])
def test_after_kill_9_of_a_process_the_relaunched_run_ends_with_the_same_metrics(whole, tmp_path, recipe):
    status, _ = run(worker(tmp_path, "kill", recipe))
    assert status != 0 and newest(tmp_path).name == "checkpoint-4"
    finished = finish(tmp_path, recipe)
    assert finished["losses"] == pytest.approx(whole["losses"], abs=1e-4)
    assert finished["metrics"] == pytest.approx(whole["metrics"], abs=1e-6)


def test_sigterm_ends_a_run_with_a_checkpoint(whole, tmp_path):
    launcher = start(worker(tmp_path, "slow"))
    wait_for(lambda: steps_of(tmp_path) >= 3)
    launcher.send_signal(signal.SIGTERM)
    printed, _ = launcher.communicate(timeout=60)
    assert launcher.returncode != 0 and "error: The run was asked to stop." in printed
    assert newest(tmp_path).name == f"checkpoint-{steps_of(tmp_path)}"
    assert finish(tmp_path) == whole


def test_without_its_launcher_a_run_keeps_a_checkpoint_and_ends(whole, tmp_path):
    launcher = start(worker(tmp_path, "slow"))
    wait_for(lambda: steps_of(tmp_path) >= 3)
    ranks = psutil.Process(launcher.pid).children()
    assert len(ranks) == 2
    launcher.kill()
    _, alive = psutil.wait_procs(ranks, timeout=60)
    assert not alive and 3 <= int(newest(tmp_path).name.split("-")[1]) < 8
    assert finish(tmp_path) == whole


def test_a_process_that_is_stuck_is_named(tmp_path):
    status, printed = run(worker(tmp_path, "hang"))
    assert status != 0 and "Process 1 of 2 stands at step 5, the others wait for it" in printed
    assert newest(tmp_path).name == "checkpoint-4"


def test_a_reward_that_fails_in_one_process_stops_all_with_a_checkpoint(whole, tmp_path):
    status, printed = run(worker(tmp_path, "reward", "cpu-zero3"))
    assert status != 0 and "the shop does not answer" in printed
    assert "Process 1 failed, see its message; this one stops too." in printed
    assert newest(tmp_path).name == "checkpoint-5"


def test_a_loss_that_is_no_number_leaves_its_batch_and_the_checkpoint_before(tmp_path):
    status, printed = run(worker(tmp_path, "nan"))
    assert status != 0 and "The loss is nan at step 5; the prompts and trajectories are in" in printed
    batch = json.loads((tmp_path / "failed_batch_1.json").read_text())
    assert batch["step"] == 5 and len(batch["users"]) == len(batch["items"]) == 4
    assert newest(tmp_path).name == "checkpoint-4"


def test_a_full_disk_leaves_the_last_checkpoint(whole, tmp_path):
    status, printed = run(worker(tmp_path, "disk"))
    assert status != 0 and "could not be written" in printed and "free space there" in printed
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]
    assert not broken(tmp_path / "checkpoint-4") and not (tmp_path / ".unfinished").exists()
    assert finish(tmp_path) == whole
