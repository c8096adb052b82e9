"""Totals of regions with few plots each: rows, checks, refusals, commands."""

from __future__ import annotations

import json
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
from geobiomass.accounting import sample_checks
from geobiomass.cli import app
from geobiomass.statistics.interval_of_mean import IntervalRule
from geobiomass.statistics.small_areas import small_area_means

SIDE, PIXELS = 5, 24  # regions across, and pixels of a region
SIZE = SIDE * PIXELS


def as_map(values: Any) -> xr.Dataset:
    scene = xr.Dataset(
        {"agb": (("y", "x"), np.asarray(values, np.float32))},
        coords={
            "y": 5_999_990.0 - 20 * np.arange(SIZE),
            "x": 500_010.0 + 20 * np.arange(SIZE),
        },
    )
    return scene.rio.write_crs("EPSG:32633")  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def truth() -> Any:
    """Biomass of regions that differ from what the map has."""
    random = np.random.default_rng(4)
    values = random.gamma(9, 10, (SIZE, SIZE))
    own = np.kron(random.normal(0, 18, (SIDE, SIDE)), np.ones((PIXELS, PIXELS)))
    return 40 + values + own


@pytest.fixture(scope="module")
def mapped(truth: Any) -> xr.Dataset:
    random = np.random.default_rng(5)
    own = truth.reshape(SIDE, PIXELS, SIDE, PIXELS).mean((1, 3)) - 130
    level = np.kron(own, np.ones((PIXELS, PIXELS)))
    return as_map(30 + 0.7 * (truth - level) + random.normal(0, 10, truth.shape))


def regions() -> Any:
    side = 20 * PIXELS
    shapes = [
        shapely.box(
            500_000 + column * side,
            6_000_000 - (row + 1) * side,
            500_000 + (column + 1) * side,
            6_000_000 - row * side,
        )
        for row in range(SIDE)
        for column in range(SIDE)
    ]
    names = [f"r{number}" for number in range(len(shapes))]
    return geopandas.GeoDataFrame({"name": names}, geometry=shapes, crs=32633)


def sample(truth: Any, n: int = 90, seed: int = 0) -> pd.DataFrame:
    """Return random plots, none of them in the first region."""
    row, column = np.random.default_rng(seed).uniform(0, SIZE, (2, n))
    kept = (row >= PIXELS) | (column >= PIXELS)
    row, column = row[kept], column[kept]
    return pd.DataFrame(
        {
            "x": 500_000 + 20 * column,
            "y": 6_000_000 - 20 * row,
            "agb": truth[row.astype(int), column.astype(int)],
            "tract": "a",
        }
    )


def totals(mapped: Any, plots: Any, shapes: Any = None, **settings: Any) -> Any:
    chosen = {"estimator": "small area", "progress": False} | settings
    if shapes is not None:
        return gb.totals(mapped, shapes, plots, name="name", **chosen)
    # Bounds are read faster than a GeoDataFrame.
    bounds = {f"r{k}": shape.bounds for k, shape in enumerate(regions().geometry)}
    return gb.totals(mapped, bounds, plots, **chosen)


@pytest.fixture(scope="module")
def table(truth: Any, mapped: xr.Dataset) -> pd.DataFrame:
    return totals(mapped, sample(truth))


def test_rows_are_the_composite_of_all_regions(
    truth: Any, mapped: xr.Dataset, table: pd.DataFrame
) -> None:
    plots = sample(truth)
    row = ((6_000_000 - plots["y"]) // 20).astype(int)
    column = ((plots["x"] - 500_000) // 20).astype(int)
    x = mapped["agb"].values[row, column]
    home = row // PIXELS * SIDE + column // PIXELS
    expected = small_area_means(plots["agb"], x, home, table["map_mean"])
    assert table["mean"].to_numpy() == pytest.approx(expected.mean)
    assert table["mean_se"].to_numpy() == pytest.approx(np.sqrt(expected.mse))
    assert table["own_weight"].to_numpy() == pytest.approx(expected.weight)
    assert table["plots"].tolist() == np.bincount(home, minlength=25).tolist()
    assert table["freedom"].to_numpy() == pytest.approx(expected.freedom)
    assert (table["total"] == table["mean"] * table["area"]).all()
    assert set(table["interval"]) == {"t"}
    assert set(table["method"]) == {"small area"}
    assert table.columns[-1] == "note"
    model = table.attrs["small_areas"]
    assert model["sd_between_regions"] == pytest.approx(expected.between**0.5)
    assert model["regions_with_plots"] == (table["plots"] > 0).sum()
    assert table.attrs["units"]["own_mean"] == "Mg/ha"


def test_it_is_nearer_to_the_truth_than_its_parts(
    truth: Any, table: pd.DataFrame
) -> None:
    means = truth.reshape(SIDE, PIXELS, SIDE, PIXELS).mean((1, 3)).ravel()
    some = table["plots"] > 0

    def error(column: str) -> float:
        return float(((table[column] - means)[some] ** 2).mean() ** 0.5)

    assert error("mean") < min(error("own_mean"), error("synthetic_mean"))
    inside = (table["mean_lower"] <= means) & (means <= table["mean_upper"])
    assert inside.sum() >= 21  # of 25, 95 % each


def test_a_region_without_plots_is_the_regression_and_told(
    table: pd.DataFrame,
) -> None:
    row = table.loc["r0"]
    assert row["plots"] == 0
    assert row["own_weight"] == 0
    assert np.isnan(row["own_mean"])
    assert row["mean"] == row["synthetic_mean"]
    assert row["mean_se"] > table.loc[table["plots"] > 0, "mean_se"].max()
    assert row["verdict"] == "doubtful"
    assert "no plots of its own: only the regression over other regions" in row["note"]
    words = gb.explain_totals(table)
    assert "regions differ from the line by" in words
    assert "hold in 95 % of regions, and not in each one" in words


@pytest.mark.slow
def test_plots_that_are_no_random_sample_have_no_interval(
    truth: Any, mapped: xr.Dataset
) -> None:
    plots = sample(truth, 900)
    row = ((6_000_000 - plots["y"]) // 20).astype(int)
    column = ((plots["x"] - 500_000) // 20).astype(int)
    tall = mapped["agb"].values[row, column] > 130
    found = totals(mapped, plots[tall].head(80))
    assert np.isfinite(found["mean"]).all()
    assert found["mean_se"].isna().all()
    assert found["note"].str.contains("not a random sample of their regions").all()
    forced = totals(mapped, plots[tall].head(80), force=True)
    assert np.isfinite(forced["mean_se"]).all()
    assert set(forced["verdict"]) == {"forced"}


def test_a_region_without_a_value_has_no_estimate_and_others_do(
    truth: Any, mapped: xr.Dataset, table: pd.DataFrame
) -> None:
    values = mapped["agb"].values.copy()
    values[:PIXELS, PIXELS : 2 * PIXELS] = np.nan
    found = totals(as_map(values), sample(truth))
    assert found.loc["r1", "verdict"] == "no estimate"
    assert "no value within the region" in found.loc["r1", "note"]
    assert np.isfinite(found["mean"].drop("r1")).all()
    assert found.attrs["small_areas"]["plots"] < table.attrs["small_areas"]["plots"]


def test_a_sum_of_regions_adds_their_errors_as_correlated(table: pd.DataFrame) -> None:
    whole = gb.accounting.combine_regions(table).iloc[0]
    assert whole["total_se"] == pytest.approx(table["total_se"].sum())
    assert "fully correlated" in whole["note"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cluster": "tract"}, r"at random and alone .* got cluster=; use"),
        ({"probability": "agb"}, r"got probability=; use"),
        ({"population": 400}, r"got population=; use"),
        ({"design": "systematic"}, r"leave design= out, got 'systematic'"),
        ({"interval": IntervalRule()}, r"leave interval= out"),
        ({"shapes": regions()[:9]}, r"at least 10 regions with plots.* got 7; "),
        (
            {"shapes": pd.concat([regions(), regions()[3:4].assign(name="again")])},
            r"do not overlap, as a plot is of one region; 23\.0. ha of 'r3' also",
        ),
    ],
)
def test_what_it_cannot_take(
    truth: Any, mapped: xr.Dataset, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        totals(mapped, sample(truth), **settings)


def test_neither_residuals_nor_change(truth: Any, mapped: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"'small area' needs plots=, got residuals="):
        totals(mapped, None, residuals=pd.DataFrame())
    plots = sample(truth).rename(columns={"agb": "agb_first"})
    with pytest.raises(ValueError, match=r"'small area' is for the biomass of one"):
        gb.change_totals(mapped, mapped, regions(), plots=plots, estimator="small area")


@pytest.mark.slow
def test_the_command(tmp_path: Path, truth: Any, table: pd.DataFrame) -> None:
    file, shapes, plots = (tmp_path / name for name in ("m.tif", "r.gpkg", "p.csv"))
    source = as_map(truth)
    source["agb"].rio.to_raster(file)
    regions().to_file(shapes)
    sample(truth).assign(agb=lambda each: each["agb"] + 5 * np.sin(each["x"])).to_csv(
        plots, index=False
    )
    words = ["totals", str(file), str(shapes), "--plots", str(plots), "--json"]
    words += ["--estimator", "small area", "--name", "name", "--force"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert {row["method"] for row in facts["totals"]} == {"small area"}
    assert facts["small_areas"]["plots"] == len(sample(truth))


def test_applicability_counts_where_a_region_has_no_plots(
    truth: Any, mapped: xr.Dataset
) -> None:
    inside = xr.ones_like(mapped["agb"]).astype(np.uint8)
    inside[:PIXELS, : 2 * PIXELS] = 0  # two regions, of which the first has no plots
    found = totals(mapped.assign(applicable=inside), sample(truth))
    assert found.loc["r1", "plots"] > 0
    assert np.isfinite(found.loc["r1", "mean_se"])
    assert np.isnan(found.loc["r0", "mean_se"])
    assert "outside of the area of applicability" in found.loc["r0", "note"]


def verdicts(table: pd.DataFrame, region: str = "r7") -> dict[str, str]:
    return {
        check["check"]: check["verdict"]
        for check in table.attrs["checks"]
        if check["region"] == region
    }


@pytest.fixture(scope="module")
def plain() -> xr.Dataset:
    return as_map(np.random.default_rng(6).uniform(20, 300, (SIZE, SIZE)))


def observed(mapped: xr.Dataset, spread: Any, own: Any, seed: int = 3) -> pd.DataFrame:
    """Return plots by the map, with a spread of each value and the regions' own."""
    random = np.random.default_rng(7)
    values = mapped["agb"].values.astype(float)
    values = values + spread(values) * random.normal(size=values.shape)
    own = np.kron(np.reshape(own, (SIDE, SIDE)), np.ones((PIXELS, PIXELS)))
    return sample(np.maximum(values + own, 0.0), 150, seed)


@pytest.mark.slow
def test_each_check_of_the_model_speaks_where_it_should(
    plain: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Random points of every region are not the subject, and take most of the time.
    monkeypatch.setattr(sample_checks, "nearness", lambda *_: (1.0, 1.0))
    own = np.random.default_rng(8).normal(0, 20, SIDE**2)
    fine = totals(plain, observed(plain, lambda v: 20.0, own))
    assert set(verdicts(fine).values()) == {"ok"}

    def doubted(table: pd.DataFrame, region: str = "r7") -> set[str]:
        return {name for name, each in verdicts(table, region).items() if each != "ok"}

    growing = totals(plain, observed(plain, lambda v: v / 5, own))
    assert doubted(growing) == {"even spread of plots"}
    odd = own.copy()
    odd[12] += 180
    unusual = totals(plain, observed(plain, lambda v: 20.0, odd))
    assert doubted(unusual) == {"normal residuals"}
    level = totals(plain, observed(plain, lambda v: 40.0, 0 * own, seed=2))
    assert doubted(level) == {"spread between regions"}
    values = plain["agb"].values.copy()
    values[:PIXELS, :PIXELS] = 900  # the first region, which has no plots
    tall = totals(as_map(values), observed(plain, lambda v: 20.0, own))
    assert doubted(tall, "r0") == {"own plots", "range of plots"}
    assert doubted(tall) == set()
