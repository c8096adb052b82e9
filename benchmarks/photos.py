"""Decoding of large JPEGs of pasture: directly at a smaller size, or whole.

``python -m benchmarks.photos [--markdown]``

Photos with the sizes of cameras and of the competition are resized to the recipes'
sizes, on two threads. Prints photos per second, and the difference of pixels.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pasture.loader import open_photo
from tables import Row, rate, show

# Width of the photo, then height and width after resizing.
CASES = (
    (2000, (1024, 2048)),
    (2000, (128, 256)),
    (6000, (1024, 2048)),
    (6000, (512, 1024)),
    (6000, (128, 256)),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw photos, time both methods, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="seconds per case and method"
    )
    parser.add_argument("--markdown", action="store_true", help="print as markdown")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        paths = {
            width: _draw(Path(folder), width) for width in {case[0] for case in CASES}
        }
        rows = [
            _row(paths[width], width, size, chosen.seconds) for width, size in CASES
        ]
    show("Photos decoded and resized, two threads", rows, markdown=chosen.markdown)


def _draw(folder: Path, width: int, count: int = 4) -> list[str]:
    """Draw noise as fine as leaves, so that files are as large as real photos."""
    paths = []
    for number in range(count):
        draw = np.random.default_rng(number)
        leaves = draw.integers(0, 256, (width // 8, width // 4, 3), dtype=np.uint8)
        image = Image.fromarray(leaves).resize((width, width // 2))
        paths.append(str(folder / f"{width}-{number}.jpg"))
        image.save(paths[-1], quality=92)
    return paths


def _row(paths: list[str], width: int, size: tuple[int, int], seconds: float) -> Row:
    height, across = size
    whole = rate(partial(_whole, size=(across, height)), paths, seconds)
    small = rate(partial(_small, size=(across, height)), paths, seconds)
    return {
        "photo": f"{width} x {width // 2}",
        "to": f"{across} x {height}",
        "whole, photos/s": whole,
        "as we do, photos/s": small,
        "ratio": small / whole,
        "mean difference, of 255": _difference(paths[0], (across, height)),
    }


def _whole(path: str, size: tuple[int, int]) -> Image.Image:
    return open_photo(path).resize(size, Image.Resampling.BICUBIC)


def _small(path: str, size: tuple[int, int]) -> Image.Image:
    return open_photo(path, size).resize(size, Image.Resampling.BICUBIC)


def _difference(path: str, size: tuple[int, int]) -> float:
    one, other = (np.asarray(way(path, size), float) for way in (_whole, _small))
    return float(np.abs(one - other).mean())


if __name__ == "__main__":
    main()
