"""A map that takes no network: what tests of writing maps compute.

Tests start many processes that import this module, so it imports neither torch nor
pytest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from geobiomass.cube import DamagedError
from geobiomass.maps import Block, write_map
from geobiomass.tiles import blocks

HEIGHT, WIDTH, SIDE = 150, 220, 64  # twelve blocks, those at the edges smaller


def layout(side: int = SIDE, height: int = HEIGHT, width: int = WIDTH) -> list[Block]:
    return [Block(window) for window in blocks(height, width, side)]


def template(height: int = HEIGHT, width: int = WIDTH) -> xr.Dataset:
    import rioxarray  # noqa: F401  (the .rio accessor)

    values = np.zeros((height, width), np.float32)
    dims = ("y", "x")
    lazy = xr.Dataset(
        {"agb": (dims, values, {"units": "Mg/ha"}), "sd": (dims, values)},
        coords={"y": 5000.0 - 10 * np.arange(height), "x": 10.0 * np.arange(width)},
    )
    return lazy.rio.write_crs("EPSG:3067")


@dataclass
class Work:
    """Computes a block; notes in a file who did which, and who unpacked it."""

    log: Path
    seconds: float = 0.0
    damaged: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    deadly: tuple[str, ...] = ()
    unpacked: bool = field(default=False, compare=False)

    def __call__(self, block: Block) -> np.ndarray:
        self._note(f"{os.getpid()} {block.key}")
        if block.key in self.damaged:
            raise DamagedError(f"pixels of {block} in month 7, band B04 are damaged")
        if block.key in self.broken:
            raise OSError("no space left")
        if block.key in self.deadly:
            os._exit(1)
        time.sleep(self.seconds)
        return expected()[:, *block.region]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._note(f"{os.getpid()} unpacked")

    def _note(self, line: str) -> None:
        # One write to a file opened for appending: lines of processes do not mix.
        with self.log.open("ab", buffering=0) as file:
            file.write(f"{line}\n".encode())

    @property
    def lines(self) -> list[tuple[int, str]]:
        if not self.log.exists():
            return []
        pairs = [line.split() for line in self.log.read_text().splitlines()]
        return [(int(pid), what) for pid, what in pairs]

    @property
    def computed(self) -> list[str]:
        return [what for _, what in self.lines if what != "unpacked"]


def expected(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(layer, y, x): all pixels differ, one block is blank, some pixels are missing."""
    rows, columns = np.mgrid[:height, :width]
    values = np.stack([rows + columns / 1000, columns - rows / 7]).astype(np.float32)
    values[:, :SIDE, :SIDE] = -np.float32(np.nan)
    values[0, 100:110] = np.nan
    return values


def write(path: Any, work: Any, **settings: Any) -> None:
    chosen: dict[str, Any] = {"side": SIDE, "progress": False} | settings
    side = chosen["side"]
    fingerprint = chosen.pop("fingerprint", "a model and its input")
    write_map(path, template(), layout(side), work, fingerprint, **chosen)


def assert_is_the_map(path: Any) -> None:
    """Compare with the bits that were computed, NaN where NaN was."""
    with xr.open_dataset(path, engine="zarr", chunks=None) as found:
        for name, values in zip(("agb", "sd"), expected(), strict=True):
            np.testing.assert_array_equal(found[name].values, values)
        assert found["agb"].attrs["units"] == "Mg/ha"


class Stop(BaseException):
    """Stands for Ctrl-C."""


@contextmanager
def interrupted(work: Work, after: int) -> Iterator[Any]:
    """Yield work that is interrupted after some blocks."""

    def call(block: Block) -> np.ndarray:
        if len(work.computed) >= after:
            raise Stop
        return work(block)

    import pytest  # here: processes that import this module do without it

    with pytest.raises(Stop):
        yield call
