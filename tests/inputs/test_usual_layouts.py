"""Layouts that other tools write are read right, or told in one sentence."""

from __future__ import annotations

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

import geobiomass as gb
from geobiomass.cube.convert import need_target
from geobiomass.cube.grid import Grid
from geobiomass.cube.target import mass_in_name
from geobiomass.maps.reading import open_layer

Y, X = 7_000_000 - 10 * np.arange(12) - 5.0, 500_000 + 10 * np.arange(20) + 5.0
MONTHS = pd.to_datetime(["2023-06-15", "2023-07-15"]).values
VALUES = np.random.default_rng(5).uniform(300, 4000, (2, 3, 12, 20)).astype("float32")
BANDS = ["B02", "B03", "B04"]


def stack(**coords: Any) -> xr.DataArray:
    """Return a stack as tools hold it: time, band, y, x."""
    known = {"time": MONTHS, "band": BANDS, "y": Y, "x": X, **coords}
    made = xr.DataArray(VALUES, dims=("time", "band", "y", "x"), coords=known)
    return made.rio.write_crs("EPSG:32635")


def test_the_transform_of_stackstac_is_read_as_text(tmp_path: Path) -> None:
    """Its attributes become text, of two decimals, where they are written to files."""
    transform = Affine(10, 0, 500_000, 0, -10, 7_000_000)
    corners = stack(y=Y + 5, x=X - 5).drop_vars("spatial_ref")
    for text in (str(transform), repr(transform), transform):
        attrs = {"spec": "RasterSpec()", "crs": "epsg:32635", "transform": text}
        with pytest.warns(UserWarning, match="corners of pixels"):
            cube = gb.as_cube(corners.assign_attrs(attrs))
        assert Grid.of(cube).affine == tuple(transform)[:6]
    degrees = corners.assign_coords(y=61 - 1e-4 * np.arange(12), x=1e-4 * np.arange(20))
    attrs["transform"] = str(Affine(1e-4, 0, 0, 0, -1e-4, 61))
    with pytest.raises(gb.CubeError, match="corners or centres"):
        gb.as_cube(degrees.assign_attrs(attrs))


def test_a_map_with_a_single_band_is_a_map() -> None:
    """As rioxarray.open_rasterio returns it."""
    values = np.arange(240, dtype="int16").reshape(1, 12, 20)
    coords = {"band": [1], "y": Y, "x": X}
    one = xr.DataArray(values, dims=("band", "y", "x"), coords=coords)
    one = one.rio.write_crs("EPSG:32635").assign_attrs(_FillValue=0)
    found = open_layer(one)
    assert found.dims == ("y", "x")
    assert int(found.isnull().sum()) == 1
    with pytest.raises(gb.CubeError, match=r"choose one, map\.isel\(band=0\)"):
        open_layer(xr.concat([one, one], "band"))


def test_masses_that_are_not_per_area_are_told() -> None:
    names = {
        "agb_kg": "kg", "AGB (Mg)": "Mg", "agb_t": "t", "agb_kg_tree": "kg_tree",
        "biomass [t per plot]": "t per plot", "agb": "", "agb_t_ha": "",
        "AGB (t/ha)": "", "agbd_t": "", "agb_plot": "", "height": "", "plot_kg_m2": "",
    }  # fmt: skip
    assert {name: mass_in_name(name) for name in names} == names
    scene = make_scene(12, 20).drop_vars("agb")
    table = pd.DataFrame({"x": scene.x[:9], "y": scene.y[:9], "agb_kg": np.arange(9.0)})
    with pytest.warns(UserWarning, match=r"'agb_kg' seem to be a mass \(kg\)"):
        gb.with_labels(scene, table, column="agb_kg", crs=scene.rio.crs)
    map_ = scene["image"][0, 0].drop_vars(["band", "month"]).rename("agb")
    with pytest.raises(gb.CubeError, match=r"divide by the plots' area"):
        gb.totals(map_, plots=table, observed="agb_kg", progress=False)
    with pytest.raises(gb.CubeError, match=r"must be an xarray\.DataArray"):
        gb.as_cube(scene, agb=map_.values)  # type: ignore[arg-type]


def test_coordinates_in_kilometres_or_degrees_are_converted_or_told() -> None:
    def named(unit: str | None, size: float) -> dict[str, Any]:
        attrs = {} if unit is None else {"units": unit}
        return {"y": ("y", Y * size, attrs), "x": ("x", X * size, attrs)}

    with pytest.warns(UserWarning, match="multiplied by 1000"):
        cube = gb.as_cube(stack(**named("km", 1e-3)))
    assert Grid.of(cube).same_as(Grid.of(gb.as_cube(stack())))
    assert cube.attrs["coordinates_multiplied"] == "y, x: from km to m"
    layer = stack(**named("km", 1e-3))[0, 0].drop_vars(["time", "band"])
    with pytest.warns(UserWarning, match="multiplied by 1000"):
        assert float(open_layer(layer).x[0]) == pytest.approx(500_005)
    with pytest.warns(UserWarning, match=r"UTM zone 35N.* inside it as kilometres"):
        gb.as_cube(stack(**named(None, 1e-3)))
    degrees = stack(y=61 - 1e-4 * np.arange(12), x=25 + 1e-4 * np.arange(20))
    with pytest.raises(gb.CubeError, match=r"are degrees, .*EPSG:4326"):
        gb.as_cube(degrees)
    with pytest.raises(gb.CubeError, match=r"are not degrees, .*WGS 84"):
        gb.as_cube(stack().rio.write_crs("EPSG:4326"))
    # Right input: the other side of a zone's edge, a world grid, near the origin.
    for crs, y, x in (
        ("EPSG:32635", Y, X - 600_000),
        ("EPSG:32635", Y - 7e6, X),
        ("EPSG:4326", 90 - np.arange(12), 360 + np.arange(20)),
        ("EPSG:3857", Y - 7e6, X - 5e5),
    ):
        assert Grid.of(gb.as_cube(stack(y=y, x=x).rio.write_crs(crs))).width == 20


def test_plots_in_other_utm_zones_are_refused() -> None:
    scene = make_scene(12, 20).drop_vars("agb").rio.write_crs("EPSG:32635")
    table = pd.DataFrame({"x": scene.x[:4], "y": scene.y[:4], "agb": np.arange(1, 5.0)})
    for zones in (["35N", "35", "34N", "UTM 36V"], [35, 35, 34, 36]):
        with pytest.raises(gb.CubeError, match=r"2 of 4 rows .*34: 1 rows"):
            gb.with_labels(scene, table.assign(zone=zones), crs="EPSG:32635")
    with pytest.raises(gb.CubeError, match=r"4 of 4 rows .*34: 4 rows"):
        gb.with_labels(scene, table.assign(utm_zone=34), crs="EPSG:32635")
    for zones in (["35V"] * 4, [1, 2, 1, 2], ["A", "B", "A", "B"]):  # or of a climate
        found = gb.with_labels(scene, table.assign(zone=zones), crs="EPSG:32635")
        assert found["agb"].attrs["plots"] == 4
    transformed = table.rename(columns={"agb": "agbd_t"})
    with pytest.warns(UserWarning, match="use the column 'agbd'"):
        gb.with_labels(scene, transformed, column="agbd_t", crs="EPSG:32635")


def test_one_negative_label_in_many_pixels_is_told() -> None:
    scene = make_scene(12, 20)
    right = scene["agb"].fillna(50.0).clip(1)
    coded = right.where(np.arange(20) > 2, -1.0)
    with pytest.warns(UserWarning, match=r"36 of 240 labels are -1, .* below 0"):
        need_target(scene.assign(agb=coded))
    noise = right.where(np.arange(20) > 2, right * -0.01)  # of a regression
    need_target(scene.assign(agb=noise))
    change = coded.assign_attrs(units="1", target="agreement")
    need_target(scene.assign(agb=change))


def test_maps_strata_and_errors_in_any_order_of_axes_give_the_same_numbers() -> None:
    values = np.arange(240, dtype="float32").reshape(12, 20) + 1
    layer = stack()[0, 0].drop_vars(["time", "band"]).rename("agb").copy(data=values)
    layer.attrs["units"] = "Mg/ha"
    strata = layer.copy(data=np.where(np.arange(20) < 5, 1.0, 2.0) * np.ones((12, 1)))
    ends = {"agb": layer, "agb_lower": layer * 0.8, "agb_upper": layer * 1.3}
    for one in ends.values():
        one.attrs |= {"units": "Mg/ha", "interval": 0.9}
    row, column = np.divmod(np.arange(0, 240, 7), 20)
    plots = pd.DataFrame({"x": X[column], "y": Y[row], "agb": values[row, column] + 2})
    draw = np.random.default_rng(2).normal(0, 10, 300)
    errors = pd.DataFrame({"observed": 100.0, "predicted": 100 + draw})
    errors = errors.assign(
        residual=draw, x=np.arange(300) % 17 * 10.0, y=np.arange(300) // 17 * 10.0,
        unit=np.arange(300) % 20,
    )  # fmt: skip
    errors.attrs = {"kind": "scene", "pixel": (10.0, 10.0)}
    tables, changes = [], []
    for order, other in ((("y", "x"), ("x", "y")), (("x", "y"), ("y", "x"))):
        map_ = xr.Dataset({k: v.transpose(*order) for k, v in ends.items()})
        second = xr.Dataset({k: v.transpose(*other) + 9 for k, v in ends.items()})
        for one in second.values():
            one.attrs |= {"units": "Mg/ha", "interval": 0.9}
        tables.append(
            gb.totals(
                map_,
                plots=plots,
                strata=strata.transpose(*other),
                estimator="difference",
                progress=False,
            )
        )
        tables.append(gb.totals(map_, residuals=errors, progress=False))
        changes.append(gb.change(map_, second))
    assert tables[0]["mean"].iloc[0] == pytest.approx(values.mean() + 2, rel=1e-6)
    pd.testing.assert_frame_equal(tables[0], tables[2])
    pd.testing.assert_frame_equal(tables[1], tables[3])
    for name in ("agb_change", "agb_change_lower", "agb_change_upper"):
        first, again = (one[name].transpose("y", "x").values for one in changes)
        np.testing.assert_allclose(first, again)
    np.testing.assert_allclose(changes[0]["agb_change"], 9)


def test_bounds_and_a_month_beside_the_time_are_no_axes() -> None:
    data = stack().to_dataset("band")
    data["time_bnds"] = (("time", "bnds"), np.stack([MONTHS, MONTHS], 1))
    cube = gb.as_cube(data.assign_coords(month=data["time"].dt.month))
    assert cube["month"].values.tolist() == [6, 7]
    assert cube["band"].values.tolist() == BANDS
    np.testing.assert_array_equal(cube["image"], VALUES)
    again = gb.as_cube(stack().assign_coords(month=data["time"].dt.month))
    np.testing.assert_array_equal(again["image"], VALUES)


def test_files_of_which_only_some_have_a_scale_are_told(tmp_path: Path) -> None:
    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    for number, path in enumerate(paths):
        transform = Affine(10, 0, 500_000 + 200 * number, 0, -10, 7_000_000)
        profile = {"driver": "GTiff", "count": 1, "dtype": "int16", "nodata": -9999}
        profile |= {"height": 12, "width": 20, "crs": 32635, "transform": transform}
        with rasterio.open(path, "w", **profile) as file:
            file.write(np.full((1, 12, 20), 3000, "int16"))
            file.scales = [1.0 if number else 1e-4]
            file.set_band_description(1, "B04")
    files = list(map(str, paths))
    with pytest.warns(UserWarning, match="1 of 2 files of B04 have whole"):
        gb.from_rasters(files, months=[6, 6])
    cube = gb.from_rasters(files, months=[6, 6], scale=1e-4)
    np.testing.assert_allclose(cube["image"], 0.3, rtol=1e-6)
