"""Starts the programs of this folder as a user would."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def command(recipe: str, program: str, *arguments: object, options: tuple[str, ...] = ()) -> list[str]:
    """`accelerate launch` of a program with one of recipes/accelerate, at a free port."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    config = ["--config_file", f"recipes/accelerate/{recipe}.yaml"]
    return [*launcher, *config, *options, str(program), *map(str, arguments)]


def start(command: list[str]) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, start_new_session=True, **pipes)


def run(command: list[str], timeout: float = 240) -> tuple[int, str]:
    """(exit status, what it printed); everything it started is gone after `timeout` seconds."""
    process = start(command)
    try:
        printed, _ = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
    return process.returncode, printed


def cause(printed: str, last: int = 60) -> str:
    """What a failed program printed last, after all lines before that name an error."""
    lines = printed.splitlines()
    named = [line for line in lines[:-last] if re.search(r"error|terminate|what\(\)", line, re.IGNORECASE)]
    return "\n".join([*named, *lines[-last:]])
