"""How good a map is: metrics overall and by bin of observed biomass."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

BIOMASS_BINS = (0.0, 50.0, 100.0, 150.0, 200.0, 300.0, 400.0, float("inf"))
"""Edges of the bins of observed biomass that metrics are given by, Mg/ha."""

EVALUATION_BLOCK = 256  # pixels: the part of a scene that counts as one chip


class Tally:
    """Sums of errors by bin of observed biomass, gathered part by part."""

    def __init__(self) -> None:
        self.names = ["all"] + [
            f"{low:g}-{high:g}" if np.isfinite(high) else f"{low:g} and more"
            for low, high in pairwise(BIOMASS_BINS)
        ]
        # By bin: pixels, sums of error, |error|, error^2, observed, observed^2.
        self.sums = np.zeros((len(self.names), 6))
        self.parts: list[list[float]] = [[] for _ in self.names]

    @property
    def count(self) -> int:
        """Pixels compared so far."""
        return int(self.sums[0, 0])

    def add(self, predicted: npt.NDArray[Any], observed: npt.NDArray[Any]) -> None:
        """Add one chip, or one part of a scene; NaN in either is left out.

        Parameters
        ----------
        predicted, observed : numpy.ndarray
            (y, x) float64, Mg/ha.
        """
        valid = np.isfinite(predicted) & np.isfinite(observed)
        y, error = observed[valid], (predicted - observed)[valid]
        which = np.digitize(y, BIOMASS_BINS[1:-1]) + 1
        for row in range(len(self.names)):
            mine = slice(None) if row == 0 else which == row
            e, o = error[mine], y[mine]
            if e.size == 0:
                continue
            self.sums[row] += (
                e.size,
                e.sum(),
                np.abs(e).sum(),
                (e**2).sum(),
                o.sum(),
                (o**2).sum(),
            )
            self.parts[row].append(float(np.sqrt((e**2).mean())))

    def table(self) -> pd.DataFrame:
        """Give the metrics, a row a bin, as ``BiomassRegressor.evaluate`` says."""
        n, error, absolute, squared, total, squares = self.sums.T
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / n
            r2 = 1 - squared / (squares - n * mean**2)
            # Within a bin of observed biomass there is little left to explain.
            r2[1:] = np.nan
            return pd.DataFrame(
                {
                    "pixels": n.astype(int),
                    "average_rmse": [np.mean(p) if p else np.nan for p in self.parts],
                    "pixel_rmse": np.sqrt(squared / n),
                    "mae": absolute / n,
                    "bias": error / n,
                    "r2": r2,
                    "observed": mean,
                    "predicted": mean + error / n,
                },
                index=pd.Index(self.names, name="biomass"),
            )
