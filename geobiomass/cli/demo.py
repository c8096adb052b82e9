"""Demonstration: a landscape of known biomass, a model, a map, a comparison.

It trains on the western part of a synthetic scene and maps the eastern part. Neither
the network nor the baselines are trained on the eastern part.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.cli.output import say
from geobiomass.cube import open_cube, write_cube
from geobiomass.cube.made_here import check_removable
from geobiomass.data.reader import Reader, Sample
from geobiomass.evaluation.metrics import Tally
from geobiomass.maps.destination import Destination
from geobiomass.models.fit import fit
from geobiomass.sources.landscape.scene import landscape
from geobiomass.tables import write_csv
from geobiomass.tiles import EVALUATION_BLOCK, Window, blocks
from geobiomass.training.files import output_file
from geobiomass.training.own_files import check_demo_folder
from geobiomass.training.packages import need

HEIGHT, TRAINED, MAPPED = 768, 1024, 512  # pixels; the scene is 7.7 km x 15.4 km
GAP = 64  # pixels between the parts, since stands of trees cross a border
PIXELS = 100_000  # that the baseline by pixel is trained on

COLUMNS = ["average_rmse", "pixel_rmse", "bias", "r2"]


def run(out: Path, seed: int = 0, **overrides: Any) -> pd.DataFrame:
    """Run the demonstration; write ``map.tif``, ``map.png`` and ``metrics.csv``.

    Parameters
    ----------
    out : Path
        Folder for the results; those of an earlier demonstration are replaced.
    seed : int
        Seed of the landscape and the training.
    **overrides
        Settings of the recipe, as in :func:`geobiomass.fit`.

    Returns
    -------
    pandas.DataFrame
        One row per method: average RMSE, pixel RMSE, bias, Mg/ha, and R2, on the
        eastern part.
    """
    need("The demonstration", "demo", "matplotlib", "sklearn")
    started = time.monotonic()
    out = check_demo_folder(out, ("map.png", "metrics.csv"), seed)
    check_removable(out / "scene.zarr")
    Destination.of(out / "map.tif").check_removable()
    west, east = _scene(out, seed)
    model = fit(west, "quick", **{"epochs": 24, "seed": seed} | overrides)
    model.save(out / "model")
    path = model.predict_to(out / "map.tif", east, flips=True, overwrite=True)
    predicted = _read_map(path, east)
    baseline = _per_pixel(west, east, seed)
    mean = float(west["agb"].mean())
    table = _compare(
        east,
        {
            "predicting the mean": lambda w: np.full((w.height, w.width), mean),
            "gradient boosting by pixel": lambda w: baseline[w.rows, w.columns],
            "geobiomass": lambda w: predicted.values[w.rows, w.columns],
        },
    )
    write_csv(table, out / "metrics.csv")
    _draw(east, predicted, out / "map.png")
    size = f"{east.sizes['y']} x {east.sizes['x']}"
    say(f"\nOn {size} pixels not used in training, in Mg/ha:\n")
    say(table.round(2).to_string())
    minutes = (time.monotonic() - started) / 60
    say(f"\n{path}, {out / 'map.png'}, {out / 'model'}: {minutes:.1f} minutes")
    return table


def _scene(out: Path, seed: int) -> tuple[xr.Dataset, xr.Dataset]:
    """Write the landscape as a cube, and return its western and eastern parts."""
    store = out / "scene.zarr"
    width = TRAINED + GAP + MAPPED
    write_cube(
        # The figures of the documentation are of version 1.
        landscape((HEIGHT, width), seed=seed, version=1),
        store,
        overwrite=True,
        progress=True,
    )
    scene = open_cube(store)
    west = scene.isel(x=slice(0, TRAINED))
    return west, scene.isel(x=slice(TRAINED + GAP, width))


def _read_map(path: Path, east: xr.Dataset) -> xr.DataArray:
    import rioxarray

    raster = cast(xr.DataArray, rioxarray.open_rasterio(path, masked=True))
    return east["agb"].copy(data=raster.isel(band=0).values)


def _per_pixel(
    west: xr.Dataset, east: xr.Dataset, seed: int
) -> npt.NDArray[np.float64]:
    """Predict by gradient boosting on the months and bands of single pixels."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    bands = [str(name) for name in west["band"].values]
    reader = Reader(west, bands)
    windows = blocks(reader.height, reader.width, EVALUATION_BLOCK)
    draw = np.random.default_rng(seed)
    features, labels = [], []
    for window in windows:
        image = reader.read(Sample(window)).reshape(-1, window.height * window.width)
        chosen = draw.choice(image.shape[1], PIXELS // len(windows), replace=False)
        features.append(image[:, chosen].T)
        labels.append(reader.labels(Sample(window)).ravel()[chosen])
    model = HistGradientBoostingRegressor(max_iter=300, random_state=seed)
    model.fit(np.concatenate(features), np.concatenate(labels))
    target = Reader(east, bands)
    result = np.empty((target.height, target.width))
    for window in blocks(target.height, target.width, EVALUATION_BLOCK):
        image = target.read(Sample(window)).reshape(-1, window.height * window.width)
        predicted = model.predict(image.T).reshape(window.height, window.width)
        result[window.rows, window.columns] = predicted
    return result


def _compare(
    east: xr.Dataset, methods: dict[str, Callable[[Window], npt.NDArray[np.float64]]]
) -> pd.DataFrame:
    truth = east["agb"].values.astype(np.float64)
    rows = {}
    for name, predict in methods.items():
        tally = Tally()
        for window in blocks(east.sizes["y"], east.sizes["x"], EVALUATION_BLOCK):
            tally.add(predict(window), truth[window.rows, window.columns])
        rows[name] = tally.table().loc["all", COLUMNS]
    return pd.DataFrame(rows).T


def _draw(east: xr.Dataset, predicted: xr.DataArray, path: Path) -> None:
    import matplotlib

    from geobiomass import plots

    matplotlib.use("Agg")
    figure = plots.comparison(east, predicted)
    with output_file(path, path.suffix) as part:
        figure.savefig(part, dpi=110)
