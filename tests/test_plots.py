"""Plots: units on every axis, north up, and the values of the data."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import make_chips, make_scene
from sklearn.metrics import r2_score

import geobiomass as gb
from geobiomass.network import AttentionUNet

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MONTHS = (6, 7, 8)
VISIBLE = ("B02", "B03", "B04")


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def coloured() -> xr.Dataset:
    return make_scene(40, 56, bands=VISIBLE).fillna(500)


@pytest.fixture(scope="module")
def model() -> gb.BiomassRegressor:
    torch.manual_seed(0)
    network = AttentionUNet(3, "test_resnet", (16, 16, 16, 16, 16))
    network.set_statistics([500.0] * 3, [500.0] * 3)
    return gb.BiomassRegressor(network.eval(), VISIBLE, months=3)


# --- from above ---------------------------------------------------------------


def test_a_comparison_has_four_pictures_with_units(coloured: xr.Dataset) -> None:
    predicted = coloured["agb"] + 5
    figure = gb.plots.comparison(coloured, predicted)
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels.count("Mg/ha") == 3
    assert labels[0] == "y, km"
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == 4
    assert all(a.get_xlabel() == "x, km" for a in figure.axes if a.get_title())
    truth, found = figure.axes[1].images[0], figure.axes[2].images[0]
    assert truth.get_clim() == found.get_clim()
    figure.canvas.draw()


def test_a_comparison_draws_available_layers_on_given_axes(
    coloured: xr.Dataset,
) -> None:
    mine = plt.subplots(1, 3)[1]
    unseen = coloured.isel(band=[0, 1])
    figure = gb.plots.comparison(unseen, coloured[["agb"]], axes=mine)
    assert figure is mine[0].figure
    assert [a.get_title() for a in mine] == [
        "true biomass",
        "predicted biomass",
        "predicted minus observed",
    ]
    np.testing.assert_array_equal(mine[2].images[0].get_array(), 0)
    unlabelled = coloured.drop_vars("agb")
    figure = gb.plots.comparison(unlabelled, coloured["agb"])
    titles = [a.get_title() for a in figure.axes if a.get_title()]
    assert len(titles) == 2
    assert titles[0].startswith("true colour, ")
    assert titles[1] == "predicted biomass"
    with pytest.raises(ValueError, match="axes must be 4, one for each image, got 3"):
        gb.plots.comparison(coloured, coloured["agb"], axes=mine)
    with pytest.raises(ValueError, match="shape of observed"):
        gb.plots.comparison(coloured, coloured["agb"][:-1])


def test_images_have_the_extent_of_the_scene(coloured: xr.Dataset) -> None:
    axes = plt.subplots()[1]
    assert gb.plots.biomass(coloured["agb"], axes) is axes
    left, right, bottom, top = axes.images[0].get_extent()
    bounds = np.array(coloured.rio.bounds()) / 1000
    np.testing.assert_allclose([left, bottom, right, top], bounds)
    assert axes.images[0].origin == "upper"
    np.testing.assert_array_equal(axes.images[0].get_array(), coloured["agb"])
    again = gb.plots.biomass(coloured[["agb"]].isel(y=slice(0, 20)))
    assert again.images[0].get_array().shape == (20, 56)


@pytest.mark.parametrize(
    ("change", "label", "left"),
    [
        ("degrees", "longitude, °", 24.0 - 0.00005),
        ("feet", "x, km", (400_000 / 3937 * 1200) / 1000),
        ("no system", "x, metre", 400_000.0),
        ("no coordinates", "x, pixels", 0.0),
    ],
)
def test_axes_have_units(
    coloured: xr.Dataset, change: str, label: str, left: float
) -> None:
    scene = coloured.drop_vars("spatial_ref")
    if change == "degrees":
        x = 24.0 + 0.0001 * np.arange(56)
        scene = scene.assign_coords(x=x, y=62 - 0.0001 * np.arange(40))
        scene = scene.rio.write_crs("EPSG:4326")
    elif change == "feet":  # the US survey foot is 1200 / 3937 m
        scene = scene.rio.write_crs("EPSG:2263")
    elif change == "no coordinates":
        scene = scene.drop_vars(["y", "x"])
    axes = gb.plots.biomass(scene["agb"])
    assert axes.get_xlabel() == label
    other = {"longitude": "latitude", "x": "y"}
    name, *unit = label.split(", ")
    assert axes.get_ylabel() == ", ".join([other[name], *unit])
    np.testing.assert_allclose(axes.images[0].get_extent()[0], left, rtol=1e-9)
    assert gb.plots.true_colour(scene, 7).get_xlabel() == label


def test_chips_are_drawn_one_at_a_time() -> None:
    chips = make_chips(2).rename(band="band").assign_coords(band=list(VISIBLE))
    axes = gb.plots.biomass(chips.isel(chip=[1]))
    np.testing.assert_array_equal(axes.images[0].get_array(), chips["agb"][1])
    assert gb.plots.true_colour(chips.isel(chip=1)).get_xlabel() == "x, pixels"
    with pytest.raises(ValueError, match=r"choose one chip with .isel\(chip=0\)"):
        gb.plots.biomass(chips)
    with pytest.raises(gb.CubeError, match="must have one chip, got 2"):
        gb.plots.months(chips)


def test_large_maps_are_thinned_and_stay_in_place() -> None:
    large = xr.DataArray(
        np.arange(4000.0 * 30).reshape(30, 4000), dims=("y", "x"), name="agb"
    )
    axes = gb.plots.biomass(large)
    picture = axes.images[0]
    assert picture.get_array().shape == (10, 1333)
    assert picture.get_extent() == [0, 4000, 30, 0]
    assert picture.get_array()[0, 0] == large[1, 1]


def test_true_colour_takes_the_clearest_month(coloured: xr.Dataset) -> None:
    coloured["image"][0] += 8000  # June in cloud
    coloured["image"][2, :, :30] = np.nan  # August seen in part
    axes = gb.plots.true_colour(coloured)
    assert axes.get_title() == "true colour, July"
    picture = axes.images[0].get_array()
    assert picture.shape == (40, 56, 3)
    red = coloured["image"].sel(month=7, band="B04").values
    order = np.argsort(red, axis=None)
    assert (np.diff(picture[..., 0].ravel()[order]) >= 0).all()
    with pytest.raises(gb.CubeError, match="'B02'"):
        gb.plots.true_colour(coloured.sel(band=["B03", "B04"]))
    with pytest.raises(gb.CubeError, match=r"one of the cube's, \[6, 7, 8\], got 1"):
        gb.plots.true_colour(coloured, 1)


def test_months_are_side_by_side_with_one_stretch(coloured: xr.Dataset) -> None:
    coloured["image"][0] = np.nan
    coloured["image"][2, :, :10] = np.nan
    figure = gb.plots.months(coloured, columns=2)
    assert [a.get_title() for a in figure.axes] == [
        "Jun, absent",
        "Jul",
        "Aug, 75% seen",
    ]
    june, july, august = (a.images[0].get_array() for a in figure.axes)
    assert (june == 0.8).all()
    assert (august[:10] == 0.8).all()
    # One stretch: equal values in two months have equal colours.
    coloured["image"][2] = coloured["image"][1]
    _, july, august = (a.images[0].get_array() for a in gb.plots.months(coloured).axes)
    np.testing.assert_array_equal(july, august)
    figure.canvas.draw()
    assert figure.axes[0].get_ylabel() == "y, km"
    assert figure.axes[2].get_xlabel() == "x, km"
    mine = plt.subplots(1, 3)[1]
    assert gb.plots.months(coloured, mine) is mine[0].figure
    with pytest.raises(ValueError, match="axes must be 3"):
        gb.plots.months(coloured, mine[:2])


def test_errors_are_white_at_zero(coloured: xr.Dataset) -> None:
    axes = gb.plots.error(coloured["agb"] + 1, coloured["agb"])
    low, high = axes.images[0].get_clim()
    assert low == -high
    np.testing.assert_allclose(axes.images[0].get_array(), 1, atol=1e-4)
    middle = axes.images[0].get_cmap()(0.5)
    assert min(middle[:3]) > 0.95


# --- how good -----------------------------------------------------------------


def test_the_scatter_counts_every_pixel_on_which_both_agree() -> None:
    draw = np.random.default_rng(0)
    truth = draw.gamma(2, 40, (3, 50, 60))
    found = truth + draw.normal(5, 20, truth.shape)
    found[0, :5] = np.nan
    mine = plt.subplots()[1]
    axes = gb.plots.scatter(found, xr.DataArray(truth), mine, bins=40)
    assert axes is mine
    counts = axes.collections[0].get_array()
    assert counts.sum() == np.isfinite(found).sum()
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), line.get_ydata())
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "observed, Mg/ha",
        "predicted, Mg/ha",
    )
    both = np.isfinite(found)
    error = found[both] - truth[both]
    text = axes.texts[0].get_text()
    assert f"R² {r2_score(truth[both], found[both]):.2f}" in text
    assert f"RMSE {np.sqrt((error**2).mean()):.1f} Mg/ha" in text
    assert f"bias {error.mean():+.1f} Mg/ha" in text
    assert f"{both.sum():,} pixels" in text
    assert axes.figure.axes[-1].get_ylabel() == "pixels"
    # Reports draw text as it is: labels that are formulas would be read as such.
    for many in (5, 200, 20_000):
        bar = gb.plots.scatter(np.ones(many), np.linspace(1, 9, many)).figure.axes[-1]
        bar.figure.draw_without_rendering()
        labels = [each.get_text() for each in bar.get_yticklabels(which="both")]
        assert any(labels)
        assert not any("$" in label for label in labels)
    # Rows are what was predicted, columns what was observed.
    corner = gb.plots.scatter(np.array([10.0]), np.array([90.0]), bins=10, limit=100)
    counts = corner.collections[0].get_array().reshape(10, 10)
    assert counts[1, 9] == 1
    with pytest.raises(ValueError, match="pixels with both values, got none among 4"):
        gb.plots.scatter(np.full(4, np.nan), np.ones(4))
    with pytest.raises(ValueError, match="must have the shape of observed"):
        gb.plots.scatter(np.ones(4), np.ones(3))


def test_bins_have_error_bias_and_pixels() -> None:
    truth = np.array([[10.0, 20.0, 120.0, 130.0, np.nan]])
    found = np.array([[13.0, 17.0, 110.0, 120.0, 5.0]])
    axes = gb.plots.error_by_bin(found, truth)
    heights = [bar.get_height() for bar in axes.patches]
    np.testing.assert_allclose(heights, [3, 10, 0, -10])
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert labels == ["0-50\n2 px", "100-150\n2 px"]
    assert "Mg/ha" in axes.get_xlabel()
    assert axes.get_ylabel() == "error, Mg/ha"
    dashed = axes.lines[-1]
    np.testing.assert_allclose(dashed.get_ydata(), np.sqrt((18 + 200) / 4))
    with pytest.raises(ValueError, match="of a map needs observed=, got none"):
        gb.plots.error_by_bin(found)


def test_bins_of_an_evaluation(model: gb.BiomassRegressor) -> None:
    scene = make_scene(64, 64, bands=VISIBLE)
    table = model.evaluate(scene, 64, 32)
    mine = plt.subplots()[1]
    assert gb.plots.error_by_bin(table, ax=mine) is mine
    rows = table.drop(index="all").query("pixels > 0")
    heights = [bar.get_height() for bar in mine.patches]
    np.testing.assert_allclose(heights, [*rows["pixel_rmse"], *rows["bias"]])


# --- months -------------------------------------------------------------------


def test_availability_is_the_share_by_band_and_month() -> None:
    scene = make_scene(40, 56)  # June lacks a quarter of B08
    mine = plt.subplots()[1]
    axes = gb.plots.availability(scene, mine)
    assert axes is mine
    np.testing.assert_array_equal(
        axes.images[0].get_array(), [[100, 100, 100], [75, 100, 100]]
    )
    assert [t.get_text() for t in axes.get_yticklabels()] == ["VV_asc B04", "B08"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["Jun", "Jul", "Aug"]
    assert [t.get_text() for t in axes.texts][3] == "75"
    assert axes.figure.axes[-1].get_ylabel() == "values present, %"


def test_attention_sums_to_one_and_is_zero_where_a_month_is_absent(
    model: gb.BiomassRegressor,
) -> None:
    scene = make_scene(96, 80, bands=VISIBLE)
    scene["image"][1] = np.nan  # July
    weights = model.attention(scene, tile=64)
    assert weights.dims == ("level", "month")
    assert weights["level"].values.tolist() == [2, 4, 8, 16, 32]
    assert weights["month"].values.tolist() == [6, 7, 8]
    np.testing.assert_allclose(weights.sum("month"), 1, atol=1e-6)
    assert (weights.sel(month=7) == 0).all()
    assert weights["present"].values.tolist() == [1, 0, 1]
    assert weights.attrs["tiles"] == 4
    # Without the network's own words: a month's mean of what it says of its levels.
    image = torch.from_numpy(scene["image"].values)[None]
    whole = model.attention(scene, tile=96)
    with torch.inference_mode():
        finest = model.network.month_weights(image)[0, :, :48, :40]
    np.testing.assert_allclose(whole[0], finest.double().mean((1, 2)), atol=1e-6)


def test_attention_at_a_point_is_that_of_its_pixel(model: gb.BiomassRegressor) -> None:
    scene = make_scene(64, 64, bands=VISIBLE)
    y, x = float(scene["y"][40]), float(scene["x"][9])
    weights = model.attention(scene, (y, x))
    image = torch.from_numpy(scene["image"].values)[None]
    with torch.inference_mode():
        levels = model.network.month_weights_by_level(image)
    for row, side, level in zip(weights, (2, 4, 8, 16, 32), levels, strict=True):
        np.testing.assert_allclose(row, level[0, :, 40 // side, 9 // side], atol=1e-6)
    assert not np.allclose(weights, model.attention(scene, (y + 300, x + 400)))
    with pytest.raises(ValueError, match="x from 400005 to 400635, got x = 1"):
        model.attention(scene, (y, 1.0))
    with pytest.raises(ValueError, match="must have an observation"):
        model.attention(scene.assign(image=scene["image"] * np.nan))


def test_attention_of_chips_and_of_several_models(model: gb.BiomassRegressor) -> None:
    chips = make_chips(3).assign_coords(band=list(VISIBLE))
    one = model.attention(chips, (3, 30), "chip001")
    alone = model.attention(chips.isel(chip=[1]), (3, 30), "chip001")
    xr.testing.assert_identical(one, alone)
    assert model.attention(chips).attrs["tiles"] == 3
    both = gb.Ensemble([model, model]).attention(chips)
    np.testing.assert_allclose(both, model.attention(chips))
    np.testing.assert_allclose(both.sum("month"), 1, atol=1e-6)
    with pytest.raises(ValueError, match="chip must be named"):
        model.attention(chips, (3, 30))
    with pytest.raises(ValueError, match=r"one of the cube's \(chip000.*'gone'"):
        model.attention(chips, chip="gone")

    class Mean(torch.nn.Module):
        settings = {"bands": 3, "outputs": 1}  # noqa: RUF012

    other = gb.BiomassRegressor(Mean(), VISIBLE)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must have attention over months"):
        other.attention(chips)


def test_pictures_of_attention(model: gb.BiomassRegressor) -> None:
    scene = make_scene(64, 64, bands=VISIBLE)
    scene["image"][1] = np.nan
    at = float(scene["y"][40]), float(scene["x"][9])
    weights = model.attention(scene, at)
    mine = plt.subplots()[1]
    assert gb.plots.attention(model, scene, at, mine) is mine
    heights = [bar.get_height() for bar in mine.patches]
    np.testing.assert_allclose(heights, weights.mean("level"))
    labels = [text.get_text() for text in mine.get_xticklabels()]
    assert labels == ["Jun", "Jul\nabsent", "Aug"]
    assert mine.get_ylabel() == "weight, share of 1"
    assert mine.get_xlabel() == "month"
    assert mine.lines[-1].get_ydata()[0] == 0.5  # two months that are there
    year = gb.plots.attention_over_year(model, scene)
    expected = 100 * model.attention(scene)
    np.testing.assert_allclose(year.images[0].get_array(), expected)
    assert year.get_ylabel() == "side of a cell, pixels"
    assert year.figure.axes[-1].get_ylabel() == "weight, %"
    again = gb.plots.attention_over_year(model.attention(scene))
    np.testing.assert_allclose(again.images[0].get_array(), expected)
    with pytest.raises(ValueError, match="needs cube=, a cube"):
        gb.plots.attention(model)


def test_the_history_has_units(model: gb.BiomassRegressor) -> None:
    table = pd.DataFrame(
        {
            "epoch": [1, 2],
            "train_loss": [9.0, 5.0],
            "validation_loss": [8.0, 6.0],
            "validation_average_rmse": [8.0, 6.0],
        }
    )
    axes = gb.plots.history(table)
    assert axes.get_ylabel() == "loss, as the recipe defines it"
    assert axes.figure.axes[-1].get_ylabel() == "RMSE, Mg/ha"
    model.history, model.recipe = table, gb.Recipe()
    try:
        axes = gb.plots.history(model)
    finally:
        model.history, model.recipe = pd.DataFrame(), None
    assert axes.get_ylabel() == "loss and RMSE, Mg/ha"
    drawn = [line.get_ydata().tolist() for line in axes.lines]
    assert drawn == [[9, 5], [8, 6]]
    with pytest.raises(ValueError, match="must have at least one epoch"):
        gb.plots.history(model)
