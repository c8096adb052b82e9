"""Measurement of layouts of the store: chunk, shard, codec, dtype, checksum.

``python benchmarks/store.py [--quick] [--markdown]``

A row is a layout and a reader. The columns are the reads of training and mapping:
whole chips, random crops of 128, tiles of 256 with a stride of 192 from a scene, and
one month. Two threads read everything from the page cache.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product
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
        """Return the windows of each task; crops are drawn with a fixed seed."""
        draw = np.random.default_rng(0)
        every, side = slice(0, months), slice(0, SIDE)
        corners = draw.integers(0, SIDE - CROP + 1, (24, 2)).tolist()
        starts = range(0, scene - TILE + 1, STRIDE)
        tiles: list[Window] = [
            (None, every, slice(top, top + TILE), slice(left, left + TILE))
            for top, left in product(starts, starts)
        ]
        return cls(
            [(chip, every, side, side) for chip in range(chips)],
            [
                (i % chips, every, slice(top, top + CROP), slice(left, left + CROP))
                for i, (top, left) in enumerate(corners)
            ],
            tiles[:9],
            [
                (i % chips, slice(i % months, i % months + 1), side, side)
                for i in range(2 * months)
            ],
        )

    def touched(self, layout: Layout) -> float:
        """Return pixels read over pixels needed, the mean over crops."""
        ratios = [layout.touched(w[2].start, w[3].start, CROP) for w in self.crops]
        return float(np.mean(ratios))


@dataclass(frozen=True)
class Bench:
    """One layout on disk, of chips and of a scene, with its readers."""

    layout: Layout
    chips: Path
    scene: Path
    tasks: Tasks

    @classmethod
    def write(
        cls, layout: Layout, folder: Path, codes: Codes, scene: Codes, tasks: Tasks
    ) -> Bench:
        """Write a layout, and check that every reader returns the written pixels."""
        folder = folder / str(layout).replace(" ", "_")
        bench = cls(layout, folder / "chips", folder / "scene", tasks)
        layout.write(bench.chips, codes)
        layout.write(bench.scene, scene)
        for reader in readers()[1:]:
            with using(reader):
                read, read_scene = bench.open(reader)
                for window in (tasks.crops[0], tasks.month[-1]):
                    chip, months, rows, columns = window
                    want = stored(codes[chip][months, :, rows, columns], layout.dtype)
                    np.testing.assert_array_equal(read(*window), want)
                window = tasks.tiles[-1]
                want = stored(scene[:, :, window[2], window[3]], layout.dtype)
                np.testing.assert_array_equal(read_scene(*window), want)
        return bench

    def open(self, reader: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return the readers of windows of the chips and of the scene."""
        paths = self.chips, self.scene
        if reader == "codec":
            chips, scene = (InMemory(Direct(path, self.layout)) for path in paths)
            return chips.read, scene.read
        if reader == "direct":
            return Direct(self.chips, self.layout).read, Direct(
                self.scene, self.layout
            ).read
        return through_zarr(self.chips), through_zarr(self.scene)

    def facts(self, chips: int) -> Row:
        """Return the figures that do not depend on the reader."""
        files = [path for path in self.chips.rglob("*") if path.is_file()]
        return {
            "MB a chip": sum(path.stat().st_size for path in files) / chips / 1e6,
            "files a chip": (len(files) - 1) // chips,  # less zarr.json
            "touched/needed": self.tasks.touched(self.layout),
        }

    def speeds(self, reader: str, seconds: float) -> dict[str, float]:
        """Measure every task once."""
        with using(reader):
            read, read_scene = self.open(reader)
            measure = partial(rate, seconds=seconds)
            return {
                "whole chips/s": measure(lambda w: read(*w), self.tasks.whole),
                "crops/s": measure(lambda w: read(*w), self.tasks.crops),
                "tiles/s": measure(lambda w: read_scene(*w), self.tasks.tiles),
                "one month/s": measure(lambda w: read(*w), self.tasks.month),
            }


def using(reader: str) -> AbstractContextManager[None]:
    """Set the codec pipeline that a reader needs, within a ``with`` block."""
    names = {"zarrs": ZARRS, "zarr-python": ZARR_PYTHON}
    return pipeline(names[reader], THREADS) if reader in names else nullcontext()


def compare(benches: Sequence[Bench], rounds: int, seconds: float) -> list[Row]:
    """Measure all layouts several times, in turns; return the best of each cell.

    Turns prevent that a busy minute of the machine affects one layout only.
    """
    best: dict[tuple[Layout, str], dict[str, float]] = {}
    for number in range(rounds):
        for bench, reader in product(benches, readers()):
            print(f"{number + 1}: {bench.layout}, {reader}", file=sys.stderr)
            before = best.get((bench.layout, reader), {})
            speeds = bench.speeds(reader, seconds)
            best[bench.layout, reader] = {
                task: max(speed, before.get(task, 0.0))
                for task, speed in speeds.items()
            }
    return [
        {
            "layout": str(bench.layout),
            "read by": reader,
            **bench.facts(len(bench.tasks.whole)),
            **best[bench.layout, reader],
        }
        for bench, reader in product(benches, readers())
    ]


def readers() -> list[str]:
    """Return the names of the available readers."""
    return ["codec", "direct", *(["zarrs"] if has_zarrs() else []), "zarr-python"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="tiny data, to test that it runs"
    )
    parser.add_argument("--markdown", action="store_true", help="print as markdown")
    chosen = parser.parse_args(arguments)
    blosc.use_threads = False  # windows are parallel instead, for all readers
    print(describe())
    if not has_zarrs():
        print("zarrs is not installed: its rows are left out.")
    scene = mosaic(varied_chips(4 if chosen.quick else 16))
    codes = varied_chips(4 if chosen.quick else 8)
    tasks = Tasks.plan(len(codes), codes.shape[1], scene.shape[-1])
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        benches = [
            Bench.write(layout, Path(folder), codes, scene, tasks)
            for layout in (QUICK if chosen.quick else LAYOUTS)
        ]
        rounds, seconds = (1, 0.05) if chosen.quick else (3, 0.1)
        rows = compare(benches, rounds, seconds)
    show("Layouts of the store, two threads", rows, markdown=chosen.markdown)


if __name__ == "__main__":
    main()
