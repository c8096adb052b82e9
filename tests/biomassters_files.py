"""Small folders with the layout of the BioMassters competition."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MONTHS = tuple(range(12))
MONTH_NAMES = (
    *("September", "October", "November", "December", "January", "February"),
    *("March", "April", "May", "June", "July", "August"),
)


def write_tiff(path: Path, values: npt.NDArray[Any], **profile: Any) -> None:
    """Write (band, y, x) as a GeoTIFF without georeference, as in the competition."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    count, height, width = values.shape
    size = {"count": count, "height": height, "width": width}
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", dtype=values.dtype, **size, **profile
        ) as file:
            file.write(values)


def read_tiff(path: Path) -> npt.NDArray[Any]:
    """Read (band, y, x) with plain rasterio."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return file.read()


def write_chip(
    root: Path,
    chip: str,
    *,
    split: str = "train",
    side: int = 8,
    radar: Sequence[int] = MONTHS,
    optical: Sequence[int] = MONTHS,
    label: bool = True,
    **profile: Any,
) -> None:
    """Write the files of one chip; its id determines the pixels."""
    draw = np.random.default_rng(list(chip.encode()))
    folder = root / f"{split}_features"
    for month in radar:
        values = draw.normal(-12, 4, (4, side, side)).astype(np.float32)
        write_tiff(folder / f"{chip}_S1_{month:02d}.tif", values, **profile)
    for month in optical:
        values = draw.integers(1, 12_000, (11, side, side)).astype(np.uint16)
        values[10] = draw.integers(0, 101, (side, side))
        write_tiff(folder / f"{chip}_S2_{month:02d}.tif", values, **profile)
    if label:
        biomass = draw.gamma(1, 60, (1, side, side)).astype(np.float32)
        write_tiff(root / f"{split}_agbm" / f"{chip}_agbm.tif", biomass, **profile)


def write_tables(root: Path, split: str = "train", *, month_names: bool = True) -> None:
    """Write the competition's two tables for the files in `root`."""
    columns = ["filename", "chip_id", "satellite", "split", "month", "size", "cksum"]
    rows = []
    for path in sorted((root / f"{split}_features").iterdir()):
        chip, sensor, month = path.stem.split("_")
        name = MONTH_NAMES[int(month)] if month_names else str(int(month))
        size = path.stat().st_size
        rows.append([path.name, chip, sensor, split, name, size, bitwise_cksum(path)])
    _write_csv(root / "features_metadata.csv", columns, rows)
    if split == "train":
        labels = sorted((root / "train_agbm").iterdir())
        rows = [
            [p.name, p.stem.split("_")[0], p.stat().st_size, bitwise_cksum(p)]
            for p in labels
        ]
        columns = ["filename", "chip_id", "size", "cksum"]
        _write_csv(root / "train_agbm_metadata.csv", columns, rows)


def bitwise_cksum(path: Path) -> int:
    """Return what `cksum` prints, computed bit by bit as POSIX defines it."""
    data = path.read_bytes()
    length = len(data).to_bytes(8, "little").rstrip(b"\0")
    value = 0
    for byte in data + length:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x104C11DB7 if value & 0x80000000 else 0)
    return value ^ 0xFFFFFFFF


def _write_csv(path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


@contextmanager
def cut_to(path: Path, size: int) -> Iterator[None]:
    """Truncate a file within a ``with`` block."""
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    try:
        yield
    finally:
        path.write_bytes(whole)
