"""The first program for a GPU: what it keeps when checks fail, and one of its checks on a CPU."""

import json

import pytest

from benchmarks import gpu

PROGRAM = """
import json, os, pathlib, sys, time

folder, *names = [argument for argument in sys.argv[1:] if argument != "--dry_run"]
for name in names:
    with open(pathlib.Path(folder, name + ".jsonl"), "w") as file:
        def write(**row):
            print(json.dumps(row), file=file, flush=True)

        write(environment={"torch": "9.9", "device": "one | two"})
        write(what="a figure", value=0.12345, unit="s", bound="", ok=None)
        if name == "step":
            write(what="failed", value="ValueError: no | memory", unit="", bound="to its end", ok=False)
            continue
        if name == "server":
            os.kill(os.getpid(), 9)
        if name == "transfer":
            time.sleep(60)
        write(what="whole check", value=1.0, unit="s", bound="", ok=None)
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Checks of which one raises, one dies and one hangs; each tells a figure before."""
    path = tmp_path / "checks.py"
    path.write_text(PROGRAM)
    monkeypatch.setattr(gpu, "PROGRAM", path)


def call(folder, *argv):
    status = gpu.main(["--dry_run", "--output_dir", str(folder), "--seconds", "2", *argv])
    return status, json.loads((folder / "results.json").read_text())


def of(results, check):
    return {row["what"]: row["value"] for row in results["rows"] if row["check"] == check}


def test_what_fails_is_a_row_and_loses_nothing_else(program, tmp_path):
    status, results = call(tmp_path / "out")
    assert status == 1 and {row["check"] for row in results["rows"]} == set(gpu.CHECKS)
    assert all(of(results, name).get("whole check") == 1 for name in ("install", "float32", "compile"))
    for name, word in (("step", "no | memory"), ("server", "-9"), ("transfer", "more than 2 s")):
        rows = of(results, name)
        assert rows["a figure"] == 0.12345 and word in rows["failed"]
    assert "failed" in of(results, "grpo")  # in a dry run it shared the process that died
    assert [row["ok"] for row in results["rows"] if row["what"] == "failed"] == [False] * 5
    page = (tmp_path / "out/results.md").read_text()
    assert "| float32 | a figure | 0.123 | s |" in page and "no &#124; memory" in page and "torch 9.9" in page


def test_a_later_call_renews_the_checks_that_it_names(program, tmp_path):
    status, results = call(tmp_path / "out", "--only", "float32", "step")
    assert status == 1 and len(results["rows"]) == 4
    status, results = call(tmp_path / "out", "--only", "float32", "compile")
    assert [row["check"] for row in results["rows"]] == ["float32"] * 2 + ["compile"] * 2 + ["step"] * 2
    assert status == 1


def test_without_a_gpu_only_a_dry_run_begins(program, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--dry_run"):
        gpu.main(["--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_profiled_step_beside_its_plan(tmp_path):
    gpu.main(["--dry_run", "--only", "step", "--output_dir", str(tmp_path)])
    rows = of(json.loads((tmp_path / "results.json").read_text()), "step")
    assert "failed" not in rows and 0.5 < rows["of what the plan says"] < 1.5
    assert rows["tokens of a step"] > 0 and "aten::" in (tmp_path / "step.profile.txt").read_text()
