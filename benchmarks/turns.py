"""Processes of contenders that run in turns; time and memory are measured outside."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mapping
from mapping import Order
from tables import THREADS


class Process:
    """A process that makes a map for each order.

    Parameters
    ----------
    name : str
        The contender whose packages it imports.
    model : Path
        The model, which is loaded before the memory is measured.

    Raises
    ------
    RuntimeError
        If the process fails, now or later; the message has its output.
    """

    def __init__(self, name: str, model: Path) -> None:
        self.name = name
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed by close)
        self._process = subprocess.Popen(
            [sys.executable, mapping.__file__, name, str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            # These benchmarks are for the CPU, so that a GPU is hidden.
            env=os.environ
            | {"CUDA_VISIBLE_DEVICES": "", "RAYON_NUM_THREADS": str(THREADS)},
        )
        self._level = int(self._answer())
        self._peak = 0

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        self._said.close()

    def run(self, order: Order) -> tuple[float, int]:
        """Make a map; return seconds, and the peak of bytes above the start."""
        assert self._process.stdin
        self._peak = 0
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(ended,))
        watcher.start()
        try:
            text = json.dumps(dataclasses.asdict(order))
            print(text, file=self._process.stdin, flush=True)
            return self._answer(), self._peak
        except BrokenPipeError:
            raise self._failure() from None
        finally:
            ended.set()
            watcher.join()

    def _answer(self) -> float:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(mapping.ANSWER):
                return float(line.removeprefix(mapping.ANSWER))
        raise self._failure()

    def _failure(self) -> RuntimeError:
        self._process.wait()
        self._said.seek(0)
        return RuntimeError(f"{self.name} failed:\n{self._said.read()}")

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(0.01) and self._process.poll() is None:
            used = mapping.resident(self._process.pid) - self._level
            self._peak = max(self._peak, used)


@dataclass
class Contender:
    """The times and memory of one order; several orders may share a process."""

    order: Order
    process: Process
    seconds: list[float] = field(default_factory=list)
    peak: int = 0  # bytes above the level after imports and loading of the model

    def turn(self) -> None:
        """Make a map; record seconds and peak memory."""
        seconds, peak = self.process.run(self.order)
        self.seconds.append(seconds)
        self.peak = max(self.peak, peak)

    def run(self, **changes: Any) -> None:
        """Make a map with changes to the order; it is not recorded."""
        self.process.run(dataclasses.replace(self.order, **changes))

    @property
    def output(self) -> Path:
        """The path of the map."""
        return Path(self.order.output)

    @property
    def median(self) -> float:
        """The seconds of the median turn."""
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """The seconds of the fastest turn."""
        return min(self.seconds)

    def speed_over(self, other: Contender) -> float:
        """Return the other's seconds over ours, the median over rounds."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return statistics.median(theirs / ours for ours, theirs in pairs)


def take_turns(contenders: Sequence[Contender], rounds: int) -> None:
    """Run each contender once per round; the order rotates between rounds."""
    for number in range(rounds):
        for contender in contenders[:: -1 if number % 2 else 1]:
            contender.turn()
