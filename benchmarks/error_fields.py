"""Fields of errors with a known variogram, and tables of residuals from them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import fft

from geobiomass.statistics.variogram import Variogram

Floats = npt.NDArray[np.float64]


def field(
    shape: tuple[int, int],
    variogram: Variogram,
    pixel: tuple[float, float],
    random: np.random.Generator,
) -> Floats:
    """Draw a Gaussian field: (y, x), mean 0, by embedding in twice the size."""
    sides = [2 * side for side in shape]
    steps = [
        np.minimum(np.arange(n), n - np.arange(n)) * p
        for n, p in zip(sides, pixel, strict=True)
    ]
    distance = np.hypot(steps[0][:, None], steps[1])
    variance = variogram.nugget + variogram.sill
    spectrum = fft.fft2(variance * variogram.correlation(distance)).real
    noise = random.standard_normal((2, *sides))
    spread = np.sqrt(np.maximum(spectrum, 0) / spectrum.size)
    drawn: Floats = fft.fft2(spread * (noise[0] + 1j * noise[1])).real
    return drawn[: shape[0], : shape[1]]


def residuals(
    error: Floats,
    pixel: tuple[float, float],
    *,
    predicted: Floats | float = 100.0,
    unit: str | npt.NDArray[np.str_] = "0",
    kind: str = "scene",
) -> pd.DataFrame:
    """Return the table of residuals of a whole field."""
    row, column = np.indices(error.shape)
    level = np.broadcast_to(predicted, error.shape)
    table = pd.DataFrame(
        {
            "observed": (level - error).ravel(),
            "predicted": level.ravel(),
            "y": row.ravel() * pixel[0],
            "x": column.ravel() * pixel[1],
            "unit": np.broadcast_to(unit, error.shape).ravel(),
        }
    )
    table.attrs = {"kind": kind, "pixel": pixel}
    return table


def blocks(shape: tuple[int, int], side: int) -> npt.NDArray[np.str_]:
    """Return the number of the square block of each pixel: (y, x) strings."""
    row, column = np.indices(shape) // side
    return (row * (shape[1] // side + 1) + column).astype(str)
