"""The benchmarks run and print every row; how fast is for docs/benchmarks.md."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "benchmarks"
PACKAGES = ("psutil", "requests", "torchgeo", "xbatcher", "zarrs")
ABSENT = [name for name in PACKAGES if find_spec(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(ABSENT), reason=f"the extra 'benchmarks' is not installed: {ABSENT}"
    ),
]


def printed(script: str) -> list[list[str]]:
    """Run a script quickly; give the cells of its markdown tables."""
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
    feeds = [
        *("codec from memory", "numpy memory map"),
        *("geobiomass feed", "geobiomass feed, decoded"),
        *("xarray, dask", "xarray, no dask", "xarray, zarrs"),
        *("xbatcher", "torchgeo", "rasterio"),
    ]
    names = [row[0] for row in rows]
    networks = ["network of recipe", "default", "quick"]
    assert names == ["feed", *feeds, "feed", *feeds, *networks]
    figures = [row for row in rows if row[0] in feeds]
    assert all(float(row[1]) > 0 for row in figures)
    # Sixteen megabytes of floats and more cannot be held in less.
    assert all(float(row[5]) > 4 for row in figures if row[0] != "codec from memory")
    assert float(rows[-1][3]) > 0
