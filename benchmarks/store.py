"""Choose the store's layout by measurement: chunk, shard, codec, dtype, checksum.

``python benchmarks/store.py [--quick] [--markdown]``

A row is a layout and a way to read it; the columns are what training and mapping do:
whole chips, random crops of 128, tiles of 256 at a stride of 192 from a scene, one
month alone. Everything is read from the page cache by two threads.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc

from layouts import (
    ZARR_PYTHON,
    ZARRS,
    Direct,
    InMemory,
    Layout,
    has_zarrs,
    pipeline,
    stored,
    through_zarr,
)
from material import SIDE, Codes, describe, mosaic, varied_chips
from tables import THREADS, Row, rate, show

CROP, TILE, STRIDE = 128, 256, 192

QUICK = [
    Layout(1, 128, 128),
    Layout(12, 32, 64),
    Layout(12, 32, 64, checksum=True),
]
LAYOUTS = [
    Layout(1, 256, 256),
    Layout(1, 128, 128),
    Layout(1, 64, 64),
    Layout(1, 32, 32),
    Layout(4, 32, 64),
    Layout(12, 64, 64),
    Layout(12, 32, 64),
    Layout(12, 32, 64, checksum=True),
    Layout(12, 32, 64, codec="zstd"),
    Layout(12, 32, 64, codec=None),
    Layout(12, 32, 64, dtype="float32"),
    Layout(1, 128, 128, shards=False),
    Layout(12, 32, 64, shards=False),
]

Window = tuple[int | None, slice, slice, slice]  # chip, months, rows, columns


@dataclass(frozen=True)
class Tasks:
    """Windows to read, by column of the table."""

    whole: list[Window]
    crops: list[Window]
    tiles: list[Window]
    month: list[Window]

    @classmethod
    def plan(cls, chips: int, months: int, scene: int) -> Tasks:
        """Plan each task; crops are drawn with a fixed seed."""
        draw = np.random.default_rng(0)
        every, side = slice(0, months), slice(0, SIDE)
        corners = draw.integers(0, SIDE - CROP + 1, (48, 2)).tolist()
        starts = range(0, scene - TILE + 1, STRIDE)
        return cls(
            [(chip, every, side, side) for chip in range(chips)],
            [
                (i % chips, every, slice(top, top + CROP), slice(left, left + CROP))
                for i, (top, left) in enumerate(corners)
            ],
            [
                (None, every, slice(top, top + TILE), slice(left, left + TILE))
                for top in starts
                for left in starts
            ],
            [
                (i % chips, slice(i % months, i % months + 1), side, side)
                for i in range(2 * months)
            ],
        )

    def touched(self, layout: Layout) -> float:
        """Give pixels touched over pixels needed, the mean of the crops."""
        ratios = [layout.touched(w[2].start, w[3].start, CROP) for w in self.crops]
        return float(np.mean(ratios))


@dataclass(frozen=True)
class Bench:
    """Chips, the scene they make, and how long to measure."""

    codes: Codes
    scene: Codes
    tasks: Tasks
    folder: Path
    rounds: int
    seconds: float

    def rows(self, layout: Layout) -> list[Row]:
        """Write a layout, read it in every way, delete it."""
        import shutil

        chips, scene = self.folder / "chips.zarr", self.folder / "scene.zarr"
        layout.write(chips, self.codes)
        layout.write(scene, self.scene)
        files = [path for path in chips.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files) / len(self.codes) / 1e6
        per_chip = (len(files) - 1) // len(self.codes)  # less zarr.json
        common = {"MB a chip": size, "files a chip": per_chip}
        rows = []
        for reader in readers():
            speeds = self._speeds(layout, reader, chips, scene)
            rows.append({"layout": str(layout), "read by": reader, **common, **speeds})
        shutil.rmtree(chips)
        shutil.rmtree(scene)
        return rows

    def _speeds(self, layout: Layout, reader: str, chips: Path, scene: Path) -> Row:
        names = {"zarrs": ZARRS, "zarr-python": ZARR_PYTHON}
        with pipeline(names[reader], THREADS) if reader in names else nullcontext():
            if reader == "codec":
                read: Callable[..., Any] = InMemory(layout, self.codes).read
                read_scene: Callable[..., Any] = InMemory(layout, self.scene).read
            elif reader == "direct":
                read = Direct(chips, layout).read
                read_scene = Direct(scene, layout).read
            else:
                read, read_scene = through_zarr(chips), through_zarr(scene)
            if reader != "codec":
                self._check(layout, read, read_scene)
            measure = partial(rate, rounds=self.rounds, seconds=self.seconds)
            return {
                "whole chips/s": measure(lambda w: read(*w), self.tasks.whole),
                "crops/s": measure(lambda w: read(*w), self.tasks.crops),
                "touched/needed": self.tasks.touched(layout),
                "tiles/s": measure(lambda w: read_scene(*w), self.tasks.tiles),
                "one month/s": measure(lambda w: read(*w), self.tasks.month),
            }

    def _check(
        self, layout: Layout, read: Callable[..., Any], read_scene: Callable[..., Any]
    ) -> None:
        """See that a reader gives the pixels that were written."""
        for window in (self.tasks.crops[0], self.tasks.month[-1]):
            chip, months, rows, columns = window
            want = stored(self.codes[chip][months, :, rows, columns], layout.dtype)
            np.testing.assert_array_equal(read(*window), want)
        window = self.tasks.tiles[-1]
        want = self.scene[window[1], :, window[2], window[3]]
        np.testing.assert_array_equal(read_scene(*window), stored(want, layout.dtype))


def readers() -> list[str]:
    """Name the ways to read that there are here."""
    return ["codec", "direct", *(["zarrs"] if has_zarrs() else []), "zarr-python"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three layouts, one round")
    parser.add_argument("--markdown", action="store_true", help="print as markdown")
    chosen = parser.parse_args(arguments)
    blosc.use_threads = False  # parallel over windows instead, in all ways to read
    print(describe())
    if not has_zarrs():
        print("zarrs is not installed: its rows are left out.")
    codes = varied_chips(4 if chosen.quick else 16)
    scene = mosaic(codes)
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        bench = Bench(
            codes,
            scene,
            Tasks.plan(len(codes), codes.shape[1], scene.shape[-1]),
            Path(folder),
            rounds=1 if chosen.quick else 3,
            seconds=0.05 if chosen.quick else 0.3,
        )
        rows: list[Row] = []
        for layout in QUICK if chosen.quick else LAYOUTS:
            print(f"{layout} ...", file=sys.stderr, flush=True)
            rows += bench.rows(layout)
    show("Layouts of the store, two threads", rows, markdown=chosen.markdown)


if __name__ == "__main__":
    main()
