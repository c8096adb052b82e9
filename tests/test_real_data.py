"""Real chips and a real georeferenced cube: from files to a map."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr
from rasterio.errors import NotGeoreferencedWarning

import geobiomass as gb
from geobiomass.cube import BIOMASSTERS_BANDS

WORLDCEREAL = "worldcereal_monthly/worldcereal_preprocessed_inputs.nc"
pytestmark = pytest.mark.filterwarnings(
    # The competition's files have no georeference; rasterio warns about it.
    f"ignore::{NotGeoreferencedWarning.__module__}.NotGeoreferencedWarning"
)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        return source.read()


@pytest.mark.parametrize("folder", ["biomassters", "biomassters_small"])
@pytest.mark.slow
def test_ingested_chips_are_the_files_pixels(
    data: Path, tmp_path: Path, folder: str
) -> None:
    root = data / folder
    gb.write_cube(gb.from_biomassters(root), tmp_path / "chips.zarr")
    cube = gb.open_cube(tmp_path / "chips.zarr").load()
    assert cube["month"].values.tolist() == [9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 7, 8]
    assert tuple(cube["band"].values) == BIOMASSTERS_BANDS
    for chip in cube["chip"].values:
        image = cube["image"].sel(chip=chip).values
        label = read(root / "train_agbm" / f"{chip}_agbm.tif")[0]
        np.testing.assert_array_equal(cube["agb"].sel(chip=chip), label)
        for month in range(12):
            stem = root / "train_features" / f"{chip}"
            radar = read(Path(f"{stem}_S1_{month:02d}.tif"))
            missing = radar == -9999
            np.testing.assert_array_equal(np.isnan(image[month, :4]), missing)
            # Steps of 0.01 dB: half of one, and float32's own rounding.
            np.testing.assert_allclose(
                image[month, :4][~missing], radar[~missing], atol=0.00501, rtol=0
            )
            optical = Path(f"{stem}_S2_{month:02d}.tif")
            if not optical.exists():
                assert np.isnan(image[month, 4:]).all()
                continue
            values = read(optical).astype(float)
            unusable = values[10] == 255
            nothing = (values[:10] == 0).all(axis=0)
            values[:10, unusable | nothing] = np.nan
            values[10, unusable] = np.nan
            np.testing.assert_array_equal(image[month, 4:], values)


@pytest.mark.slow
def test_trained_on_real_chips_it_beats_the_mean(data: Path, tmp_path: Path) -> None:
    store = tmp_path / "chips.zarr"
    gb.write_cube(gb.from_biomassters(data / "biomassters"), store)
    chips = gb.open_cube(store)
    # Two chips are too few to train on one and map the other, which lacks half of
    # the months: training uses the west of both, the map covers the east.
    west, east = chips.isel(x=slice(0, 160)), chips.isel(x=slice(160, 256))
    model = gb.fit(
        west,
        "quick",
        validation=0,
        epochs=40,
        crop=64,
        batch_size=4,
        month_dropout=0.5,
        progress=False,
    )
    truth, mean = east["agb"].values, float(west["agb"].mean())
    for index in range(2):
        found = model.evaluate(east.isel(chip=[index])).loc["all"]
        by_mean = float(np.sqrt(np.mean((truth[index] - mean) ** 2)))
        assert found["pixels"] == 256 * 96
        assert found["average_rmse"] < 0.85 * by_mean


def worldcereal(data: Path) -> xr.Dataset:
    """Open the cube with the lines that a user writes: xarray and one call."""
    raw = xr.open_dataset(data / WORLDCEREAL, engine="h5netcdf")
    crs = raw["crs"].attrs["crs_wkt"] if "crs" in raw else "EPSG:32631"
    raw = raw[[name for name in raw if raw[name].ndim == 3]]
    raw = raw.where(raw != 65535)
    optical = {n: str(n).removeprefix("S2-L2A-") for n in raw if "S2-L2A" in str(n)}
    radar = {"S1-SIGMA0-VV": "VV", "S1-SIGMA0-VH": "VH"}
    bands = raw[list(optical)].rename(optical)
    for theirs, ours in radar.items():
        bands[ours] = 20 * np.log10(raw[theirs]) - 83
    july = bands.sel(t=bands["t"].dt.month == 7).isel(t=0)
    ndvi = (july["B08"] - july["B04"]) / (july["B08"] + july["B04"])
    earlier = bands.sel(t=bands["t"] < july["t"])
    return gb.as_cube(earlier, agb=ndvi, crs=crs)


def test_the_worldcereal_cube_is_a_scene(data: Path, tmp_path: Path) -> None:
    cube = worldcereal(data)
    gb.write_cube(cube, tmp_path / "scene.zarr")
    back = gb.open_cube(tmp_path / "scene.zarr")
    assert back.rio.crs.to_epsg() == 32631
    assert back.rio.bounds() == (664000.0, 5611120.0, 665000.0, 5612120.0)
    assert back["month"].values.tolist() == [11, 12, 1, 2, 3, 4, 5, 6]
    seen = back["image"].sel(band="B08").notnull().mean(["y", "x"]).values
    np.testing.assert_array_equal(seen, [1, 0, 0, 1, 1, 1, 1, 1])
    assert back["image"].sel(band="VV").notnull().all()
    # July is the ninth month of the file, which starts in November.
    with h5py.File(data / WORLDCEREAL) as file:
        red, infrared = (
            file[f"S2-L2A-{band}"][8].astype(float) for band in ("B04", "B08")
        )
    expected = (infrared - red) / (infrared + red)
    np.testing.assert_allclose(back["agb"], expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*trained the model")  # see the last line
def test_the_worldcereal_cube_trains_and_is_mapped_on_its_own_grid(
    data: Path, tmp_path: Path
) -> None:
    cube = worldcereal(data)
    west, east = cube.isel(x=slice(0, 60)), cube.isel(x=slice(60, 100))
    model = gb.fit(
        west,
        "quick",
        validation=0,
        epochs=60,
        crop=32,
        batch_size=4,
        loss="huber",
        progress=False,
    )
    path = model.predict_to(tmp_path / "ndvi.tif", east, progress=False)
    found = rioxarray.open_rasterio(path)[0]
    assert found.rio.crs.to_epsg() == 32631
    assert found.rio.transform() == east.rio.transform()
    assert found.shape == (100, 40)
    np.testing.assert_array_equal(found.values, model.predict(east).agb.values)
    # It has learnt its training data. Sixty columns are too few for more: in the east
    # its error is 0.9 to 1.05 times that of the mean, depending on the seed.
    assert model.evaluate(west).loc["all", "r2"] > 0.5
