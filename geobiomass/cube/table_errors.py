"""Errors of tables as errors of cubes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from geobiomass.cube.schema import CubeError
from geobiomass.tables import TableError


@contextmanager
def cube_errors(start: str = "") -> Iterator[None]:
    """Raise an error of a table as a `CubeError`, whose message begins with `start`."""
    try:
        yield
    except TableError as error:
        raise CubeError(f"{start}{error}{'.' if start else ''}") from error
