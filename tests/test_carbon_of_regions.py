"""Carbon of several regions and of change, deductions, wrong settings, commands."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from carbon_map import REGIONS, a_map, some_plots, sums

import geobiomass as gb
from geobiomass.accounting import (
    RULES,
    Carbon,
    Factor,
    ParameterCovariance,
    RootShoot,
    combine_regions,
    half_width_of_change,
)
from geobiomass.report import audit

# --- several regions, two dates ---


def test_regions_share_errors_of_factors_and_not_of_sampling() -> None:
    table = sums(carbon=Carbon((0.5, 0.05)), model_error=0.04)
    whole = combine_regions(table).iloc[0]
    sampling = math.hypot(*table["total_sampling_se"])
    total = table["total"].sum()
    assert whole["total"] == pytest.approx(total)
    assert whole["total_sampling_se"] == pytest.approx(sampling)
    assert whole["total_model_se"] == pytest.approx(0.04 * total)
    own, model, factor = (sampling / total) ** 2, 0.04**2, 0.1**2
    product = (1 + own) * (1 + model) * (1 + factor) - 1
    assert (whole["carbon_se"] / whole["carbon"]) ** 2 == pytest.approx(product)
    assert whole["plots"] == 40
    assert whole["area"] == pytest.approx(table["area"].sum())
    apart = math.hypot(*table["carbon_se"])
    assert apart < 0.8 * whole["carbon_se"]


def test_one_region_alone_is_itself() -> None:
    africa = Carbon.named("ipcc 2019 tropical rainforest Africa")
    table = sums(carbon=africa, model_error=0.04, deduction="FCPF")
    for settings in ({}, {"carbon": africa, "model_error": 0.04, "deduction": "FCPF"}):
        table = sums(**settings).iloc[:1]
        found = combine_regions(table, "west")
        assert list(found) == list(table)
        numbers = [name for name in table if name not in ("method", "note")]
        pd.testing.assert_frame_equal(
            found[numbers],
            table[numbers],
            check_names=False,
            rtol=1e-9,
            check_dtype=False,
        )


def test_regions_of_residuals_are_added_as_correlated() -> None:
    table = sums()
    table["method"] = "model"
    whole = combine_regions(table).iloc[0]
    assert whole["total_se"] == pytest.approx(table["total_se"].sum())
    half = (table["total_upper"] - table["total_lower"]).sum() / 2
    assert whole["total_upper"] - whole["total"] == pytest.approx(half)
    assert "fully correlated" in whole["note"]


def test_tables_that_are_no_totals_are_refused() -> None:
    with pytest.raises(ValueError, match=r"from a table of gb\.totals"):
        combine_regions(pd.DataFrame({"total": [1.0]}))
    twice = pd.concat([sums()] * 2)
    twice.attrs = sums().attrs
    with pytest.raises(ValueError, match=r"in the sum once, got \['west', 'east'\]"):
        combine_regions(twice)


@pytest.fixture(scope="module")
def change() -> dict[str, Any]:
    """Two dates of which the second has 10 Mg/ha less in the east."""
    plots = some_plots().rename(columns={"agb": "agb_first"})
    random = np.random.default_rng(3)
    less = np.where(plots["x"] < 500_200, 0.0, 10.0) + random.uniform(0, 8, len(plots))
    plots["agb_second"] = plots["agb_first"] - less
    return {
        "first": a_map(),
        "second": a_map(100, 90),
        "regions": REGIONS,
        "plots": plots,
        "estimator": "difference",
        "progress": False,
    }


@pytest.mark.slow
def test_a_change_has_the_factors_error_once(change: dict[str, Any]) -> None:
    plain = gb.change_totals(**change)
    table = gb.change_totals(
        **change, carbon=Carbon((0.5, 0.05)), deduction="VM0047 1.1"
    )
    for name in ("net", "loss"):
        was, row = plain.loc[("east", name)], table.loc[("east", name)]
        own = (was["total_se"] / was["total"]) ** 2
        carbon = (row["carbon_se"] / row["carbon"]) ** 2
        assert carbon == pytest.approx(own + 0.1**2 + own * 0.1**2)
        half = row["carbon_half_width_90_percent"]
        assert row["deduction_percent"] == pytest.approx(min(100, max(0, half - 10)))
    assert plain.loc[("east", "loss"), "carbon"] == (
        0.47 * plain.loc[("east", "loss"), "total"]
    )
    pd.testing.assert_series_equal(table["total_upper"], plain["total_upper"])
    whole = combine_regions(table).loc[("all regions", "net")]
    net = table.xs("net", level="change")
    assert whole["carbon"] == pytest.approx(net["carbon"].sum())
    own = (math.hypot(*net["total_se"]) / whole["total"]) ** 2
    expected = own + 0.1**2 + own * 0.1**2
    assert (whole["carbon_se"] / whole["carbon"]) ** 2 == pytest.approx(expected)
    assert whole["area_lower"] == whole["area"] == whole["area_upper"]


@pytest.mark.slow
def test_a_change_has_one_ratio_for_both_dates(change: dict[str, Any]) -> None:
    """The first map has 126 Mg/ha, the second 116: the ratio above the limit counts."""
    high = change | {"first": a_map(126, 126), "second": a_map(126, 116)}
    africa = Carbon.named("ipcc 2019 tropical rainforest Africa")
    table = gb.change_totals(**high, carbon=africa)
    assert table["carbon_factor"].dropna().tolist() == pytest.approx(
        [0.47 * 1.532] * len(table["carbon_factor"].dropna())
    )
    with pytest.raises(ValueError, match="got a ratio by pixels"):
        gb.change_totals(**high, carbon=africa.by_pixels())
    with pytest.raises(ValueError, match="got a covariance"):
        gb.change_totals(**high, model_error=ParameterCovariance([[1.0]], [1.0]))


# --- deductions ---


def test_deductions_by_hand() -> None:
    art, verra, fcpf = (RULES[name] for name in ("ART TREES 2.0", "VM0047 1.1", "FCPF"))
    assert f"{float(art.percent(20)):.2f}" == "6.38"
    margins = [0, 15, 15.01, 30, 30.01, 60, 60.01, 100, 100.01, 300]
    steps = [0, 0, 4, 4, 8, 8, 12, 12, 15, 15]
    assert fcpf.percent(margins).tolist() == pytest.approx(steps)
    # T = 1.7 at 90 %, standard errors of 30 and 40, correlation 0.5, change 200.
    half = half_width_of_change(30, 40, correlation=0.5, quantile=1.7)
    assert half == pytest.approx(1.7 * math.sqrt(900 + 1600 - 1200))
    unc = 1.7 * math.sqrt(1300) / 200 - 0.10
    assert verra.percent(100 * half / 200) == pytest.approx(100 * unc)
    assert verra.percent([5, 10, 100, 101]).tolist() == pytest.approx([0, 0, 90, 100])
    for rule in RULES.values():
        assert math.isnan(rule.percent(np.nan))
        assert (np.diff(rule.percent(np.linspace(0, 200, 999))) >= 0).all()


def test_a_deduction_is_of_the_half_width_with_its_source() -> None:
    table = sums(carbon=Carbon((0.5, 0.05)), deduction="art trees 2.0")
    half = table["carbon_half_width_90_percent"]
    expected = 0.524417 * half / 1.645006
    assert table["deduction_percent"].tolist() == pytest.approx(expected.tolist())
    told = table.attrs["deduction"]
    assert told["rule"] == "ART TREES 2.0"
    assert "0.524417" in told["formula"]
    assert told["compliance"].startswith("not claimed")
    row = sums(deduction="FCPF").iloc[0]
    margin = row["total_half_width_90_percent"]
    assert row["deduction_percent"] == RULES["FCPF"].percent(margin)


# --- errors, the command, the report ---


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"carbon": "ipcc 2019 rainforest"}, r"one of the names ipcc 2006, .*boreal"),
        ({"carbon": 0.47}, r"a name, a Carbon, or a mapping .*got 0.47"),
        ({"carbon": "ipcc 2006", "carbon_fraction": 0.5}, "carbon_fraction=, got both"),
        ({"deduction": "ART TREES 3.0"}, "'ART TREES 2.0', 'VM0047 1.1', 'FCPF', got"),
        ({"model_error": 5}, r"such as 0.05 for 5 %, got 5"),
        ({"model_error": "5 %"}, r"ParameterCovariance, got '5 %'"),
    ],
)
def test_wrong_settings_are_one_sentence(settings: dict[str, Any], told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told) as error:
        sums(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Factor(-1.0), "0 or more, got -1.0"),
        (lambda: Factor(1.0, math.nan), "None where it is not known, got nan"),
        (lambda: Carbon(47), r"above 0 and at most 1, such as 0.47, got 47"),
        (lambda: Carbon((0.4, 0.1, 0.2)), "a value and its standard error, got"),
        (lambda: Carbon("0.47"), "must be a number, a pair"),
        (lambda: Carbon(dead_wood_fraction=0.5), "needs dead_wood="),
        (lambda: Carbon(dead_wood="taiga"), "one of 'tropical below 2000 m"),
        (lambda: RootShoot(Factor(0.2), Factor(0.3), by="pixel"), "got 'pixel'"),
        (lambda: ParameterCovariance([[1, 2]], [1]), r"square .*\(1, 2\)"),
        (lambda: ParameterCovariance([[1, 2], [0, 1]], [1, 1]), "symmetric"),
        (lambda: ParameterCovariance([[1, 2], [2, 1]], [1, 1]), "eigenvalue"),
        (lambda: ParameterCovariance([[1]], [1, 2]), "1 finite numbers"),
        (lambda: half_width_of_change(1, 1, correlation=2, quantile=1.7), "got 2"),
    ],
)
def test_wrong_values_are_told(make: Any, told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        make()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("carbon")
    a_map().agb.rio.to_raster(folder / "map.tif")
    for name, map_ in (("first", a_map()), ("later", a_map(100, 90))):
        ends = {"agb_lower": map_.agb - 5, "agb_upper": map_.agb + 5}
        whole = map_.assign(ends).rio.write_crs("EPSG:32633")
        whole.to_zarr(folder / f"{name}.zarr", zarr_format=3, consolidated=False)
    plots = some_plots()
    plots["agb_first"], plots["agb_second"] = plots["agb"], plots["agb"] - 5
    plots.to_csv(folder / "plots.csv", index=False)
    return folder


SETTINGS = ("--carbon", "ipcc 2006 tropical rainforest", "--model-error", "0.05")
SETTINGS += ("--deduction", "fcpf")


def test_the_command_reports_carbon(files: Path, run: Any) -> None:
    words = ["totals", files / "map.tif", "--plots", files / "plots.csv", *SETTINGS]
    code, told, _ = run(*words, "--json")
    assert code == 0
    facts = json.loads(told)
    (row,) = facts["totals"]
    assert row["co2e"] == pytest.approx(row["area"] * 100 * 0.47 * 1.37 * 44 / 12, 0.01)
    assert row["deduction_percent"] == 0.0
    assert facts["carbon"]["below_ground"]["value"] == 0.37
    _, text, _ = run(*words)
    assert re.search(r"co2e_upper \(Mg CO2e\) +deduction_percent \(%\)", text)
    assert (
        "carbon: ipcc 2006 tropical rainforest: carbon fraction 0.47 (se 0.0128" in text
    )
    assert "error of the models behind the plots: 5 %" in text
    assert "deduction: FCPF, " in text
    assert "compliance is not claimed" in text


@pytest.mark.slow
def test_the_command_of_change_reports_carbon(files: Path, run: Any) -> None:
    words: list[Any] = ["change", files / "first.zarr", files / "later.zarr"]
    words += [files / "change.tif", *SETTINGS]
    code, _, told = run(*words)
    assert code == 2
    assert "are for the totals of regions; give --regions too" in told
    outline = {"type": "Polygon", "coordinates": [_ring()]}
    (files / "all.geojson").write_text(json.dumps(outline))
    words += ["--plots", files / "plots.csv", "--regions", files / "all.geojson"]
    code, text, told = run(*words)
    assert code == 0, told
    assert "co2e_upper" in text
    assert "compliance is not claimed" in text


def _ring() -> list[list[float]]:
    west, south, east, north = a_map().rio.transform_bounds("EPSG:4326")
    corners = ((west, south), (east, south), (east, north), (west, north))
    return [list(corner) for corner in (*corners, corners[0])]


def test_the_report_names_the_factors() -> None:
    table = sums(carbon="ipcc 2006 tropical rainforest", deduction="FCPF")
    page = str(audit.totals(SimpleNamespace(totals=table, by_plots=True)))  # type: ignore[arg-type]
    assert "CO2 equivalent, Mg" in page
    assert "ratio" not in page or "0.37" in page
    assert "compliance is not claimed" in page
    plain = str(audit.totals(SimpleNamespace(totals=sums(), by_plots=True)))  # type: ignore[arg-type]
    assert "Carbon is 0.47 of dry biomass." in plain
    assert "deduction" not in plain
