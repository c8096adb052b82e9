"""A cube that went through files of other programs gives the same map and totals.

For a network by pixel and for a convolutional one. Of the latter, a flipped scene has
another map by design: its filters have a direction.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from test_maps import small_network
from test_same_map import (
    BANDS,
    ByPixel,
    assert_transforms_are_those_of_coordinates,
    cube,
    errors,
    mapped,
    totals,
)
from variants import variants

import geobiomass as gb
from geobiomass.cube.grid import Grid
from geobiomass.models.regressor import BiomassRegressor

pytest.importorskip("h5netcdf", reason="netCDF 4 is written by h5netcdf")
__all__ = ["cube", "errors"]  # fixtures


@pytest.fixture(scope="module")
def networks() -> dict[str, BiomassRegressor]:
    return {
        "by pixel": BiomassRegressor(ByPixel(), bands=BANDS, months=3),  # type: ignore[arg-type]
        "convolutional": BiomassRegressor(small_network(), BANDS, months=3),
    }


def as_geotiffs(cube: xr.Dataset, folder: Path) -> xr.Dataset:
    for month in cube["month"].values:
        one = cube["image"].sel(month=month, drop=True)
        path = folder / f"S2_{month}.tif"
        one.assign_attrs(long_name=tuple(BANDS)).rio.to_raster(path)
    return gb.from_rasters(folder / "S2_{month}.tif")


def as_netcdf(cube: xr.Dataset, folder: Path) -> xr.Dataset:
    cube.to_netcdf(folder / "cube.nc", engine="h5netcdf")
    return xr.open_dataset(folder / "cube.nc", engine="h5netcdf", chunks={"month": 1})


def as_zarr(cube: xr.Dataset, folder: Path) -> xr.Dataset:
    gb.write_cube(cube, folder / "cube.zarr", dtype="float32")
    return gb.open_cube(folder / "cube.zarr")


def encoded(cube: xr.Dataset, folder: Path) -> xr.Dataset:
    stored = cube["image"].fillna(-9999).rename(y="lat", x="lon")
    return stored.assign_attrs(_FillValue=-9999).to_dataset(name="image")


WAYS: dict[str, Any] = {
    "GeoTIFF": as_geotiffs,
    "netCDF": as_netcdf,
    "Zarr": as_zarr,
    "encoded": encoded,
    "reordered": lambda c, _: c.sel(band=list(BANDS[::-1])).transpose("x", "band", ...),
    "by variable": lambda c, _: c["image"].to_dataset("band"),
}


@pytest.mark.slow
@variants("network", ["convolutional", "by pixel"], quick=1)
@variants("step", [2, 1], quick=1)
def test_a_cube_from_other_files_gives_the_same_map(
    tmp_path: Path, networks: Any, cube: Any, errors: Any, network: str, step: int
) -> None:
    model = networks[network]
    part = cube.isel(y=slice(4, None)).coarsen(y=step, x=step).mean()
    whole = mapped(model, part)
    for name, way in WAYS.items():
        folder = tmp_path / name
        folder.mkdir()
        found = mapped(model, way(part, folder))
        found = found.rename(
            {d: {"lat": "y", "lon": "x"}.get(d, d) for d in found.dims}
        )
        np.testing.assert_array_equal(found.transpose("y", "x"), whole, err_msg=name)
        assert Grid.of(found).same_as(Grid.of(whole)), name
    # The map, as a GeoTIFF and as netCDF, opened as users open it.
    model.predict_to(tmp_path / "map.tif", part, progress=False)
    opened = xr.open_dataset(tmp_path / "map.tif", engine="rasterio")
    tif = opened["band_data"].squeeze("band", drop=True).rename("agb")
    whole.to_netcdf(tmp_path / "map.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "map.nc", decode_coords="all") as source:
        netcdf = source["agb"].load()
    with rasterio.open(tmp_path / "map.tif") as source:
        assert tuple(source.bounds) == pytest.approx(Grid.of(whole).bounds)
    for one in (tif, netcdf):
        np.testing.assert_array_equal(one, whole)
        assert_transforms_are_those_of_coordinates(one)
        assert totals(one, errors) == pytest.approx(totals(whole, errors), rel=1e-6)
