"""The steps of storage follow the values; what does not fit is counted and told."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import rioxarray  # noqa: F401  (the .rio accessor)
import xarray as xr
from rasterio.transform import from_origin

import geobiomass as gb
from geobiomass.cube import cube_writer
from geobiomass.cube.losses import CLIPPED
from geobiomass.cube.missing_values import TAKEN

N = 48
RNG = np.random.default_rng(3)
REFLECTANCE = RNG.gamma(3, 0.05, (2, 2, N, N)).astype(np.float32)
POWER = RNG.gamma(4, 0.02, (2, 2, N, N)).astype(np.float32)


def cube_of(values: npt.NDArray[Any], *bands: str, lazy: bool = False) -> xr.Dataset:
    image = xr.DataArray(
        values.astype(np.float32),
        dims=("month", "band", "y", "x"),
        coords={
            "month": [6, 7],
            "band": list(bands),
            "y": 6_900_000 - 10 * np.arange(N) - 5.0,
            "x": 500_000 + 10 * np.arange(N) + 5.0,
        },
    )
    cube = image.to_dataset(name="image").rio.write_crs("EPSG:32635")
    return cube.chunk(y=16) if lazy else cube


def back(path: Path) -> xr.DataArray:
    return gb.open_cube(path)["image"]


@pytest.mark.parametrize(
    ("factor", "error"), [(1, 5.1e-5), (100, 0.0051), (10_000, 0.51)]
)
def test_the_step_of_reflectance_follows_its_units(
    factor: int, error: float, tmp_path: Path
) -> None:
    cube = cube_of(REFLECTANCE * factor, "B04", "B08")
    gb.write_cube(cube, tmp_path / "c.zarr")
    found = back(tmp_path / "c.zarr")
    assert float(abs(found - cube["image"]).max()) <= error
    # One band of an opened cube is written again with its own step.
    gb.write_cube(gb.open_cube(tmp_path / "c.zarr").isel(band=[1]), tmp_path / "b.zarr")
    np.testing.assert_array_equal(back(tmp_path / "b.zarr")[:, 0], found[:, 1])


def test_radar_and_reflectance_from_0_to_1_in_one_cube(tmp_path: Path) -> None:
    values = np.stack([10 * np.log10(POWER[:, 0]), REFLECTANCE[:, 1]], 1)
    gb.write_cube(cube_of(values, "VV_asc", "B08"), tmp_path / "c.zarr")
    error = abs(back(tmp_path / "c.zarr") - values).max(("month", "y", "x"))
    assert float(error[0]) <= 0.00501
    assert float(error[1]) <= 5.1e-5


@pytest.mark.parametrize("dtype", ["int16", "int32"])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("values", "bands", "remedy"),
    [
        (POWER, ("VV_asc", "VH_asc"), r"VV_asc, VH_asc must be in decibels.*log10"),
        (REFLECTANCE, ("B04", "B08"), r"B04, B08 must be reflectance x 10\^4.*10,000"),
    ],
)
def test_values_are_stored_or_refused_and_never_lost(
    dtype: Any, lazy: bool, values: Any, bands: Any, remedy: str, tmp_path: Path
) -> None:
    path, cube = tmp_path / "c.zarr", cube_of(values, *bands, lazy=lazy)
    if bands[0] == "B04" and dtype == "int16" and not lazy:
        gb.write_cube(cube, path)
        assert float(abs(back(path) - values).max()) < 1e-4
        return
    with pytest.raises(gb.CubeError, match=remedy + r".*float32"):
        gb.write_cube(cube, path, dtype)
    assert not path.exists()  # so that the remedy is written there
    gb.write_cube(cube, path, dtype="float32")
    np.testing.assert_array_equal(back(path), values)


def test_lazy_values_that_a_step_of_1_would_lose_are_refused(tmp_path: Path) -> None:
    percent = cube_of(REFLECTANCE * 100 + 0.123, "B04", "B08", lazy=True)
    path = tmp_path / "c.zarr"
    with pytest.raises(
        gb.CubeError, match=r"in percent. Multiply them by 100, .*0\.01"
    ):
        gb.write_cube(percent, path)
    gb.write_cube(percent, path, quantum={"B04": 0.01, "B08": 0.01})
    assert float(abs(back(path) - percent["image"]).max()) <= 0.00501
    dark = cube_of(REFLECTANCE * 10, "B04", "B08", lazy=True)  # up to 3 percent
    gb.write_cube(dark, tmp_path / "d.zarr", quantum={"B04": 0.01, "B08": 0.01})
    share = RNG.uniform(0, 1, (2, 2, N, N))
    for bands, quantum in ((("CLP", "SCL"), None), (("NDVI", "EVI"), 1)):
        given = None if quantum is None else dict.fromkeys(bands, quantum)
        lazy = cube_of(share, *bands, lazy=True)
        with pytest.raises(gb.CubeError, match="fewer than five"):
            gb.write_cube(lazy, tmp_path / "e.zarr", quantum=given)
    assert not (tmp_path / "e.zarr").exists()
    # Right input: cloud probability of a clear sky, in percent, and dark water.
    both = np.stack([share[:, 0] * 0.4, REFLECTANCE[:, 1] * 10_000], 1)
    gb.write_cube(cube_of(both, "CLP", "B04", lazy=True), tmp_path / "f.zarr")
    water = cube_of(REFLECTANCE * 300 + 20.3, "B04", "B08", lazy=True)
    gb.write_cube(water, tmp_path / "g.zarr")


def test_bright_percent_in_steps_of_1_is_refused_or_told(tmp_path: Path) -> None:
    bright = RNG.uniform(25, 60, (2, 2, N, N))
    exact = cube_of(np.rint(bright * 100) / 100, "B04", "B08", lazy=True)
    with pytest.raises(gb.CubeError, match="in percent"):
        gb.write_cube(exact, tmp_path / "a.zarr")
    # Means over time have any decimals, as dark water x 10^4 has.
    mean = cube_of(bright, "B04", "B08", lazy=True)
    with pytest.warns(UserWarning, match=r"In \d+ blocks, B04, B08 have .* 1\.\d% of"):
        gb.write_cube(mean, tmp_path / "b.zarr")
    # Medians of two dates x 10^4 are halves, and rounding them is known.
    halves = cube_of(np.rint(bright * 2) / 2, "B04", "B08", lazy=True)
    gb.write_cube(halves, tmp_path / "c.zarr")


def test_chips_in_other_units_are_not_appended(tmp_path: Path) -> None:
    def chips(values: Any, name: str) -> xr.Dataset:
        cube = cube_of(values, "B04", "B08").drop_vars(["y", "x", "spatial_ref"])
        return cube.expand_dims(chip=[name])

    path = tmp_path / "c.zarr"
    gb.write_cube(chips(np.rint(REFLECTANCE * 10_000), "a"), path)
    with pytest.raises(gb.CubeError, match=r"reflectance x 10\^4"):
        gb.write_cube(chips(REFLECTANCE, "b"), path, append=True)
    assert gb.open_cube(path)["chip"].values.tolist() == ["a"]


def test_an_index_needs_a_step_that_keeps_it(tmp_path: Path) -> None:
    index = cube_of(RNG.uniform(-1, 1, (2, 2, N, N)), "NDVI", "EVI")
    with pytest.raises(gb.CubeError, match=r"quantum=\{'NDVI': 0\.0001\}"):
        gb.write_cube(index, tmp_path / "c.zarr")
    with pytest.raises(gb.CubeError, match=r"NDVI .*steps of 1, .*fewer than five"):
        gb.write_cube(index, tmp_path / "c.zarr", quantum={"NDVI": 1, "EVI": 1})
    gb.write_cube(index, tmp_path / "c.zarr", quantum={"NDVI": 1e-4, "EVI": 1e-4})
    assert float(abs(back(tmp_path / "c.zarr") - index["image"]).max()) < 5.1e-5


@pytest.mark.parametrize(
    "values",
    [
        np.rint(REFLECTANCE * 10_000),
        np.rint(RNG.uniform(0, 2.4, (2, 2, N, N))),  # whole numbers: water, shadow
        RNG.uniform(0, 40, (2, 2, N, N)) + 100,  # a dark forest, not whole numbers
        np.zeros((2, 2, N, N)),
        np.full((2, 2, N, N), np.nan),
    ],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_standard_cubes_keep_their_steps(
    values: Any, lazy: bool, tmp_path: Path
) -> None:
    gb.write_cube(cube_of(values, "B04", "B08", lazy=lazy), tmp_path / "c.zarr")
    found = back(tmp_path / "c.zarr")
    assert found.encoding["quantum"] == {"B04": 1.0, "B08": 1.0}
    np.testing.assert_array_equal(found, np.rint(values.astype(np.float32)))


def test_scaled_geotiffs_are_stored_as_they_are(tmp_path: Path) -> None:
    stored = np.rint(REFLECTANCE * 10_000).astype(np.uint16)
    for month, values in zip((6, 7), stored, strict=True):
        with rasterio.open(
            tmp_path / f"S2_{month}.tif", "w", driver="GTiff", height=N, width=N,
            count=2, dtype="uint16", crs="EPSG:32635", nodata=65_535,
            transform=from_origin(500_000, 6_900_000, 10, 10),
        ) as file:  # fmt: skip
            file.write(values)
            file.scales, file.descriptions = (1e-4, 1e-4), ("B04", "NDWI")
    cube = gb.from_rasters(tmp_path / "S2_{month}.tif")
    gb.write_cube(cube, tmp_path / "c.zarr")
    np.testing.assert_array_equal(
        np.rint(back(tmp_path / "c.zarr") * 10_000), stored.astype(np.float32)
    )


# --- what is changed is counted -----------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
def test_what_is_clipped_or_taken_as_missing_is_counted(
    lazy: bool, tmp_path: Path
) -> None:
    values = np.rint(REFLECTANCE * 10_000)
    values[0, 0, :3, :4] = 50_000
    values[1, 1, 0, 0] = -40_000
    values[:, 1, 20, :5] = -np.inf
    cube = cube_of(values, "B04", "B08", lazy=lazy)
    clipped = "13 values of bands .* and were clipped"
    infinite = r"B08 -inf \(10 pixels\)" if not lazy else "pixels: B08 10"
    with (
        pytest.warns(UserWarning, match=clipped),
        pytest.warns(UserWarning, match=infinite),
    ):
        gb.write_cube(cube, tmp_path / "c.zarr")
    found = back(tmp_path / "c.zarr")
    assert found.attrs[CLIPPED] == "B04 12, B08 1"
    assert "B08" in found.attrs[TAKEN]
    assert "10" in found.attrs[TAKEN]
    assert float(found[0, 0, 0, 0]) == 32_767  # never wrapped around
    assert float(found[1, 1, 0, 0]) == -32_767
    assert int(found.isnull().sum()) == 10


def test_counts_go_on_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.full((2, 1, 300, 300), 500, np.float32)
    values[0, 0, ::145, ::145] = 50_000  # nine pixels, in all four blocks
    values[1, 0, ::145, ::145] = np.nan
    labels = np.full((300, 300), 90, np.float32)
    labels[::260, ::260] = -9999  # four
    lazy = xr.Dataset(
        {
            "image": (("month", "band", "y", "x"), values),
            "agb": (("y", "x"), labels),
        },
        coords={
            "month": [6, 7],
            "band": ["B04"],
            "y": 6e6 - 10 * np.arange(300.0),
            "x": 5e5 + 10 * np.arange(300.0),
        },
    ).chunk(y=256, x=256)
    write, left = cube_writer._write_block, [2]

    def fail(*args: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(*args)

    monkeypatch.setattr(cube_writer, "_write_block", fail)
    with pytest.raises(KeyboardInterrupt):
        gb.write_cube(lazy, tmp_path / "c.zarr", workers=1)
    monkeypatch.undo()
    with (
        pytest.warns(UserWarning, match="9 values .* clipped"),
        pytest.warns(UserWarning, match=r"agb 4"),
    ):
        gb.write_cube(lazy, tmp_path / "c.zarr", workers=1)
    found = gb.open_cube(tmp_path / "c.zarr")
    assert found["image"].attrs[CLIPPED] == "B04 9"
    assert found["image"].attrs[TAKEN] == "agb 4"
    assert int(found["agb"].isnull().sum()) == 4
