"""A dask cluster of real processes, and a map whose blocks break it.

The processes are those of ``dask scheduler`` and ``dask worker``, so that each can be
killed, stopped and started again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from map_work import Work

from geobiomass.maps import Block

_TESTS = Path(__file__).parents[1]
_SECONDS = 90  # that a process may take to start on a busy machine


class Cluster:
    """A scheduler and its workers; they end with the ``with`` statement.

    Parameters
    ----------
    folder : Path
        Of the processes' own files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = ""
        self.scheduler: Any = None
        self.workers: list[Any] = []
        self._started: list[Any] = []

    def __enter__(self) -> Cluster:
        self.start_scheduler()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.kill()
            process.wait()

    def start_scheduler(self) -> None:
        """Start a scheduler; a second one gets the address of the first."""
        file = self.folder / "scheduler.json"
        file.unlink(missing_ok=True)
        port = self.address.rpartition(":")[2] or "0"
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard",
            "--scheduler-file", str(file),
        )  # fmt: skip
        # It is there before all of it is written.
        until(lambda: file.exists() and file.read_text().rstrip().endswith("}"))
        self.address = json.loads(file.read_text())["address"]

    def start_worker(self, *options: str, **environment: str) -> None:
        """Start a worker of one thread, without a nanny and a limit of its memory."""
        plain = ["--no-nanny", "--memory-limit", "0"]
        self.workers.append(
            self._start(
                "worker", self.address, "--nthreads", "1", "--no-dashboard",
                *(options or plain), **environment,
            )
        )  # fmt: skip

    def _start(self, what: str, *options: str, **environment: str) -> Any:
        paths = [_TESTS.parent, _TESTS, Path(__file__).parent]
        with (self.folder / f"{what}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{what}", *options],
                cwd=self.folder,
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
                | environment,
                stdout=log,
                stderr=log,
            )
        self._started.append(process)
        return process


def until(true: Callable[[], Any], seconds: float = _SECONDS) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} seconds"
        time.sleep(0.02)


# --- what a block does to its cluster -------------------------------------------------


@dataclass
class Breaking(Work):
    """Work whose fifth block, wherever it is computed, breaks the cluster once.

    Parameters
    ----------
    fault : str
        "kill", "stop": the processes of `pids`; "die": each worker that gets a block
        from then on; "pause": it takes no more blocks; "ask": the test does something,
        and the block waits for it.
    pids : tuple of int
        Processes.
    """

    fault: str = "ask"
    pids: tuple[int, ...] = ()
    after: int = field(default=4)

    @property
    def begun(self) -> Path:
        """The file that says that it is time."""
        return self.log.with_suffix(".begun")

    @property
    def acted(self) -> Path:
        """The file that says that the test has done it."""
        return self.log.with_suffix(".acted")

    def __call__(self, block: Block) -> np.ndarray:
        values = super().__call__(block)
        if len(self.computed) > self.after and not self.acted.exists():
            self.begun.touch()
            getattr(self, f"_{self.fault}")()
        return values

    def _kill(self) -> None:
        self._to_all(signal.SIGKILL)

    def _stop(self) -> None:
        self._to_all(signal.SIGSTOP)

    def _to_all(self, number: signal.Signals) -> None:
        self.acted.touch()
        for pid in self.pids:
            os.kill(pid, number)

    def _die(self) -> None:
        os._exit(1)

    def _pause(self) -> None:
        from distributed import Status, get_worker

        worker: Any = get_worker()
        worker.loop.add_callback(setattr, worker, "status", Status.paused)
        time.sleep(0.5)

    def _ask(self) -> None:
        until(self.acted.exists)


@dataclass
class Swelling(Work):
    """Work that takes all the memory for some blocks."""

    large: tuple[str, ...] = ()

    def __call__(self, block: Block) -> np.ndarray:
        if block.key in self.large:
            kept = []
            for _ in range(100):
                kept.append(np.ones(2**22))  # 32 MB
                time.sleep(0.05)
        return super().__call__(block)


def asking(values: np.ndarray, log: str) -> np.ndarray:
    """Return values, slowly; the third time it says that it is time, and waits."""
    path = Path(log)
    with path.open("ab", buffering=0) as file:
        file.write(b"block\n")
    time.sleep(0.5)
    if path.stat().st_size > 2 * len("block\n") and not _acted(path):
        path.with_suffix(".begun").touch()
        until(lambda: _acted(path))
    return values


def _acted(log: Path) -> bool:
    return log.with_suffix(".acted").exists()
