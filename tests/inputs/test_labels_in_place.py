"""Labels and plots are put where they are: any order of axes, any turn of longitude."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import rioxarray  # noqa: F401  (the .rio accessor)
import xarray as xr
from affine import Affine
from conftest import make_scene
from variants import variants

import geobiomass as gb
from geobiomass.accounting.ground_plots import locate_plots

LABELS = np.arange(12 * 20, dtype=np.float32).reshape(12, 20) + 1


def layer(**coords: Any) -> xr.DataArray:
    made = xr.DataArray(LABELS, dims=("y", "x"), coords=coords, name="agb")
    return made.assign_attrs(units="Mg/ha")


def on_metres() -> xr.Dataset:
    scene = make_scene(12, 20).drop_vars("agb")
    scene["image"] = scene["image"].fillna(1000)
    return scene


@variants("square", [True, False], quick=1)
def test_labels_in_any_order_of_axes_lie_right(square: bool) -> None:
    cube = on_metres()
    cube = cube.isel(x=slice(0, 12)) if square else cube
    right = layer(y=on_metres().y, x=on_metres().x)[:, : cube.sizes["x"]]
    right = right.rio.write_crs("EPSG:3067")
    names = {"y": "northing", "x": "easting"}
    for order, renamed, upside in itertools.product(
        (("y", "x"), ("x", "y")), (False, True), (False, True)
    ):
        mine = right.transpose(*order)
        mine = mine.isel(y=slice(None, None, -1)) if upside else mine
        mine = mine.rename(names) if renamed else mine
        found = gb.with_labels(cube, mine)["agb"]
        np.testing.assert_array_equal(found, right)
        # Another grid: means of 2 x 2 of the cube's pixels.
        halved = mine.coarsen({mine.dims[0]: 2, mine.dims[1]: 2}).mean()
        coarse = gb.with_labels(cube, halved)["agb"]
        blocks = right.coarsen(y=2, x=2).mean().values.repeat(2, 0).repeat(2, 1)
        np.testing.assert_allclose(coarse, blocks)
        if not upside:
            np.testing.assert_array_equal(gb.as_cube(cube, agb=mine)["agb"], right)
        map_of = (mine + 5).to_dataset(name="agb")
        map_of["agb"].attrs["units"] = "Mg/ha"
        if not upside:
            table = gb.residuals(map_of, cube.assign(agb=right.variable))
            assert table["predicted"].sub(table["observed"]).eq(5).all()


@pytest.mark.parametrize("first", [179.8, -180.2])
def test_plots_and_labels_beyond_180_degrees_are_turned(first: float) -> None:
    x = first + 0.02 * (np.arange(20) + 0.5)  # half of it beyond 180
    y = -16.01 - 0.02 * np.arange(12)
    cube = on_metres().drop_vars("spatial_ref").assign_coords(y=y, x=x)
    cube = cube.rio.write_crs("EPSG:4326")
    turned = (x + 180) % 360 - 180
    table = pd.DataFrame({"lon": turned, "lat": y[3], "agb": LABELS[3]})
    found = gb.with_labels(cube, table)["agb"]
    np.testing.assert_array_equal(found[3], LABELS[3])
    assert int(found.notnull().sum()) == 20
    assert found.attrs["plots_outside"] == 0
    # Both sides of labels that end at 180 degrees.
    for side in (x[:10], x[10:]):
        part = layer(y=y, x=x).sel(x=side).assign_coords(x=(side + 180) % 360 - 180)
        found = gb.with_labels(cube, part.rio.write_crs("EPSG:4326"))["agb"]
        expected = layer(y=y, x=x).where(np.isin(x, side))
        np.testing.assert_array_equal(found, expected)
    map_ = layer(y=y, x=x).rio.write_crs("EPSG:4326")
    assert locate_plots(table, map_, observed="agb").outside == 0


def test_label_files_are_read_on_each_turn_of_longitude(tmp_path: Path) -> None:
    """A file from -180 to 180 has labels for both sides of a cube at 180 degrees."""
    cube = on_metres().drop_vars("spatial_ref")
    cube = cube.assign_coords(
        y=61 - 1e-4 * (np.arange(12) + 0.5), x=179.999 + 1e-4 * (np.arange(20) + 0.5)
    ).rio.write_crs("EPSG:4326")
    world = np.full((20, 3600), 77, np.float32)
    world[:, 1800:] = 33  # the eastern half
    near = {"world": (world, -180, 62, 0.1), "turned": (LABELS, -180.001, 61, 1e-4)}
    for name, (values, west, north, size) in near.items():
        height, width = values.shape
        profile = {"driver": "GTiff", "count": 1, "dtype": "float32", "crs": 4326}
        profile |= {"height": height, "width": width}
        profile["transform"] = Affine(size, 0, west, 0, -size, north)
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile) as file:
            file.write(values, 1)
    found = gb.with_labels(cube, tmp_path / "world.tif")["agb"].values
    assert (found[:, :10] == 33).all()
    assert (found[:, 10:] == 77).all()
    found = gb.with_labels(cube, tmp_path / "turned.tif")["agb"].values
    np.testing.assert_array_equal(found, LABELS)
