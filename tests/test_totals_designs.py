"""Totals of the designs that inventories have, and intervals by rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rioxarray  # noqa: F401  (the .rio accessor)
import xarray as xr
from typer.testing import CliRunner

import geobiomass as gb
from geobiomass.accounting.map_spread import MapSpread, unseen_share
from geobiomass.cli import app
from geobiomass.statistics.estimators import estimate
from geobiomass.statistics.interval_of_mean import IntervalRule

SIDE, LEFT, TOP = 100, 500_000.0, 6_800_000.0


def as_map(values: np.ndarray) -> xr.Dataset:
    coordinates = {
        "y": TOP - 10 * (np.arange(SIDE) + 0.5),
        "x": LEFT + 10 * (np.arange(SIDE) + 0.5),
    }
    layer = xr.DataArray(values.astype(np.float32), coordinates, ("y", "x"))
    layer.attrs["units"] = "Mg/ha"
    return layer.to_dataset(name="agb").rio.write_crs("EPSG:32635")


@pytest.fixture(scope="module")
def ground() -> tuple[np.ndarray, xr.Dataset, xr.DataArray]:
    """Return the truth, its map, and two strata: the northern fifth is tall."""
    random = np.random.default_rng(0)
    tall = np.arange(SIDE)[:, None] < SIDE // 5
    truth = np.where(tall, 200.0, 80.0) + random.normal(0, 15, (SIDE, SIDE))
    mapped = as_map(truth + random.normal(5, 10, truth.shape))
    strata = as_map(np.where(tall, 1.0, 2.0) * np.ones((1, SIDE))).agb
    return truth, mapped, strata


def plots_at(truth: np.ndarray, rows: Any, columns: Any, **more: Any) -> pd.DataFrame:
    rows, columns = np.asarray(rows), np.asarray(columns)
    return pd.DataFrame(
        {
            "x": LEFT + 10 * (columns + 0.5),
            "y": TOP - 10 * (rows + 0.5),
            "agb": np.maximum(truth[rows, columns], 0),
            **more,
        }
    )


def drawn(truth: np.ndarray, n: int, seed: int = 0, **more: Any) -> pd.DataFrame:
    rows, columns = np.random.default_rng(seed).integers(0, SIDE, (2, n))
    return plots_at(truth, rows, columns, **more)


def total(*arguments: Any, **settings: Any) -> pd.DataFrame:
    return gb.totals(*arguments, progress=False, **settings)


def test_clusters_are_the_sample(ground: Any) -> None:
    truth, mapped, _ = ground
    rows, columns = np.random.default_rng(1).integers(0, SIDE - 3, (2, 12))
    r, c = (np.concatenate([each, each, each + 2]) for each in (rows, columns))
    c[12:24] += 2
    plots = plots_at(truth, r, c, tract=np.tile(np.arange(12), 3))
    row = total(mapped, None, plots, cluster="tract", estimator="plots").iloc[0]
    known = estimate(plots["agb"], method="plots", cluster=plots["tract"].tolist())
    assert row["mean"] == pytest.approx(known.mean)
    assert row["mean_se"] == pytest.approx(known.se)
    assert (row["plots"], row["freedom"]) == (36, pytest.approx(11))
    # Plots at a few places are no sample of their own: a check withholds the interval.
    alone = total(mapped, None, plots, estimator="plots", force=True).iloc[0]
    assert row["mean_se"] > 1.3 * alone["mean_se"]
    few = total(mapped, None, plots[plots["tract"] < 7], cluster="tract").iloc[0]
    assert few["interval"] == "none"
    assert "needs 8 sampling units or more, got 7" in few["note"]
    assert np.isfinite(few["total"])
    with pytest.raises(gb.CubeError, match=r"must have the column 'plot'"):
        total(mapped, None, plots, cluster="plot")


def test_post_strata_and_a_table_by_stratum(ground: Any) -> None:
    truth, mapped, strata = ground
    plots = drawn(truth, 40)
    table = total(mapped, None, plots, poststrata=strata, estimator="difference")
    fixed = total(mapped, None, plots, strata=strata, estimator="difference")
    assert table["mean"].iloc[0] == pytest.approx(fixed["mean"].iloc[0])
    assert table["mean_se"].iloc[0] != pytest.approx(fixed["mean_se"].iloc[0], rel=1e-3)
    assert table.attrs["design"]["design"] == "poststrata"
    assert "Bechtold" in table.attrs["design"]["variance"]
    parts = pd.DataFrame(table.attrs["strata"]).set_index("stratum")
    assert parts.loc["1", "share"] == pytest.approx(0.2, rel=1e-3)
    assert parts["area"].sum() == pytest.approx(table["area"].iloc[0])
    assert parts["plots"].sum() == 40
    assert parts.loc["1", "mean"] == pytest.approx(200, abs=12)
    assert (parts["share"] * parts["mean"]).sum() == pytest.approx(
        table["mean"].iloc[0]
    )
    assert json.dumps(table.attrs["strata"])
    with pytest.raises(ValueError, match=r"got both"):
        total(mapped, None, plots, poststrata=strata, strata=strata)


def test_a_grid_has_the_variance_of_neighbours(ground: Any) -> None:
    truth, mapped, _ = ground
    rows, columns = np.meshgrid(np.arange(5, SIDE, 10), np.arange(5, SIDE, 10))
    plots = plots_at(truth, rows.ravel(), columns.ravel())
    settings: dict[str, Any] = {"estimator": "plots"}
    plain = total(mapped, None, plots, **settings).iloc[0]
    table = total(mapped, None, plots, design="systematic", **settings)
    row = table.iloc[0]
    assert row["mean"] == plain["mean"]
    assert row["mean_se"] < 0.7 * plain["mean_se"]
    assert "neighbours" in table.attrs["design"]["variance"]
    scattered = total(mapped, None, drawn(truth, 40), design="systematic").iloc[0]
    assert "must lie on a grid" in scattered["note"]
    assert np.isnan(scattered["total"])
    with pytest.raises(ValueError, match=r"design must be one of .*'grid'"):
        total(mapped, None, plots, design="grid")


def test_the_finite_population_correction(ground: Any) -> None:
    truth, mapped, strata = ground
    plots = drawn(truth, 40)
    plain = total(mapped, None, plots).iloc[0]
    row = total(mapped, None, plots, population=100).iloc[0]
    assert row["mean_se"] == pytest.approx(plain["mean_se"] * np.sqrt(0.6))
    by_stratum = total(
        mapped, None, plots, strata=strata, population={1: 1e9, 2: 1e9}
    ).iloc[0]
    free = total(mapped, None, plots, strata=strata).iloc[0]
    assert by_stratum["mean_se"] == pytest.approx(free["mean_se"], rel=1e-6)
    box = {"north": mapped.rio.bounds(), "all": mapped.rio.bounds()}
    two = total(mapped, box, plots, population={"north": 100, "all": 1e9})
    assert two.loc["north", "mean_se"] == pytest.approx(row["mean_se"])
    assert two.loc["all", "mean_se"] == pytest.approx(plain["mean_se"])
    with pytest.raises(ValueError, match=r"each region, got none for 'all'"):
        total(mapped, box, plots, population={"north": 100})
    with pytest.raises(ValueError, match=r"above 0, or a mapping .*, got -1"):
        total(mapped, None, plots, population=-1)


def test_a_stratum_with_one_plot_is_collapsed_and_told(ground: Any) -> None:
    truth, mapped, strata = ground
    rows = [3, *range(25, 95, 5)]
    plots = plots_at(truth, rows, np.arange(15) * 6)
    row = total(mapped, None, plots, strata=strata, estimator="plots").iloc[0]
    assert "strata with one plot are collapsed: 1 with 2" in row["note"]
    assert np.isfinite(row["total_upper"])
    values = plots["agb"].to_numpy()
    own = 0.8**2 * values[1:].var(ddof=1) / 14 + 0.2**2 * values.var(ddof=1)
    assert row["mean_se"] == pytest.approx(np.sqrt(own), rel=2e-3)


def test_probabilities_that_differ_between_strata_give_no_alarm(ground: Any) -> None:
    truth, mapped, strata = ground
    rows = np.r_[np.arange(0, 20), 20 + 4 * np.arange(20)]
    plots = plots_at(truth, rows, np.arange(40) * 2, chance=np.repeat([1.0, 0.1], 20))
    row = total(mapped, None, plots, strata=strata, probability="chance").iloc[0]
    assert "plots are worth" not in row["note"]
    alarmed = total(mapped, None, plots, probability="chance").iloc[0]
    assert "plots are worth" in alarmed["note"]


def test_plots_that_are_all_zero_have_a_bound(ground: Any) -> None:
    _, mapped, _ = ground
    plots = drawn(np.zeros((SIDE, SIDE)), 12)
    highest = float(mapped.agb.max())
    row = total(mapped, None, plots, estimator="plots").iloc[0]
    assert (row["mean"], row["mean_lower"]) == (0, 0)
    assert row["mean_upper"] == pytest.approx(highest * (1 - 0.05 ** (1 / 12)))
    assert np.isnan(row["mean_se"])
    assert row["interval"] == "all zero"
    stated = IntervalRule(highest=500)
    row = total(mapped, None, plots, estimator="plots", interval=stated).iloc[0]
    assert row["mean_upper"] == pytest.approx(500 * (1 - 0.05 ** (1 / 12)))


def test_plots_that_lack_what_the_map_shows_have_no_interval(ground: Any) -> None:
    truth, mapped, _ = ground
    south = plots_at(truth, range(25, 95, 5), np.arange(14) * 6)
    for estimator in ("auto", "plots", "difference", "regression"):
        row = total(mapped, None, south, estimator=estimator).iloc[0]
        assert row["interval"] == "none"
        assert "% of the variance of the map is above" in row["note"]
        assert np.isfinite(row["mean"])
        assert np.isnan(row["total_upper"])
    insisted = total(mapped, None, south, interval="t").iloc[0]
    assert insisted["interval"] == "t"
    assert np.isfinite(insisted["total_upper"])


def test_the_estimator_is_chosen_and_told(ground: Any) -> None:
    truth, mapped, _ = ground
    plots = drawn(truth, 30)
    assert total(mapped, None, plots).iloc[0]["method"] == "regression"
    plots.loc[:24, "agb"] = 0.0
    row = total(mapped, None, plots).iloc[0]
    assert row["method"] == "difference"
    assert "fewer than 10 above: the difference estimator" in row["note"]


def test_the_spread_of_a_map_is_that_of_its_pixels() -> None:
    random = np.random.default_rng(0)
    values, areas = random.gamma(2, 60, 5000), random.uniform(0.5, 1.5, 5000)
    spread = MapSpread()
    for part in np.array_split(np.arange(5000), 3):
        spread.add(values[part], areas[part])
    away = areas * (values - np.average(values, weights=areas)) ** 2
    assert spread.squares() == pytest.approx(away.sum())
    assert spread.highest == values.max()
    above = away[values > 250].sum() / away.sum()
    assert unseen_share({"": spread}, np.array([10.0, 250.0]), None) == pytest.approx(
        above, abs=0.03
    )
    two = {"a": spread, "b": spread}
    names = np.array(["a"])
    assert unseen_share(two, np.array([1e4]), names) == pytest.approx(0.5)
    flat = MapSpread()
    flat.add(np.full(9, 50.0), np.ones(9))
    assert unseen_share({"": flat}, np.array([3.0]), None) < 1e-6


def test_the_command_takes_designs(tmp_path: Path, ground: Any) -> None:
    truth, mapped, _ = ground
    mapped.agb.rio.to_raster(tmp_path / "map.tif")
    plots = drawn(truth, 40, tract=np.arange(40) // 2)
    plots.attrs["crs"] = "EPSG:32635"
    plots.to_csv(tmp_path / "plots.csv", index=False)
    call = ["totals", str(tmp_path / "map.tif"), "--plots", str(tmp_path / "plots.csv")]
    more = ["--cluster", "tract", "--population", "100", "--interval", "t", "--json"]
    result = CliRunner().invoke(app, [*call, *more])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.output)["totals"]
    known = total(
        mapped, None, plots, cluster="tract", population=100, interval="t"
    ).iloc[0]
    assert row["total_upper"] == pytest.approx(known["total_upper"])
    assert row["interval"] == "t"


@pytest.mark.slow
def test_change_has_rows_of_every_estimator(ground: Any) -> None:
    truth, first, _ = ground
    lost = np.where(np.arange(SIDE) < 30, 0.3, 1.02) * truth
    second = as_map(lost + np.random.default_rng(3).normal(0, 5, truth.shape))
    plots = drawn(truth, 60).rename(columns={"agb": "agb_first"})
    plots["agb_second"] = drawn(lost, 60)["agb"]
    regions = {"one": first.rio.bounds(), "two": first.rio.bounds()}
    settings: dict[str, Any] = {"plots": plots, "progress": False}
    table = gb.change_totals(first, second, regions, estimator="all", **settings)
    assert table.index.tolist() == [
        (region, part)
        for region in ("one", "two")
        for part in ("net", "loss", "gain")
        for _ in range(3)
    ]
    assert table["method"].tolist() == ["plots", "difference", "regression"] * 6
    assert table.attrs["confidence"] == 0.95
    alone = gb.change_totals(first, second, estimator="difference", **settings)
    mine = table[table["method"] == "difference"].loc["one"]
    pd.testing.assert_frame_equal(mine, alone.loc["region"], rtol=1e-4)
    loss = table.loc[("one", "loss")]
    true = 0.01 * np.maximum(truth - lost, 0).sum()
    assert ((loss["total_lower"] < true) & (true < loss["total_upper"])).all()


def test_a_loss_that_no_plot_has_is_bounded(ground: Any) -> None:
    truth, first, _ = ground
    second = as_map(truth + np.random.default_rng(4).normal(0, 10, truth.shape))
    plots = drawn(truth, 40).rename(columns={"agb": "agb_first"})
    plots["agb_second"] = plots["agb_first"] + 2
    table = gb.change_totals(
        first, second, plots=plots, estimator="plots", progress=False
    ).loc["region"]
    loss = table.loc["loss"]
    assert (loss["total"], loss["total_lower"], loss["interval"]) == (0, 0, "all zero")
    share = 1 - 0.05 ** (1 / 40)
    assert loss["area_upper"] == pytest.approx(share * table.loc["net", "area"])
    highest = float((first.agb - second.agb).max())
    assert loss["total_upper"] == pytest.approx(
        share * highest * table.loc["net", "area"], rel=1e-5
    )
    # Every plot has the same change, which says nothing of its error.
    assert table.loc["net", "interval"] == "none"
    assert np.isnan(table.loc["net", "total_upper"])
