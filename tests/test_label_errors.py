"""Standard errors of labels: kept beside them in a cube, and weights in a training."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import make_scene
from hypothesis import given, settings
from hypothesis import strategies as st
from raster_files import UTM, draw, north_up, write_tif
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

import geobiomass as gb
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.network import AttentionUNet
from geobiomass.recipes.datasets import make_loaders
from geobiomass.recipes.label_weights import LabelWeights, unexplained_variance
from geobiomass.recipes.objective import loss_of
from geobiomass.recipes.recipe import Recipe, find_recipe
from geobiomass.recipes.resume import learnt_from

WEST, NORTH = 500_000, 5_600_000
FAST: dict[str, Any] = {"trees": 40, "neighbourhoods": (3,), "progress": False}
TINY: dict[str, Any] = {"encoder": "test_resnet", "decoder_channels": (8,) * 5}


def scene(height: int = 20, width: int = 30) -> xr.Dataset:
    """A scene with pixels of 10 m, without labels."""
    made = make_scene(height, width).drop_vars(["agb", "spatial_ref"])
    made["y"] = NORTH - 10 * np.arange(height) - 5.0
    made["x"] = WEST + 10 * np.arange(width) + 5.0
    return made.rio.write_crs(UTM).rio.write_coordinate_system()


def plots(*rows: tuple[float, float, float, float]) -> pd.DataFrame:
    """Return a table of labels: row and column of the pixel, value, standard error."""
    table = pd.DataFrame(rows, columns=["row", "column", "agb", "se"])
    table["x"] = WEST + 10 * table.pop("column") + 5
    table["y"] = NORTH - 10 * table.pop("row") - 5
    return table


def with_plots(*rows: tuple[float, float, float, float], **more: Any) -> xr.Dataset:
    return gb.with_labels(scene(), plots(*rows), crs=UTM, error="se", **more)


# --- in a cube ---


def test_errors_of_plots_are_beside_their_labels() -> None:
    made = with_plots((2, 3, 10, 3), (2, 3, 20, 4), (7, 9, 50, 8))
    errors = made["agb_se"]
    assert (errors.dims, errors.dtype) == (("y", "x"), np.float32)
    assert errors.attrs["units"] == "Mg/ha"
    # The error of a mean of two: root of 3^2 + 4^2, over 2.
    assert errors.values[2, 3] == 2.5
    assert errors.values[7, 9] == 8
    np.testing.assert_array_equal(errors.isnull(), made["agb"].isnull())
    assert "agb_se" not in gb.with_labels(made, plots((0, 0, 1, 1)), crs=UTM)


def test_errors_are_in_the_units_of_the_labels() -> None:
    made = with_plots((2, 3, 10, 3), units="kg/m2")
    assert made["agb"].values[2, 3] == 100
    assert made["agb_se"].values[2, 3] == 30
    lighter = made.copy()
    lighter["agb"] = (made["agb"] / 10).assign_attrs(units="kg/m2")
    lighter["agb_se"] = (made["agb_se"] / 10).assign_attrs(units="kg/m2")
    assert gb.as_cube(lighter)["agb_se"].values[2, 3] == 30
    del lighter["agb_se"].attrs["units"]  # errors without units have the labels'
    assert gb.as_cube(lighter)["agb_se"].values[2, 3] == 30


@pytest.mark.parametrize("units", [None, "Mg/ha"])
def test_units_that_errors_state_are_converted(units: str | None) -> None:
    table = plots((2, 3, 10, 3)).rename(columns={"se": "se (kg/m2)"})
    table.attrs["units"] = {"agb": "Mg/ha"}
    made = gb.with_labels(scene(), table, crs=UTM, error="se (kg/m2)", units=units)
    assert made["agb"].values[2, 3] == 10
    # units= is of both.
    assert made["agb_se"].values[2, 3] == (30 if units is None else 3)
    labels = made["agb"].fillna(10).compute()
    errors = (labels * 0 + 2).assign_attrs(units="kg/m2")
    made = gb.with_labels(scene(), labels, error=errors, units=units)
    assert set(made["agb_se"].values.ravel()) == {20 if units is None else 2}
    if units is None:
        errors = errors.assign_attrs(units="%")
        with pytest.raises(gb.CubeError, match="units of the labels, Mg/ha, got '%'"):
            gb.with_labels(scene(), labels, error=errors)


def test_errors_of_heights_are_named_so() -> None:
    made = with_plots((2, 3, 10, 3), units="m", target="canopy_height")
    assert made["agb_se"].attrs["long_name"] == "standard error of canopy height"


def test_a_label_without_an_error_gets_the_median() -> None:
    rows = [(1, n, 10, error) for n, error in enumerate([2, 4, 9, np.nan, -9999])]
    with pytest.warns(UserWarning, match="2 of 5 labels have no standard error"):
        made = with_plots(*rows, nodata=-9999)
    assert made["agb_se"].values[1, :5].tolist() == [2, 4, 9, 4, 4]
    assert made["agb_se"].attrs["labels_without_error"] == 2


@pytest.mark.parametrize("kind", ["array", "file"])
def test_errors_of_a_raster_are_where_its_labels_are(kind: str, tmp_path: Path) -> None:
    cube = scene()
    values = np.arange(600, dtype=np.float32).reshape(20, 30) + 1
    values[4, 5] = np.nan
    errors = values / 10
    errors[0, 0], errors[3] = np.nan, 7
    files = {}
    for name, layer in (("agb", values), ("se", errors)):
        files[name] = tmp_path / f"{name}.tif"
        write_tif(files[name], layer, north_up(WEST, NORTH, 10), UTM, nodata=np.nan)
    given: dict[str, Any] = dict(files)
    if kind == "array":
        given = {
            name: xr.DataArray(layer, coords={"y": cube.y, "x": cube.x}).rio.write_crs(
                UTM
            )
            for name, layer in (("agb", values), ("se", errors))
        }
    with pytest.warns(UserWarning, match="1 of 599 labels have no standard error"):
        made = gb.with_labels(cube, given["agb"], error=given["se"])
    found = made["agb_se"].values
    assert np.isnan(found[4, 5])
    assert found[0, 0] == np.nanmedian(np.where(np.isnan(values), np.nan, errors))
    known = np.isfinite(errors) & np.isfinite(values)
    np.testing.assert_array_equal(found[known], errors[known])


@pytest.mark.parametrize("labels", ["a table", "a raster"])
def test_errors_come_with_files_and_the_command_line(
    labels: str, tmp_path: Path, run: Any
) -> None:
    place = north_up(WEST, NORTH, 10)
    image = draw((1, 20, 30))
    write_tif(tmp_path / "S2_2020-07.tif", image, place, UTM, names=["B02"])
    if labels == "a table":
        given, error = str(tmp_path / "plots.csv"), "se"
        table = plots((2, 3, 10, 3), (7, 9, 50, 8))
        points = gpd.points_from_xy(table.pop("x"), table.pop("y"), crs=UTM)
        points = points.to_crs(4326)
        table.assign(lon=points.x, lat=points.y).to_csv(given, index=False)
    else:
        given, error = str(tmp_path / "agb.tif"), str(tmp_path / "se.tif")
        for path, values in ((given, (10, 50)), (error, (3, 8))):
            layer = np.full((20, 30), np.nan, np.float32)
            layer[2, 3], layer[7, 9] = values
            write_tif(Path(path), layer, place, UTM, nodata=np.nan)
    files = tmp_path / "S2_{year}-{month}.tif"
    made = gb.from_rasters(files, agb=given, error=error)
    assert (made["agb_se"].values[2, 3], made["agb_se"].values[7, 9]) == (3, 8)
    assert int(np.isfinite(made["agb_se"].values).sum()) == 2
    assert "agb_se" not in gb.from_rasters(files, agb=given)
    with pytest.raises(
        gb.CubeError, match=r"standard errors of labels, got no labels; give agb="
    ):
        gb.from_rasters(files, error=error)
    out = tmp_path / "cube.zarr"
    words = ("ingest", "rasters", files, out)
    code, said, _ = run(*words, "--labels", given, "--error", error)
    assert code == 0
    assert "2 labelled with standard errors" in said
    stored = gb.open_cube(out)
    xr.testing.assert_equal(stored["agb_se"].compute(), made["agb_se"].compute())
    code, _, told = run(*words, "--error", error, "--overwrite")
    assert code != 0
    assert "--error needs the labels" in told


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ([1, -2], "must be finite and not below 0, got -2 "),
        ([1, np.inf], "must be finite and not below 0, got inf "),
        ([0, 0], "must be above 0 somewhere, got 0 at every label"),
        ([np.nan, np.nan], "must be numbers, got none at any label"),
    ],
)
def test_wrong_errors_are_refused(errors: list[float], said: str) -> None:
    rows = [(1, n, 10.0, error) for n, error in enumerate(errors)]
    with pytest.raises(gb.CubeError, match=said):
        with_plots(*rows)
    cube = scene()
    layer = np.full((20, 30), 5, np.float32)
    layer[0] = errors[0]
    layer[1:] = errors[1]
    coords = {"y": cube.y, "x": cube.x}
    raster = xr.DataArray(layer, coords=coords).rio.write_crs(UTM)
    with pytest.raises(gb.CubeError, match=said):
        gb.with_labels(cube, xr.full_like(raster, 9.0), error=raster)


def test_errors_of_another_form_are_refused() -> None:
    twice = plots((0, 0, 1, 1))
    twice["other"] = 2.0
    twice.columns = pd.Index([*twice.columns[:-1], "se"])
    with pytest.raises(gb.CubeError, match="several columns 'se'; rename all but one"):
        gb.with_labels(scene(), twice, crs=UTM, error="se")
    table = plots((1, 1, 10, 2))
    with pytest.raises(gb.CubeError, match="no column 'agb_see'"):
        gb.with_labels(scene(), table, crs=UTM, error="agb_see")
    with pytest.raises(gb.CubeError, match=r"the name of a column.*got float"):
        gb.with_labels(scene(), table, crs=UTM, error=2.0)
    made = with_plots((1, 1, 10, 2))
    with pytest.raises(gb.CubeError, match=r"'agb_se'.* must be those of 'agb'"):
        gb.as_cube(made.assign(agb_se=made["agb_se"].isel(y=0)))
    alone = made.drop_vars("agb")
    gb.as_cube(alone)  # to be mapped
    with pytest.raises(gb.CubeError, match="no 'agb'"):
        gb.fit(alone, "pixels")


def test_errors_are_stored_sliced_and_never_a_band(tmp_path: Path) -> None:
    made = with_plots((2, 3, 10, 3), (12, 9, 50, 8))
    gb.write_cube(made, tmp_path / "cube.zarr")
    stored = gb.open_cube(tmp_path / "cube.zarr")
    xr.testing.assert_equal(stored["agb_se"].compute(), made["agb_se"].compute())
    part = gb.as_cube(stored.isel(y=slice(5, 20), x=slice(3, 30)))
    assert part["agb_se"].values[7, 6] == 8
    gb.write_cube(part, tmp_path / "part.zarr")
    again = gb.open_cube(tmp_path / "part.zarr")
    assert again["agb_se"].values[7, 6] == 8
    bands = {
        str(name): made["image"].sel(band=name, drop=True)
        for name in made["band"].values
    }
    layers = xr.Dataset(bands | {"agb": made["agb"], "agb_se": made["agb_se"]})
    converted = gb.as_cube(layers)
    assert converted["band"].values.tolist() == made["band"].values.tolist()
    xr.testing.assert_equal(converted["agb_se"].compute(), made["agb_se"].compute())


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.integers(0, 5),
            st.floats(0, 400),
            st.floats(0.01, 300),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_the_error_of_a_mean_is_that_of_independent_labels(
    rows: list[tuple[int, int, float, float]],
) -> None:
    made = with_plots(*rows)
    found = made["agb_se"].values
    np.testing.assert_array_equal(np.isnan(found), made["agb"].isnull())
    pixels = {(row, column) for row, column, *_ in rows}
    assert int(np.isfinite(found).sum()) == len(pixels)
    for pixel in pixels:
        own = [error for *where, _, error in rows if tuple(where) == pixel]
        expected = sum(error**2 for error in own) ** 0.5 / len(own)
        assert found[pixel] == pytest.approx(expected, rel=1e-6)


# --- weights ---


def test_weights_are_inverse_variances() -> None:
    weigh = LabelWeights(unexplained=9.0, scale=100.0, middle=1.0, labels=2)
    np.testing.assert_allclose(weigh(np.array([4.0, 0.0, np.nan])), [4, 100 / 9, 10])


def test_what_is_unexplained_solves_its_equation() -> None:
    draw = np.random.default_rng(0)
    errors = np.where(np.arange(4000) % 2, 1.0, 6.0)
    residuals = draw.normal(0, np.sqrt(25 + errors**2))
    found = unexplained_variance(residuals, errors)
    assert (residuals**2 / (found + errors**2)).sum() == pytest.approx(4000)
    assert 20 < found < 30
    # Errors that explain more than there is: a tenth is left.
    assert unexplained_variance(residuals, errors + 99) == pytest.approx(
        0.1 * np.mean(residuals**2)
    )


def test_the_loss_of_a_network_weighs_by_pixel() -> None:
    prediction = torch.tensor([[[[3.0, 5.0, 7.0]]], [[[2.0, 2.0, 2.0]]]])
    labels = torch.tensor([[[[1.0, 1.0, np.nan]]], [[[0.0, np.nan, np.nan]]]])
    weights = torch.tensor([[[[0.5, 1.5, np.inf]]], [[[1.0, np.nan, 9.0]]]])
    target = torch.cat([labels, weights], dim=1)
    # Squared errors 4 and 16 of the first chip, 4 of the second.
    first, second = (0.5 * 4 + 1.5 * 16) / 2, 1.0 * 4
    loss = loss_of(Recipe(loss="chip_rmse"))
    assert float(loss(prediction, target)) == pytest.approx(
        (first**0.5 + second**0.5) / 2
    )
    loss = loss_of(Recipe(loss="mse"))
    assert float(loss(prediction, target)) == pytest.approx((2 + 24 + 4) / 3)
    loss = loss_of(Recipe(loss="huber", huber_delta=3))
    # Huber's loss: 2, 3 * (4 - 1.5) and 2.
    assert float(loss(prediction, target)) == pytest.approx((1 + 1.5 * 7.5 + 2) / 3)
    alone = torch.full_like(prediction, 1.0)[:, :1]
    for name in ("chip_rmse", "chip_huber", "mse", "huber"):
        loss = loss_of(Recipe(loss=name))
        same = loss(prediction, torch.cat([labels, alone], dim=1))
        assert torch.equal(same, loss(prediction, labels))


def noisy(seed: int = 0, count: int = 300) -> tuple[xr.Dataset, np.ndarray[Any, Any]]:
    """Return a scene with labels of which half have large errors, and the truth."""
    cube = gb.landscape(48, months=2, seed=3, version=1).isel(band=[0, 2, 6, 10]).load()
    draw = np.random.default_rng(seed)
    truth = 40 * (cube["image"][0, 2].values / cube["image"][0, 2].values.mean())
    at = np.zeros(truth.size, bool)
    at[draw.choice(truth.size, count, replace=False)] = True
    at = at.reshape(truth.shape)
    wrong = draw.random(truth.shape) < 0.5
    values = np.where(at, truth + np.where(wrong, 150.0, 0.0), np.nan)
    errors = np.where(at, np.where(wrong, 150.0, 1.0), np.nan)
    cube = cube.assign(agb=cube["agb"].copy(data=values.astype(np.float32)))
    return (
        cube.assign(agb_se=cube["agb"].copy(data=errors.astype(np.float32))),
        truth,
    )


@pytest.mark.slow
def test_a_learner_by_pixel_follows_labels_with_small_errors() -> None:
    cube, truth = noisy()
    settings = FAST | {"learner": Ridge(), "block": 12}
    bias = {}
    for weighs in (True, False):
        model = gb.fit(cube, "pixels", label_errors=weighs, **settings)
        found = model.predict(cube, check="off")["agb"].values
        bias[weighs] = float((found - truth).mean())
        facts = model.provenance["weights of labels"]
        assert isinstance(facts, dict) == weighs
    assert bias[False] == pytest.approx(75, abs=15)
    assert bias[True] < 0.6 * bias[False]


def test_without_errors_all_is_as_before(tmp_path: Path) -> None:
    cube, _ = noisy(count=120)
    settings = FAST | {"block": 12, "trees": 10}
    plain = gb.fit(cube.drop_vars("agb_se"), "pixels", **settings)
    off = gb.fit(cube, "pixels", **settings)
    on = gb.fit(cube, "pixels", label_errors=True, **settings)
    maps = [model.predict(cube, check="off") for model in (plain, off, on)]
    xr.testing.assert_identical(maps[0]["agb"], maps[1]["agb"])
    assert not maps[0]["agb"].equals(maps[2]["agb"])
    facts = on.provenance["weights of labels"]
    assert facts["labels"] == 120
    assert facts["least"] < 1 < facts["most"]
    on.save(tmp_path / "on")
    plain.save(tmp_path / "plain")
    off.save(tmp_path / "off")
    assert "label_errors=True weighs" in (tmp_path / "off" / "README.md").read_text()
    card = (tmp_path / "on" / "README.md").read_text()
    assert "Weights of labels: 1 / (tau^2 + se^2)" in card
    assert "Weights of labels" not in (tmp_path / "plain" / "README.md").read_text()
    assert gb.load(tmp_path / "on").provenance["weights of labels"] == facts


def test_an_estimator_without_weights_is_told() -> None:
    cube, _ = noisy()
    settings = FAST | {"block": 12, "learner": KNeighborsRegressor(), "domain_cells": 0}
    with pytest.warns(UserWarning, match="takes no sample_weight") as told:
        model = gb.fit(cube, "pixels", label_errors=True, **settings)
    found = model.provenance["weights of labels"]
    assert found.startswith("equal; the learner takes no sample_weight")
    assert sum("sample_weight" in str(one.message) for one in told) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*sample_weight")
        gb.fit(cube, "pixels", label_errors=False, **settings)


def test_weights_without_errors_are_told() -> None:
    cube = noisy(count=40)[0].drop_vars("agb_se")
    settings = FAST | {"block": 12, "trees": 10, "domain_cells": 0}
    with pytest.warns(UserWarning, match="no effect: the cube has no standard errors"):
        gb.fit(cube, "pixels", label_errors=True, **settings)
    recipe = find_recipe("quick", crop=12, block=12, label_errors=True)
    with pytest.warns(UserWarning, match="label_errors=True has no effect"):
        assert make_loaders(LabelledCube.open(cube), recipe).weights is None


def test_batches_of_a_network_have_weights_of_a_mean_of_one() -> None:
    cube, _ = noisy()
    data = LabelledCube.open(cube)
    recipe = find_recipe("quick", crop=12, block=12, label_errors=True)
    loaders = make_loaders(data, recipe)
    part = loaders.training
    assert loaders.weights is not None
    assert loaders.validation is not None
    found = []
    for sample in dict.fromkeys(part.samples):
        both = np.empty((2, sample.window.height, sample.window.width), np.float32)
        part.reader.fill_labels(sample, both)
        found.append(both[1][np.isfinite(both[0])])
    assert np.concatenate(found).mean() == pytest.approx(1, rel=1e-4)
    assert next(iter(part.epoch(0)))[2].shape[1] == 2
    assert next(iter(part.unweighted().epoch(0)))[2].shape[1] == 1
    assert next(iter(loaders.validation.epoch(0)))[2].shape[1] == 1
    off = make_loaders(data, recipe.with_changes(label_errors=False))
    assert next(iter(off.training.epoch(0)))[2].shape[1] == 1


def test_a_training_is_another_one_with_weights() -> None:
    cube, _ = noisy()
    network = AttentionUNet(bands=4, **TINY)
    recipe = find_recipe("quick")
    data, plain = LabelledCube.open(cube), LabelledCube.open(cube.drop_vars("agb_se"))
    before = learnt_from(plain, network, recipe)
    assert "label_errors" not in before
    first = learnt_from(data, network, recipe.with_changes(label_errors=True))
    second = learnt_from(data, network, recipe.with_changes(label_errors=False))
    assert [name for name in first if first[name] != second[name]] == ["label_errors"]
    assert first["data"] != before["data"]
    assert data.fingerprint != plain.fingerprint


def test_errors_of_a_cube_are_checked_when_it_trains() -> None:
    cube, _ = noisy()
    for wrong, said in ((-1, "got -1 at"), (np.inf, "got inf at"), (0, "got 0 at all")):
        errors = cube["agb_se"].where(cube["agb_se"].isnull(), np.float32(wrong))
        made = cube.assign(agb_se=errors)
        with pytest.raises(gb.CubeError, match=said):
            gb.fit(made, "pixels", block=12, label_errors=True, **FAST)


@pytest.mark.slow
def test_a_network_follows_labels_with_small_errors() -> None:
    cube, truth = noisy()
    bias = {}
    for weighs in (True, False):
        settings = TINY | {"epochs": 30, "crop": 32, "block": 32, "progress": False}
        with pytest.warns(UserWarning, match="training without validation"):
            model = gb.fit(cube, "quick", label_errors=weighs, **settings)
        found = model.predict(cube, check="off")["agb"].values
        bias[weighs] = float((found - truth).mean())
    assert bias[True] < 0.8 * bias[False]
