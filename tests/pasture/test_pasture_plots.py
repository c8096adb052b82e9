"""Figures of predictions: the given grams are on the axes, with their scores."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import pasture

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from pasture.plots import scatter, sheet

TARGETS = list(pasture.TARGETS)


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def grams(seed, names="abcdefgh"):
    values = np.random.default_rng(seed).uniform(0, 50, (len(names), 5))
    return pd.DataFrame(values, list(names), TARGETS)


@pytest.fixture
def photos(tmp_path):
    paths = [str(tmp_path / f"{name}.png") for name in "abcdefgh"]
    for number, path in enumerate(paths):
        Image.new("RGB", (32, 16), (30 * number, 90, 0)).save(path)
    return pd.DataFrame({"path": paths}, list("abcdefgh"))


def test_points_are_the_given_grams():
    measured, predicted = grams(0), grams(1)
    # Rows are matched by the photo's name, not by position.
    figure = scatter(measured, predicted.iloc[::-1])
    assert len(figure.axes) == 5
    for panel, target in zip(figure.axes, TARGETS, strict=True):
        (points,) = panel.collections
        expected = np.stack([measured[target], predicted[target]], axis=1)
        np.testing.assert_allclose(points.get_offsets(), expected)
        (line,) = panel.lines
        np.testing.assert_array_equal(line.get_xdata(), line.get_ydata())
        assert panel.get_xlim() == panel.get_ylim()
        assert panel.get_xlim()[1] > expected.max()
        assert panel.get_xlabel() == "measured, g"
    assert figure.axes[0].get_ylabel() == "predicted, g"
    titles = [panel.get_title() for panel in figure.axes]
    assert titles == ["green", "dead", "clover", "green + clover", "total"]
    figure.canvas.draw()


def test_each_panel_has_its_scores():
    measured = pd.DataFrame(np.tile([[0.0], [10.0]], 5), ["a", "b"], TARGETS)
    figure = scatter(measured, measured + 2)
    # 1 - (4 + 4) / (25 + 25), and an error of 2 g
    texts = {text.get_text() for panel in figure.axes for text in panel.texts}
    assert texts == {"R² 0.84\nRMSE 2.0 g"}


def test_groups_differ_in_colour_and_shape():
    states = pd.Series(["Tas"] * 4 + ["Vic"] * 3, list("abcdefg"), name="State")
    measured, predicted = grams(0), grams(1)
    figure = scatter(measured, predicted, groups=states)
    groups = figure.axes[0].collections
    assert [points.get_label() for points in groups] == ["Tas", "Vic", "unknown"]
    np.testing.assert_allclose(
        groups[1].get_offsets()[:, 0], measured["Dry_Green_g"].loc[["e", "f", "g"]]
    )
    assert len({tuple(points.get_facecolor()[0]) for points in groups}) == 3
    assert len({points.get_paths()[0].vertices.tobytes() for points in groups}) == 3
    assert figure.axes[0].get_legend().get_title().get_text() == "State"


def test_panels_are_drawn_on_given_axes():
    figure, axes = plt.subplots(2, 3)
    assert scatter(grams(0), grams(1), axes.flat[:5]) is figure
    assert [len(panel.collections) for panel in axes.flat] == [1] * 5 + [0]
    with pytest.raises(ValueError, match=r"axes must be 5, .* got 6"):
        scatter(grams(0), grams(1), axes.ravel())


def test_tables_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"predicted must have .* got no GDM_g"):
        scatter(grams(0), grams(1).drop(columns="GDM_g"))
    with pytest.raises(ValueError, match="got 8 and 2 with none"):
        scatter(grams(0), grams(1, "xy"))


def test_a_sheet_shows_photos_in_the_order_of_predictions(photos):
    predicted, measured = grams(0), grams(1)
    figure = sheet(photos, predicted, measured.drop(index="a"), count=8, columns=3)
    order = list(predicted["Dry_Total_g"].sort_values().index)
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == order
    assert len(figure.axes) == 9
    assert not figure.axes[8].axison
    for axes, photo in zip(shown, order, strict=True):
        with Image.open(photos.at[photo, "path"]) as image:
            np.testing.assert_array_equal(axes.images[0].get_array(), image)
        lines = axes.get_xlabel().split("\n")
        row = predicted.loc[photo]
        assert lines[0] == (
            f"predicted: {row['Dry_Total_g']:.1f} g (green {row['Dry_Green_g']:.1f}, "
            f"dead {row['Dry_Dead_g']:.1f}, clover {row['Dry_Clover_g']:.1f})"
        )
        assert len(lines) == (1 if photo == "a" else 2)
    figure.canvas.draw()


def test_few_of_many_photos_are_spread_from_least_to_most(photos):
    predicted = grams(0)
    order = list(predicted["Dry_Total_g"].sort_values().index)
    figure = sheet(photos, predicted, count=2)
    assert [axes.get_title() for axes in figure.axes] == [order[0], order[-1]]


def test_sheets_without_photos_are_refused(photos):
    with pytest.raises(ValueError, match="must be 1 or more, got 0, 3"):
        sheet(photos, grams(0), count=0)
    with pytest.raises(ValueError, match="got 8 without"):
        sheet(photos, grams(0, "xy"))
