"""A cube, changed as users change cubes, gives the same map and the same totals.

What "the same" means, by change, for a network that maps each pixel on its own by a
linear sum (so that nothing but the change itself can make a difference):

- saved, opened again: the same bits, coordinates and transform.
- reordered (dimensions, bands, variables): the same bits.
- flipped: the same bits at the same x and y; bounds and totals are the same.
- cropped: the same bits and places; the totals of the parts add up to the whole's.
- every n-th pixel: the same bits at the pixels that are left, which stand for n x n.
- coarsened: the means of the map's squares, over the same bounds, with the same totals.
- re-encoded (integers with scale, offset and nodata; other axis names; dates): the map
  differs by no more than half a step of the encoding times the weights.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  (the .rio accessor)
import torch
import xarray as xr
from affine import Affine
from conftest import make_scene
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import geobiomass as gb
from geobiomass.accounting.error_model import ErrorModel, fit_error_model
from geobiomass.cube.grid import Grid
from geobiomass.models.regressor import BiomassRegressor

BANDS = ("VV_asc", "B04", "B08")
WEIGHTS = (2.0, 0.01, 0.03)
few = settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
steps = st.sampled_from([1, 2, 3, 4])
starts = st.integers(0, 12)


class ByPixel(torch.nn.Module):
    """A linear sum of the bands' means over the months that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = {"bands": len(BANDS), "outputs": 1, "encoder": "none"}
        self.weights = torch.nn.Parameter(torch.tensor(WEIGHTS))

    def forward(self, image: Any, present: Any = None) -> Any:
        sums = image.nanmean(1) * self.weights[:, None, None]
        return (200 + sums.sum(1, keepdim=True)).float()


@pytest.fixture(scope="module")
def model() -> BiomassRegressor:
    return BiomassRegressor(ByPixel(), bands=BANDS, months=3)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    made = make_scene(48, 36).drop_vars("agb")
    filled = made.image.fillna(1000.0)
    made = made.assign(image=filled)
    return made.rio.write_transform(made.rio.transform())


@pytest.fixture(scope="module")
def errors(cube: xr.Dataset) -> ErrorModel:
    import pandas as pd

    draw = np.random.default_rng(0)
    y, x = draw.integers(0, 40, (2, 300)) * 10.0
    error = draw.normal(0, 10, 300)
    table = pd.DataFrame(
        {"observed": 100.0, "predicted": 100 + error, "residual": error}
    ).assign(y=y, x=x, unit=np.arange(300) % 20)
    table.attrs = {"kind": "scene", "pixel": (10.0, 10.0)}
    return fit_error_model(table)


def mapped(model: BiomassRegressor, cube: Any) -> xr.DataArray:
    return model.predict(cube).agb.load()


def totals(found: xr.DataArray, errors: ErrorModel) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of an idle BLAS, in matmul
        table = gb.totals(found.to_dataset(), residuals=errors, progress=False)
    return float(table["area"].iloc[0]), float(table["total"].iloc[0])


def assert_transforms_are_those_of_coordinates(data: xr.DataArray) -> None:
    """Every reader of the stored transform finds what the coordinates say."""
    width, height = (float(data[dim][1] - data[dim][0]) for dim in ("x", "y"))
    left, top = float(data.x[0]) - width / 2, float(data.y[0]) - height / 2
    expected = Affine(width, 0, left, 0, height, top)
    assert data.rio.transform().almost_equals(expected, 1e-6)
    assert data.rio.transform(recalc=True).almost_equals(expected, 1e-6)
    assert Grid.of(data).transform.almost_equals(expected, 1e-6)


@few
@given(rows=starts, columns=starts)
@pytest.mark.slow
def test_a_crop(model: Any, cube: Any, errors: Any, rows: int, columns: int) -> None:
    whole = mapped(model, cube)
    top = {"y": slice(0, 16 + rows)}
    rest = {"y": slice(16 + rows, None)}
    part = cube.isel(y=slice(rows, rows + 20), x=slice(columns, columns + 20))
    found = mapped(model, part)
    xr.testing.assert_equal(found, whole.sel(y=found.y, x=found.x))
    assert_transforms_are_those_of_coordinates(found)
    both = [totals(mapped(model, cube.isel(one)), errors) for one in (top, rest)]
    np.testing.assert_allclose(np.sum(both, axis=0), totals(whole, errors), rtol=1e-5)


@few
@given(step=steps, start=st.integers(0, 3))
@pytest.mark.slow
def test_every_nth_pixel(model: Any, cube: Any, step: int, start: int) -> None:
    every = slice(start, None, step)
    found = mapped(model, cube.isel(y=every, x=every))
    xr.testing.assert_equal(found, mapped(model, cube).isel(y=every, x=every))
    assert_transforms_are_those_of_coordinates(found)
    assert Grid.of(found).area == pytest.approx(100 * step**2)


@few
@given(down=steps, across=steps)
def test_a_coarser_cube(
    model: Any, cube: Any, errors: Any, down: int, across: int
) -> None:
    whole, coarser = mapped(model, cube), {"y": down, "x": across}
    found = mapped(model, cube.coarsen(coarser).mean())
    means = whole.coarsen(coarser).mean()
    np.testing.assert_allclose(found, means, rtol=1e-4)
    assert_transforms_are_those_of_coordinates(found)
    assert Grid.of(found).bounds == pytest.approx(Grid.of(whole).bounds)
    for one in (found, means):  # of the map, and of the cube before it
        expected = totals(whole, errors)
        assert totals(one, errors) == pytest.approx(expected, rel=1e-4)


@few
@given(axes=st.sampled_from([("y",), ("x",), ("y", "x")]))
@pytest.mark.slow
def test_a_flipped_cube(model: Any, cube: Any, errors: Any, axes: Any) -> None:
    whole = mapped(model, cube)
    flipped = {axis: slice(None, None, -1) for axis in axes}
    found = mapped(model, cube.isel(flipped))
    xr.testing.assert_equal(found.isel(flipped), whole)
    assert_transforms_are_those_of_coordinates(found)
    assert Grid.of(found).bounds == pytest.approx(Grid.of(whole).bounds)
    assert totals(found, errors) == pytest.approx(totals(whole, errors), rel=1e-6)


@few
@given(bands=st.permutations(BANDS), data=st.data())
def test_a_reordered_cube(model: Any, cube: Any, bands: Any, data: Any) -> None:
    whole = mapped(model, cube)
    order = data.draw(st.permutations(["month", "band", "y", "x"]))
    found = mapped(model, cube.sel(band=bands).transpose(*order))
    xr.testing.assert_equal(found.transpose("y", "x"), whole)
    by_band = cube.image.to_dataset("band")[list(bands)]
    xr.testing.assert_equal(mapped(model, by_band), whole)


@few
@given(
    step=st.sampled_from([0.5, 1.0, 2.0]),
    offset=st.sampled_from([0.0, -1000.0]),
    names=st.sampled_from([("y", "x"), ("lat", "lon"), ("northing", "easting")]),
)
def test_a_cube_in_another_encoding(
    model: Any, cube: Any, step: float, offset: float, names: Any
) -> None:
    coarser = cube.coarsen(y=2, x=2).mean()
    whole = mapped(model, coarser)
    stored = np.rint((coarser.image - offset) / step).astype(np.int16)
    stored.attrs = {"scale_factor": step, "add_offset": offset, "_FillValue": -32768}
    times = np.array(["2023-06-15", "2023-07-15", "2023-08-15"], "datetime64[ns]")
    other = stored.rename(month="time").assign_coords(time=times)
    other = other.rename(dict(zip(("y", "x"), names, strict=True)))
    for name, ours in zip(names, ("y", "x"), strict=True):
        other[name].attrs = cube[ours].attrs
    found = mapped(model, other).rename(dict(zip(names, ("y", "x"), strict=True)))
    assert np.abs(found - whole).max() <= step / 2 * sum(WEIGHTS) + 1e-3
    assert Grid.of(gb.as_cube(other)).same_as(Grid.of(whole))


@few
@given(step=steps, start=starts, dtype=st.sampled_from(["int16", "float32"]))
def test_a_saved_cube_and_a_saved_map(
    tmp_path_factory: Any, model: Any, cube: Any, step: int, start: int, dtype: str
) -> None:
    folder: Path = tmp_path_factory.mktemp("saved")
    part = cube.isel(y=slice(start, None)).coarsen(y=step, x=step, boundary="trim")
    part = part.mean().assign(image=lambda d: d.image.round(2))
    whole = mapped(model, part)
    gb.write_cube(part, folder / "cube.zarr", dtype=dtype)
    opened = gb.open_cube(folder / "cube.zarr")
    found = mapped(model, opened)
    if dtype == "float32":
        xr.testing.assert_equal(found, whole)
    # Steps of 0.01 dB and of 1 in reflectance are write_cube's.
    assert np.abs(found - whole).max() <= 0.01 * WEIGHTS[0] + 0.5 * sum(WEIGHTS[1:])
    assert_transforms_are_those_of_coordinates(found)
    assert_transforms_are_those_of_coordinates(opened.image)
    expected = Grid.of(whole)
    for name in ("map.tif", "map.zarr"):
        model.predict_to(folder / name, part, progress=False)
    with rasterio.open(folder / "map.tif") as source:
        assert source.transform.almost_equals(expected.transform, 1e-6)
        assert tuple(source.bounds) == pytest.approx(expected.bounds)
        np.testing.assert_array_equal(source.read(1), whole)
    stored = xr.open_zarr(folder / "map.zarr", decode_coords="all")
    assert_transforms_are_those_of_coordinates(stored.agb)
    assert stored.attrs["spatial:transform"] == pytest.approx(expected.affine)
    assert stored.attrs["spatial:bbox"] == pytest.approx(expected.bounds)


def test_a_single_column_is_written_where_its_transform_says(
    tmp_path: Path, model: Any, cube: Any
) -> None:
    column = cube.isel(x=[3])
    model.predict_to(tmp_path / "map.tif", column, progress=False)
    with rasterio.open(tmp_path / "map.tif") as source:
        assert tuple(source.bounds) == (400_030, 6_899_520, 400_040, 6_900_000)
    del column.spatial_ref.attrs["GeoTransform"]
    with pytest.raises(gb.CubeError, match=r"'x' has one value.*write_transform"):
        model.predict_to(tmp_path / "other.tif", column, progress=False)
