"""What the processes of a run decide together: whether it goes on."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from catalog.errors import DivergedError, InputError
from trainer.runtime.watchdog import Interrupted, Watchdog


class Processes:
    """Failures are kept in the process they happen in until `agree`, where all processes stop together.

    abort: ends this process with an error, after it has kept what was done if `keep`; all processes call it together.
    """

    def __init__(
        self, accelerator: Accelerator, watchdog: Watchdog, abort: Callable[[Exception, bool], NoReturn]
    ) -> None:
        self.accelerator, self.watchdog, self._abort = accelerator, watchdog, abort
        self._error: Exception | None = None
        self.asked_to_stop = False  # known to all processes since the last `agree`

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """What fails inside, a user's reward say, is kept and ends the run at the next `agree`."""
        self.watchdog.heartbeat()
        try:
            yield
        except Exception as error:
            self._error = self._error or error

    def agree(self, where: str, *counts: float) -> list[float]:
        """The sums of `counts` over all processes, which all come here, with one collective.

        where: what is being done, should a process get stuck. Ends the run on every process where something failed on
        any of them since the last time. Where any was asked to stop, all know it and stop before their next step.
        """
        self.watchdog.heartbeat(where)
        own = [*counts, _severity(self._error), float(self.watchdog.stop_requested)]
        every = self.accelerator.gather(torch.tensor([own], dtype=torch.float64, device=self.accelerator.device))
        *sums, failed, asked = every.sum(0).tolist()  # every [processes, counts + 2]
        if failed:
            error, self._error = self._error, None
            worst = int(every[:, -2].argmax())
            keep = every[worst, -2].item() < _severity(DivergedError(""))
            other = Interrupted(f"Process {worst} failed, see its message; this one stops too.")
            self._abort(error or other, keep)
        self.asked_to_stop |= bool(asked)
        return sums

    def stop_if_asked(self) -> None:
        """End the run where any process was asked to: before a step, so that its checkpoint resumes exactly."""
        if self.asked_to_stop:
            self.asked_to_stop = False
            self._abort(Interrupted("The run was asked to stop."), True)

    def leave(self) -> None:
        """Leave the group of the processes, as the last thing that they do together."""
        leave_group()
        self.accelerator.end_training()

    def from_main(self, read: Callable[[], Any]) -> Any:
        """What one process finds in a folder, for all of them; an InputError is raised in all too."""
        found, error = None, None
        if self.accelerator.is_main_process:
            try:
                found = read()
            except InputError as caught:
                error = caught
        found, error = broadcast_object_list([found, error])
        if error:
            raise error
        return found


def leave_group() -> None:
    """Destroy the group of the processes, if there is one, and wait until gloo's threads are done.

    Those threads outlive the group where anything holds it, as DeepSpeed does. A collective returns before its thread
    lets go of the tensors. Where Python ends first, the thread cannot take Python's lock and aborts the process
    (CPython before 3.14).
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    idle, deadline = 0, time.monotonic() + 10
    while idle < 5 and time.monotonic() < deadline:  # one look may find a thread that waits for Python's lock
        time.sleep(0.02)
        idle = idle + 1 if _gloo_sleeps() else 0


def _gloo_sleeps() -> bool:
    """Whether none of gloo's threads runs or is about to; where the system does not tell, True."""
    for thread in Path("/proc/self/task").glob("*"):
        name, _, state = (thread / "stat").read_text().rpartition(") ")
        if name.endswith("(pt_gloo_runloop") and not state.startswith("S"):
            return False
    return True


def _severity(error: Exception | None) -> float:
    """0 for none, 1 for one that leaves the weights as they were, 2 for weights that have diverged."""
    return 0.0 if error is None else 1.0 + isinstance(error, DivergedError)
