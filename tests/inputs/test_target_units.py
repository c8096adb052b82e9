"""Units and names of targets: read as people write them, converted, or refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import make_chips, make_scene

import geobiomass as gb
from geobiomass.cube.quantity import AGB, Quantity, quantity_of, target_of
from geobiomass.cube.units import conversion, hectare_factor

SPELLINGS = {
    1.0: [
        *("Mg/ha", "Mg ha-1", "Mg ha^-1", "Mg ha**-1", "Mg.ha-1", "Mg per ha"),
        *("Mg\u00b7ha\u207b\u00b9", "Mg ha\u22121", "t/ha", "t ha-1", "t ha^-1"),
        *("tonnes per hectare", "tonnes/ha", "Megagrams per hectare", "tons/ha"),
        *("metric tons per hectare", "Mg/ha (dry matter)", "t DM/ha", "tDM/ha"),
        *("Mg d.m. ha-1", "mg/ha", "Mg/Ha", "Mg / ha", "tha-1", "t_ha-1", "T/ha"),
    ],
    10.0: [
        *("kg m-2", "kg/m2", "kg/m^2", "kg/m\u00b2", "kg m**-2", "kg m^-2", "kgm-2"),
        *("KG/M2", "kilograms per square metre", "kg/(m2)", "kg*m-2", "10 Mg/ha"),
    ],
    0.01: ["g/m2", "g m-2", "Mg km-2", "t/km2", "0.01 Mg/ha"],
    0.001: ["kg/ha", "kg ha-1", "kg DM/ha"],
}
NONE = [
    *("m", "%", "percent", "kg", "1", "Mg", "t", "m3/ha", "m2/ha", "Mg C/ha"),
    *("MgC ha-1", "t C ha-1", "Mg ha-1 yr-1", "Mg/ha/yr", "kg/m3", "t/pixel"),
    *("tons/acre", "Mg ha", "mg/m2", "Mg/ha x 10", "", "kg/tree", "dB"),
]


@pytest.mark.parametrize(
    ("units", "factor"),
    [(units, factor) for factor, many in SPELLINGS.items() for units in many],
)
def test_a_mass_per_area_is_read_in_the_spellings_of_the_field(
    units: str, factor: float
) -> None:
    assert hectare_factor(units) == factor


@pytest.mark.parametrize("units", NONE)
def test_other_units_are_no_mass_per_area(units: str) -> None:
    assert hectare_factor(units) is None


def test_units_of_one_kind_are_converted_and_others_are_not() -> None:
    assert conversion("cm", "m") == 0.01
    assert conversion("metres", "ft") == pytest.approx(3.28084)
    assert conversion("percent", "1") == 0.01
    assert conversion("%", "percent") == 1.0
    assert conversion("g m-2", "kg/m2") == 0.001
    assert conversion("m3/ha", "m3/ha") == 1.0
    assert conversion("m", "%") is None
    assert conversion("Mg/ha", "m") is None


def labels_like(scene: xr.Dataset, name: str | None, **attrs: Any) -> xr.DataArray:
    return xr.DataArray(scene["agb"].variable, scene["agb"].coords, name=name).pipe(
        lambda array: array.copy().assign_attrs({"units": None, **attrs})
    )


@pytest.fixture
def scene() -> xr.Dataset:
    return make_scene()


def bare(scene: xr.Dataset) -> xr.Dataset:
    return scene.drop_vars("agb")


@pytest.mark.parametrize("units", ["kg/m2", "kg m-2", "t ha-1", "g/m2"])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_mass_per_area_becomes_megagrams_per_hectare(
    scene: xr.Dataset, units: str, lazy: bool
) -> None:
    factor = hectare_factor(units)
    assert factor is not None
    given = (scene["agb"] / factor).rename("biomass").assign_attrs(units=units)
    if lazy:
        given = given.chunk({"y": 16})
    made = gb.as_cube(bare(scene), agb=given)
    assert (made["agb"].chunks is not None) == lazy
    np.testing.assert_allclose(made["agb"], scene["agb"], rtol=1e-6)
    assert made["agb"].attrs["units"] == "Mg/ha"
    assert quantity_of(made["agb"]) == AGB
    told = made["agb"].attrs.get("converted")
    assert told == (None if factor == 1 else f"from {units}, times {factor:g}")


def test_a_cube_whose_labels_are_in_other_units_is_converted_in_every_door(
    scene: xr.Dataset, tmp_path: Path
) -> None:
    heavy = scene.assign(agb=(scene["agb"] / 10).assign_attrs(units="kg/m2"))
    np.testing.assert_allclose(gb.as_cube(heavy)["agb"], scene["agb"], rtol=1e-6)
    gb.write_cube(heavy, tmp_path / "cube.zarr")
    stored = gb.open_cube(tmp_path / "cube.zarr")
    np.testing.assert_allclose(stored["agb"], scene["agb"], rtol=1e-6)
    assert stored["agb"].attrs["units"] == "Mg/ha"
    assert stored["agb"].attrs["converted"] == "from kg/m2, times 10"
    # Once: a converted cube stays as it is.
    assert gb.as_cube(stored) is stored
    table = gb.residuals(scene[["agb"]] * 1.1, heavy)
    np.testing.assert_allclose(table["predicted"], 1.1 * table["observed"], rtol=1e-5)


def test_biomass_stays_as_it_was(scene: xr.Dataset) -> None:
    assert gb.as_cube(scene) is scene
    made = gb.as_cube(bare(scene), agb=labels_like(scene, None))
    assert made["agb"].attrs == {"units": "Mg/ha"}
    xr.testing.assert_equal(made["agb"], scene["agb"])
    chips = make_chips(2)
    assert gb.as_cube(chips) is chips


@pytest.mark.parametrize(
    ("name", "attrs", "expected"),
    [
        ("canopy_height", {"units": "m"}, ("canopy_height", "canopy height", "m")),
        ("cover", {"units": "%"}, ("cover", "cover", "%")),
        ("cover", {"units": "percent"}, ("cover", "cover", "percent")),
        ("biomass", {"units": "kg"}, ("biomass", "biomass", "kg")),
        ("fraction", {"units": "1"}, ("fraction", "fraction", "1")),
        ("gsv", {"units": "m3/ha"}, ("gsv", "gsv", "m3/ha")),
        ("agc", {"units": "Mg C/ha"}, ("agc", "agc", "Mg C/ha")),
        (
            "Canopy height (m)",
            {"units": "m", "long_name": "Top of canopy"},
            ("canopy_height", "Top of canopy", "m"),
        ),
        (None, {"units": "m"}, ("target", "target", "m")),
        ("band_data", {"units": "m", "long_name": ("CHM",)}, ("CHM", "CHM", "m")),
        (
            None,
            {"units": "m", "long_name": "Canopy height model"},
            ("canopy_height_model", "Canopy height model", "m"),
        ),
        ("agb", {"units": "m"}, ("target", "target", "m")),
        ("band_data", {"units": "m", "long_name": "CHM"}, ("CHM", "CHM", "m")),
        (
            None,
            {"units": "m", "standard_name": "canopy_height"},
            ("canopy_height", "canopy height", "m"),
        ),
        ("2020", {"units": "m", "long_name": "rh98"}, ("rh98", "rh98", "m")),
    ],
)
def test_another_quantity_keeps_its_name_and_units(
    scene: xr.Dataset, name: str | None, attrs: Any, expected: tuple[str, ...]
) -> None:
    made = gb.as_cube(bare(scene), agb=labels_like(scene, name, **attrs))
    assert quantity_of(made["agb"]) == Quantity(*expected)
    xr.testing.assert_equal(made["agb"], scene["agb"])  # not converted
    assert quantity_of(gb.as_cube(made)["agb"]) == Quantity(*expected)


def test_a_name_and_units_can_be_given(scene: xr.Dataset) -> None:
    height = labels_like(scene, "band_data")
    made = gb.as_cube(bare(scene), agb=height, target="canopy_height", units="m")
    assert target_of(made) == Quantity("canopy_height", "canopy height", "m")
    # Below-ground biomass is a mass per area, and not the biomass of this package.
    roots = labels_like(scene, "roots", units="kg/m2") / 10
    roots.attrs["units"] = "kg/m2"
    made = gb.as_cube(bare(scene), agb=roots, target="bgb")
    assert (target_of(made).name, target_of(made).units) == ("bgb", "Mg/ha")
    np.testing.assert_allclose(made["agb"], scene["agb"], rtol=1e-6)
    with pytest.raises(gb.CubeError, match="must have units, got none"):
        gb.as_cube(bare(scene), agb=height, target="canopy_height")
    with pytest.raises(gb.CubeError, match="mass per area"):
        gb.as_cube(bare(scene), agb=height, target="agb", units="m")
    with pytest.raises(gb.CubeError, match="describe labels, got none"):
        gb.as_cube(bare(scene), target="canopy_height", units="m")


@pytest.mark.parametrize(
    "name", ["x", "y", "band", "image", "applicable", "Dissimilarity", "agb_lower"]
)
def test_names_of_other_variables_are_refused(scene: xr.Dataset, name: str) -> None:
    with pytest.raises(gb.CubeError, match="rename it, target="):
        gb.as_cube(bare(scene), agb=scene["agb"], target=name, units="m")


@pytest.mark.parametrize("name", ["canopy height", "a/b", "", "1st"])
def test_names_that_no_variable_can_have_are_refused(
    scene: xr.Dataset, name: str
) -> None:
    with pytest.raises(gb.CubeError, match="letters, digits and _"):
        gb.as_cube(bare(scene), agb=scene["agb"], target=name, units="m")


@pytest.mark.parametrize("units", ["Mg/ha x 10", "tons/acre", "Mg/ha/yr", "t/m2*2"])
def test_biomass_in_units_that_are_not_understood_is_refused(
    scene: xr.Dataset, units: str
) -> None:
    with pytest.raises(gb.CubeError, match="not understood as a mass of dry biomass"):
        gb.as_cube(bare(scene), agb=labels_like(scene, "agb", units=units))


@pytest.mark.parametrize("name", ["height", "rh98", "chm", "tree_cover", "agc", "gsv"])
def test_a_name_of_another_quantity_without_units_is_told(
    scene: xr.Dataset, name: str
) -> None:
    with pytest.warns(UserWarning, match=f"{name}' without units are taken") as told:
        made = gb.as_cube(bare(scene), agb=labels_like(scene, name))
    assert len(told) == 1
    assert quantity_of(made["agb"]) == AGB
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        gb.as_cube(bare(scene), agb=labels_like(scene, name), target="agb")
        gb.as_cube(made)  # told once


@pytest.mark.parametrize(
    "name", ["agb", "AGBD_2020", "biomass", "canopy_biomass", "values", "average"]
)
def test_other_names_without_units_are_biomass_without_a_word(
    scene: xr.Dataset, name: str
) -> None:
    made = gb.as_cube(bare(scene), agb=labels_like(scene, name))
    assert made["agb"].attrs == {"units": "Mg/ha"}


@pytest.mark.parametrize(
    ("name", "units", "factor"),
    [
        ("AGB (kg/m2)", "kg/m2", 10),
        ("agb_kg_m2", "kg/m2", 10),
        ("agb_gm2", "g/m2", 0.01),
    ],
)
def test_units_in_a_name_are_read_and_told(
    scene: xr.Dataset, name: str, units: str, factor: float
) -> None:
    with pytest.warns(UserWarning, match=f"read as {units}"):
        made = gb.as_cube(bare(scene), agb=labels_like(scene, name))
    np.testing.assert_allclose(made["agb"], scene["agb"] * factor, rtol=1e-6)


# --- with_labels ------------------------------------------------------------------


def table_of(scene: xr.Dataset, column: str, values: list[float]) -> pd.DataFrame:
    rows = [4, 12, 20]
    return pd.DataFrame(
        {"x": scene["x"].values[rows], "y": scene["y"].values[rows], column: values}
    )


def test_labels_of_a_table_keep_their_column_and_units(scene: xr.Dataset) -> None:
    shots = table_of(scene, "height", [11.0, 22.0, 33.0])
    made = gb.with_labels(
        bare(scene), shots, column="height", crs="EPSG:3067", units="m"
    )
    assert (target_of(made).name, target_of(made).units) == ("height", "m")
    assert np.nansum(made["agb"]) == 66
    shots.attrs["units"] = {"height": "cm", "x": "m"}
    made = gb.with_labels(bare(scene), shots, column="height", crs="EPSG:3067")
    assert target_of(made).units == "cm"
    shots.attrs = {}
    with pytest.warns(UserWarning, match="'height' without units are taken for above"):
        made = gb.with_labels(bare(scene), shots, column="height", crs="EPSG:3067")
    assert target_of(made) == AGB


def test_labels_of_a_table_in_other_units_are_converted(scene: xr.Dataset) -> None:
    plots = table_of(scene, "agb", [1.0, 2.0, 3.0])
    made = gb.with_labels(bare(scene), plots, crs="EPSG:3067", units="kg/m2")
    assert np.nansum(made["agb"]) == 60
    assert made["agb"].attrs["units"] == "Mg/ha"
    assert made["agb"].attrs["converted"] == "from kg/m2, times 10"
    assert made["agb"].attrs["labelled_pixels"] == 3


def test_labels_of_a_raster_keep_the_units_that_it_states(
    scene: xr.Dataset, tmp_path: Path
) -> None:
    import rasterio

    path = tmp_path / "chm.tif"
    scene["agb"].rio.to_raster(path)
    with rasterio.open(path, "r+") as file:
        file.set_band_unit(1, "m")
        file.set_band_description(1, "canopy_height")
    made = gb.with_labels(bare(scene), path)
    assert (target_of(made).name, target_of(made).units) == ("canopy_height", "m")
    with rasterio.open(path, "r+") as file:
        file.set_band_unit(1, "kg m-2")
        file.set_band_description(1, "")
    made = gb.with_labels(bare(scene), path)
    np.testing.assert_allclose(made["agb"], 10 * scene["agb"], rtol=1e-6)


def test_labels_of_an_array_keep_its_name_and_units(scene: xr.Dataset) -> None:
    cover = labels_like(scene, "tree_cover", units="%", long_name="Tree cover")
    made = gb.with_labels(bare(scene), cover)
    assert target_of(made) == Quantity("tree_cover", "Tree cover", "%")
    named = gb.with_labels(bare(scene), cover, target="closure", units="percent")
    assert target_of(named) == Quantity("closure", "Tree cover", "percent")


def test_describe_names_the_labels(scene: xr.Dataset, run: Any, tmp_path: Path) -> None:
    height = gb.as_cube(bare(scene), agb=labels_like(scene, "chm", units="m"))
    assert gb.describe(height).facts["labels"] == "chm, m"
    assert gb.describe(scene).facts["labels"] == "agb, Mg/ha"
    gb.write_cube(height, tmp_path / "cube.zarr")
    code, said, _ = run("info", tmp_path / "cube.zarr")
    assert code == 0
    assert "chm, m" in said
