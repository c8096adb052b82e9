"""Handling of SIGTERM, which a scheduler sends before it ends a job."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Termination", "TrainingInterrupted", "defer_termination"]

# The exit code that shells report for a process that SIGTERM ended.
EXIT_CODE = 128 + signal.SIGTERM


class TrainingInterrupted(SystemExit):
    """Training stopped on SIGTERM; the same command continues it.

    If it is not caught, it ends the process with exit code 143.

    Parameters
    ----------
    message
        The last step that is saved, and what to do.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = EXIT_CODE

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args


class Termination:
    """Flag that is set when this process receives SIGTERM.

    The handler only sets the flag. The processes of a training decide together, at the
    end of a step, whether to stop: a collective operation within the handler could
    interrupt another one of the step.
    """

    def __init__(self) -> None:
        self.received = False

    def listen(self) -> None:
        """Install the handler of SIGTERM, in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._set_received)

    def _set_received(self, number: int, frame: object) -> None:
        self.received = True


@contextmanager
def defer_termination() -> Iterator[Termination]:
    """Defer SIGTERM within the `with` statement, then restore the earlier handler.

    Outside the main thread Python allows no handlers, so nothing is deferred.

    Raises
    ------
    TrainingInterrupted
        At the end, if SIGTERM came after the last step.
    """
    before = signal.getsignal(signal.SIGTERM)
    stop = Termination()
    stop.listen()
    try:
        yield stop
    finally:
        # None is a handler that Python did not install and cannot restore.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    if stop.received:
        raise TrainingInterrupted("SIGTERM came at the end of the training")
