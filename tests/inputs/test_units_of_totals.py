"""Totals refuse what is no mass per area, and convert what is: maps, plots, errors."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
from conftest import make_scene
from variants import variants

import geobiomass as gb
from geobiomass.accounting.change import write_change

UNITS = {"kg/m2": 0.1, "kg m-2": 0.1, "t/ha": 1.0, "Mg ha-1": 1.0, "g/m2": 100.0}


def biomass(seed: int = 0) -> xr.Dataset:
    """Return a map of biomass, Mg/ha."""
    scene = make_scene(40, 48, seed=seed)
    return scene[["agb"]].drop_vars(["month", "band"], errors="ignore")


def in_units(map: xr.Dataset, units: str | None, name: str = "agb") -> xr.Dataset:
    factor = 1.0 if units is None else UNITS.get(units, 1.0)
    layer = (map["agb"] * factor).assign_attrs(units=units)
    if units is None:
        layer.attrs = {}
    return map.drop_vars("agb").assign({name: layer})


def sample(map: xr.Dataset, factor: float = 1.0, column: str = "agb") -> pd.DataFrame:
    """Return plots on the map, whose biomass differs from it."""
    draw = np.random.default_rng(7)
    rows, columns = draw.integers(0, 40, 60), draw.integers(0, 48, 60)
    observed = map["agb"].values[rows, columns] + draw.normal(0, 10, 60) + 5
    return pd.DataFrame(
        {
            "x": map["x"].values[columns],
            "y": map["y"].values[rows],
            column: np.abs(observed) * factor,
        }
    )


def total(map: Any, plots: pd.DataFrame, **settings: Any) -> pd.DataFrame:
    return gb.totals(map, plots=plots, progress=False, **settings)


@pytest.mark.parametrize("units", UNITS)
@variants("form", ["tif", "dataset", "zarr", "array", "lazy"], quick=1)
def test_a_map_in_other_units_has_the_same_totals(
    tmp_path: Path, units: str, form: str
) -> None:
    right = total(biomass(), sample(biomass()))
    assert "map_units" not in right.attrs
    assert right["map_mean"].iloc[0] == pytest.approx(
        float(biomass()["agb"].mean()), rel=1e-3
    )
    given: Any = in_units(biomass(), units)
    if form == "array":
        given = given["agb"]
    elif form == "lazy":
        given = given.chunk({"y": 16, "x": 16})
    elif form == "zarr":
        given.to_zarr(tmp_path / "map.zarr", zarr_format=3, consolidated=False)
        given = tmp_path / "map.zarr"
    elif form == "tif":
        given["agb"].rio.to_raster(tmp_path / "map.tif")
        with rasterio.open(tmp_path / "map.tif", "r+") as file:
            file.set_band_unit(1, units)
        given = tmp_path / "map.tif"
    found = total(given, sample(biomass()))
    for column in ("map_mean", "mean", "total", "total_lower", "carbon"):
        np.testing.assert_allclose(found[column], right[column], rtol=1e-5)
    assert "map_units" not in found.attrs


@pytest.mark.parametrize(
    "units", ["m", "%", "percent", "kg", "1", "Mg C/ha", "m3/ha", "Mg/ha/yr", "dB"]
)
def test_a_map_that_is_no_mass_per_area_is_refused(units: str) -> None:
    with pytest.raises(gb.CubeError, match=f"got 'agb' in '{units}'.* State the units"):
        total(in_units(biomass(), units), sample(biomass()))
    with pytest.raises(gb.CubeError, match="Totals of change need a map of biomass"):
        gb.change_totals(
            in_units(biomass(), units),
            in_units(biomass(1), units),
            plots=sample(biomass()).assign(agb_first=1.0, agb_second=2.0),
        )


def test_a_map_without_units_is_taken_to_be_in_megagrams_and_says_so(
    tmp_path: Path, run: Any
) -> None:
    bare = in_units(biomass(), None)
    found = total(bare, sample(biomass()))
    assert found.attrs["map_units"] == "Mg/ha, assumed: the map states no units"
    np.testing.assert_allclose(
        found["total"], total(biomass(), sample(biomass()))["total"]
    )
    bare["agb"].rio.to_raster(tmp_path / "map.tif")
    sample(biomass()).to_csv(tmp_path / "plots.csv", index=False)
    words = ("totals", tmp_path / "map.tif", "--plots", tmp_path / "plots.csv")
    code, said, err = run(*words)
    assert code == 0, err
    assert "map units: Mg/ha, assumed: the map states no units" in said
    code, said, err = run(*words, "--json")
    assert json.loads(said)["map_units"].startswith("Mg/ha, assumed")
    with pytest.raises(gb.CubeError, match="got 'chm', which states no units"):
        total(bare["agb"].rename("chm"), sample(biomass()))


def test_a_map_is_found_by_its_own_name(tmp_path: Path) -> None:
    right = total(biomass(), sample(biomass()))["total"]
    roots = in_units(biomass(), "kg/m2", "bgb")
    ends = roots.assign(
        bgb_lower=roots["bgb"], bgb_upper=roots["bgb"], applicable=roots["bgb"]
    )
    np.testing.assert_allclose(total(ends, sample(biomass()))["total"], right, 1e-5)
    with pytest.warns(UserWarning, match="'agc' in Mg/ha is summed as dry biomass"):
        total(roots.rename(bgb="agc"), sample(biomass()))
    several = roots.rename(bgb="one").assign(two=roots["bgb"])
    with pytest.raises(gb.CubeError, match="name one with variable="):
        total(several, sample(biomass()))
    named = total(several, sample(biomass()), variable="two")
    np.testing.assert_allclose(named["total"], right, 1e-5)


@pytest.mark.parametrize("units", UNITS)
def test_plots_are_converted_by_the_units_that_they_state(units: str) -> None:
    right = total(biomass(), sample(biomass()))
    for stated in (units, {"agb": units}):
        plots = sample(biomass(), UNITS[units])
        plots.attrs["units"] = stated
        found = total(biomass(), plots)
        np.testing.assert_allclose(found["mean"], right["mean"], rtol=1e-9)
    plots.attrs["units"] = "m"
    with pytest.raises(gb.CubeError, match="column 'agb' must be a mass per area"):
        total(biomass(), plots)


def test_units_in_the_name_of_a_column_are_read_and_told() -> None:
    right = total(biomass(), sample(biomass()))
    plots = sample(biomass(), 0.1, "agb_kg_m2")
    with pytest.warns(UserWarning, match="read as kg/m2"):
        found = total(biomass(), plots, observed="agb_kg_m2")
    np.testing.assert_allclose(found["mean"], right["mean"], rtol=1e-9)
    plots = sample(biomass(), 1.0, "AGB (Mg/ha)")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        total(biomass(), plots, observed="AGB (Mg/ha)")


def test_residuals_are_converted_or_refused() -> None:
    scene = make_scene(40, 48)
    draw = np.random.default_rng(1).normal(0, 5, scene["agb"].shape)
    errors = gb.residuals(scene[["agb"]] + draw, scene)
    errors["unit"] = (errors["y"] // 100).astype(int)
    right = gb.totals(biomass(), residuals=errors, progress=False)
    light = errors.copy()
    light[["observed", "predicted"]] /= 10
    light.attrs = {**errors.attrs, "units": "kg/m2"}
    found = gb.totals(in_units(biomass(), "t/ha"), residuals=light, progress=False)
    np.testing.assert_allclose(found["total_se"], right["total_se"], rtol=1e-6)
    from geobiomass.accounting.error_model import ErrorModel, fit_error_model

    fitted = fit_error_model(errors.assign())
    fitted = ErrorModel.from_dict(fitted.to_dict())
    same = gb.totals(biomass(), residuals=fitted, progress=False)
    np.testing.assert_allclose(same["total_se"], right["total_se"])
    light.attrs["units"] = "m"
    of_heights = fit_error_model(light)
    assert ErrorModel.from_dict(of_heights.to_dict()) == of_heights
    with pytest.raises(gb.CubeError, match="error model must be in the units of the"):
        gb.totals(biomass(), residuals=of_heights, progress=False)
    with pytest.raises(gb.CubeError, match="Residuals must be in the units of the map"):
        gb.totals(biomass(), residuals=light, progress=False)


def plots_of_both(units: str | None = None) -> pd.DataFrame:
    factor = 1.0 if units is None else UNITS[units]
    first, second = sample(biomass()), sample(biomass(1))
    table = first.rename(columns={"agb": "agb_first"})
    table["agb_second"] = second["agb"]
    table[["agb_first", "agb_second"]] *= factor
    if units is not None:
        table.attrs["units"] = units
    return table


@pytest.mark.parametrize("units", ["kg/m2", "g/m2"])
@pytest.mark.slow
def test_change_and_its_totals_are_in_the_same_units(
    tmp_path: Path, units: str
) -> None:
    first, second = biomass(), biomass(1)
    settings: dict[str, Any] = {"threshold": 5.0, "progress": False}
    right = gb.change_totals(first, second, plots=plots_of_both(), **settings)
    other = in_units(second, units)
    moved = gb.change_totals(first, other, plots=plots_of_both(units), **settings)
    for column in ("total", "total_lower", "carbon", "area"):
        np.testing.assert_allclose(moved[column], right[column], rtol=1e-4)
    with_ends = [
        each.assign(agb_lower=each["agb"] * 0.9, agb_upper=each["agb"] * 1.1)
        for each in (first, second, in_units(second, units))
    ]
    plain = gb.change(*with_ends[:2])
    mixed = gb.change(with_ends[0], with_ends[2])
    assert mixed["agb_change"].attrs == plain["agb_change"].attrs
    for name in plain:
        np.testing.assert_allclose(mixed[name], plain[name], rtol=1e-4, atol=1e-3)
    write_change(mixed, tmp_path / "change.tif")
    with rasterio.open(tmp_path / "change.tif") as file:
        assert file.units == ("Mg/ha",) * 3
    assert (
        "map_units"
        in gb.change_totals(
            first, in_units(second, None), plots=plots_of_both(), **settings
        ).attrs
    )
