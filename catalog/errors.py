"""The errors of this library: three types, with fields that a program can print or test."""

from pathlib import Path


class GFlowGRError(Exception):
    """An error that the user can mend. Its message is `problem` and `remedy`; a program prints it without a traceback.

    Attributes:
        problem: what was found and why it cannot work, one sentence.
        remedy: what to do instead, "" where the problem says it.
        file: the file or folder it is about, None without one.
        row: the line, row, item or user in it, None without one.
        field: the setting, column or key it is about, None without one.
        value: what was given there, None where there is nothing to show.
    """

    def __init__(
        self,
        problem: str,
        *,
        remedy: str = "",
        file: str | Path | None = None,
        row: object = None,
        field: str | None = None,
        value: object = None,
    ) -> None:
        super().__init__(f"{problem} {remedy}".strip())
        self.problem, self.remedy = problem, remedy
        self.file = None if file is None else Path(file)
        self.row, self.field, self.value = row, field, value


class InputError(GFlowGRError, ValueError):
    """What the user gave cannot work: a setting, a file, a row, a checkpoint, an object in Python."""


class SetupError(GFlowGRError, RuntimeError):
    """What the environment lacks: a package, space on the disk, a GPU, a server, a folder that is free."""


class RunError(GFlowGRError, RuntimeError):
    """What failed during a run: a loss that is no number, a reward that raised, a request to stop."""


class DivergedError(RunError):
    """A weight, a loss or a log-probability is not a number. What the run has in memory is then not saved."""
