"""Values of users' data: nodata, scale and offset, infinity; one rule in every door."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import rasterio
import rioxarray
import xarray as xr
from rasterio.transform import from_origin
from variants import variants

import geobiomass as gb
from geobiomass.accounting.change import open_pair
from geobiomass.cube.missing_values import TAKEN, FillTally, clean

N = 40
Y, X = 6_900_000 - 10 * np.arange(N) - 5.0, 500_000 + 10 * np.arange(N) + 5.0
GRID = from_origin(500_000, 6_900_000, 10, 10)
HOLE = np.zeros((N, N), bool)
HOLE[:, :8] = True  # a swath edge: 320 pixels without data
TIMES = np.array(["2023-06-01", "2023-07-01"], "datetime64[ns]")


def draw(low: float, high: float, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    return np.random.default_rng(7).uniform(low, high, shape)


IMAGE = draw(300, 3000, (2, N, N)).round()
BIOMASS = np.kron(draw(50, 250, (5, 5)), np.ones((8, 8))).round(1)


def packed(fill: float, scale: float = 1.0, offset: float = 0.0) -> npt.NDArray[Any]:
    return np.where(HOLE, fill, np.rint((IMAGE - offset) / scale))


def bands(
    values: npt.NDArray[Any],
    dtype: str = "float32",
    attrs: dict[str, Any] | None = None,
    encoding: dict[str, Any] | None = None,
) -> xr.Dataset:
    """Two bands as odc-stac, openEO or a netCDF give them: a variable a band."""
    one = xr.Variable(("time", "y", "x"), values.astype(dtype), attrs or {})
    one.encoding = encoding or {}
    made = xr.Dataset(
        {"B04": one, "B08": one.copy()}, coords={"time": TIMES, "y": Y, "x": X}
    )
    return made.rio.write_crs("EPSG:32635")


def check(cube: xr.Dataset) -> None:
    for band in ("B04", "B08"):
        found = cube["image"].sel(band=band).values
        np.testing.assert_allclose(found, np.where(HOLE, np.nan, IMAGE), rtol=1e-5)


TWO = np.where(np.arange(N) < 4, -1, packed(-9999))
DECODED = np.where(HOLE, np.nan, IMAGE)
PACKING = {"scale_factor": 0.1, "_FillValue": 0, "dtype": np.dtype("uint16")}
DECLARED = {
    "_FillValue": bands(packed(-9999), "int16", {"_FillValue": np.int16(-9999)}),
    "missing_value": bands(packed(-9999), "int16", {"missing_value": -9999}),
    "nodata": bands(packed(0), "uint16", {"nodata": 0}),
    "nodata as text": bands(packed(0), "uint16", {"nodata": "0"}),
    "encoding": bands(packed(65535), "uint16", {}, {"_FillValue": 65535}),
    "both": bands(packed(0), "uint16", {"nodata": 0}, {"_FillValue": 0}),
    "two values": bands(TWO, "int16", {"_FillValue": -9999, "missing_value": -1}),
    "a list": bands(TWO, "int16", {"missing_value": [-9999, -1]}),
    "1e20 in float32": bands(packed(1e20), "float32", {"_FillValue": 1e20}),
    "scale": bands(packed(0, 0.1), "uint16", {"scale_factor": 0.1, "_FillValue": 0}),
    "scale and offset": bands(
        packed(0, 0.1, -1000),
        "uint16",
        {"scale_factor": 0.1, "add_offset": -1000, "_FillValue": 0},
    ),
    "decoded, encoding stays": bands(DECODED, "float32", {}, PACKING),
    "decoded, nodata stays": bands(DECODED, "float32", {"nodata": 0}, PACKING),
    "decoded, attributes copied back": bands(
        DECODED, "float32", {"scale_factor": 0.1, "_FillValue": 0}, PACKING
    ),
    "unsigned in netCDF-3": bands(
        packed(65535).astype("uint16").view("int16"),
        "int16",
        {"_Unsigned": "true", "_FillValue": np.int16(-1)},
    ),
    "NaN": bands(DECODED, "float32", {"_FillValue": np.nan}),
}


@variants("form", DECLARED, quick=8)
@variants("lazy", [True, False], quick=1)
def test_declared_nodata_scale_and_offset_are_applied_once(
    form: str, lazy: bool, tmp_path: Path
) -> None:
    data = DECLARED[form]
    data = data.chunk(y=16) if lazy else data
    cube = gb.as_cube(data)
    check(cube)
    gb.write_cube(cube, tmp_path / "c.zarr", dtype="float32")
    check(gb.open_cube(tmp_path / "c.zarr"))


UNDECLARED = {
    "-9999": (packed(-9999), "float32"),
    "-32768": (packed(-32768), "float32"),
    "65535 of reflectance": (packed(65535), "float32"),
    "infinity": (packed(np.inf), "float32"),
    "-infinity": (packed(-np.inf), "float16"),
    "1e20": (packed(1e20), "float32"),
    "netCDF's default": (packed(9.969209968386869e36), "float32"),
    "lowest float32": (packed(-3.4028234663852886e38), "float32"),
    "lowest float64": (packed(-1.7976931348623157e308), "float64"),
}


@pytest.mark.parametrize("form", UNDECLARED)
def test_undeclared_nodata_and_infinity_are_missing_and_told(
    form: str, tmp_path: Path
) -> None:
    data = bands(*UNDECLARED[form])
    if UNDECLARED[form][1] == "float16":  # not exact
        data = bands(np.where(HOLE, -np.inf, IMAGE))
    with pytest.warns(UserWarning, match=r"taken as missing: image: B04 .*640 pixels"):
        cube = gb.as_cube(data)
    check(cube)
    assert "B08" in cube["image"].attrs[TAKEN]
    check(gb.as_cube(cube))  # nothing more to tell
    lazy = gb.as_cube(data.chunk(y=16))
    with pytest.warns(UserWarning, match="taken as missing"):
        check(lazy.compute(scheduler="synchronous"))
    with pytest.warns(UserWarning, match=r"pixels: B04 640, B08 640") as told:
        gb.write_cube(data.chunk(y=16), tmp_path / "c.zarr")
    assert len(told) == 1
    back = gb.open_cube(tmp_path / "c.zarr")
    check(back)
    assert back["image"].attrs[TAKEN] == "B04 640, B08 640"


def test_a_cube_with_undeclared_nodata_is_cleaned_in_the_same_way() -> None:
    cube = gb.as_cube(bands(DECODED))
    spoilt = cube.assign(image=cube["image"].fillna(-9999))
    for data in (spoilt, spoilt.chunk(y=16)):
        with pytest.warns(UserWarning, match="B04 -9999"):
            check(gb.as_cube(data).compute(scheduler="synchronous"))
    assert float(spoilt["image"].min()) == -9999  # the user's own is not changed


def test_scaled_whole_numbers_without_declared_nodata() -> None:
    data = bands(packed(-9999, 0.1), "int16", {"scale_factor": 0.1})
    with pytest.warns(UserWarning, match="B04 -9999"):
        check(gb.as_cube(data))


@pytest.mark.parametrize(
    ("attrs", "told"),
    [
        ({"nodata": -9999}, True),
        ({"_FillValue": -9999}, True),
        ({"missing_value": 0.5}, True),
        ({"nodata": np.nan}, False),
        ({"_FillValue": np.nan}, False),
    ],
)
def test_nodata_that_no_pixel_can_have(attrs: dict[str, Any], told: bool) -> None:
    data = bands(IMAGE, "uint16", attrs)
    if told:
        with pytest.warns(UserWarning, match=r"B04, B08: .* is no value of uint16"):
            cube = gb.as_cube(data)
    else:
        cube = gb.as_cube(data)
    np.testing.assert_array_equal(cube["image"][:, 0], IMAGE)


def test_whole_numbers_that_declare_nothing_are_refused_with_the_remedy() -> None:
    for attrs in ({}, {"nodata": None}, {"nodata": "none"}):
        with pytest.raises(gb.CubeError, match="nodata="):
            gb.as_cube(bands(packed(7), "int16", attrs))
    check(gb.as_cube(bands(packed(7), "int16"), nodata=7))
    check(gb.as_cube(bands(packed(7)), nodata=7))
    # The value is the stored one, before the scale, as in from_rasters.
    scaled = bands(packed(7, 0.1), "int16", {"scale_factor": 0.1})
    check(gb.as_cube(scaled, nodata=7))


def test_scales_of_rioxarray_by_band(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", packed(0, 0.1), "uint16", 0, (0.1, 0.1))
    stored = np.stack([packed(0, 0.1)[0], packed(0, 0.5)[1]])
    write(tmp_path / "b.tif", stored, "uint16", 0, (0.1, 0.5))
    with pytest.warns(UserWarning, match="Scales differ"):  # of rioxarray
        array = rioxarray.open_rasterio(tmp_path / "b.tif")
    array = array.assign_coords(band=["B04", "B08"])
    cube = gb.as_cube(array, month=7)
    wanted = np.where(HOLE, np.nan, IMAGE)
    np.testing.assert_allclose(cube["image"][0, 0], wanted[0], rtol=1e-5)
    np.testing.assert_allclose(cube["image"][0, 1], wanted[1], atol=0.26)


@variants("form", ["nodata", "scale and offset", "decoded, nodata stays"], quick=1)
@pytest.mark.parametrize("store", ["nc", "zarr"])
def test_saved_opened_and_written_again(form: str, store: str, tmp_path: Path) -> None:
    data = DECLARED[form].copy()
    if form == "nodata":
        for band in data:
            data[band].encoding = {"_FillValue": 0}
    path = tmp_path / f"a.{store}"
    if store == "nc":
        data.to_netcdf(path, engine="h5netcdf")
    else:
        data.to_zarr(path, zarr_format=2)
    engine = {"nc": "h5netcdf", "zarr": "zarr"}[store]
    for more in ({}, {"chunks": {}}, {"mask_and_scale": False}):
        opened = xr.open_dataset(path, engine=engine, decode_coords="all", **more)
        check(gb.as_cube(opened))
    gb.write_cube(xr.open_dataset(path, engine=engine), tmp_path / "c.zarr")
    made = gb.open_cube(tmp_path / "c.zarr")
    check(made)
    for cube in (made, gb.as_cube(opened)):
        cube.to_netcdf(tmp_path / "again.nc", engine="h5netcdf")
        again = xr.open_dataset(tmp_path / "again.nc", engine="h5netcdf")
        check(gb.as_cube(again))
        again.close()


def test_an_opened_cube_is_saved_by_xarray_as_it_is(tmp_path: Path) -> None:
    """Decibels were saved as whole numbers, and missing pixels as zeros."""
    scene = gb.landscape(32, months=2)
    gb.write_cube(scene, tmp_path / "a.zarr")
    cube = gb.open_cube(tmp_path / "a.zarr")
    cube.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    saved = xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf")
    np.testing.assert_array_equal(saved["image"], cube["image"])
    np.testing.assert_array_equal(gb.as_cube(saved)["agb"], cube["agb"])


# --- labels and maps --------------------------------------------------------------


def write(
    path: Path,
    values: npt.NDArray[Any],
    dtype: str,
    nodata: float | None = None,
    scale: Any = 1.0,
    offset: float = 0.0,
) -> Path:
    values = values if values.ndim == 3 else values[None]
    count = len(values)
    with rasterio.open(
        path, "w", driver="GTiff", height=N, width=N, count=count, dtype=dtype,
        crs="EPSG:32635", transform=GRID, nodata=nodata,
    ) as file:  # fmt: skip
        file.write(values.astype(dtype))
        file.scales = scale if isinstance(scale, tuple) else (scale,)
        file.offsets = (offset,) * count
        if count == 1:
            file.descriptions = ("agb",)
    return path


def map_of(fill: float, scale: float = 1.0, offset: float = 0.0) -> npt.NDArray[Any]:
    return np.where(HOLE, fill, (BIOMASS - offset) / scale)


COVER = draw(0, 100, (N, N)).round()
FILES: dict[str, tuple[Any, ...]] = {
    "declared": (map_of(-9999), "float32", -9999),
    "undeclared": (map_of(-9999), "float32"),
    "-999": (map_of(-999), "float32"),
    "infinity": (map_of(np.inf), "float32"),
    "scale": (map_of(65535, 0.1).round(), "uint16", 65535, 0.1),
    "scale and offset": (map_of(65535, 0.1, 50).round(), "uint16", 65535, 0.1, 50.0),
    "scale, undeclared": (map_of(65535, 0.1).round(), "uint16", None, 0.1),
    "65535": (map_of(65535).round(), "uint16"),
    "255": (np.where(HOLE, 255, COVER), "uint8"),
}
TOLD = {"undeclared", "-999", "infinity", "scale, undeclared", "65535", "255"}


def forms(path: Path) -> dict[str, Any]:
    """The same file as its users hold it."""
    opened = rioxarray.open_rasterio(path).squeeze("band", drop=True).rename("agb")
    masked = rioxarray.open_rasterio(path, masked=True).squeeze("band", drop=True)
    return {
        "path": path,
        "array": opened.load(),
        "on disk": rioxarray.open_rasterio(path).squeeze("band", drop=True),
        "masked": masked.load(),
        "dask": opened.chunk(y=16),
    }


def truth_of(name: str) -> npt.NDArray[Any]:
    truth = BIOMASS
    if name == "255":
        truth = COVER
    if name == "65535":
        truth = truth.round()
    return np.where(HOLE, np.nan, truth)


@variants("name", FILES, quick=4)
@variants("form", ["path", "dask", "array", "on disk", "masked"], quick=2)
def test_labels_and_maps_in_every_door(name: str, form: str, tmp_path: Path) -> None:
    given = forms(write(tmp_path / "m.tif", *FILES[name]))[form]
    cube, truth = gb.as_cube(bands(DECODED)), truth_of(name)
    full = cube.assign(agb=(("y", "x"), np.full((N, N), 70, np.float32)))
    plots = pd.DataFrame({"x": X[[10, 20, 30]], "y": Y[[3, 9, 30]]})
    plots["agb"] = truth[[3, 9, 30], [10, 20, 30]] + [1, 2, 4]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = [gb.with_labels(cube, given)["agb"].values]
        if form != "path":
            found.append(gb.as_cube(bands(DECODED), agb=given)["agb"].values)
            table = gb.residuals(given, full)
        found.append(open_pair(given, given)[0].values)
        totals = gb.totals(given, plots=plots, estimator="difference", progress=False)
    for values in found:
        np.testing.assert_allclose(values, truth, rtol=1e-5)
    if form != "path":
        assert len(table) == np.isfinite(truth).sum()
        assert table["predicted"].max() == pytest.approx(np.nanmax(truth))
    assert totals["map_mean"].iloc[0] == pytest.approx(np.nanmean(truth), rel=1e-4)
    words = [str(each.message) for each in told]
    assert any("taken as missing" in each for each in words) == (name in TOLD)
    if form in ("path", "on disk") and name in TOLD - {"scale, undeclared"}:
        assert "320 pixels" in totals.attrs[TAKEN]


def test_labels_in_another_grid_are_cleaned_before_they_are_averaged(
    tmp_path: Path,
) -> None:
    write(tmp_path / "m.tif", map_of(-9999), "float32")
    coarse = xr.Dataset(
        {
            "image": (("month", "band", "y", "x"), np.ones((1, 1, 10, 10), "f4")),
        },
        coords={
            "month": [7],
            "band": ["B04"],
            "y": Y[:40].reshape(10, 4).mean(1) + 7,
            "x": X[:40].reshape(10, 4).mean(1) + 7,
        },
    ).rio.write_crs("EPSG:32635")
    with pytest.warns(UserWarning, match=r"-9999 .*m\.tif"):
        found = gb.with_labels(coarse, tmp_path / "m.tif")["agb"]
    assert float(found.min()) >= BIOMASS.min() - 1e-3


def test_pictures_and_pages_show_decoded_values(tmp_path: Path) -> None:
    path = write(tmp_path / "m.tif", *FILES["scale and offset"])
    opened = rioxarray.open_rasterio(path).squeeze("band", drop=True)
    picture = gb.plots.biomass(opened).images[0].get_array()
    assert np.nanmax(picture) == pytest.approx(BIOMASS.max(), abs=0.1)
    words = gb.plots.scatter(opened, BIOMASS).texts[0].get_text()
    assert "RMSE 0.0" in words
    assert "1,280 pixels" in words


def test_zero_that_looks_like_nodata_of_labels_is_told(tmp_path: Path) -> None:
    """As in a published map of biomass from LiDAR, which has no tag of nodata."""
    cube, inside = gb.as_cube(bands(DECODED)), np.zeros((N, N), bool)
    inside[3:-3, 3:-3] = True
    path = write(tmp_path / "m.tif", np.where(inside, BIOMASS, 0), "float32")
    for given in (path, forms(path)["array"]):
        with pytest.warns(UserWarning, match=r"444 of 1,600 labels of .* nodata=0"):
            assert gb.with_labels(cube, given)["agb"].attrs["labelled_pixels"] == 1600
        found = gb.with_labels(cube, given, nodata=0)["agb"]
        assert int(found.notnull().sum()) == 34 * 34
    lakes = np.where(draw(0, 1, (N, N)) < 0.3, 0, BIOMASS)  # zeros that are right
    gb.with_labels(cube, write(tmp_path / "lakes.tif", lakes, "float32"))


def test_labels_that_cannot_be_right_are_told() -> None:
    cube = gb.as_cube(bands(DECODED))
    zeros = cube.assign(agb=(("y", "x"), np.zeros((N, N), np.float32)))
    from geobiomass.cube.convert import need_target

    with pytest.warns(UserWarning, match="all 1,600 labels are 0"):
        need_target(zeros)
    low = zeros.assign(agb=zeros["agb"] - xr.where(zeros["x"] < X[4], 500.0, -40.0))
    with pytest.warns(
        UserWarning, match="160 of 1,600 labels are below 0, down to -500"
    ):
        need_target(low)
    need_target(zeros.assign(agb=zeros["agb"] + 5.0))
    noisy = zeros["agb"] + draw(-3, 90, (N, N)).astype(np.float32)
    need_target(zeros.assign(agb=noisy))  # a map as labels, a little below zero


# --- no false alarms --------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        draw(-10_000, 10_000, (100, 100)).round(),  # NDVI x 10^4
        np.arange(120_000.0),  # biomass in kg/ha
        np.where(draw(0, 1, (100, 100)) > 0.5, 0.0, 255.0),  # a mask
        draw(0, 256, (100, 100)).astype(int).astype(float),  # a byte
        np.where(draw(0, 1, (100, 100)) > 0.5, 255.0, 1.0),
        np.minimum(draw(0, 70_000, (100, 100)).round(), 65_535),  # saturated
        draw(-430, 8_800, (100, 100)).round(),  # elevation
        np.full((50, 50), 999.0),
        np.r_[draw(0, 1, 2000), 255.0],  # one outlier
    ],
)
def test_values_that_may_be_measured_stay(values: npt.NDArray[Any]) -> None:
    kept, found = clean(values.astype(np.float32).reshape(1, 1, -1), ["NDVI"])
    assert not found or set(found) == {("NDVI", -9999.0)}
    if not found:
        assert np.array_equal(kept.ravel(), values.ravel().astype(np.float32))


def test_a_fill_value_far_from_all_others_is_found_in_memory() -> None:
    cover = np.r_[draw(0, 100, 500), np.full(40, 255.0)].astype(np.float32)
    made, found = clean(cover)
    assert found == {("", 255.0): 40}
    assert np.isnan(made[-40:]).all()
    tally = FillTally()
    tally.add(cover[:300])
    tally.add(cover[300:])
    assert tally.fills() == [255.0]


def test_what_is_right_is_said_nothing_about(tmp_path: Path) -> None:
    scene = gb.landscape(64, months=2).load()
    assert gb.as_cube(scene) is scene
    gb.write_cube(scene, tmp_path / "c.zarr")
    cube = gb.open_cube(tmp_path / "c.zarr")
    assert gb.as_cube(cube) is cube
    assert TAKEN not in cube["image"].attrs
