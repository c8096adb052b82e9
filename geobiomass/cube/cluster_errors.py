"""Errors of a dask cluster that breaks in the middle of a work, in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class ClusterError(RuntimeError):
    """The dask cluster was closed, restarted or lost while it worked."""


@contextmanager
def told_of_cluster(path: str | Path, client: Any = None) -> Iterator[None]:
    """Raise a :class:`ClusterError` where a cluster breaks.

    Parameters
    ----------
    path : str or Path
        What is written within the `with` statement.
    client : distributed.Client, optional
        The client that was given; by default only errors of distributed itself count.
    """
    try:
        yield
    except Exception as error:
        if not _is_of_cluster(error, client):
            raise
        raise ClusterError(
            f"The dask cluster broke while {path} was being written "
            f"({type(error).__name__}: {error}); make the same call again with a "
            "client that is connected: it goes on where it stopped."
        ) from error


def _is_of_cluster(error: BaseException, client: Any) -> bool:
    # A closed client fails in many ways, as its connection is None then.
    if client is not None and client.status not in ("running", "connecting", "newly"):
        return not type(error).__module__.startswith("geobiomass")
    return type(error).__module__.partition(".")[0] == "distributed"
