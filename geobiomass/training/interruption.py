"""Handling of SIGTERM, which a scheduler sends before it ends a job, and of Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    """Flags that are set when this process receives SIGTERM, or SIGINT (Ctrl-C).

    The handler of SIGTERM only sets the flag. The processes of a training decide
    together, at the end of a step, whether to stop: a collective operation within the
    handler could interrupt another one of the step.

    Ctrl-C, or the interruption of a notebook's cell, raises KeyboardInterrupt at once
    between two steps, where the weights are those of the last one. Within a step it
    waits for its end, unless it comes twice.

    Attributes
    ----------
    received, interrupted
        Whether SIGTERM, or SIGINT, came.
    in_step
        Whether a step is computed, so that Ctrl-C waits. The trainer sets it.
    """

    def __init__(self) -> None:
        self.received = self.interrupted = self.in_step = False

    @property
    def wanted(self) -> bool:
        """Whether the training is to stop at the end of the step."""
        return self.received or self.interrupted

    def listen(self) -> None:
        """Install the handlers, in the main thread only.

        A handler of SIGINT other than Python's own stays: it belongs to a program that
        has its own answer.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        signal.signal(signal.SIGTERM, self._set_received)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._set_interrupted)

    def _set_received(self, number: int, frame: object) -> None:
        self.received = True

    def _set_interrupted(self, number: int, frame: object) -> None:
        again, self.interrupted = self.interrupted, True
        if again or not self.in_step:
            raise KeyboardInterrupt
        # Writing may itself have been interrupted: Python refuses to write within.
        with suppress(RuntimeError):
            print(
                "\nInterrupted: training stops after this step; interrupt again to "
                "stop at once.",
                file=sys.stderr,
                flush=True,
            )


@contextmanager
def defer_termination() -> Iterator[Termination]:
    """Defer SIGTERM within the `with` statement, then restore the earlier handlers.

    Ctrl-C is deferred within steps. Outside the main thread Python allows no handlers,
    so nothing is deferred.

    Raises
    ------
    TrainingInterrupted
        At the end, if SIGTERM came after the last step.
    KeyboardInterrupt
        The same for Ctrl-C.
    """
    before = signal.getsignal(signal.SIGTERM)
    before_int = signal.getsignal(signal.SIGINT)
    stop = Termination()
    stop.listen()
    try:
        yield stop
    finally:
        # None is a handler that Python did not install and cannot restore.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
            signal.signal(signal.SIGINT, before_int or signal.SIG_DFL)
    if stop.received:
        raise TrainingInterrupted("SIGTERM came at the end of the training")
    if stop.interrupted:
        raise KeyboardInterrupt("the interruption came at the end of the training")
