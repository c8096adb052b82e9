"""Small cubes for scripts that are killed: without PyTorch, which takes seconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

BANDS = ["VV_asc", "B02", "B8A"]


def make_chips(count: int, side: int, seed: int = 0) -> xr.Dataset:
    """Return chips of two months with labels and gaps."""
    draw = np.random.default_rng(seed)
    image = _images(draw, (count, 2, 3, side, side))
    image[:, 1, 0] = np.nan
    labels = draw.uniform(0, 300, (count, side, side)).astype(np.float32)
    return xr.Dataset(
        {
            "image": (("chip", "month", "band", "y", "x"), image),
            "agb": (("chip", "y", "x"), labels),
        },
        coords={
            "chip": [f"chip{number}" for number in range(count)],
            "month": [4, 7],
            "band": BANDS,
        },
    )


def make_scene(height: int, width: int, months: Sequence[int]) -> xr.Dataset:
    """Return a scene with labels."""
    draw = np.random.default_rng(1)
    image = _images(draw, (len(months), 3, height, width))
    return xr.Dataset(
        {
            "image": (("month", "band", "y", "x"), image),
            "agb": (("y", "x"), draw.uniform(0, 300, (height, width)).astype("f4")),
        },
        coords={
            "month": list(months),
            "band": BANDS,
            "y": 7_000_000 - 10.0 * np.arange(height),
            "x": 400_000 + 10.0 * np.arange(width),
        },
    )


def _images(draw: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return decibels in the first band and reflectance x 10^4 in the others."""
    image = draw.uniform(0, 3000, shape).round().astype(np.float32)
    image[..., 0, :, :] = image[..., 0, :, :] / 200 - 20
    return image
