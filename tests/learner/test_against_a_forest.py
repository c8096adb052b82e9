"""Law 16: with few labels a map is at least as good as that of a forest by pixel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from sklearn.ensemble import RandomForestRegressor

import geobiomass as gb

SIDE = 64  # pixels


def by_forest(cube: xr.Dataset, plots: xr.Dataset) -> npt.NDArray[np.float64]:
    """Return the map of a random forest on the months and bands of a pixel, (y, x)."""
    image = cube["image"].stack(feature=("month", "band")).values
    mine = plots["agb"].notnull().values
    missing = np.nanmedian(image[mine], axis=0)
    image = np.where(np.isnan(image), missing, image)
    forest = RandomForestRegressor(100, max_features=1 / 3, random_state=0)
    forest.fit(image[mine], plots["agb"].values[mine])
    mapped: npt.NDArray[np.float64] = forest.predict(image.reshape(-1, image.shape[-1]))
    return mapped.reshape(mine.shape)


def test_few_labels_map_at_least_as_well() -> None:
    judged(40, clustered=False)


@pytest.mark.slow
def test_clustered_labels_map_at_least_as_well() -> None:
    judged(100, clustered=True)


def judged(count: int, *, clustered: bool) -> None:
    """Compare the mean errors of two landscapes, on pixels without a label."""
    mine, others = [], []
    for seed in (9_100, 9_101):
        cube = gb.landscape(SIDE, 3, seed).load()
        kept = np.zeros((SIDE, SIDE), bool)
        draw = np.random.default_rng(seed)
        if clustered:  # in four squares of 16 x 16 pixels
            row, column = draw.integers(0, SIDE - 16, (2, 4, 1))
            place = draw.integers(0, 16, (2, 4, count // 4))
            kept[row + place[0], column + place[1]] = True
        else:
            kept.flat[draw.choice(kept.size, count, replace=False)] = True
        plots = cube.assign(agb=cube["agb"].where(kept))
        model = gb.fit(plots, block=16, progress=False, seed=0)
        truth = cube["agb"].where(~kept)
        maps = model.predict(cube)["agb"].values, by_forest(cube, plots)
        for found, errors in zip(maps, (mine, others), strict=True):
            errors.append(float(((found - truth) ** 2).mean()) ** 0.5)
    assert np.mean(mine) < np.mean(others), (mine, others)
