"""Place and size of pixels come from coordinates; what contradicts them is told."""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import rioxarray
import xarray as xr
from affine import Affine
from rasterio.transform import from_origin
from variants import variants

import geobiomass as gb
from geobiomass.cube.areas import pixel_areas, pixel_size
from geobiomass.cube.corners import MOVED
from geobiomass.cube.grid import Grid, placed
from geobiomass.maps.reading import open_layer
from geobiomass.tiles import Window

EAST, NORTH = 500_000.0, 6_900_000.0


def layer(
    n: int = 40, step: float = 10.0, crs: str = "EPSG:32635", north: float = NORTH
) -> xr.DataArray:
    """Return a map with the transform that rioxarray stores."""
    values = np.arange(n * n, dtype=np.float32).reshape(n, n)
    made = xr.DataArray(
        values,
        {
            "y": north - step * (np.arange(n) + 0.5),
            "x": EAST + step * (np.arange(n) + 0.5),
        },
        ("y", "x"),
        "agb",
        {"units": "Mg/ha"},
    ).rio.write_crs(crs)
    return made.rio.write_transform(made.rio.transform())


def image(n: int = 16, **grid: Any) -> xr.DataArray:
    """Return images of one month, (time, band, y, x)."""
    times = np.array(["2023-06-01"], "datetime64[ns]")
    one = layer(n, **grid).expand_dims(time=times, band=["B04", "B08"])
    return one.drop_attrs(deep=False).rename(None)


# --- stale transforms ---------------------------------------------------------

CHANGES = {
    "crop": (lambda m: m.isel(x=slice(12, 30)), 10, (500_120, 500_300)),
    "stride": (lambda m: m.isel(x=slice(None, None, 4)), 40, (499_985, 500_385)),
    "coarsen": (lambda m: m.coarsen(x=8).mean(), 80, (500_000, 500_400)),
    "flip": (lambda m: m.isel(x=slice(None, None, -1)), -10, (500_000, 500_400)),
    "interp": (lambda m: m.interp(x=[500_030.0, 500_070.0]), 40, (500_010, 500_090)),
    "reindex": (
        lambda m: m.reindex(x=EAST + 10 * np.arange(-3, 50) + 5),
        10,
        (499_970, 500_500),
    ),
    "shift": (lambda m: m.assign_coords(x=m.x + 3), 10, (500_003, 500_403)),
    "rolled": (lambda m: m.pad(x=2).assign_coords(x=EAST + 10.0 * np.arange(44) + 5),
               10, (500_000, 500_440)),
}  # fmt: skip


@pytest.mark.parametrize("how", CHANGES)
def test_a_stale_transform_is_replaced(how: str) -> None:
    change, width, (left, right) = CHANGES[how]
    found = open_layer(change(layer()))
    assert Grid.of(found).bounds == pytest.approx(
        (left, NORTH - 400, right, NORTH), abs=1e-6
    )
    assert Grid.of(found).resolution == pytest.approx((width, -10))
    numbers = [float(n) for n in found.spatial_ref.attrs["GeoTransform"].split()]
    assert numbers[1] == pytest.approx(width)
    assert found.rio.bounds() == pytest.approx((left, NORTH - 400, right, NORTH))
    areas = pixel_areas(found, Window(0, 0, 1, 1))
    assert areas == pytest.approx(abs(width) / 1000, rel=1e-3)


def test_data_whose_transform_is_right_stays_as_it_is() -> None:
    whole = layer()
    assert placed(whole) is whole
    nearly = whole.assign_coords(x=whole.x + 0.05)
    assert placed(nearly) is nearly
    assert placed(whole.assign_coords(x=whole.x + 0.2)) is not nearly
    bare = whole.drop_vars("spatial_ref")
    assert placed(bare) is bare


def test_a_users_data_keeps_its_own_stale_transform() -> None:
    mine = layer().coarsen(y=4, x=4).mean()
    before = dict(mine.spatial_ref.attrs)
    open_layer(mine)
    assert mine.spatial_ref.attrs == before


def test_every_stored_transform_is_replaced() -> None:
    data = layer().to_dataset()
    data["other"] = data.agb.assign_attrs(transform=tuple(data.rio.transform()))
    data = data.assign_coords(crs=data.spatial_ref)
    data.attrs["transform"] = tuple(data.rio.transform())
    found = placed(data.isel(y=slice(None, None, 2), x=slice(None, None, 2)))
    assert found.attrs["transform"][:3] == (20, 0, EAST - 5)
    assert found.other.attrs["transform"][:3] == (20, 0, EAST - 5)
    for name in ("crs", "spatial_ref"):
        assert found[name].attrs["GeoTransform"].startswith("499995.0 20.0 0.0")


def test_half_a_pixel_between_coordinates_and_transform_is_told() -> None:
    whole = layer()
    moved = whole.assign_coords(x=whole.x - 5, y=whole.y + 5)
    with pytest.warns(UserWarning, match=r"half a pixel off .* 10 x 10"):
        found = placed(moved)
    assert Grid.of(found).bounds[0] == EAST - 5


def test_totals_of_a_coarser_map_are_the_maps(tmp_path: Path) -> None:
    """Case 18."""
    draw = np.random.default_rng(0)
    truth = np.kron(draw.uniform(50, 250, (6, 6)), np.ones((10, 10)))
    profile = {"height": 60, "width": 60, "count": 1, "dtype": "float32"}
    with rasterio.open(
        tmp_path / "map.tif",
        "w",
        driver="GTiff",
        crs="EPSG:32635",
        transform=from_origin(EAST, NORTH, 10, 10),
        **profile,
    ) as file:
        file.write(truth.astype("float32"), 1)
        file.descriptions = ("agb",)
    row, column = draw.integers(0, 60, (2, 300))
    error = draw.normal(0, 15, 300)
    table = pd.DataFrame(
        {
            "observed": truth[row, column] + error,
            "predicted": truth[row, column],
            "residual": -error,
            "x": EAST + 10.0 * column,
            "y": NORTH - 10.0 * row,
            "unit": row // 10,
        }
    )
    opened = rioxarray.open_rasterio(tmp_path / "map.tif", masked=True)
    whole = opened.squeeze("band", drop=True).rename("agb").to_dataset()
    views = {
        "whole": whole,
        "coarser": whole.coarsen(y=10, x=10).mean(),
        "every 10th": whole.isel(y=slice(5, None, 10), x=slice(5, None, 10)),
        "interpolated": whole.interp(
            x=np.arange(EAST + 20, EAST + 600, 40),
            y=np.arange(NORTH - 20, NORTH - 600, -40),
        ),
    }
    found = {}
    for name, view in views.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            totals = gb.totals(view, residuals=table, progress=False)
        found[name] = totals[["area", "mean"]].iloc[0].to_numpy(float)
    hectares = 36.0 / 0.9996**2  # UTM's scale on the central meridian is nearly this
    assert found["whole"][0] == pytest.approx(hectares, rel=1e-3)
    for name, values in found.items():
        assert values[0] == pytest.approx(found["whole"][0], rel=1e-6), name
    assert found["coarser"][1] == pytest.approx(found["whole"][1], rel=1e-6)


def test_change_of_maps_on_one_grid_and_on_two() -> None:
    def with_interval(one: xr.DataArray) -> xr.Dataset:
        known = one.to_dataset()
        return known.assign(agb_lower=one - 9, agb_upper=one + 9)

    whole = with_interval(layer().coarsen(y=4, x=4).mean())
    same = with_interval(layer(10, 40.0))
    found = gb.change(whole, same, correlation=0)
    assert Grid.of(found).same_as(Grid.of(same))
    off = same.assign_coords(x=same.x + 0.8)
    with pytest.raises(gb.CubeError, match=r"one grid.* 0.02 pixels apart"):
        gb.change(whole, off, correlation=0)


def test_description_and_areas_of_a_coarser_cube() -> None:
    from geobiomass.cube.grid_summary import grid_facts

    cube = gb.as_cube(image().isel(x=slice(None, None, 4)).rename(None))
    facts = grid_facts(cube)
    assert facts["resolution"] == "40 x 10"
    assert facts["bounds"] == "499985, 6899840, 500145, 6900000"
    assert pixel_size(cube) == pytest.approx((10, 40), rel=1e-3)


def test_a_region_and_labels_are_on_the_coarser_cubes_pixels() -> None:
    """Case 21."""
    from geobiomass.cube.region import Region

    cube = gb.as_cube(image(32).coarsen(y=4, x=4).mean())
    box = (EAST + 80, NORTH - 160, EAST + 160, NORTH - 80)
    mask = Region.of(box, cube).mask(Window(0, 0, 8, 8))
    assert np.argwhere(mask).tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]
    plots = pd.DataFrame({"x": [EAST + 130.0], "y": [NORTH - 90.0], "agb": [70.0]})
    labelled = gb.with_labels(cube, plots, crs="EPSG:32635")
    assert np.argwhere(np.isfinite(labelled.agb.values)).tolist() == [[2, 3]]


def test_an_array_of_labels_with_a_stale_transform_goes_where_it_is() -> None:
    cube = gb.as_cube(image(32))
    labels = layer(32).isel(y=slice(8, 24), x=slice(8, 24))
    found = gb.with_labels(cube, labels).agb
    assert float(found[8, 8]) == float(layer(32)[8, 8])
    assert int(found.notnull().sum()) == 256


# --- coordinates that give no grid --------------------------------------------


def test_coordinates_that_are_not_even_are_refused_with_the_remedy() -> None:
    data = image()
    x = data.x.values.copy()
    x[7] += 0.05  # half a hundredth of a pixel
    assert gb.as_cube(data.assign_coords(x=x)).sizes["x"] == 16
    x[7] += 0.2
    with pytest.raises(gb.CubeError, match=r"'x' must be evenly spaced.*interp\(x="):
        gb.as_cube(data.assign_coords(x=x))
    with pytest.raises(gb.CubeError, match=r"'y' must be evenly spaced"):
        gb.as_cube(data.isel(y=[0, 1, 2, 5, 6]))
    with pytest.raises(gb.CubeError, match=r"evenly spaced"):
        Grid.of(layer().isel(x=[0, 1, 3]))
    drift = EAST + np.cumsum(np.linspace(10, 10.05, 40))  # each step within a hundredth
    with pytest.raises(gb.CubeError, match=r"evenly spaced"):
        Grid.of(layer().assign_coords(x=drift))
    lost = np.where(np.arange(16) == 3, np.nan, data.x)
    with pytest.raises(gb.CubeError, match=r"got 1 of 16 that are not finite"):
        gb.as_cube(data.assign_coords(x=lost))


def test_float32_coordinates_that_are_too_short_are_told() -> None:
    data = image(16, step=1e-4, north=61.0)
    short = data.assign_coords(y=data.y.astype(np.float32))
    with pytest.raises(gb.CubeError, match=r"float32 is too short"):
        gb.as_cube(short)


def test_a_single_column_needs_the_stored_transform() -> None:
    column = layer().isel(x=[7])
    assert Grid.of(column).bounds == (EAST + 70, NORTH - 400, EAST + 80, NORTH)
    with pytest.raises(gb.CubeError, match=r"'x' has one value.*write_transform"):
        Grid.of(column.drop_vars("spatial_ref"))
    for stale in (layer().coarsen(x=40).mean(), layer()[::4, 7:8]):
        with pytest.raises(gb.CubeError, match=r"'x' has one value"):
            Grid.of(stale)
        assert "GeoTransform" not in open_layer(stale).spatial_ref.attrs


def test_rotated_grids_are_said_to_be_rotated() -> None:
    """Case 20."""
    turned = Affine.translation(EAST, NORTH) @ Affine.rotation(30)
    turned = turned @ Affine.scale(10, -10)
    data = image().drop_vars(["y", "x"]).rio.write_transform(turned)
    with pytest.raises(gb.CubeError, match=r"rotated, by 30 degrees.*reproject"):
        gb.as_cube(data)
    counted = {
        dim: (dim, np.arange(16) + 0.5, {"units": "pixel"}) for dim in ("y", "x")
    }
    with pytest.raises(gb.CubeError, match=r"rotated, by 30 degrees.*reproject"):
        gb.as_cube(data.assign_coords(counted))
    with pytest.raises(gb.CubeError, match=r"rotated, by 30 .*run along its axes"):
        gb.as_cube(image().rio.write_transform(turned))
    # A map may be rotated: its areas are right, also of a part.
    part = layer(16).drop_vars(["y", "x"]).assign_coords(counted)
    part = part.rio.write_transform(turned)[4:, 8:]
    assert Grid.of(part).transform.almost_equals(turned @ Affine.translation(8, 4))
    assert pixel_areas(part, Window(0, 0, 1, 1)) == pytest.approx(0.01, rel=1e-3)


# --- labels on another grid ---------------------------------------------------

PLACES = {
    "north": ("EPSG:32635", EAST, NORTH, 10.0),
    "south": ("EPSG:32720", EAST, 9_700_000.0, 10.0),
    "degrees": ("EPSG:4326", 24.0, 61.0, 1e-4),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("axis", ["y", "x"])
@variants("pixels", [0.02, -1, 0.5, 6, 9], quick=2)
def test_shifted_labels_are_refused(place: str, axis: str, pixels: float) -> None:
    """Case 25."""
    crs, east, north, step = PLACES[place]
    centres = {
        "y": north - step * (np.arange(16) + 0.5),
        "x": east + step * (np.arange(16) + 0.5),
    }
    data = image().drop_vars("spatial_ref").assign_coords(centres).rio.write_crs(crs)
    agb = data[0, 0].drop_vars(["time", "band"])
    assert "agb" in gb.as_cube(data, agb)
    nearly = agb.assign_coords({axis: agb[axis] + 0.005 * step})
    assert "agb" in gb.as_cube(data, nearly)
    moved = agb.assign_coords({axis: agb[axis] + pixels * step})
    with pytest.raises(gb.CubeError, match=rf"along '{axis}'.* {abs(pixels):g} pixels"):
        gb.as_cube(data, moved)


def test_labels_of_another_system_size_or_direction_are_refused() -> None:
    data = image()
    agb = layer(16)
    other = agb.drop_vars("spatial_ref").rio.write_crs("EPSG:32636")
    with pytest.raises(gb.CubeError, match=r"reference system.*zone 36N"):
        gb.as_cube(data, other)
    with pytest.raises(gb.CubeError, match=r"16 x 12 pixels against 16 x 16"):
        gb.as_cube(data, agb[:, :12])
    with pytest.raises(gb.CubeError, match=r"along 'y'.*the other way round"):
        gb.as_cube(data, agb[::-1])
    bare = agb.drop_vars(["y", "x"])
    assert "agb" in gb.as_cube(data, bare)
    moved = bare.rio.write_transform(from_origin(EAST + 60, NORTH, 10, 10))
    with pytest.raises(gb.CubeError, match=r"transform .* 6 pixels off"):
        gb.as_cube(data, moved)


# --- corners ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class RasterSpec:
    """What stackstac keeps in the attributes of an array."""

    epsg: int
    bounds: tuple[float, ...]
    resolutions_xy: tuple[float, float]


def stack(n: int = 36, kind: str = "topleft") -> xr.DataArray:
    """Return what stackstac.stack does; its default coordinates are corners."""
    half = 0.0 if kind == "topleft" else 0.5
    times = np.array(["2023-06-01", "2023-07-01"], "datetime64[ns]")
    values = np.random.default_rng(0).normal(1000, 100, (2, 2, n, n))
    return xr.DataArray(
        values.astype(np.float32),
        dims=("time", "band", "y", "x"),
        coords={
            "time": times,
            "band": ["B04", "B08"],
            "y": NORTH - 10 * (np.arange(n) + half),
            "x": EAST + 10 * (np.arange(n) + half),
            "epsg": 32635,
            "id": ("time", ["a", "b"]),
        },
        attrs={
            "spec": RasterSpec(32635, (EAST, NORTH - 360, EAST + 360, NORTH), (10, 10)),
            "crs": "epsg:32635",
            "transform": Affine(10, 0, EAST, 0, -10, NORTH),
            "resolution": 10.0,
        },
    )


CROPS = {
    "whole": (lambda a: a, (EAST, 10)),
    "crop": (lambda a: a[..., 5:20], (EAST + 50, 10)),
    "every third": (lambda a: a[..., ::3, ::3], (EAST - 10, 30)),
    "thirds": (lambda a: a.coarsen(y=3, x=3).mean(), (EAST, 30)),
    "flipped": (lambda a: a[..., ::-1], (EAST + 360, -10)),
}


@pytest.mark.parametrize("how", CROPS)
def test_corners_of_stackstac_are_moved_to_centres(how: str) -> None:
    """Case 08."""
    change, (left, width) = CROPS[how]
    with pytest.warns(UserWarning, match=r"x \+5, y -5.*corners") as told:
        cube = gb.as_cube(change(stack()))
    assert len(told) == 1
    assert (Grid.of(cube).affine[2], Grid.of(cube).affine[0]) == (left, width)
    assert cube.attrs[MOVED].startswith("x +5, y -5")
    assert cube.rio.crs.to_epsg() == 32635
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gb.as_cube(cube).identical(cube)  # once


def test_centres_of_stackstac_stay() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cube = gb.as_cube(stack(kind="center"))
    assert Grid.of(cube).affine[2] == EAST
    lower = stack().assign_attrs(xy_coords="bottomleft")
    lower = lower.assign_coords(y=lower.y - 10)
    with pytest.warns(UserWarning, match=r"x \+5, y \+5"):
        gb.as_cube(lower)


def test_corners_of_a_dataset_of_bands_and_of_labels_are_moved() -> None:
    with pytest.warns(UserWarning, match=r"corners"):
        cube = gb.as_cube(stack().to_dataset("band"), stack()[0, 0])
    assert Grid.of(cube).affine[2] == EAST


def test_an_even_coarsening_of_stackstac_is_asked_about() -> None:
    for lost in (
        stack().coarsen(y=2, x=2).mean(),
        stack()[..., ::2, ::2],
        stack(kind="center").coarsen(y=4, x=4).mean(),
        stack().assign_coords(x=stack().x + 2),
    ):
        with pytest.raises(gb.CubeError, match=r"corners or centres.*gb\.as_cube"):
            gb.as_cube(lost)


def test_an_old_transform_attribute_of_centres_is_no_corner() -> None:
    data = image().assign_attrs(transform=(10.0, 0.0, EAST, 0.0, -10.0, NORTH))
    for how, left in ((slice(None), EAST), (slice(None, None, 2), EAST - 5)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            cube = gb.as_cube(data[..., how, how])
        assert Grid.of(cube).affine[2] == left
        assert cube.image.attrs["transform"][2] == left


def test_attributes_of_stackstac_are_written_as_plain_values(tmp_path: Path) -> None:
    centres = stack(kind="center").assign_attrs(seen=np.datetime64("2023-06-01"))
    gb.write_cube(centres, tmp_path / "a.zarr", dtype="float32")
    opened = gb.open_cube(tmp_path / "a.zarr")
    assert json.loads(opened.image.attrs["spec"])["epsg"] == 32635
    assert list(opened.image.attrs["transform"])[:3] == [10.0, 0.0, EAST]
    with pytest.warns(UserWarning, match=r"corners"):
        gb.write_cube(stack(), tmp_path / "b.zarr", dtype="float32")
    opened = gb.open_cube(tmp_path / "b.zarr")
    assert Grid.of(opened).affine[2] == EAST
    assert opened.attrs[MOVED].startswith("x +5")


# --- absurd sizes -------------------------------------------------------------


def test_a_raster_of_absurd_size_is_refused_at_once(tmp_path: Path) -> None:
    from geobiomass.info.rasters import describe_raster

    path = tmp_path / "map_2023-06.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=10**6,
        width=10**6,
        count=1,
        dtype="float32",
        crs="EPSG:32635",
        transform=from_origin(EAST, NORTH, 1e-4, 1e-4),
        sparse_ok=True,
        tiled=True,
        blockxsize=8192,
        blockysize=8192,
        BIGTIFF="YES",
    ) as file:
        file.descriptions = ("B04",)
    began = time.process_time()
    for call in (
        lambda: gb.from_rasters(str(tmp_path / "map_{year}-{month}.tif")),
        lambda: gb.change(path, path, correlation=0),
        lambda: describe_raster(path),
        lambda: gb.from_rasters(str(tmp_path / "map_{year}-{month}.tif"), like=path),
    ):
        with pytest.raises(gb.CubeError, match=r"1,000,000 x 1,000,000 = 1e\+12"):
            call()
    assert time.process_time() - began < 3


def test_a_grid_of_absurd_size_is_refused_at_once() -> None:
    import dask.array as da

    from geobiomass.sources.grid import make_grid

    area = (24.0, 61.0, 24.1, 61.1)
    with pytest.raises(gb.CubeError, match=r"at most 5e\+11 pixels.*0.0001 x 0.0001"):
        make_grid(area, 1e-4)
    with pytest.raises(gb.CubeError, match=r"units of crs, degrees .* got 10"):
        make_grid(area, 10, "EPSG:4326")
    n = 10**6
    huge = da.zeros((1, 1, n, n), chunks=(1, 1, n // 4, n // 4), dtype="float32")
    centres = 1e-4 * np.arange(n)
    data = xr.DataArray(
        huge,
        {"time": pd.to_datetime(["2023-06-01"]), "band": ["B04"], "y": NORTH - centres,
         "x": EAST + centres},
        ("time", "band", "y", "x"),
    )  # fmt: skip
    with pytest.raises(gb.CubeError, match=r"1,000,000 x 1,000,000"):
        gb.as_cube(data)
