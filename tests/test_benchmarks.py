"""The benchmarks run and print every row; how fast is for docs/benchmarks.md."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parent.parent / "benchmarks"
PACKAGES = ("monai", "psutil", "requests", "torchgeo", "xbatcher", "zarrs")
ABSENT = [name for name in PACKAGES if find_spec(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(ABSENT), reason=f"the extra 'benchmarks' is not installed: {ABSENT}"
    ),
]


def printed(script: str) -> list[list[str]]:
    """Run a script with --quick; return the cells of its markdown tables."""
    run = subprocess.run(
        [sys.executable, SCRIPTS / script, "--quick", "--markdown"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    lines = [line for line in run.stdout.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_layout_is_read_in_every_way() -> None:
    head, *rows = printed("store.py")
    ways = {"codec", "direct", "zarrs", "zarr-python"}
    layouts = {"1x128x128 lz4", "12x32x64 lz4", "12x32x64 lz4 crc32c"}
    assert {(row[0], row[1]) for row in rows} == {(a, b) for a in layouts for b in ways}
    assert all(float(cell) > 0 for row in rows for cell in row[2:])
    assert all(len(row) == len(head) == 9 for row in rows)
    touched = {row[0]: float(row[head.index("touched/needed")]) for row in rows}
    assert touched["12x32x64 lz4"] < 2 < touched["1x128x128 lz4"]


def test_every_feed_has_its_row() -> None:
    rows = printed("feed.py")
    loaders = [
        *("codec from memory", "numpy memory map"),
        *("geobiomass feed", "geobiomass feed, decoded"),
        *("xarray, dask", "xarray, no dask", "xarray, zarrs"),
        *("xbatcher", "torchgeo", "rasterio"),
    ]
    names = [row[0] for row in rows]
    networks = ["network of recipe", "default", "quick"]
    assert names == ["feed", *loaders, "feed", *loaders, *networks]
    figures = [row for row in rows if row[0] in loaders]
    assert all(float(row[1]) > 0 for row in figures)
    # Sixteen megabytes of floats and more cannot be held in less.
    assert all(float(row[5]) > 4 for row in figures if row[0] != "codec from memory")
    assert float(rows[-1][3]) > 0


@pytest.mark.timeout(1200)  # a dozen processes, each with its own imports
def test_every_way_to_map_has_its_rows() -> None:
    tables = by_table(printed("maps.py"))
    ways, speed, peers, seams, memory, workers, months = tables
    assert len(ways) == len(months) == 3
    assert [row["tiles"] for row in speed] == [*["16"] * 3, *["25"] * 3, *["49"] * 3]
    names = ["geobiomass", "xbatcher", "torchgeo", "monai"]
    assert [row["map by"] for row in peers] == names
    assert peers[0]["predicted of a ragged scene"] == "100.0 %"
    # With random weights tiles differ at their borders: steps show without blending.
    found = {row["map by"]: float(row["seam"]) for row in seams}
    assert found["geobiomass"] < 1.5 < found["geobiomass, no overlap"]
    assert float(found["the landscape itself"]) == pytest.approx(1, abs=0.3)
    assert [row["scene"] for row in memory] == ["256 x 256", "1024 x 1024"]
    assert [row["workers"] for row in workers] == ["1", "2"]
    timed = [*speed, *peers, *memory, *workers, *months]
    assert all(float(row["seconds"]) > 0 for row in timed)
    # A tile of 64 in float32 with its 180 months and bands alone is three megabytes.
    held = [row["peak MB"] for row in timed if row.get("peak MB")]
    assert len(held) == 6 + 4 + 2
    assert all(float(megabytes) > 3 for megabytes in held)


def by_table(rows: list[list[str]]) -> list[list[dict[str, str]]]:
    """Split printed rows into tables, by the heads of the tables."""
    heads = (
        "network alone",
        "overlap",
        "map by",
        "scene",
        "workers",
        "months observed",
    )
    tables: list[list[dict[str, str]]] = []
    head: list[str] = []
    for row in rows:
        if row[0] in heads and not row[1][0].isdigit():
            head = row
            tables.append([])
        else:
            tables[-1].append(dict(zip(head, row, strict=True)))
    return tables


@pytest.mark.parametrize(
    ("first", "way"), [(0, "begins"), (8, "cropped"), (16, "ends")]
)
def test_a_seam_is_seen_wherever_tiles_are_joined(
    first: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from scenes import measure_seam

    side, stride, overlap = 256, 48, 16
    slope = np.add.outer(np.arange(side), np.arange(side)).astype(float)
    assert measure_seam(slope, 64, overlap).ratio == 1
    # Each tile is four higher than the previous one, along both axes.
    tile = ((np.arange(side) - first) // stride).clip(0, 4)
    values = slope + 4 * np.add.outer(tile, tile)
    found = measure_seam(values, 64, overlap)
    assert (found.at_tiles, found.inside) == (5, 1), way
