"""Totals of regions: exact sums, coverage of intervals, errors that users see."""

import json
import math
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import rioxarray  # noqa: F401  (the .rio accessor)
import shapely
import xarray as xr
from typer.testing import CliRunner

import geobiomass as gb
from benchmarks.error_fields import blocks, field, residuals
from geobiomass.accounting.error_model import ErrorModel, fit_error_model
from geobiomass.cli import app
from geobiomass.cube import CubeError
from geobiomass.cube.areas import pixel_areas
from geobiomass.statistics.variogram import Variogram
from geobiomass.tiles import Window

SIZE = 256


@pytest.fixture(scope="module")
def truth() -> xr.DataArray:
    """A known landscape, Mg/ha."""
    return gb.landscape((SIZE, SIZE), months=1, seed=3, version=1)["agb"].compute()


@pytest.fixture(scope="module")
def poor(truth: xr.DataArray) -> xr.Dataset:
    """A map of it that is biased, noisy, and has a hole."""
    noise = np.random.default_rng(0).normal(0, 25, truth.shape)
    values = (40 + 1.5 * truth + noise).astype(np.float32)
    values[:20, :20] = np.nan
    return values.to_dataset(name="agb").assign_coords(truth.coords)


def corner(data: xr.DataArray) -> tuple[float, float, float]:
    """Return left, top and side of a pixel."""
    transform = data.rio.transform()
    return transform.c, transform.f, transform.a


def box(data: xr.DataArray, top: int, left: int, bottom: int, right: int) -> Any:
    x, y, side = corner(data)
    return shapely.box(
        x + left * side, y - bottom * side, x + right * side, y - top * side
    )


def parts(data: xr.DataArray) -> Any:
    """Return two regions, the second with a hole in the map."""
    shapes = [box(data, 100, 0, SIZE, SIZE), box(data, 0, 0, 100, 200)]
    return geopandas.GeoDataFrame(
        {"name": ["a", "b"]}, geometry=shapes, crs=data.rio.crs
    )


def drawn(truth: xr.DataArray, n: int, seed: int, margin: int = 0) -> pd.DataFrame:
    """Return a simple random sample of points, with the truth of their pixels."""
    random = np.random.default_rng(seed)
    rows, columns = random.uniform(margin, SIZE - margin, (2, n))
    x, y, side = corner(truth)
    observed = truth.values[rows.astype(int), columns.astype(int)]
    return pd.DataFrame(
        {"x": x + columns * side, "y": y - rows * side, "agb": observed}
    )


# --- sums ---


def test_sums_are_those_of_all_pixels(truth: xr.DataArray, poor: xr.Dataset) -> None:
    areas = pixel_areas(poor, Window(0, 0, SIZE, SIZE))
    table = gb.totals(poor, parts(truth), drawn(truth, 200, 0), progress=False)
    assert table.index.tolist() == ["a", "b"]
    for name, where in {
        "a": np.s_[100:, :],
        "b": np.s_[:100, :200],
    }.items():
        known = np.isfinite(poor.agb.values[where])
        row, values = table.loc[name], poor.agb.values[where][known].astype(float)
        assert row["area"] == pytest.approx(areas[where][known].sum(), rel=1e-9)
        assert row["unmapped"] == pytest.approx(areas[where][~known].sum(), rel=1e-9)
        mean = np.average(values, weights=areas[where][known])
        assert row["map_mean"] == pytest.approx(mean, rel=1e-9)
        assert row["total"] == pytest.approx(row["mean"] * row["area"])
        assert row["carbon"] == pytest.approx(0.47 * row["total"])
        assert row["carbon_upper"] == pytest.approx(0.47 * row["total_upper"])
    assert table.attrs["units"]["total"] == "Mg"
    assert table.attrs["confidence"] == 0.95


@pytest.mark.slow
def test_all_forms_of_a_map_give_the_same(
    tmp_path: Path, truth: xr.DataArray, poor: xr.Dataset
) -> None:
    plots, regions = drawn(truth, 200, 0), parts(truth)
    expected = gb.totals(poor, regions, plots, estimator="all", progress=False)
    assert expected["method"].tolist() == ["plots", "difference", "regression"] * 2
    poor.to_zarr(tmp_path / "map.zarr", zarr_format=3, consolidated=False)
    poor.agb.rio.to_raster(tmp_path / "map.tif")
    forms: list[Any] = [
        poor.chunk(y=64, x=64),
        poor.chunk(y=50, x=97),
        poor.agb,
        tmp_path / "map.zarr",
        str(tmp_path / "map.tif"),
    ]
    for form in forms:
        found = gb.totals(form, regions, plots, estimator="all", progress=False)
        pd.testing.assert_frame_equal(found, expected, rtol=1e-9)


def test_only_blocks_that_a_region_touches_are_read(
    truth: xr.DataArray, poor: xr.Dataset
) -> None:
    def break_elsewhere(values: Any, block_info: Any = None) -> Any:
        (top, _), (left, _) = block_info[0]["array-location"]
        assert top >= 128, f"block {top}, {left} was read"
        return values

    lazy = poor.chunk(y=64, x=64)
    lazy["agb"].data = lazy.agb.data.map_blocks(break_elsewhere, dtype=np.float32)
    region = {"south": box(truth, 130, 0, SIZE, SIZE).bounds}
    table = gb.totals(lazy, region, drawn(truth, 100, 1), progress=False)
    assert np.isfinite(table.loc["south", "total"])
    with pytest.raises(AssertionError, match=r"block 0, 0 was read"):
        gb.totals(lazy, None, drawn(truth, 100, 1), progress=False)


def test_a_map_in_degrees_weights_pixels_by_area() -> None:
    """Half of a map from 0 to 80 degrees north is far less than half of its area."""
    y, x = 80 - (np.arange(80) + 0.5), np.arange(20) + 0.5
    values = np.repeat(np.where(y > 40, 300.0, 100.0)[:, None], 20, axis=1)
    data = xr.Dataset({"agb": (("y", "x"), values)}, {"y": y, "x": x})
    data = data.rio.write_crs("EPSG:4326")
    random = np.random.default_rng(0)
    sine = np.sin(np.radians(80))
    plots = pd.DataFrame({"lon": random.uniform(0, 20, 300)})
    plots["lat"] = np.degrees(np.arcsin(random.uniform(0, sine, 300)))
    plots["agb"] = np.where(plots["lat"] > 40, 300.0, 100.0)
    row = gb.totals(data, None, plots, progress=False).iloc[0]
    share = 1 - np.sin(np.radians(40)) / sine
    assert row["map_mean"] == pytest.approx(100 + 200 * share, rel=0.01)
    assert row["mean"] == pytest.approx(row["map_mean"], rel=1e-6)
    alone = gb.totals(data, None, plots, estimator="plots", progress=False).iloc[0]
    assert alone["mean_lower"] < row["mean"] < alone["mean_upper"]


# --- intervals ---


@pytest.mark.slow
def test_intervals_cover_the_total_of_a_known_landscape(
    truth: xr.DataArray, poor: xr.Dataset
) -> None:
    """From a table of points to the interval of the total, 60 times."""
    whole = poor.copy(deep=True)
    whole["agb"].values[:20, :20] = 100
    areas = pixel_areas(whole, Window(0, 0, SIZE, SIZE))
    total = float((areas * truth.values).sum())
    tables = [
        gb.totals(whole, None, drawn(truth, 40, seed), estimator="all", progress=False)
        for seed in range(60)
    ]
    found = pd.concat(tables).set_index("method")
    assert found["map_mean"].iloc[0] > 1.5 * truth.values.mean()
    spreads = {}
    for method in ("plots", "difference", "regression"):
        rows = found.loc[method]
        inside = rows["total_lower"].le(total) & rows["total_upper"].ge(total)
        # Four standard errors of a share of 0.95 among 60.
        assert inside.mean() > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 60)
        spread = rows["total"].std()
        assert abs(rows["total"].mean() - total) < 4 * spread / math.sqrt(60)
        assert rows["total_se"].mean() == pytest.approx(spread, rel=4 / math.sqrt(120))
        spreads[method] = spread
    assert spreads["regression"] < spreads["plots"] / 1.5


def test_strata_are_weighted_by_their_area(
    truth: xr.DataArray, poor: xr.Dataset
) -> None:
    """Most plots are in forest; strata by raster, by column, and by hectares agree."""
    forest = (truth > float(truth.median())).astype("float32")
    forest = forest.rio.write_crs(truth.rio.crs)
    plots = drawn(truth, 400, 2)
    x, y, side = corner(truth)
    rows = ((y - plots["y"]) // side).astype(int)
    columns = ((plots["x"] - x) // side).astype(int)
    plots["kind"] = forest.values[rows, columns].astype(int)
    crowded = pd.concat([plots[plots.kind == 1], plots[plots.kind == 0].iloc[:25]])
    region = {"all": box(truth, 20, 20, SIZE, SIZE).bounds}
    areas = pixel_areas(poor, Window(20, 20, SIZE, SIZE))
    inside = forest.values[20:, 20:]
    true_mean = np.average(truth.values[20:, 20:], weights=areas)

    def call(**settings: Any) -> pd.Series:
        return gb.totals(poor, region, crowded, progress=False, **settings).iloc[0]

    hectares = {"0": areas[inside == 0].sum(), "1": areas[inside == 1].sum()}
    for method in ("plots", "difference", "regression"):
        raster = call(estimator=method, strata=forest)
        column = call(estimator=method, strata=forest, stratum="kind")
        listed = call(estimator=method, strata=hectares, stratum="kind")
        assert raster["mean"] == pytest.approx(column["mean"])
        if method != "regression":  # which has a line a stratum only with the raster
            assert raster["mean"] == pytest.approx(listed["mean"], rel=1e-6)
        for row in (raster, listed):
            assert abs(row["mean"] - true_mean) < 4 * row["mean_se"]
    naive = call(estimator="plots", force=True)
    assert naive["mean_lower"] > true_mean  # what strata are for
    assert "not a random sample" in naive["note"]


def test_weights_by_inclusion_probability_remove_the_bias(
    truth: xr.DataArray, poor: xr.Dataset
) -> None:
    plots = drawn(truth, 1500, 4, margin=20)
    random = np.random.default_rng(0)
    plots["chance"] = np.where(plots.agb > float(truth.median()), 0.6, 0.15)
    plots = plots[random.random(1500) < plots.chance]
    region = {"inner": box(truth, 20, 20, SIZE - 20, SIZE - 20).bounds}
    true_mean = float(truth.values[20:-20, 20:-20].mean())
    row = gb.totals(
        poor, region, plots, estimator="plots", probability="chance", progress=False
    ).iloc[0]
    assert abs(row["mean"] - true_mean) < 4 * row["mean_se"]
    naive = gb.totals(
        poor, region, plots, estimator="plots", progress=False, force=True
    ).iloc[0]
    assert naive["mean_lower"] > true_mean
    assert "not a random sample" in naive["note"]


# --- without plots ---

PIXEL = (10.0, 10.0)


def level(predicted: np.ndarray) -> np.ndarray:
    """Return the bias of errors by prediction, Mg/ha."""
    return 10 + 0.1 * predicted


def mapped(truth: xr.DataArray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a map with a bias and errors correlated over 80 m, and its errors."""
    correlated = Variogram(0.4, 0.6, 80.0, "exponential")
    z = field(truth.shape, correlated, PIXEL, np.random.default_rng(seed))
    predicted = truth.values.astype(float)
    return predicted, level(predicted) + (8 + 0.1 * predicted) * z


def held_out(truth: xr.DataArray, seed: int) -> pd.DataFrame:
    """Return held-out residuals of such a map, in blocks of 64 pixels."""
    predicted, error = mapped(truth, seed)
    return residuals(
        error, PIXEL, predicted=predicted, unit=blocks(truth.shape, 64), kind="scene"
    )


def test_a_total_without_plots_has_no_bias_and_its_interval_covers(
    truth: xr.DataArray,
) -> None:
    predicted, _ = mapped(truth, 0)
    data = truth.copy(data=predicted).to_dataset(name="agb")
    model = fit_error_model(held_out(truth, 1), pairs=20_000)
    region = {"inner": box(truth, 30, 30, 200, 220).bounds}
    inside = np.s_[30:200, 30:220]
    row = gb.totals(data, region, residuals=model, progress=False).iloc[0]
    areas = pixel_areas(data, Window(0, 0, SIZE, SIZE))[inside]
    expected = float(
        (areas * (predicted[inside] - model.bias(predicted[inside]))).sum()
    )
    assert row["total"] == pytest.approx(expected, rel=1e-6)
    assert row["method"] == "model"
    # Other maps with such errors: their total error is within the interval.
    half = (row["total_upper"] - row["total_lower"]) / 2
    assert half > row["total_se"] * 1.9
    apart = np.sqrt(((areas * model.sd(predicted[inside])) ** 2).sum())
    assert row["total_se"] > 3 * apart  # far more than independent pixels would give
    off = [
        float((areas * (mapped(truth, seed)[1] - level(predicted))[inside]).sum())
        for seed in range(10, 50)
    ]
    bias = float((areas * (level(predicted) - model.bias(predicted))[inside]).sum())
    inside_share = np.mean(np.abs(np.array(off) + bias) <= half)
    assert inside_share > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 40)


@pytest.mark.slow
def test_blocks_and_forms_of_residuals_do_not_matter(
    tmp_path: Path, truth: xr.DataArray
) -> None:
    data = truth.to_dataset(name="agb")
    table = held_out(truth, 1).iloc[::41]
    regions = parts(truth)
    model = fit_error_model(table)
    expected = gb.totals(data, regions, residuals=model, progress=False)

    class Validation:
        def residuals(self) -> pd.DataFrame:
            return table

    found = gb.totals(
        data.chunk(y=60, x=60), regions, residuals=Validation(), progress=False
    )
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9)
    data.to_zarr(tmp_path / "map.zarr", zarr_format=3, consolidated=False)
    regions.to_file(tmp_path / "regions.gpkg")
    (tmp_path / "model.json").write_text(json.dumps(model.to_dict()))
    table.to_csv(tmp_path / "residuals.csv")
    command = ["totals", str(tmp_path / "map.zarr"), str(tmp_path / "regions.gpkg")]
    # A CSV says nothing of pixels, nor whether distances between blocks have a meaning.
    for name, near in (("model.json", 1e-9), ("residuals.csv", 0.01)):
        given = ["--json", "--residuals", str(tmp_path / name)]
        result = CliRunner().invoke(app, [*command, *given])
        assert result.exit_code == 0, result.output
        said = json.loads(result.stdout.splitlines()[-1])
        assert said["based_on"] == "model"
        row = said["totals"][0]
        assert row["total"] == pytest.approx(expected.loc["a", "total"], rel=near)
        assert row["total_se"] > 0


def test_a_total_from_chips_notes_that_long_correlation_is_left_out(
    truth: xr.DataArray,
) -> None:
    table = held_out(truth, 1)
    words = "correlated over more than a chip"
    for kind in ("scene", "chips"):
        table.attrs["kind"] = kind
        model = ErrorModel.from_dict(fit_error_model(table, pairs=20_000).to_dict())
        row = gb.totals(truth, residuals=model, progress=False).iloc[0]
        assert (words in row["note"]) is (kind == "chips")


# --- what users meet ---


def test_one_bad_region_does_not_lose_the_others(
    truth: xr.DataArray, poor: xr.Dataset
) -> None:
    regions = parts(truth)
    more = [
        box(truth, 0, 0, 10, 10),  # in the hole
        box(truth, 200, 200, 203, 203),  # too few plots
        shapely.box(0, 0, 10, 10),  # elsewhere
    ]
    extra = geopandas.GeoDataFrame(
        {"name": ["hole", "small", "elsewhere"]}, geometry=more, crs=regions.crs
    )
    regions = pd.concat([regions, extra])
    plots = drawn(truth, 300, 0)
    with pytest.warns(UserWarning, match="1 of 5 regions reach beyond the map"):
        table = gb.totals(poor, regions, plots, progress=False)
    assert table.loc["elsewhere", "unmapped"] == pytest.approx(0.01, rel=0.01)
    assert np.isfinite(table.loc[["a", "b"], "total"]).all()
    assert table.loc["a", "note"] == ""
    assert "plots are on pixels without a value" in table.loc["b", "note"]
    assert table.loc[["hole", "small", "elsewhere"], "total_lower"].isna().all()
    assert "no value within the region" in table.loc["hole", "note"]
    assert "4 plots are needed for the regression" in table.loc["small", "note"]
    assert table.loc["elsewhere", "area"] == 0
    both = gb.totals(poor, regions.iloc[:2], plots, progress=False)
    pd.testing.assert_frame_equal(both, table.iloc[:2], check_exact=False)


def test_plots_with_a_radius_are_compared_with_the_pixels_within(
    truth: xr.DataArray, poor: xr.Dataset
) -> None:
    x, y, side = corner(truth)
    at = pd.DataFrame({"row": [120, 150, 180, 200], "column": [64, 128, 30, 200]})
    places = {"x": x + (at.column + 0.5) * side, "y": y - (at.row + 0.5) * side}
    nine = [
        float(poor.agb.values[r - 1 : r + 2, c - 1 : c + 2].astype(float).mean())
        for r, c in zip(at.row, at.column, strict=True)
    ]
    plots = pd.DataFrame({**places, "agb": nine})
    # Such plots look like training data, so the standard error has to be asked for.
    terms: Any = {"estimator": "difference", "progress": False, "force": True}
    row = gb.totals(poor, None, plots, radius=1.5 * side, **terms).iloc[0]
    assert row["mean_se"] == pytest.approx(0, abs=1e-4)
    # Polygons are compared with the pixels whose centre they hold.
    squares = [box(truth, r - 1, c - 1, r + 2, c + 2) for r, c in at.values]
    areas = geopandas.GeoDataFrame({"agb": nine}, geometry=squares, crs=truth.rio.crs)
    row = gb.totals(poor, None, areas, **terms).iloc[0]
    assert row["mean_se"] == pytest.approx(0, abs=1e-4)


def test_plots_that_reach_beyond_the_regions_blocks_are_whole(
    truth: xr.DataArray, poor: xr.Dataset
) -> None:
    _, y, side = corner(truth)
    plots = drawn(truth, 30, 6).assign(y=y - 128.5 * side)  # the region's first row
    region = {"south": box(truth, 128, 0, SIZE, SIZE).bounds}
    at_once, by_block = (
        gb.totals(form, region, plots, radius=30, progress=False)
        for form in (poor, poor.chunk(y=64, x=64))
    )
    pd.testing.assert_frame_equal(at_once, by_block, rtol=1e-9)


def test_weights_that_differ_much_are_noted(
    truth: xr.DataArray, poor: xr.Dataset
) -> None:
    plots = drawn(truth, 40, 0)
    plots["chance"] = np.where(np.arange(40) < 36, 1.0, 0.01)
    row = gb.totals(poor, None, plots, probability="chance", progress=False).iloc[0]
    assert "40 plots are worth" in row["note"] or "39 plots are worth" in row["note"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"plots": None}, r"plots= .* or residuals= .*no valid interval"),
        ({"residuals": pd.DataFrame()}, r"plots= or residuals=, got both"),
        ({"estimator": "ratio"}, r"estimator must be one of .*'ratio'"),
        ({"confidence": 95}, r"between 0 and 1, such as 0.95, got 95"),
        ({"carbon_fraction": 47}, r"carbon_fraction .*got 47"),
        ({"observed": "biomass"}, r"no column 'biomass'.*observed="),
        ({"probability": "p"}, r"column 'p', got the columns \['x', 'y', 'agb'\]"),
        ({"stratum": "agb"}, r"need the strata's areas: strata="),
        ({"strata": {"a": 3}}, r"needs stratum=, the plots' column"),
        (
            {"strata": {"a": 3}, "regions": "two"},
            r"a raster for several regions, .*and 2 regions",
        ),
        ({"radius": -1}, r"radius must be above 0 metres, got -1"),
        ({"plots": None, "residuals": 3}, r"residuals must be a table.*got a int"),
    ],
)
def test_invalid_settings_raise(
    settings: dict[str, Any], message: str, truth: xr.DataArray, poor: xr.Dataset
) -> None:
    settings = {"plots": drawn(truth, 50, 0), "progress": False} | settings
    if settings.get("regions") == "two":
        settings["regions"] = parts(truth)
    with pytest.raises(ValueError, match=message):
        gb.totals(poor, **settings)


def test_maps_that_cannot_be_read_raise(
    tmp_path: Path, truth: xr.DataArray, poor: xr.Dataset
) -> None:
    plots = drawn(truth, 50, 0)
    two = poor.assign(b=poor.agb, a=poor.agb).drop_vars("agb")
    with pytest.raises(CubeError, match=r"no layer 'agb', it has \['b', 'a'\]"):
        gb.totals(two, None, plots)
    with pytest.raises(FileNotFoundError, match=r"nothing at"):
        gb.totals(tmp_path / "none.tif", None, plots)
    with pytest.raises(CubeError, match=r"must be within the map, got 50 outside"):
        gb.totals(poor, None, plots.assign(x=0.0))
    other = truth.isel(x=slice(0, 100)).to_dataset()
    with pytest.raises(CubeError, match=r"strata must be on the grid of the map"):
        gb.totals(poor, None, plots, strata=other)


def test_the_command_answers_with_the_same_numbers(
    tmp_path: Path, truth: xr.DataArray, poor: xr.Dataset
) -> None:
    plots, regions = drawn(truth, 200, 0), parts(truth)
    poor.to_zarr(tmp_path / "map.zarr", zarr_format=3, consolidated=False)
    plots.to_csv(tmp_path / "plots.csv", index=False)
    regions.to_file(tmp_path / "regions.gpkg")
    command = ["totals", str(tmp_path / "map.zarr"), str(tmp_path / "regions.gpkg")]
    command += ["--plots", str(tmp_path / "plots.csv")]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout.splitlines()[-1])
    expected = gb.totals(poor, regions, plots, progress=False)
    assert [row["region"] for row in said["totals"]] == ["a", "b"]
    assert said["totals"][0]["total"] == pytest.approx(expected.loc["a", "total"])
    assert said["units"]["total"] == "Mg"
    text = CliRunner().invoke(app, [*command, "--confidence", "0.9"])
    assert text.exit_code == 0
    assert "90 %" in text.stdout
    assert "Mg" in text.stdout
