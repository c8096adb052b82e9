"""Change: intervals of differences, and intervals of loss and gain that cover."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rioxarray  # noqa: F401  (the .rio accessor)
import xarray as xr
from shapely.geometry import box

import geobiomass as gb
import geobiomass.accounting.change_totals as totals_of_change
import geobiomass.accounting.totals as plain_totals
from benchmarks.covered_change import (
    BOUNDS,
    INSIDE,
    as_map,
    covered,
    held_out,
    truth,
    two_dates,
)
from geobiomass.accounting import region_sums
from geobiomass.accounting.change import change_residuals, error_correlation
from geobiomass.accounting.change_correction import fit_corrections
from geobiomass.accounting.error_model import fit_error_model
from geobiomass.maps.geotiff import write_geotiff
from geobiomass.maps.reading import open_layer


def test_intervals_of_two_maps_make_that_of_their_difference() -> None:
    first, second = np.full((4, 5), 100.0), np.full((4, 5), 70.0)
    first[0, 0] = np.nan
    for r in (0.0, 0.5, -1.0, 1.0):
        found = gb.change(
            as_map(first, (10, 20)), as_map(second, (5, 40)), correlation=r
        )
        low = -30 - np.sqrt(20**2 + 5**2 - 2 * r * 20 * 5)
        high = -30 + np.sqrt(10**2 + 40**2 - 2 * r * 10 * 40)
        assert float(found["agb_change"][1, 1]) == -30
        assert float(found["agb_change_lower"][1, 1]) == pytest.approx(low, rel=1e-6)
        assert float(found["agb_change_upper"][1, 1]) == pytest.approx(high, rel=1e-6)
        assert all(np.isnan(found[name][0, 0]) for name in found)
    assert found.rio.crs == "EPSG:32633"
    assert found["agb_change"].dtype == np.float32
    assert found["agb_change"].attrs["units"] == "Mg/ha"


def test_the_level_of_the_maps_own_intervals_counts() -> None:
    scene = as_map(np.full((4, 5), 100.0), (10.0, 10.0))
    for name in ("agb_lower", "agb_upper"):
        scene[name].attrs["interval"] = 0.8
    with pytest.raises(ValueError, match=r"level, 0\.8, got 0\.9"):
        gb.change(scene, scene, confidence=0.9)
    assert gb.change(scene, scene, confidence=0.8).agb_change.attrs["confidence"] == 0.8
    assert gb.change(scene, scene).agb_change.attrs["confidence"] == 0.8
    plain = as_map(np.full((4, 5), 100.0), (10.0, 10.0))
    assert gb.change(plain, plain).agb_change.attrs["confidence"] == 0.95


def test_a_geotiff_stores_the_level_of_its_interval(tmp_path: Path) -> None:
    scene = as_map(np.full((4, 5), 100.0), (10.0, 10.0))
    for name in ("agb_lower", "agb_upper"):
        scene[name].attrs["interval"] = 0.8
    path = tmp_path / "map.tif"
    write_geotiff(scene, path, list(scene), "abc")
    with pytest.raises(ValueError, match=r"level, 0\.8, got 0\.9"):
        gb.change(path, path, confidence=0.9)
    assert gb.change(path, path, confidence=0.8)["agb_change"].shape == (4, 5)


@pytest.mark.parametrize("r", [0.8, 0.0])
@pytest.mark.slow
def test_intervals_of_pixels_cover_and_ignored_correlation_makes_them_wide(
    r: float,
) -> None:
    random = np.random.default_rng(0)
    tables = held_out(192, random, r)
    assert error_correlation(*tables) == pytest.approx(r, abs=0.08)
    before, after, first, second = two_dates(192, random, r)
    covered = {}
    for given in (None, 0.0):
        found = gb.change(
            as_map(first),
            as_map(second),
            residuals=tables,
            correlation=given,
            confidence=0.9,
        )
        true = after - before
        covered[given] = np.mean(
            (found["agb_change_lower"] <= true) & (true <= found["agb_change_upper"])
        )
    assert covered[None] == pytest.approx(0.9, abs=0.03)
    if r:
        assert covered[0.0] > 0.97


@pytest.mark.slow
def test_a_path_is_read_block_by_block_and_gives_the_same(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    first, second = (random.uniform(0, 200, (70, 90)) for _ in range(2))
    maps = [as_map(each, (10, 20)) for each in (first, second)]
    known = gb.change(*maps, correlation=0.5)
    for number, scene in enumerate(maps):
        scene.to_zarr(tmp_path / f"{number}.zarr", zarr_format=3, consolidated=False)
        scene.to_array("band").assign_attrs(long_name=list(scene)).rio.to_raster(
            tmp_path / f"{number}.tif"
        )
    for kind in ("zarr", "tif"):
        lazy = gb.change(
            *(tmp_path / f"{number}.{kind}" for number in range(2)), correlation=0.5
        )
        assert lazy["agb_change"].chunks is not None
        for name in known:
            np.testing.assert_array_equal(lazy[name], known[name])
    chunked = gb.change(*(scene.chunk(y=33, x=40) for scene in maps), correlation=0.5)
    assert chunked["agb_change_lower"].chunks is not None
    xr.testing.assert_identical(chunked.compute(), known)


def test_grids_that_differ_raise() -> None:
    here = as_map(np.ones((8, 9)), (1, 1))
    moved = here.assign_coords(x=here["x"] + 10)
    for other, word in (
        (as_map(np.ones((8, 8)), (1, 1)), r"\(8, 9\) and \(8, 8\) pixels"),
        (here.rio.write_crs("EPSG:32634"), "one CRS, got EPSG:32633 and EPSG:32634"),
        (moved, "transforms"),
    ):
        with pytest.raises(gb.CubeError, match=word):
            gb.change(here, other)
    nearly = here.assign_coords(x=here["x"] + 1e-6)
    assert gb.change(here, nearly)["agb_change"].shape == (8, 9)


def test_missing_or_invalid_arguments_raise() -> None:
    plain = as_map(np.ones((8, 9)))
    other = xr.merge([plain, plain.rename(agb="observations")])
    for scene in (plain, other):
        with pytest.raises(gb.CubeError, match="agb_lower"):
            gb.change(scene, scene)
    good = as_map(np.ones((8, 9)), (1, 1))
    with pytest.raises(ValueError, match=r"from -1 to 1, got 1\.5"):
        gb.change(good, good, correlation=1.5)
    with pytest.raises(ValueError, match=r"between 0 and 1, such as 0\.9, got 90"):
        gb.change(good, good, confidence=90)
    tables = held_out(72, np.random.default_rng(0))
    with pytest.raises(ValueError, match="got neither"):
        gb.change_totals(good, good)
    with pytest.raises(ValueError, match="threshold must be 0 Mg/ha or more"):
        gb.change_totals(good, good, residuals=tables, threshold=-1)
    model = fit_error_model(tables[0])
    with pytest.raises(ValueError, match="need correlation="):
        gb.change_totals(good, good, residuals=(model, model))
    with pytest.raises(ValueError, match="a column 'agb_first'"):
        gb.change_totals(good, good, plots=pd.DataFrame({"x": [1.0]}))
    elsewhere = tables[1].assign(unit="far away")
    elsewhere.attrs = tables[1].attrs
    with pytest.raises(ValueError, match="must share pixels"):
        change_residuals(tables[0], elsewhere)
    with pytest.raises(ValueError, match="must share pixels"):
        error_correlation(tables[0], elsewhere.assign(unit=tables[0]["unit"] + "b"))
    with pytest.raises(ValueError, match="'pixel' or 'unit'"):
        error_correlation(*tables, by="block")


def test_residuals_of_change_are_those_of_shared_pixels() -> None:
    first, second = held_out(72, np.random.default_rng(0))
    part = second.sample(500, random_state=0)
    part.attrs = second.attrs
    table = change_residuals(first, part).sort_values(["y", "x"])
    rows = part.index.sort_values()
    for name in ("observed", "predicted"):
        expected = second.loc[rows, name] - first.loc[rows, name]
        np.testing.assert_allclose(table[name], expected)
    assert table.attrs == first.attrs
    # Means of units keep what neighbours share, which correlates by 0.6 as well.
    assert error_correlation(first, second, by="unit") == pytest.approx(0.6, abs=0.4)


def test_totals_have_a_row_a_change_and_add_up() -> None:
    random = np.random.default_rng(3)
    tables = held_out(96, random)
    _, _, first, second = two_dates(120, random)
    regions: dict[str, Any] = {
        "north": BOUNDS,
        "all": (500_000.0, 5_998_800.0, 501_200.0, 6_000_000.0),
    }
    table = gb.change_totals(
        as_map(first), as_map(second), regions, residuals=tables, progress=False
    )
    assert list(table.index) == [
        (region, part) for region in regions for part in ("net", "loss", "gain")
    ]
    north = table.loc["north"]
    # Areas are on the ellipsoid: 0.9996^-2 of those on the plane, and 1e-4 of it.
    assert north.loc["net", "area"] == pytest.approx(100, rel=2e-3)
    mapped = truth((second - first)[INSIDE])
    for part in ("net", "loss", "gain"):
        assert north.loc[part, "map_total"] == pytest.approx(mapped[part][0], rel=2e-3)
        row = north.loc[part]
        assert row["total_lower"] < row["total"] < row["total_upper"]
        assert row["carbon_upper"] == pytest.approx(0.47 * row["total_upper"])
        assert 0 <= row["area_lower"] <= row["area"] <= row["area_upper"]
    # Without residuals at the same pixels: net change alone.
    models = tuple(map(fit_error_model, tables))
    widths = []
    for r in (0.0, 0.6, 0.9):
        net = gb.change_totals(
            as_map(first),
            as_map(second),
            regions,
            residuals=models,
            correlation=r,
            progress=False,
        ).loc["north"]
        assert list(net.index) == ["net"]
        widths.append(net.loc["net", "total_upper"] - net.loc["net", "total_lower"])
    assert widths[0] > 1.3 * widths[1] > 1.3 * widths[2]


def test_a_change_has_the_broken_checks_of_both_dates() -> None:
    random = np.random.default_rng(3)
    one, other = (fit_error_model(t, pairs=20_000) for t in held_out(64, random))
    _, _, first, second = two_dates(120, random)
    table = gb.change_totals(
        as_map(first),
        as_map(second),
        {"here": BOUNDS},
        # Of the first date alone the errors are of too few units.
        residuals=(replace(one, units=3), replace(other, units=100)),
        correlation=0.5,
        progress=False,
    )
    net = table.loc[("here", "net")]
    assert np.isfinite(net["total"])
    assert net[["total_se", "total_lower", "total_upper"]].isna().all()
    assert net["interval"] == "none"
    assert "3 held-out units, 10 or more are wanted" in net["note"]
    found = [c for c in table.attrs["checks"] if c["check"] == "held-out units"]
    assert [c["verdict"] for c in found] == ["broken", "ok"]


def test_a_part_that_no_held_out_pixel_has_is_not_known() -> None:
    random = np.random.default_rng(3)
    tables = held_out(96, random)
    _, _, first, second = two_dates(120, random)
    # Nothing among the held-out pixels gains 300 Mg/ha; a stand of the map does.
    second[50:55, 50:55] = first[50:55, 50:55] + 400
    table = gb.change_totals(
        as_map(first),
        as_map(second),
        {"here": BOUNDS},
        residuals=tables,
        threshold=300,
        progress=False,
    ).loc["here"]
    gain = table.loc["gain"]
    assert gain["map_total"] == pytest.approx(400 * 0.25, rel=1e-2)
    assert np.isnan([gain["total"], gain["total_se"], gain["area"]]).all()
    assert "no held-out pixel has such a change" in gain["note"]
    assert table.loc["net", "total_lower"] < table.loc["net", "total_upper"]
    assert table.loc["net", "note"] == ""


@pytest.mark.slow
def test_maps_are_read_once_for_each_total_and_once_a_part_as_mapped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(3)
    tables = held_out(96, random)
    _, _, first, second = two_dates(120, random)
    passes, summed = [], region_sums.sum_regions

    def counted(layer: xr.DataArray, *given: Any, **named: Any) -> Any:
        passes.append(layer)
        return summed(layer, *given, **named)

    monkeypatch.setattr(totals_of_change, "sum_regions", counted)
    monkeypatch.setattr(plain_totals, "sum_regions", counted)
    gb.change_totals(as_map(first), as_map(second), residuals=tables, progress=False)
    # Net mass; mass and area of loss and of gain; each part as mapped.
    assert len(passes) == 5 + 3


def test_a_correction_follows_both_part_and_biomass() -> None:
    random = np.random.default_rng(0)
    unit = np.repeat(np.arange(40), 1000)
    part, biomass = random.uniform(0, 80, 40_000), random.uniform(0, 400, 40_000)
    error = 0.2 * part + 0.05 * biomass + random.normal(0, 20, 40_000)
    ((found, unseen),) = fit_corrections(part, biomass, [error], unit)
    assert found.levels.size == 4
    assert found.parts.size == 8
    inner = found.levels[[0, -1]]
    at = [(q, level) for q in (20.0, 60.0) for level in inner]
    expected = [0.2 * q + 0.05 * level for q, level in at]
    got = found.expected(*np.transpose(at))
    np.testing.assert_allclose(got, expected, rtol=0.15)
    np.testing.assert_allclose(found.expected(part, biomass), unseen, atol=4)
    # What is said of a unit does not rest on it.
    odd = error + 1e6 * (unit == 7)
    # Of several things that are corrected each is as if it were alone, to the bit.
    (alone, same), (_, other) = fit_corrections(part, biomass, [error, odd], unit)
    np.testing.assert_array_equal(same, unseen)
    np.testing.assert_array_equal(alone.errors, found.errors)
    assert np.abs(other - unseen)[unit == 7].max() < 1e-6
    assert np.abs(other - unseen)[unit == 8].max() > 1e3
    # Few units: biomass has one class.
    few = unit < 6
    ((found, _),) = fit_corrections(part[few], biomass[few], [error[few]], unit[few])
    assert found.levels.size == 1
    # Pairs that are never met follow their class of the part.
    biomass = np.where(part > 40, 300.0, 100.0)
    ((found, _),) = fit_corrections(part, biomass, [0.2 * part], unit)
    assert found.expected(np.array([5.0]), np.array([300.0])) == pytest.approx(1, 0.1)


@pytest.mark.slow
def test_totals_cover_where_the_plain_difference_doubles_the_loss() -> None:
    # Loss and its area hold it somewhat less often than the 0.9 that is asked for (the
    # page on errors in space says how often): a square of 2 km holds few patches. Of 10
    # runs 6 or more do but for one in a hundred times, where 0.85 is true.
    found = covered(10)
    assert (found["held"] > 0.55).all()
    assert (found["area_held"] > 0.55).all()
    for part in ("loss", "gain"):
        assert found.loc[part, "mapped"] > 1.6
        # The mean of 16 runs was held to 0.15; that of 10 spreads 1.26 times as much.
        assert found.loc[part, "estimated"] == pytest.approx(1, abs=0.19)


@pytest.mark.slow
def test_plots_of_both_dates_make_totals_design_based() -> None:
    random = np.random.default_rng(5)
    before, after, first, second = two_dates(120, random)
    true = truth(after - before)
    first_map, second_map = as_map(first), as_map(second)
    held, ratio = [], []
    for _ in range(6):
        row, column = random.integers(0, 120, (2, 300))
        plots = pd.DataFrame(
            {
                "x": first_map["x"].to_numpy()[column],
                "y": first_map["y"].to_numpy()[row],
                "agb_first": before[row, column],
                "agb_second": after[row, column],
            }
        )
        table = gb.change_totals(
            first_map, second_map, plots=plots, confidence=0.9, progress=False
        ).loc["region"]
        for part in ("net", "loss", "gain"):
            mass = table.loc[part]
            held.append(mass["total_lower"] <= true[part][0] <= mass["total_upper"])
            if part == "loss":
                ratio.append(mass["total"] / true[part][0])
        assert set(table["plots"]) == {300}
    assert np.mean(held) > 0.75
    assert np.mean(ratio) == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_the_command_writes_the_difference_and_totals(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from geobiomass.cli import app

    random = np.random.default_rng(3)
    tables = held_out(96, random)
    _, _, *maps = two_dates(120, random)
    for number, (values, table) in enumerate(zip(maps, tables, strict=True)):
        as_map(values).to_zarr(
            tmp_path / f"{number}.zarr", zarr_format=3, consolidated=False
        )
        model = fit_error_model(table).to_dict()
        (tmp_path / f"{number}.json").write_text(json.dumps(model))
    square = gpd.GeoDataFrame(geometry=[box(*BOUNDS)], crs=32633)
    square.to_crs(4326).to_file(tmp_path / "square.geojson", driver="GeoJSON")
    paths = [str(tmp_path / f"{number}.zarr") for number in range(2)]
    errors = [str(tmp_path / f"{number}.json") for number in range(2)]
    known = gb.change(
        *paths, residuals=tuple(map(fit_error_model, tables)), correlation=0.5
    )
    for ending in ("zarr", "tif"):
        out = str(tmp_path / f"change.{ending}")
        call = ["change", *paths, out, "--errors", *errors, "--correlation", "0.5"]
        regions = ["--regions", str(tmp_path / "square.geojson"), "--json"]
        result = CliRunner().invoke(app, [*call, *regions])
        assert result.exit_code == 0, result.output
        (row,) = json.loads(result.output)["totals"]
        assert row["change"] == "net"
        assert row["area"] == pytest.approx(100, rel=2e-2)
        for name in known:
            written = open_layer(out, name)
            np.testing.assert_array_equal(written.values, known[name].values)
        # The same command goes on; another one leaves the map as it is.
        assert CliRunner().invoke(app, call).exit_code == 0
        other = CliRunner().invoke(app, [*call[:-1], "0.4"])
        assert isinstance(other.exception, FileExistsError)
