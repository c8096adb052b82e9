"""Processes of contenders that wait for their turn, timed and watched from outside."""

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
    """A process that maps whenever it is sent an order.

    Parameters
    ----------
    name : str
        The contender whose packages it imports.
    model : Path
        Loaded before its memory is counted.

    Raises
    ------
    RuntimeError
        If the process fails, with what it said; also while it is used.
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
            # A GPU would make another benchmark of this; these are for the CPU.
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
        """Map once; give seconds, and bytes over the level at the start, at most."""
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
    """What one order took, turn by turn, in a process that others may share."""

    order: Order
    process: Process
    seconds: list[float] = field(default_factory=list)
    peak: int = 0  # bytes over the level after imports and loading of the model

    def turn(self) -> None:
        """Map once; note seconds and the peak of memory."""
        seconds, peak = self.process.run(self.order)
        self.seconds.append(seconds)
        self.peak = max(self.peak, peak)

    def run(self, **changes: Any) -> None:
        """Map once, with changes to the order; not counted."""
        self.process.run(dataclasses.replace(self.order, **changes))

    @property
    def output(self) -> Path:
        """Where the map is."""
        return Path(self.order.output)

    @property
    def median(self) -> float:
        """Seconds of the middle turn."""
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """Seconds of the fastest turn."""
        return min(self.seconds)

    def speed_over(self, other: Contender) -> float:
        """Give the median over the rounds of the other's seconds over ours."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return statistics.median(theirs / ours for ours, theirs in pairs)


def take_turns(contenders: Sequence[Contender], rounds: int) -> None:
    """Let each map once a round, in an order that turns round from round to round."""
    for number in range(rounds):
        for contender in contenders[:: -1 if number % 2 else 1]:
            contender.turn()
