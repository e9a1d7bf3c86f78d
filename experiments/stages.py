"""The stages of a sweep, each a command of the recipes in a process of its own, some of them side by side."""

import ctypes
import fcntl
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from types import TracebackType
from typing import Any

from catalog.errors import RunError
from catalog.progress import progress

TIMES = "stages.jsonl"
"""What every stage took, in the folder of the runs."""

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What asks a sweep to stop: a queue, Ctrl-C, a terminal that is closed."""

STOPPED = "The sweep was asked to stop. The same command goes on."


@dataclass(frozen=True)
class Stage:
    """One command. needs: names of the stages that come before it; those that are not to be run count as done."""

    command: tuple[str, ...]
    log: Path
    needs: set[str] = field(default_factory=set)


def run_stages(stages: dict[str, Stage], jobs: int, environment: dict[str, str], times: Path) -> None:
    """Run every stage after those it needs, `jobs` of them side by side; the first that fails ends it all.

    They share the cores, unless OMP_NUM_THREADS of the environment says something else. times: a file that gets a line
    of JSON for each stage that ends, well or not, with its seconds and exit status.

    Raises RunError where another process runs stages there, or what it had started still does, where a stage failed or,
    after one of `STOPS`, when all have ended; what trained left a checkpoint.
    """
    if not stages:
        return
    sorter = TopologicalSorter({name: stage.needs & stages.keys() for name, stage in stages.items()})
    sorter.prepare()
    environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))} | environment
    waiting: dict[Future[None], str] = {}
    with (
        alone(times.parent) as lock,
        Processes(environment, times, lock) as processes,
        ThreadPoolExecutor(jobs) as pool,
        progress(total=len(stages), desc="stages", unit="stage") as bar,
    ):
        while sorter.is_active():
            waiting |= {pool.submit(processes.run, name, stages[name]): name for name in sorter.get_ready()}
            bar.set_postfix_str(", ".join(list(waiting.values())[:jobs]))
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                if future.exception():
                    pool.shutdown(wait=False, cancel_futures=True)  # what runs already is finished, and kept
                future.result()
                sorter.done(waiting.pop(future))
                bar.update()


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Keep a second sweep or search out of a folder; the open lock file, for the stages to inherit.

    The lock ends with the last process that has the file open: that of a sweep which was killed, with its last stage.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "stages.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"Another sweep or search is at work in {folder}, or a process that it had started still is.",
                remedy="Wait for it, or choose another folder.",
                file=folder,
            ) from None
        yield file.fileno()


def _end_with(parent: int) -> None:
    """In a new process: ask for a SIGTERM when its parent ends, even if that is killed. On Linux; elsewhere nothing."""
    if _prctl is not None:
        _prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it ended meanwhile
            os.kill(os.getpid(), signal.SIGTERM)


_prctl = getattr(ctypes.CDLL(None), "prctl", None)


class Processes:
    """What runs. Inside `with` one of `STOPS` is a SIGTERM to each of them, and to those that were about to start.

    asked: whether one of `STOPS` has come.
    """

    def __init__(self, environment: dict[str, str], times: Path, lock: int) -> None:
        self._environment, self._times, self._lock = environment, times, lock
        self._running: set[subprocess.Popen[bytes]] = set()
        self.asked = False

    def __enter__(self) -> "Processes":
        heard = [sign for sign in STOPS if signal.getsignal(sign) != signal.SIG_IGN]  # as nohup and & have it
        self._before = {sign: signal.signal(sign, self._stop) for sign in heard}
        return self

    def __exit__(self, kind: type | None, error: Exception | None, trace: TracebackType | None) -> None:
        for sign, handler in self._before.items():
            signal.signal(sign, handler)

    def _stop(self, *_: Any) -> None:
        self.asked = True
        for process in list(self._running):
            process.terminate()

    def start(self, command: Sequence[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
        """A new process, whose output goes behind what the log holds; `end` must follow."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment | environment,
                pass_fds=(self._lock,),
                preexec_fn=partial(
                    _end_with, os.getpid()
                ),  # the thread that starts it, which counts, waits for it until its end
                start_new_session=True,  # Ctrl-C goes to all of a terminal's session, and would end a training at once
            )
        self._running.add(process)
        if self.asked:  # meanwhile
            process.terminate()
        return process

    def end(self, name: str, process: subprocess.Popen[bytes], seconds: float) -> int:
        """Wait for a process and note what it took; its exit status."""
        status = process.wait()
        self._running.discard(process)
        self._note({"stage": name, "seconds": round(seconds, 1), "status": status})
        return status

    def run(self, name: str, stage: Stage) -> None:
        if self.asked:
            raise RunError(STOPPED)
        started = time.perf_counter()
        process = self.start(stage.command, stage.log)
        process.wait()
        status = self.end(name, process, time.perf_counter() - started)
        if status and self.asked:
            raise RunError(STOPPED)
        if status:
            raise RunError(f"{shlex.join(stage.command)} failed; {stage.log} ends with\n{last_lines(stage.log)}")

    def _note(self, line: dict[str, Any]) -> None:
        with self._times.open("a") as file:
            file.write(json.dumps(line) + "\n")


def last_lines(log: Path) -> str:
    """What a log ends with."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
