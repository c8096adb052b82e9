"""Errors of cubes and maps; apart, so that they come without xarray."""

from __future__ import annotations

from collections.abc import Iterable


class CubeError(ValueError):
    """A dataset or a store is not a cube; the message names the wrong part."""


class DamagedError(CubeError):
    """Part of a cube cannot be read; the message names the part and the file.

    Parameters
    ----------
    message : str
        What cannot be read, why, and what to do.
    file : str
        The damaged file or object.
    """

    def __init__(self, message: str, file: str = "") -> None:
        super().__init__(message, file)
        self.file = file

    def __str__(self) -> str:
        return str(self.args[0])


class UnreachableError(CubeError):
    """An address cannot be read: its server or the connection does not answer."""


class ChangedError(CubeError):
    """Another process writes a store, or wrote it again since it was opened."""


def missing_target(variables: Iterable[str]) -> CubeError:
    """Return the error of a cube without labels, of the variables that it has."""
    return CubeError(
        "The cube has no 'agb' (biomass density, Mg/ha) to learn from or to compare "
        f"with, only {sorted(variables)}; add it with cube.assign(agb=...) or "
        "gb.as_cube(data, agb=...)."
    )
