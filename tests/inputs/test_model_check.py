"""``model.check``: what does not look like the training data is told beforehand."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import pytest
import rioxarray  # noqa: F401  (the .rio accessor)
import xarray as xr
from variants import variants

import geobiomass as gb
from geobiomass.cube.statistics import band_statistics
from geobiomass.data.band_profile import BandProfile
from geobiomass.data.input_sample import InputSample, sample_input
from geobiomass.data.reader import Reader
from geobiomass.inference.input_check import check_input
from geobiomass.tiles import blocks, samples_on_chips

SMALL: dict[str, Any] = {
    "decoder_channels": (8,) * 5,
    "encoder": "test_resnet",
    "crop": 32,
    "block": 32,
    "epochs": 1,
    "batch_size": 4,
    "progress": False,
    "domain_cells": 0,
}
OPTICAL = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
RADAR = ("VV_asc", "VH_asc", "VV_desc", "VH_desc")


def scene(size: int = 96, seed: int = 0) -> xr.Dataset:
    """Return two months of radar in dB, red and near infrared x 10000, as case 16."""
    draw = np.random.default_rng(seed)
    stands = draw.uniform(20, 250, (size // 8, size // 8))
    agb = np.kron(stands, np.ones((8, 8))).astype("float32")

    def month() -> npt.NDArray[np.float64]:
        noise = draw.normal(0, 1, (3, size, size))
        radar = -15 + 5 * np.tanh(agb / 100) + 0.5 * noise[0]
        red = 3000 * np.exp(-agb / 150) + 50 * noise[1]
        return np.stack([radar, red, 2000 + 5 * agb + 50 * noise[2]])

    image = np.stack([month(), month()]).astype("float32")
    return xr.Dataset(
        {"image": (("month", "band", "y", "x"), image), "agb": (("y", "x"), agb)},
        coords={
            "month": [6, 7],
            "band": ["VV_asc", "B04", "B08"],
            "y": 6_900_000 - 10.0 * np.arange(size),
            "x": 500_000 + 10.0 * np.arange(size),
        },
    ).rio.write_crs("EPSG:32635")


@pytest.fixture(scope="module")
def model() -> gb.BiomassRegressor:
    return gb.fit(scene(), "quick", **SMALL)


Change = Callable[[npt.NDArray[np.float32]], Any]


def changed(cube: xr.Dataset, bands: list[str], change: Change) -> xr.Dataset:
    cube = cube.copy(deep=True)
    at = [list(cube["band"].values).index(band) for band in bands]
    cube["image"].values[..., at, :, :] = change(cube["image"].values[..., at, :, :])
    return cube


def verdicts(model: gb.BiomassRegressor, cube: xr.Dataset) -> dict[str, str]:
    return dict(model.check(cube)["verdict"])


def nodata_in_columns(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    values[..., :20] = -999  # as_cube takes it as missing where it is in memory
    return values


LIGHT = ["B04", "B08"]
CASES: list[tuple[str, list[str], Change, str, str]] = [
    ("0..1", LIGHT, lambda v: v / 1e4, "wrong scale", "multiply it by 10000"),
    ("percent", LIGHT, lambda v: v / 100, "wrong scale", "multiply them by 100"),
    ("one band", ["B08"], lambda v: v / 1e4, "wrong scale", "multiply it by 10000"),
    (
        "0..1 and offset",
        LIGHT,
        lambda v: (v + 1000) / 1e4,
        "wrong scale",
        "10000 - 1000",
    ),
    ("offset", LIGHT, lambda v: v + 1000, "offset", "subtract 1000"),
    ("power", ["VV_asc"], lambda v: 10 ** (v / 10), "wrong scale", "10 * log10"),
    ("amplitude", ["VV_asc"], lambda v: 10 ** (v / 20), "wrong scale", "20 * log10"),
    ("numbers", ["VV_asc"], lambda v: 10 ** ((v + 83) / 20), "wrong scale", "- 83"),
    ("0.01 dB", ["VV_asc"], lambda v: v * 100, "wrong scale", "divide them by 100"),
    ("positive dB", ["VV_asc"], lambda v: -v, "wrong scale", "use -values"),
    ("-999", ["VV_asc"], nodata_in_columns, "nodata as values", "nodata=-999"),
    ("missing", ["VV_asc"], lambda v: v * np.nan, "missing", "no value in the sample"),
    ("all zero", ["B04"], lambda v: v * 0, "nodata as values", "all values are 0"),
    (
        "numbers of Landsat",
        LIGHT,
        lambda v: (v / 1e4 + 0.2) / 2.75e-5,
        "unusual",
        "Landsat",
    ),
]


@pytest.mark.parametrize(
    ("bands", "change", "verdict", "cause"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_a_fault_has_its_verdict_and_its_remedy(
    model: gb.BiomassRegressor,
    bands: list[str],
    change: Change,
    verdict: str,
    cause: str,
) -> None:
    cube = changed(scene(seed=1), bands, change)
    cube = cube.chunk() if change is nodata_in_columns else cube
    table = model.check(cube)
    for band in table.index:
        expected = verdict if band in bands else "ok"
        assert table.loc[band, "verdict"] == expected, table.loc[band]
    assert all(cause in text for text in table.loc[bands, "cause"])
    if verdict == "wrong scale":
        with pytest.raises(gb.CubeError, match=f"wrong scale .*{re.escape(cause)}"):
            model.predict(cube)
        return
    with pytest.warns(UserWarning, match=re.escape(cause)) as told:
        model.predict(cube)
    assert len(told) == 1
    with pytest.raises(gb.CubeError, match="check='warn' goes on"):
        model.predict(cube, check="raise")


def test_right_input_is_not_warned_of(model: gb.BiomassRegressor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for cube in (
            scene(seed=1),
            scene(seed=2).isel(month=[1]),
            scene(seed=3).assign_coords(month=[1, 2]),
            scene(32, seed=4),
        ):
            assert set(model.check(cube)["verdict"]) == {"ok"}
            model.predict(cube, check="raise")


def test_the_table_has_percentiles_of_both(model: gb.BiomassRegressor) -> None:
    cube = scene(seed=1)
    table = model.check(cube)
    assert list(table.index) == ["VV_asc", "B04", "B08"]
    values = cube["image"].sel(band="B04").values
    np.testing.assert_allclose(table.loc["B04", "input_p50"], np.median(values))
    learnt = model.provenance["inputs"]["bands"]["B04"]
    trained = scene()["image"].sel(band="B04").values
    assert table.loc["B04", "training_p95"] == learnt["p95"]
    assert abs(learnt["p50"] / np.median(trained) - 1) < 0.1  # a tenth is held out
    assert learnt["minimum"] <= learnt["p1"] < learnt["p99"] <= learnt["maximum"]
    assert list(model.provenance["inputs"]["months"]) == ["6", "7"]
    low, high = table.loc["B04", ["training_p1", "training_p99"]]
    outside = ((values < 0.99 * low) | (values > 1.01 * high)).mean()
    assert table.loc["B04", "outside"] == pytest.approx(outside, abs=1e-3)
    assert table.attrs["sample"].startswith("9,216 of 9,216 pixels")


def test_a_fault_in_some_months_is_named_with_them(model: gb.BiomassRegressor) -> None:
    cube = scene(seed=1)
    for change, verdict in (
        (lambda v: v / 1e4, "wrong scale"),
        (lambda v: v + 1000, "offset"),
    ):
        part = cube.copy(deep=True)
        part["image"].values[1, 1:] = change(part["image"].values[1, 1:])
        table = model.check(part)
        assert list(table["verdict"]) == ["ok", verdict, verdict]
        assert all(text.startswith("in month 7 only") for text in table["cause"][1:])


def test_swapped_bands(model: gb.BiomassRegressor) -> None:
    cube = scene(seed=1).assign_coords(band=["VV_asc", "B08", "B04"])
    table = model.check(cube)
    assert dict(table["verdict"]) == {
        "VV_asc": "ok",
        "B04": "swapped",
        "B08": "swapped",
    }
    assert "B04 holds B08" in table.loc["B04", "cause"]
    other = scene(seed=1).assign_coords(band=["B04", "VV_asc", "B08"])
    with pytest.raises(gb.CubeError, match="VV_asc"):
        model.predict(other)


def test_zero_as_nodata(model: gb.BiomassRegressor) -> None:
    cube = scene(seed=1)
    cube["image"].values[..., :20] = 0
    assert set(model.check(cube)["verdict"]) == {"nodata as values"}


# The small model of these tests leaves the range of its labels now and then.
@pytest.mark.filterwarnings("ignore:.*are beyond the range of the labels")
@pytest.mark.filterwarnings("ignore:.*trained the model")  # the same coordinates
def test_predict_to_and_evaluate_check_too(
    model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    wrong = changed(scene(seed=1), LIGHT, lambda v: v / 1e4)
    for call in (
        lambda **how: model.predict_to(
            tmp_path / "map.zarr", wrong, progress=False, **how
        ),
        lambda **how: model.evaluate(wrong, bootstrap=0, **how),
    ):
        with pytest.raises(gb.CubeError, match="2 of 3 bands do not look like"):
            call()
        assert not list(tmp_path.iterdir())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "[^:]*do not look like")
        model.predict_to(tmp_path / "map.zarr", wrong, progress=False, check="off")
        table = model.evaluate(wrong, bootstrap=0, check="off")
    assert table.attrs["input check"] == {"result": "off"}
    assert gb.provenance(tmp_path / "map.zarr")["check"] == {"result": "off"}


def test_chips_for_the_competition_are_checked(
    model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    parts = [scene(32, seed).drop_vars(["y", "x", "spatial_ref"]) for seed in (1, 2)]
    chips = xr.concat(parts, "chip").assign_coords(chip=["a", "b"])
    chips["image"] = chips["image"].transpose("chip", "month", "band", "y", "x")
    assert set(model.check(chips)["verdict"]) == {"ok"}
    wrong = changed(chips, LIGHT, lambda v: v / 1e4)
    with pytest.raises(gb.CubeError, match="multiply it by 10000"):
        model.predict_chips_to(tmp_path / "chips", wrong, progress=False)


# The small model of these tests leaves the range of its labels now and then.
@pytest.mark.filterwarnings("ignore:.*are beyond the range of the labels")
def test_the_result_is_in_the_map_and_does_not_change_it(
    model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    cube = changed(scene(seed=1), LIGHT, lambda v: v + 1000)
    with pytest.warns(UserWarning, match="offset of 1000"):
        told = model.predict_to(tmp_path / "told.tif", cube, progress=False)
    note = gb.provenance(told)["check"]
    assert note["verdicts"] == {"B04": "offset", "B08": "offset"}
    assert "offset of 1000" in note["result"]
    assert "9,216 pixels" in note["sample"]
    assert "offset of 1000" in str(gb.provenance(told))
    off = model.predict(cube, check="off")
    with pytest.warns(UserWarning, match="offset of 1000"):
        warned = model.predict(cube)
    np.testing.assert_array_equal(off["agb"], warned["agb"])
    model.predict_to(tmp_path / "told.tif", cube, progress=False, check="off")  # there
    good = gb.provenance(model.predict(scene(seed=1)))["check"]
    assert good["result"] == "ok"


@pytest.mark.slow
def test_models_of_earlier_releases_say_how_to_learn_it(tmp_path: Path) -> None:
    trained = gb.fit(scene(), "quick", **SMALL)
    known = trained.provenance["inputs"]
    trained.provenance = {k: v for k, v in trained.provenance.items() if k != "inputs"}
    trained.save(tmp_path / "old")
    old = gb.load(tmp_path / "old")
    wrong = changed(scene(seed=1), LIGHT, lambda v: v / 1e4)
    table = old.check(wrong)
    assert set(table["verdict"]) == {"unknown"}
    assert all("model.learn_percentiles" in text for text in table["cause"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        old.predict(wrong)
    with pytest.raises(gb.CubeError, match="cannot be checked"):
        old.predict(wrong, check="raise")
    old.learn_percentiles(scene()).save(tmp_path / "new")
    new = gb.load(tmp_path / "new")
    assert verdicts(new, wrong)["B04"] == "wrong scale"
    found = new.provenance["inputs"]["bands"]["B04"]
    assert found["p50"] == pytest.approx(known["bands"]["B04"]["p50"], rel=0.1)
    assert json.dumps(new.provenance["inputs"])


def test_an_ensemble_has_the_worst_verdict_of_its_models(
    model: gb.BiomassRegressor,
) -> None:
    both = gb.Ensemble([model, model])
    assert set(both.check(scene(seed=1))["verdict"]) == {"ok"}
    wrong = changed(scene(seed=1), ["VV_asc"], lambda v: 10 ** (v / 10))
    assert dict(both.check(wrong)["verdict"])["VV_asc"] == "wrong scale"
    with pytest.raises(gb.CubeError, match="linear power"):
        both.predict(wrong)


def test_of_a_lazy_cube_only_the_sample_is_computed(model: gb.BiomassRegressor) -> None:
    size, read = 1024, []
    values = scene(64, seed=1)["image"].values
    tiled = np.tile(values, (1, 1, size // 64, size // 64))

    def block(block_info: Any = None) -> npt.NDArray[np.float32]:
        spans = block_info[None]["array-location"]
        read.append(spans)
        return tiled[tuple(slice(a, b) for a, b in spans)]

    image = da.map_blocks(
        block,
        chunks=((1, 1), (3,), (128,) * 8, (128,) * 8),
        dtype=np.float32,
        meta=np.empty((0,) * 4, np.float32),
    )
    cube = xr.Dataset(
        {"image": (("month", "band", "y", "x"), image)},
        coords={
            "month": [6, 7],
            "band": ["VV_asc", "B04", "B08"],
            "y": -10.0 * np.arange(size),
            "x": 10.0 * np.arange(size),
        },
    )
    table = model.check(cube)
    assert set(table["verdict"]) == {"ok"}
    assert len(read) == 2 * 4  # months, windows: each in one chunk
    assert table.attrs["sample"] == (
        "16,384 of 1,048,576 pixels, in 4 windows, spread evenly over the scene"
    )
    assert table.equals(model.check(cube))  # the same windows each time


def test_a_region_is_checked_and_nothing_else(model: gb.BiomassRegressor) -> None:
    cube = scene(seed=1)
    cube["image"].values[:, 1:, :, 48:] /= 1e4
    left = (
        *map(float, (cube.x[0] - 5, cube.y[-1] - 5)),
        float(cube.x[40]),
        float(cube.y[0]) + 5,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.predict(cube, region=left, check="raise")
    with pytest.raises(gb.CubeError):
        model.predict(cube, check="raise")


# --- a year of clouds, snow and gaps: no false alarms, and faults are found ---


def sampled(cube: xr.Dataset) -> InputSample:
    reader = Reader(cube, [str(band) for band in cube["band"].values])
    return sample_input(
        reader, samples_on_chips(blocks(reader.height, reader.width, 1024), None)
    )


def profile(cube: xr.Dataset) -> BandProfile:
    return BandProfile.of(band_statistics(cube), sampled(cube).by_month())


@pytest.fixture(scope="module")
def years() -> list[xr.Dataset]:
    return [gb.landscape(96, seed=seed, version=1).compute() for seed in range(3)]


@pytest.fixture(scope="module")
def profiles(years: list[xr.Dataset]) -> list[BandProfile]:
    return [profile(year) for year in years]


def bad(known: BandProfile, cube: xr.Dataset) -> dict[str, str]:
    table = check_input([(list(known.bands), known)], sampled(cube))
    return {str(k): v for k, v in table["verdict"].items() if v != "ok"}


@variants("trained", range(3), quick=1)
@pytest.mark.parametrize("mapped", range(3))
def test_other_landscapes_give_no_alarm(
    years: list[xr.Dataset], profiles: list[BandProfile], trained: int, mapped: int
) -> None:
    cube = years[mapped]
    assert bad(profiles[trained], cube) == {}
    never = {"wrong scale", "offset", "swapped", "nodata as values"}
    for start in range(0, 96, 32):
        at = slice(start, start + 32)
        assert not never & set(bad(profiles[trained], cube.isel(y=at, x=at)).values())
    for month in range(0, 12, 3):
        one = cube.isel(month=[month])
        assert not never & set(bad(profiles[trained], one).values())


@pytest.mark.parametrize(
    ("bands", "change", "verdict"),
    [
        (OPTICAL, lambda v: v / 1e4, "wrong scale"),
        (OPTICAL, lambda v: (v + 1000) / 1e4, "wrong scale"),
        (OPTICAL, lambda v: v + 1000, "offset"),
        (RADAR, lambda v: 10 ** (v / 10), "wrong scale"),
        (RADAR, lambda v: 10 ** (v / 20), "wrong scale"),
        (("CLP",), lambda v: v * 2.55, "unusual"),
    ],
)
@pytest.mark.slow
def test_faults_are_found_in_a_cloudy_year(
    years: list[xr.Dataset],
    profiles: list[BandProfile],
    bands: tuple[str, ...],
    change: Change,
    verdict: str,
) -> None:
    for known, cube in ((profiles[0], years[1]), (profiles[2], years[0])):
        found = bad(known, changed(cube, list(bands), change))
        assert found == dict.fromkeys(bands, verdict)


def test_the_offset_of_half_a_year_is_found(
    years: list[xr.Dataset], profiles: list[BandProfile]
) -> None:
    cube = years[1].copy(deep=True)
    at = [list(cube["band"].values).index(band) for band in OPTICAL]
    cube["image"].values[6:, at] += 1000  # since January 2022, as archives have it
    assert bad(profiles[0], cube) == dict.fromkeys(OPTICAL, "offset")


def test_another_season_is_named(years: list[xr.Dataset]) -> None:
    known = profile(years[0].isel(month=slice(9, 12)))
    winter = years[0].isel(month=[5])
    table = check_input([(list(known.bands), known)], sampled(winter))
    assert "other season" in set(table["verdict"])
    assert table.loc["B02", "cause"].startswith("month 2 is not in the training data")


@pytest.mark.parametrize("folder", ["biomassters", "biomassters_small"])
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.slow
def test_real_chips_are_like_each_other(data: Path, folder: str) -> None:
    chips = gb.from_biomassters(data / folder).compute()
    reader = Reader(chips, [str(band) for band in chips["band"].values])
    units = samples_on_chips(blocks(reader.height, reader.width, 1024), reader.count)
    known = BandProfile.of(
        band_statistics(chips), sample_input(reader, units).by_month()
    )
    for number in range(reader.count):
        found = check_input(
            [(reader.bands, known)], sample_input(reader, [units[number]])
        )
        assert set(found["verdict"]) == {"ok"}, chips["chip"].values[number]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*trained the model")
def test_the_command_has_check(
    model: gb.BiomassRegressor,
    tmp_path: Path,
    run: Callable[..., tuple[int, str, str]],
) -> None:
    model.save(tmp_path / "model")
    wrong = changed(scene(seed=1), LIGHT, lambda v: v / 1e4)
    gb.write_cube(wrong, tmp_path / "wrong.zarr", dtype="float32")
    words = (tmp_path / "model", tmp_path / "wrong.zarr")
    code, _, err = run("predict", *words, tmp_path / "map.tif")
    assert code in (1, 2)
    assert "multiply it by 10000" in " ".join(err.split())
    code, _, err = run("evaluate", *words)
    assert code in (1, 2)
    assert "multiply it by 10000" in " ".join(err.split())
    assert run("evaluate", *words, "--check", "off")[0] == 0
    code, _, err = run("evaluate", *words, "--check", "never")
    assert code in (1, 2)
    assert "check must be 'warn'" in " ".join(err.split())


def test_a_band_of_one_value_in_training_is_not_missed(years: list[xr.Dataset]) -> None:
    def with_band(value: float) -> xr.Dataset:
        changed = years[0].copy()
        image = changed["image"]
        changed["image"] = image.where(image["band"] != "B8A", value)
        return changed

    known = profile(with_band(5.0))
    assert bad(known, with_band(np.nan)) == {}
    assert bad(profile(years[0]), with_band(np.nan)) == {"B8A": "missing"}
