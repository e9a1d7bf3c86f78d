"""How far long work is: a bar on a terminal, elsewhere a line a minute."""

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm.auto import tqdm

SECONDS = 60.0
"""Between two lines where there is no terminal."""


def progress(steps: Iterable[Any] | None = None, **settings: Any) -> Any:
    """A tqdm over `steps`, or by hand with total=...; settings: those of tqdm, `disable` among them.

    Without a terminal, in a log or a job's output, it is a plain line a minute instead of a bar, and work of less than
    a minute says nothing.
    """
    file = settings.pop("file", None) or sys.stderr
    if file.isatty() or tqdm.__name__ == "tqdm_notebook":
        return tqdm(steps, file=file, **settings)
    settings |= {"mininterval": SECONDS, "delay": SECONDS, "miniters": 1, "ncols": 100, "ascii": True}
    settings |= {"bar_format": "{desc}: {n_fmt}/{total_fmt} in {elapsed}, {remaining} left{postfix}"}
    return tqdm(steps, file=_Lines(file), **settings)


class _Lines:
    """A file that turns what redraws a bar into lines."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, text: str) -> None:
        if line := text.strip("\r\n ").replace("\x1b[A", ""):
            self.file.write(line + "\n")

    def flush(self) -> None:
        self.file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)
