"""Arrays and maps in the forms of rioxarray, odc-stac, xbatcher and hvplot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray
import torch
import xarray as xr

import geobiomass as gb
from geobiomass.network import AttentionUNet

Data = xr.Dataset | xr.DataArray
DECODER = (16, 12, 8, 8, 8)
DATES = np.array(["2023-06-01", "2023-07-01", "2023-08-01"], "datetime64[ns]")


@pytest.fixture(scope="module")
def model() -> gb.BiomassRegressor:
    torch.manual_seed(0)
    network = AttentionUNet(3, "test_resnet", DECODER)
    return gb.BiomassRegressor(network, ("VV_asc", "B04", "B08"), 3)


def bands_as_variables(scene: xr.Dataset) -> xr.Dataset:
    """As odc-stac and openEO give it: a variable a band, dates."""
    image = scene["image"].rename(month="time").assign_coords(time=DATES)
    return xr.Dataset({str(b): image.sel(band=b, drop=True) for b in image.band.values})


def as_odc_stac(scene: xr.Dataset) -> xr.Dataset:
    """Whole numbers with the attribute nodata; one in hundred of a decibel is kept."""
    found = bands_as_variables(scene)
    for name in ("B04", "B08"):
        whole = found[name].fillna(0).astype("uint16")
        found[name] = whole.assign_attrs(nodata=0, grid_mapping="spatial_ref")
    return found.chunk(time=1, y=20)


def as_openeo(scene: xr.Dataset) -> xr.Dataset:
    """CF's own scale and fill value not decoded, grid mapping a plain variable."""
    found = bands_as_variables(scene).rename(time="t")
    for name in ("B04", "B08"):
        whole = (found[name] * 2).fillna(-9).astype("int16")
        found[name] = whole.assign_attrs(
            _FillValue=np.int16(-9), scale_factor=0.5, grid_mapping="spatial_ref"
        )
    found["VV_asc"].attrs["grid_mapping"] = "spatial_ref"
    return found.reset_coords("spatial_ref")


def as_chosen_out_of_a_file(scene: xr.Dataset) -> xr.Dataset:
    """Bands taken out of a file by name; the grid mapping they name stays behind."""
    found = bands_as_variables(scene).drop_vars("spatial_ref")
    for name in found:
        found[name].attrs["grid_mapping"] = "crs"
    return found


def as_array_in_degrees(scene: xr.Dataset) -> xr.DataArray:
    array = scene["image"].rename(month="time", band="bands").drop_vars("spatial_ref")
    array = array.rename(y="latitude", x="longitude").assign_coords(
        time=DATES,
        latitude=50 - 1e-4 * np.arange(array.sizes["y"]),
        longitude=12 + 1e-4 * np.arange(array.sizes["x"]),
    )
    turned = array.transpose("latitude", "bands", "longitude", "time")
    return turned.rio.write_crs("EPSG:4326")


FORMS: dict[str, Callable[[xr.Dataset], Data]] = {
    "a cube": lambda scene: scene,
    "dask": lambda scene: scene.chunk(y=16, month=1),
    "an array": lambda scene: scene["image"],
    "axes turned": lambda scene: scene.transpose("y", "x", "band", "month"),
    "dates on month": lambda scene: scene.assign_coords(month=DATES),
    "a variable a band": bands_as_variables,
    "odc-stac": as_odc_stac,
    "openEO": as_openeo,
    "an array in degrees": as_array_in_degrees,
    "grid mapping a variable": lambda scene: scene.reset_coords("spatial_ref"),
    "grid mapping crs": lambda s: s.rename(spatial_ref="crs").reset_coords("crs"),
    "float64": lambda scene: scene.astype("float64"),
    "with text beside": lambda scene: scene.assign_coords(title=("y", ["a"] * 40)),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_map_from_every_form(
    form: str, scene: xr.Dataset, model: gb.BiomassRegressor
) -> None:
    expected = model.predict(scene, tile=32, overlap=0)["agb"]
    data = FORMS[form](scene)
    before = data.copy(deep=True)
    found = model.predict(data, tile=32, overlap=0)["agb"]
    y, x = ("latitude", "longitude") if "latitude" in data.dims else ("y", "x")
    assert found.dims == (y, x)
    np.testing.assert_array_equal(found, expected)
    # On the grid that the user has, so that xarray puts both together by itself.
    for dim in (y, x):
        np.testing.assert_array_equal(found[dim], data[dim])
    crs = "EPSG:4326" if y == "latitude" else "EPSG:3067"
    assert found.rio.crs == rioxarray.crs.crs_from_user_input(crs)
    xr.testing.assert_identical(data, before)


def test_a_cube_is_taken_as_it_is(scene: xr.Dataset, chips: xr.Dataset) -> None:
    assert gb.as_cube(scene) is scene
    assert gb.as_cube(chips) is chips


@pytest.mark.parametrize("decode", [True, "all", False])
def test_plain_xarray_opens_our_store_and_the_map_is_the_same(
    decode: Any, scene: xr.Dataset, model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    gb.write_cube(scene, tmp_path / "scene.zarr")
    expected = model.predict(gb.open_cube(tmp_path / "scene.zarr"), tile=32, overlap=0)
    plain = xr.open_zarr(tmp_path / "scene.zarr", decode_coords=decode)
    assert float(abs(plain["image"].sel(band="B04")).max()) < 100  # percent
    cube = gb.as_cube(plain)
    opened = gb.open_cube(tmp_path / "scene.zarr")
    np.testing.assert_allclose(cube["image"], opened["image"], rtol=1e-6)
    found = model.predict(plain, tile=32, overlap=0)
    np.testing.assert_allclose(found["agb"], expected["agb"], rtol=1e-3, atol=1e-3)
    assert found.rio.crs == scene.rio.crs


def test_a_file_as_rioxarray_opens_it(
    scene: xr.Dataset, model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    july = scene["image"].isel(month=1)
    july.attrs["long_name"] = tuple(map(str, july["band"].values))
    july.drop_vars(["month", "band"]).rio.write_nodata(np.nan).rio.to_raster(
        tmp_path / "july.tif"
    )
    expected = model.predict(scene.isel(month=[1]), tile=32, overlap=0)["agb"]
    one = rioxarray.open_rasterio(tmp_path / "july.tif")
    assert isinstance(one, xr.DataArray)
    with pytest.raises(gb.CubeError, match=r"gb\.as_cube\(data, month=7\)"):
        model.predict(one)
    by_variable = rioxarray.open_rasterio(
        tmp_path / "july.tif", band_as_variable=True, chunks={"y": 16}
    )
    assert isinstance(by_variable, xr.Dataset)
    for data in (one, by_variable):
        found = model.predict(gb.as_cube(data, month=7), tile=32, overlap=0)["agb"]
        np.testing.assert_array_equal(found, expected)


def test_a_grid_mapping_that_is_named_and_lost_is_no_matter(
    scene: xr.Dataset, model: gb.BiomassRegressor
) -> None:
    cube = gb.as_cube(as_chosen_out_of_a_file(scene), crs="EPSG:3067")
    assert cube.rio.crs == scene.rio.crs
    np.testing.assert_array_equal(cube["image"], scene["image"])


def test_batches_of_xbatcher(scene: xr.Dataset, model: gb.BiomassRegressor) -> None:
    xbatcher = pytest.importorskip("xbatcher")
    whole = model.predict(scene, tile=32, overlap=0, block=32)["agb"]
    patches = xbatcher.BatchGenerator(scene, {"y": 32, "x": 32})
    found = model.predict(next(iter(patches)), tile=32, overlap=0)["agb"]
    np.testing.assert_array_equal(found, whole[:32, :32])
    # What xbatcher does not cut it stacks into one axis.
    plain = scene.drop_vars(["y", "x", "spatial_ref"])
    together = xbatcher.BatchGenerator(
        plain, {"y": 8, "x": 8}, batch_dims={"y": 16, "x": 16}, concat_input_dims=True
    )
    batch = next(iter(together))
    assert set(batch["image"].dims) == {"sample", "y_input", "x_input"}
    cube = gb.as_cube(batch)
    assert cube["image"].dims == ("chip", "month", "band", "y", "x")
    np.testing.assert_array_equal(cube["month"], scene["month"])
    first = cube["image"].isel(chip=0).sel(band=scene["band"])
    np.testing.assert_array_equal(first, scene["image"][..., :8, :8])
    found = model.predict(batch, tile=32, overlap=0)["agb"]
    assert found.dims == ("chip", "y_input", "x_input")


@pytest.mark.slow  # imports holoviews and bokeh
def test_maps_are_drawn_by_hvplot(
    scene: xr.Dataset, model: gb.BiomassRegressor
) -> None:
    pytest.importorskip("hvplot")
    import hvplot.xarray  # noqa: F401  (the .hvplot accessor)

    found = model.predict(scene, tile=32, overlap=0)
    picture = found["agb"].hvplot.image(x="x", y="y")
    assert picture.dimension_values("agb").size == found["agb"].size


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*trained the model")
def test_training_and_evaluation_take_them_too(scene: xr.Dataset) -> None:
    settings: dict[str, Any] = {"epochs": 1, "crop": 32, "validation": 0}
    settings |= {"encoder": "test_resnet", "decoder_channels": DECODER}
    data = as_odc_stac(scene).assign(agb=scene["agb"])
    model = gb.fit(data, "quick", **settings)
    same = gb.fit(scene, "quick", **settings)
    assert model.bands == ("VV_asc", "B04", "B08")
    for one, other in zip(
        model.network.parameters(), same.network.parameters(), strict=True
    ):
        assert torch.equal(one, other)
    table = model.evaluate(data)
    np.testing.assert_allclose(table, same.evaluate(scene), equal_nan=True)
    assert str(model.plan(data)) != ""


def test_writing_takes_them_too(scene: xr.Dataset, tmp_path: Path) -> None:
    gb.write_cube(as_openeo(scene), tmp_path / "a.zarr")
    gb.write_cube(scene.drop_vars("agb"), tmp_path / "b.zarr")
    one, other = gb.open_cube(tmp_path / "a.zarr"), gb.open_cube(tmp_path / "b.zarr")
    np.testing.assert_array_equal(one["image"], other["image"])
    assert one.rio.crs == other.rio.crs
    statistics = gb.band_statistics(as_openeo(scene))
    np.testing.assert_allclose(
        statistics["mean"], gb.band_statistics(scene)["mean"], rtol=1e-5
    )


def _several_dates(scene: xr.Dataset) -> Data:
    dates = np.array(["2023-06-01", "2023-06-11", "2023-08-01"], "datetime64[ns]")
    return scene["image"].rename(month="time").assign_coords(time=dates)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_several_dates, r"got 2 dates in 2023-06; compose them, .*median"),
        (lambda s: s["image"].rename(month="orbit"), r"those of a cube, .*got 'orbit'"),
        (
            lambda s: s["image"].drop_vars("x").rename(x="row"),
            r"those of a cube, .*got 'row'",
        ),
        (lambda s: s["image"].isel(band=0, drop=True), r"band axis.*expand_dims"),
        (lambda s: s["image"].assign_coords(band=[1, 2, 3]), "must hold names"),
        (
            lambda s: s["image"].fillna(0).astype("int16"),
            r"are int16 and no attribute says",
        ),
        (lambda s: s["image"].values, r"DataArray, got ndarray; gb.open_cube"),
        (lambda s: s["image"].rename(y="lat", x="latitude"), "both be the y"),
    ],
)
def test_where_it_cannot_one_sentence_says_so(
    spoil: Callable[[xr.Dataset], Any],
    said: str,
    scene: xr.Dataset,
    model: gb.BiomassRegressor,
) -> None:
    with pytest.raises(gb.CubeError, match=said) as caught:
        model.predict(spoil(scene))
    assert len(str(caught.value).splitlines()) == 1


def test_pictures_and_facts_take_them_too(
    scene: xr.Dataset, model: gb.BiomassRegressor, chips: xr.Dataset
) -> None:
    bands = {"VV_asc": "B02", "B04": "B03", "B08": "B04"}
    names = [bands[str(name)] for name in scene["band"].values]
    data = as_array_in_degrees(scene.assign_coords(band=names))
    axes = gb.plots.true_colour(data, month=7)
    assert axes.get_xlabel() == "longitude, °"
    gb.plots.availability(data)
    assert gb.describe(data)["what"] == "scene"
    assert gb.describe(chips.isel(chip=[0]))["size"] == "1 chips of 32 x 32 pixels"
    found = model.predict(as_array_in_degrees(scene), tile=32, overlap=0)
    assert "latitude" in found.dims
    assert gb.describe(found)["size"] == "40 x 56 pixels"
    figure = gb.plots.comparison(data, found)
    assert "predicted biomass" in [panel.get_title() for panel in figure.axes]
    weights = model.attention(as_array_in_degrees(scene), at=(49.999, 12.001))
    np.testing.assert_allclose(weights.sum("month"), 1, rtol=1e-5)
    pytest.importorskip("folium")
    model.explore(found, tiles=None)
