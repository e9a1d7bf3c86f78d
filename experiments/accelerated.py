"""`--accelerate zero3` on the command line of a program: accelerate starts it, with a file of recipes/accelerate."""

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from catalog.errors import InputError
from catalog.settings import check_known
from experiments import ROOT

OPTIONS = ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port")
"""What is said to accelerate rather than to the program: no setting of a program has one of these names."""
SHUTDOWN = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
"""Seconds that torch's launcher gives the processes for their checkpoint once it is asked to stop, by default 30."""


class Launch(NamedTuple):
    """A command line in its parts: the launch file's name, what accelerate is told, and what the program is told."""

    recipe: str | None
    options: list[str]
    rest: list[str]


def split(argv: Sequence[str]) -> Launch:
    """Take `--accelerate NAME` and accelerate's own options off a command line; all else stays as it is.

    Without `--accelerate` nothing is taken. Raises InputError for an option without its value, and for a name that is
    no launch file.
    """
    taken: dict[str, str] = {}
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--") or name not in ("accelerate", *OPTIONS):
            rest.append(word)
            continue
        given = value if equals else next(words, "")
        if not given or given.startswith("--"):
            raise InputError(f"--{name} has no value.", remedy=f"Give one behind --{name}.", field=name)
        taken[name] = given
    recipe = taken.pop("accelerate", None)
    if recipe is None:
        return Launch(None, [], list(argv))
    known = sorted(path.stem for path in (ROOT / "recipes" / "accelerate").glob("*.yaml"))
    problem = f"accelerate={recipe!r} is not one of recipes/accelerate."
    check_known(recipe, known, problem, field="accelerate", remedy=f"Choose one of {known}.")
    return Launch(recipe, [word for name, value in taken.items() for word in (f"--{name}", value)], rest)


def command_of(launch: Launch, program: str) -> list[str]:
    """The `accelerate launch` of a program of recipes/, started as a module of this Python."""
    file = ROOT / "recipes" / "accelerate" / f"{launch.recipe}.yaml"
    start = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file), *launch.options]
    return [*start, str(ROOT / "recipes" / f"{program}.py"), *launch.rest]


def launch_if_asked(argv: Sequence[str], program: str) -> None:
    """Become the launcher of `program` where the command line says --accelerate; else return.

    The launcher has this process's id, so that a scheduler's signals reach it.
    """
    launch = split(argv)
    if launch.recipe is not None and not {"-h", "--help"} & set(argv):
        os.environ.setdefault(SHUTDOWN, "300")
        command = command_of(launch, program)
        os.execv(command[0], command)
