"""Runs that end in order: when they are asked to, without their launcher, and when a process no longer gets on."""

import faulthandler
import os
import signal
import sys
import threading
import time
from types import TracebackType

from torch.distributed import DistError, TCPStore

from catalog.errors import RunError


class Interrupted(RunError):
    """The run was asked to stop, and has."""


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What asks a run to stop: a scheduler, Ctrl-C, a terminal that is closed."""


class Watchdog:
    """Notes while a run trains that it was asked to stop, and ends it where a process is stuck.

    timeout: seconds that a collective may take. Without a `heartbeat` of some process for four fifths of it, every
    process says who is behind, and exits before the collective fails; the launcher then ends what is left. Processes
    tell each other of their heartbeats through the launcher's store, from a thread, so that no stuck collective keeps
    one silent.
    """

    def __init__(self, timeout: float) -> None:
        self.patience = 0.8 * timeout
        self.rank, self.processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.stop_requested = False
        self._beats, self._where = 0, ""

    def __enter__(self) -> "Watchdog":
        self.stop_requested = False
        self._main = threading.current_thread() is threading.main_thread()  # only there Python has signals
        # what is ignored stays so, as nohup wants it
        heard = [number for number in SIGNALS if self._main and signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self.stop) for number in heard}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._launcher = os.getppid()
        if "TORCHELASTIC_RUN_ID" in os.environ:
            self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: Exception | None, trace: TracebackType | None) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stop(self, *_: object) -> None:
        """Ask the run to stop: it does at its next step, with a checkpoint."""
        self.stop_requested = True

    def heartbeat(self, where: str | None = None) -> None:
        """This process goes on, and is now at `where`, by default as before; "" where it may take any time."""
        self._beats += 1
        if where is not None:
            self._where = where

    def _look(self) -> None:
        last, changed = "", time.monotonic()
        try:
            store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
            while True:
                here, now = f"{self._beats}|{self._where}", time.monotonic()
                store.set(_key(self.rank), here)
                if here != last:
                    last, changed = here, now
                elif self._where and now - changed > self.patience:
                    self._abort(store)
                if self._over.wait(min(5.0, self.patience / 10)):
                    return
                if os.getppid() != self._launcher:
                    return self.stop()
        except DistError:  # the store lives in the launcher
            return self.stop()

    def _abort(self, store: TCPStore) -> None:
        # read only now, and not at every look: each process would ask the one store for as many keys as there are
        # processes. To ask for what nobody has told yet, or will any more, would wait
        keys = map(_key, range(self.processes))
        told = [store.get(key) if store.check([key]) else b"0|its start" for key in keys]
        beats = [int(entry.split(b"|")[0]) for entry in told]
        behind = [rank for rank, count in enumerate(beats) if count == min(beats)]
        names, where = ", ".join(map(str, behind)), told[behind[0]].split(b"|")[1].decode()
        sys.stderr.write(
            f"error: For {self.patience:g} s nothing has gone on. Process {names} of {self.processes} stands at {where}"
            f"{', the others wait for it' if len(behind) < self.processes else ', like all'}. The run stops; its last "
            f"checkpoint is whole. Process {self.rank} was here:\n"
        )
        faulthandler.dump_traceback(sys.stderr)
        os._exit(1)


def _key(rank: int) -> str:
    """Where a process writes how often it has gone on, and what it was doing."""
    return f"gflowgr/watch/{rank}"
