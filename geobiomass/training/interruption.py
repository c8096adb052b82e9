"""SIGTERM, which a scheduler sends before it takes a machine away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Termination", "TrainingInterrupted", "heed_termination"]

# What a shell reports of a process that SIGTERM ended.
EXIT_CODE = 128 + signal.SIGTERM


class TrainingInterrupted(SystemExit):
    """Training stopped on SIGTERM; the same command goes on where it stopped.

    Not caught, it ends the process with exit code 143. Its text says what is saved.

    Parameters
    ----------
    message
        What is saved, and what to do.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = EXIT_CODE

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args


class Termination:
    """Whether this process was told to end.

    The handler does nothing but take note: the processes of a training agree at the
    end of a step whether to stop, as a collective operation within the handler would
    meet another one of the step that it breaks into.
    """

    def __init__(self) -> None:
        self.received = False

    def listen(self) -> None:
        """Take note of SIGTERM from now on, in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._take_note)

    def _take_note(self, number: int, frame: object) -> None:
        self.received = True


@contextmanager
def heed_termination() -> Iterator[Termination]:
    """Hold SIGTERM back for a while; what was in force before is in force after.

    Outside the main thread, where Python allows no handlers, nothing is held back.

    Raises
    ------
    TrainingInterrupted
        At the end, where SIGTERM came too late to stop anything.
    """
    before = signal.getsignal(signal.SIGTERM)
    stop = Termination()
    stop.listen()
    try:
        yield stop
    finally:
        # None is a handler that is not Python's, which cannot be put back.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    if stop.received:
        raise TrainingInterrupted("SIGTERM came when training was at its end")
