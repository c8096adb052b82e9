"""Errors of a dask cluster that breaks in the middle of a work, in one sentence."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

AGAIN = (
    "make the same call again with a client that is connected: it goes on where it "
    "stopped"
)
"""Remedy of what is written in parts."""

# Packages whose own code only fails in these ways where a connection fails.
_TRANSPORT = ("distributed", "tornado", "asyncio")

# As distributed.client names why a future was cancelled.
_REASONS = {
    "scheduler-connection-lost": "the connection to it was lost",
    "scheduler-restart": "it was restarted",
    "lost dependencies": "data that its workers kept were lost with them",
    "client-close": "its client was closed",
}


class ClusterError(RuntimeError):
    """The dask cluster was closed, restarted or lost while it worked."""

    exit_code = 3  # of the command line: what is written stays, and it goes on


class LostClusterError(ClusterError):
    """What happened to a cluster, in words that follow "the cluster broke:"."""


@contextmanager
def told_of_cluster(
    what: str,
    client: Any = None,
    remedy: str = AGAIN,
    progress: Callable[[], str] | None = None,
) -> Iterator[None]:
    """Raise a :class:`ClusterError` where a cluster breaks.

    Parameters
    ----------
    what : str
        What happens within the `with` statement: "map.zarr was being written".
    client : distributed.Client, optional
        The client that is used; by default only errors of distributed itself count.
    remedy : str
        What to do.
    progress : callable, optional
        Returns how much is written, for the message: "3 of 12 blocks are written".
    """
    try:
        yield
    except Exception as error:
        if not is_of_cluster(error, client):
            raise
        happened = reason_of(error)
        if progress is not None:
            happened += f"; {progress()}"
        raise ClusterError(
            f"The dask cluster broke while {what}: {happened}; {remedy}."
        ) from error


def is_of_cluster(error: BaseException, client: Any = None) -> bool:
    """Return whether an error comes from a cluster that broke.

    Parameters
    ----------
    error : BaseException
        The error that was caught.
    client : distributed.Client, optional
        The client that is used.
    """
    if isinstance(error, ClusterError):
        return isinstance(error, LostClusterError)  # the others are told already
    # A closed client fails in many ways, as its connection is None then.
    if client is not None and client.status not in ("running", "connecting", "newly"):
        return not type(error).__module__.startswith("geobiomass")
    if type(error).__module__.partition(".")[0] == "distributed":
        return True
    if client is None:
        return False
    # Errors of tasks come with the frames of the worker, which end in the task.
    last = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1:]
    names = (str(frame.f_globals.get("__name__", "")) for frame in last)
    return any(name.partition(".")[0] in _TRANSPORT for name in names)


def reason_of(error: BaseException) -> str:
    """Return what happened to a cluster, in words."""
    reason = getattr(error, "reason", None)
    groups = getattr(error, "error_groups", None)
    if groups:
        reason = groups[0].reason
    if isinstance(reason, str):
        return _REASONS.get(reason, f"its tasks were cancelled ({reason})")
    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, LostClusterError):
        return text
    if isinstance(error, OSError):  # of distributed's many, all about connections
        return "the connection to it was lost"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
