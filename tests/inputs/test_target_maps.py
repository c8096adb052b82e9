"""A target's own name and units from the labels to the map, plots and report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
from conftest import make_chips, make_scene
from variants import variants

import geobiomass as gb
from geobiomass.cube.quantity import AGB, target_of
from geobiomass.training.model_folder import read_config

QUICK: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 4,
    "crop": 32,
    "block": 32,
    "encoder": "test_resnet",
    "decoder_channels": (16, 16, 16, 16, 16),
    "progress": False,
}
MONTHS = (6, 7)


def heights(scene: xr.Dataset, **attrs: str) -> xr.Dataset:
    """Return a scene whose target is the height of the canopy, in metres."""
    about = {"units": "m", "long_name": "top of canopy height", **attrs}
    height = (scene["agb"] / 8).rename("canopy_height").assign_attrs(about)
    return gb.as_cube(scene.drop_vars("agb"), agb=height)


def dated(scene: xr.Dataset) -> xr.Dataset:
    times = {"time_coverage_start": "2023-06-01", "time_coverage_end": "2023-07-31"}
    return scene.assign_attrs(times)


@pytest.fixture(scope="module")
def scene() -> xr.Dataset:
    return dated(heights(make_scene(64, 96, months=MONTHS)))


@pytest.fixture(scope="module")
def model(scene: xr.Dataset) -> gb.BiomassRegressor:
    made = gb.fit(scene, "quick", **QUICK)
    # Of a few blocks an interval of 60 % can be calibrated.
    return made.calibrate(heights(make_scene(64, 96, MONTHS, seed=3)), 0.6, unit=16)


@pytest.fixture(scope="module")
def folder(
    model: gb.BiomassRegressor, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("models") / "model"
    model.save(path)
    return path


NAMES = ["canopy_height", "canopy_height_lower", "canopy_height_upper"]


def test_a_map_has_the_targets_name_and_units(
    model: gb.BiomassRegressor, scene: xr.Dataset
) -> None:
    found = model.predict(scene)
    assert list(found) == NAMES
    assert {layer.attrs["units"] for layer in found.values()} == {"m"}
    assert found["canopy_height"].attrs["long_name"] == "top of canopy height"
    assert found["canopy_height_lower"].attrs["long_name"] == (
        "lower end of the 60 % interval of top of canopy height"
    )
    # Learnt in metres: 8 of them are about a hundred megagrams per hectare.
    assert 0 < float(found["canopy_height"].mean()) < 30
    with_index = model.predict(scene, applicability=True)
    assert set(with_index) == {*NAMES, "dissimilarity", "applicable"}


@pytest.mark.parametrize("ending", [".zarr", ".tif"])
def test_files_of_a_map_have_the_targets_name_and_units(
    model: gb.BiomassRegressor, scene: xr.Dataset, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"map{ending}"
    model.predict_to(path, scene, progress=False)
    if ending == ".tif":
        with rasterio.open(path) as file:
            assert list(file.descriptions) == NAMES
            assert file.units == ("m", "m", "m")
    else:
        found = xr.open_zarr(path)
        assert sorted(found) == NAMES
        assert {layer.attrs["units"] for layer in found.values()} == {"m"}
    facts = gb.describe(path).facts
    assert "canopy_height, m" in str(facts) or ending == ".tif"
    assert gb.provenance(path)["model"]["target"]["units"] == "m"
    assert "top of canopy height, m" in str(gb.provenance(path))
    # Read again, it is known as what it is.
    with pytest.raises(gb.CubeError, match="got 'canopy_height' in 'm'"):
        gb.totals(path, residuals=gb.residuals(model.predict(scene), scene))


def test_a_stac_item_names_the_target(
    model: gb.BiomassRegressor, folder: Path, scene: xr.Dataset, tmp_path: Path
) -> None:
    pytest.importorskip("pystac")
    path = tmp_path / "map.tif"
    model.predict_to(path, scene, progress=False, stac_item=str(folder))
    item = json.loads(path.with_suffix(".json").read_text())
    assert item["properties"]["title"].startswith("Top of canopy height, ")
    bands = item["assets"]["map"]["bands"]
    assert [band["name"] for band in bands] == NAMES
    assert {band["unit"] for band in bands} == {"m"}
    assert item["properties"]["mlm:output"][0]["name"] == "canopy_height"
    assert item["properties"]["mlm:output"][0]["description"] == "m"
    assert "iomass density" not in json.dumps(item)


def test_a_saved_model_knows_its_target(
    model: gb.BiomassRegressor, folder: Path, scene: xr.Dataset
) -> None:
    settings = read_config(folder)["settings"]
    assert settings["outputs"] == ["canopy_height"]
    assert settings["units"] == "m"
    assert settings["long_name"] == "top of canopy height"
    loaded = gb.load(folder)
    assert loaded.target == model.target
    xr.testing.assert_identical(
        loaded.predict(scene)["canopy_height"].drop_attrs(),
        model.predict(scene)["canopy_height"].drop_attrs(),
    )
    assert "canopy_height in m" in repr(loaded)
    card = (folder / "README.md").read_text()
    assert "# Top of canopy height from monthly satellite images" in card
    assert "Maps top of canopy height, in m, pixel by pixel" in " ".join(card.split())
    assert "Mg/ha" not in card
    assert "biomass" not in card.replace("geobiomass", "")
    assert ", m" in str(gb.describe(folder).facts["maps"])
    assert "Mg/ha" not in gb.describe(folder).to_html()


def test_an_old_model_maps_biomass() -> None:
    config = {"outputs": ["agb"], "units": "Mg/ha"}
    assert type(AGB).of_settings(config) == AGB
    assert type(AGB).of_settings({}) == AGB


def test_the_largest_label_of_biomass_is_no_limit_of_heights(
    model: gb.BiomassRegressor,
) -> None:
    assert model.recipe is not None
    assert model.recipe.ceiling is None  # of the recipe 1,000 Mg/ha


@pytest.mark.filterwarnings("ignore:.*trained the model")
def test_evaluation_is_in_the_models_units(
    model: gb.BiomassRegressor, scene: xr.Dataset
) -> None:
    table = model.evaluate(scene, bootstrap=0)
    assert (table.attrs["target"], table.attrs["units"]) == ("canopy_height", "m")
    assert list(table.index[:3]) == ["all", "0-5", "5-10"]
    centimetres = scene.assign(
        agb=(100 * scene["agb"]).assign_attrs(scene["agb"].attrs | {"units": "cm"})
    )
    pd.testing.assert_frame_equal(
        model.evaluate(centimetres, bootstrap=0), table, rtol=1e-4
    )
    with pytest.raises(gb.CubeError, match="agb in Mg/ha, which cannot be converted"):
        model.evaluate(make_scene(64, 96, MONTHS))
    with pytest.raises(gb.CubeError, match="cannot be converted"):
        model.calibrate(make_scene(64, 96, MONTHS), 0.6)


@pytest.mark.slow
def test_a_validation_cube_in_other_units_is_converted_or_refused(
    scene: xr.Dataset,
) -> None:
    other = make_scene(64, 96, MONTHS, seed=5)
    other = other.assign_coords(x=other["x"] + 10_000)
    centimetres = heights(other)
    centimetres["agb"] = (100 * centimetres["agb"]).assign_attrs(
        centimetres["agb"].attrs | {"units": "cm"}
    )
    made = gb.fit(scene, "quick", centimetres, **QUICK)
    same = gb.fit(scene, "quick", heights(other), **QUICK)
    ours, theirs = (m.history["validation_average_rmse"].iloc[-1] for m in (made, same))
    assert ours == pytest.approx(theirs, rel=1e-4)
    with pytest.raises(gb.CubeError, match="training data has canopy_height in m"):
        gb.fit(scene, "quick", other, **QUICK)


def test_residuals_and_change_have_the_targets_name(
    model: gb.BiomassRegressor, scene: xr.Dataset, tmp_path: Path
) -> None:
    found = model.predict(scene).compute()
    table = gb.residuals(found, scene)
    assert table.attrs["units"] == "m"
    assert table.attrs["target"] == "canopy_height"
    np.testing.assert_allclose(
        table["observed"].sum(), float(scene["agb"].sum()), rtol=1e-3
    )
    moved = gb.change(found, found, confidence=0.6)
    assert next(iter(moved)) == "canopy_height_change"
    assert moved["canopy_height_change"].attrs["units"] == "m"
    with pytest.raises(gb.CubeError, match="must be of one quantity"):
        gb.change(found, make_scene(64, 96, MONTHS)[["agb"]])
    with pytest.raises(gb.CubeError, match="Totals of change need a map of biomass"):
        gb.change_totals(found, found, residuals=(table, table))
    from geobiomass.evaluation.residuals import read_residuals, write_residuals

    write_residuals(table, tmp_path / "residuals.csv")
    assert read_residuals(tmp_path / "residuals.csv").attrs == table.attrs


@pytest.mark.filterwarnings("ignore:.*trained the model")
def test_plots_are_labelled_by_the_target(
    model: gb.BiomassRegressor, scene: xr.Dataset
) -> None:
    import matplotlib.pyplot as plt

    found = model.predict(scene).compute()
    bar = gb.plots.biomass(found).figure.axes[-1]
    assert bar.get_ylabel() == "m"
    assert gb.plots.biomass(found).get_title() == "canopy height"
    figure = gb.plots.comparison(scene, found)
    assert [axes.get_title() for axes in figure.axes[:3]] == [
        "true canopy height",
        "predicted canopy height",
        "predicted minus observed",
    ]
    assert {axes.get_ylabel() for axes in figure.axes[3:]} == {"m"}
    scatter = gb.plots.scatter(found, scene)
    assert scatter.get_xlabel() == "observed, m"
    assert " m\n" in scatter.texts[0].get_text()
    table = model.evaluate(scene, bootstrap=0)
    bins = gb.plots.error_by_bin(table)
    assert bins.get_xlabel() == "observed canopy height, m; pixels below"
    assert bins.get_ylabel() == "error, m"
    held = gb.plots.calibration(found, scene)
    assert held.get_xlabel() == "canopy height, m"
    history = gb.plots.history(model)
    assert "Mg/ha" not in history.get_ylabel()
    centimetres = scene["agb"].assign_attrs(units="cm") * 100
    centimetres.attrs["units"] = "cm"
    again = gb.plots.scatter(found, centimetres)
    assert again.texts[0].get_text() == scatter.texts[0].get_text()
    with pytest.raises(ValueError, match="must be of one quantity"):
        gb.plots.scatter(found, make_scene(64, 96, MONTHS))
    plt.close("all")


def test_a_page_to_explore_names_the_target(
    model: gb.BiomassRegressor, scene: xr.Dataset
) -> None:
    pytest.importorskip("folium")
    page = model.explore(model.predict(scene).compute(), tiles=None)
    text = page.get_root().render()
    assert "canopy height, m" in text
    assert "biomass, " not in text


@pytest.mark.slow
def test_the_report_is_in_the_targets_units(
    model: gb.BiomassRegressor, scene: xr.Dataset, tmp_path: Path
) -> None:
    path = gb.write_report(model, scene, tmp_path / "report.html", progress=False)
    text = re.sub(r"<[^>]+>", " ", path.read_text())
    assert "Mg/ha" not in text
    assert re.search(r"\d\.\d\d m\b", text)
    assert "Predicted against observed canopy height" in text
    with pytest.raises(gb.CubeError, match="Totals need a map of biomass"):
        gb.write_report(
            model,
            scene,
            tmp_path / "totals.html",
            residuals=gb.residuals(model.predict(scene), scene),
            progress=False,
        )


def test_an_ensemble_has_one_target(
    model: gb.BiomassRegressor, scene: xr.Dataset, tmp_path: Path
) -> None:
    both = gb.Ensemble([model, model], spread=True)
    found = both.predict(scene)
    assert list(found) == ["canopy_height", "canopy_height_spread"]
    assert {layer.attrs["units"] for layer in found.values()} == {"m"}
    both.save(tmp_path / "both")
    assert gb.load(tmp_path / "both").target == model.target
    assert "Mg/ha" not in (tmp_path / "both" / "README.md").read_text()
    other = gb.BiomassRegressor(
        model.network, model.bands, 2, ("canopy_height",), units="cm"
    )
    with pytest.raises(ValueError, match="in the same units, got"):
        gb.Ensemble([model, other])


@pytest.mark.slow
def test_cross_validation_keeps_the_target(scene: xr.Dataset, tmp_path: Path) -> None:
    folds = gb.make_folds(scene, 2, block=32)
    found = gb.cross_validate(scene, "quick", folds, **QUICK)
    assert list(found.predictions) == ["canopy_height"]
    assert found.evaluate("fold", bootstrap=0).attrs["units"] == "m"
    found.save(tmp_path / "held", progress=False)
    gb.write_cube(scene, tmp_path / "scene.zarr")
    again = gb.CrossValidation.load(tmp_path / "held", scene)
    assert again.predictions["canopy_height"].attrs["units"] == "m"
    facts = gb.describe(tmp_path / "held").facts
    assert "in m" in str(getattr(facts["errors"], "note", ""))


@pytest.mark.slow
def test_an_interval_that_is_learnt_has_the_targets_name() -> None:
    chips = make_chips(14)
    chips["agb"] = (chips["agb"] / 8).assign_attrs(units="m", long_name="canopy height")
    settings = QUICK | {"crop": None, "block": None}
    model = gb.fit(chips, "quick", interval=0.6, **settings)
    assert model.outputs[1:] == ("canopy_height_lower_raw", "canopy_height_upper_raw")
    assert list(model.predict(chips)) == NAMES
    with pytest.raises(ValueError, match="hold biomass in Mg/ha"):
        model.predict_chips_to("submission", chips)


@variants("units", ["%", "1", "percent", "kg"], quick=1)
def test_any_units_stay_through_fit_and_map(units: str) -> None:
    cube = make_scene(32, 64, MONTHS)
    cover = (cube["agb"] / 4).rename("cover").assign_attrs(units=units)
    cube = gb.as_cube(cube.drop_vars("agb"), agb=cover)
    model = gb.fit(cube, "quick", validation=0.0, **QUICK)
    found = model.predict(cube)
    assert target_of(found).name == "cover"
    assert found["cover"].attrs["units"] == units


@pytest.mark.slow
def test_labels_in_kilograms_train_the_same_model() -> None:
    cube = make_scene(32, 64, MONTHS)
    heavy = cube.assign(agb=(cube["agb"] / 10).assign_attrs(units="kg m-2"))
    one, other = (
        gb.fit(each, "quick", validation=0.0, **QUICK).predict(cube)
        for each in (cube, heavy)
    )
    assert list(other) == ["agb"]
    assert other["agb"].attrs == one["agb"].attrs
    np.testing.assert_allclose(other["agb"], one["agb"], rtol=1e-3, atol=1e-2)


def test_an_interval_of_a_target_that_can_be_negative_is_not_cut_at_zero() -> None:
    from geobiomass.statistics.conformal import Calibration, calibrate
    from geobiomass.statistics.conformal_units import Unit

    draw = np.random.default_rng(0)
    for shift, least in ((100.0, 0.0), (0.0, None)):
        units = [
            Unit({"moved": np.full(50, shift)}, np.abs(draw.normal(shift, 5, 50)))
            if least == 0.0
            else Unit({"moved": np.full(50, shift)}, draw.normal(shift, 5, 50))
            for _ in range(30)
        ]
        step = calibrate(units, 0.8, 1, name="moved")
        assert step.least == least
        assert ("least" in step.to_dict()) == (least is None)
        assert Calibration.from_dict(step.to_dict()) == step
        ends = step.apply({"moved": np.zeros(1, np.float32)})
        assert (ends["moved_lower"][0] < 0) == (least is None)
