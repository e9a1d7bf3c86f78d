"""--accelerate, and the job that Slurm runs: what is started, and what becomes of SIGTERM."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from catalog.errors import InputError
from experiments.accelerated import OPTIONS, command_of, split
from experiments.setting_tables import names, training_groups, training_methods
from tests.raising import raises

ROOT = Path(__file__).parents[2]


def test_the_launch_file_and_accelerates_options_are_taken_and_all_else_is_given_as_it_is():
    argv = [
        "--config",
        "a.yaml",
        "--accelerate",
        "zero3",
        "--num-processes=4",
        "--rewards",
        '{"hit": 1.0}',
        "--use_cpu",
    ]
    launch = split(argv)
    assert launch == (
        "zero3",
        ["--num_processes", "4"],
        ["--config", "a.yaml", "--rewards", '{"hit": 1.0}', "--use_cpu"],
    )
    command = command_of(launch, "train")
    assert command[:6] == [
        *(sys.executable, "-m", "accelerate.commands.launch", "--config_file"),
        *(str(ROOT / "recipes/accelerate/zero3.yaml"), "--num_processes"),
    ]
    assert command[6:8] == ["4", str(ROOT / "recipes/train.py")] and command[8:] == launch.rest
    assert split(["--num_processes", "4"]) == (None, [], ["--num_processes", "4"])  # nothing is taken without a launch
    with raises(InputError, field="accelerate") as error:
        split(["--accelerate", "zero-3"])
    assert "zero3" in str(error.value)
    for wrong in (["--accelerate"], ["--accelerate", "zero3", "--num_processes", "--config"]):
        with raises(InputError):
            split(wrong)


def test_no_setting_of_training_is_called_like_an_option_of_accelerate():
    for method in training_methods():
        assert not {"accelerate", *OPTIONS} & set(names(training_groups(method)))


@pytest.mark.slow
@pytest.mark.distributed
def test_a_program_becomes_its_own_launcher(tmp_path):
    """As far as a process saying, with its own settings, what is amiss."""
    command = [sys.executable, "-m", "recipes.train", "--accelerate", "cpu-zero2", "--main_process_port", "0"]
    done = subprocess.run(
        [*command, "--config", "recipes/ml-100k/sft.yaml", "--output_dir", str(tmp_path), "--global_batch_size", "3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode != 0
    assert "error: global_batch_size=3 cannot be shared among 2 processes." in done.stderr  # of the first to say so


PROGRAM = """#!{python}
import os, signal, sys, time
from pathlib import Path
print("started", *sys.argv[1:], flush=True)
def stop(*_):
    time.sleep(1)
    Path("checkpoint").write_text("whole")
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
Path("ready").write_text(os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
time.sleep(30 if "wait" in sys.argv else 0)
sys.exit(3 if "fail" in sys.argv else 0)
"""
SLURM = {
    "srun": '#!/bin/bash\nexport SLURM_NODEID=1\nexec "$@"\n',  # one of its tasks, which gets the signals sent to srun
    "scontrol": '#!/bin/bash\n[ "$1" = show ] && printf "node1\\nnode2\\n" || echo "$@" > requeued\n',
}


@pytest.mark.parametrize("word", ["wait", "fail", "end"])
def test_a_job_that_is_asked_to_stop_waits_for_its_checkpoint_and_queues_itself_again(word, tmp_path):
    for name, text in {**SLURM, "python": PROGRAM.format(python=sys.executable)}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_ID": "70007"}
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHON": str(tmp_path / "python")}
    script = ["bash", str(ROOT / "recipes/slurm/train.sbatch"), "--config", "a b.yaml", word]
    started = subprocess.Popen(script, cwd=tmp_path, env=os.environ | job | path, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    if word == "wait":
        started.send_signal(signal.SIGTERM)
    printed, _ = started.communicate(timeout=60)
    assert "-m recipes.train --accelerate multi-node --num_machines 2 --num_processes 8 --machine_rank 1" in printed
    assert printed.endswith(
        f"--main_process_ip node1 --main_process_port 30007 --resume_from_checkpoint true --config a b.yaml {word}\n"
    )
    assert (tmp_path / "ready").read_text() == "280"
    assert (tmp_path / "checkpoint").exists() == (tmp_path / "requeued").exists() == (word == "wait")
    assert started.returncode == {"wait": 1, "fail": 3, "end": 0}[word]
