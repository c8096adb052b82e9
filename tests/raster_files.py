"""GeoTIFFs for tests, written with rasterio alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine

UTM = "EPSG:32633"


def north_up(x: float, y: float, step: float) -> Affine:
    """Return the transform of square pixels from the north-west corner."""
    return Affine(step, 0, x, 0, -step, y)


def write_tif(
    path: Path,
    values: np.ndarray,
    transform: Affine | None = None,
    crs: str | None = UTM,
    names: Sequence[str] = (),
    **profile: Any,
) -> np.ndarray:
    """Write (y, x) or (band, y, x) and return the written values."""
    bands = values[None] if values.ndim == 2 else values
    count, height, width = bands.shape
    settings = {"driver": "GTiff", "dtype": bands.dtype, "crs": crs} | profile
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", count=count, height=height, width=width,
        transform=transform or north_up(500_000, 5_600_000, 10), **settings,
    ) as file:  # fmt: skip
        file.write(bands)
        for index, name in enumerate(names, 1):
            file.set_band_description(index, name)
    return values


def draw(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Draw whole numbers up to 3000, like reflectance."""
    return np.random.default_rng(seed).integers(1, 3000, shape).astype(np.uint16)
