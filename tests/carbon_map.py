"""A small map and plots whose carbon can be computed by hand."""

from typing import Any

import numpy as np
import pandas as pd
import rioxarray  # noqa: F401  (the .rio accessor)
import xarray as xr

import geobiomass as gb

SIDE, PIXEL = 40, 10.0
WEST = (500_000.0, 5_000_000.0 - SIDE * PIXEL, 500_200.0, 5_000_000.0)
EAST = (500_200.0, 5_000_000.0 - SIDE * PIXEL, 500_400.0, 5_000_000.0)
REGIONS = {"west": WEST, "east": EAST}


def a_map(west: float = 100.0, east: float = 100.0) -> xr.Dataset:
    """Return a map of two halves, Mg/ha."""
    values = np.full((SIDE, SIDE), west)
    values[:, SIDE // 2 :] = east
    y = 5_000_000 - (np.arange(SIDE) + 0.5) * PIXEL
    x = 500_000 + (np.arange(SIDE) + 0.5) * PIXEL
    made = xr.Dataset({"agb": (("y", "x"), values)}, {"y": y, "x": x})
    return made.rio.write_crs("EPSG:32633")


def some_plots(spread: float = 20.0, n: int = 40, **more: Any) -> pd.DataFrame:
    """Return plots in both halves whose mean in each is exactly 100 Mg/ha."""
    random = np.random.default_rng(1)
    observed = random.normal(0, spread, (2, n // 2))
    observed += 100 - observed.mean(1, keepdims=True)
    x = 500_000 + random.uniform(5, 195, (2, n // 2)) + np.array([[0], [200]])
    y = 5_000_000 - random.uniform(5, 395, n)
    return pd.DataFrame({"x": x.ravel(), "y": y, "agb": observed.ravel(), **more})


def sums(map_: xr.Dataset | None = None, **settings: Any) -> pd.DataFrame:
    """Return totals of both halves, by the difference estimator."""
    chosen: dict[str, Any] = {"regions": REGIONS, "plots": some_plots()} | settings
    chosen |= {"estimator": "difference", "progress": False}
    return gb.totals(a_map() if map_ is None else map_, **chosen)
