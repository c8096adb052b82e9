"""Pictures: units on every bar, north up, on the axes that were given."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import numpy as np
import pytest
import xarray as xr
from conftest import make_scene

import geobiomass as gb

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def coloured() -> xr.Dataset:
    return make_scene(40, 56, bands=("B02", "B03", "B04")).fillna(500)


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


def test_pictures_lie_where_the_scene_lies(coloured: xr.Dataset) -> None:
    axes = plt.subplots()[1]
    assert gb.plots.biomass(coloured["agb"], axes) is axes
    left, right, bottom, top = axes.images[0].get_extent()
    bounds = np.array(coloured.rio.bounds()) / 1000
    np.testing.assert_allclose([left, bottom, right, top], bounds)
    assert axes.images[0].origin == "upper"
    np.testing.assert_array_equal(axes.images[0].get_array(), coloured["agb"])


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


def test_errors_are_white_at_zero(coloured: xr.Dataset) -> None:
    axes = gb.plots.error(coloured["agb"] + 1, coloured["agb"])
    low, high = axes.images[0].get_clim()
    assert low == -high
    np.testing.assert_allclose(axes.images[0].get_array(), 1, atol=1e-4)
