"""Figures of what one number of error hides, on a synthetic landscape.

The maps are those of gradient boosting by pixel, which learns in seconds: whatever
learns to be right on average shows the same, networks too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.ensemble import HistGradientBoostingRegressor

from geobiomass.evaluation.metrics import BIOMASS_BINS
from geobiomass.sources.landscape.scene import landscape

Floats = npt.NDArray[np.float64]
SIDE, GAP, CHIP = 512, 64, 64  # pixels: of each part, between them, of a chip
MONTHS, PIXELS = 6, 20_000  # pixels to learn from
YOUNG = 100.0  # Mg/ha: the second model saw nothing above it
BLUE, ORANGE, GREY = "#3b6ea5", "#c8702a", "#6b6b6b"


@dataclass(frozen=True)
class Maps:
    """The truth of a landscape and two maps of it, (y, x) Mg/ha."""

    truth: Floats
    full: Floats
    young: Floats


@cache
def maps() -> Maps:
    """Learn in the west of a landscape, twice, and map its east."""
    scene = landscape(
        (SIDE, 2 * SIDE + GAP), months=MONTHS, seed=4, version=1
    ).compute()
    features, labels = _pixels(scene.isel(x=slice(0, SIDE)))
    chosen = np.random.default_rng(0).permutation(len(labels))[: 2 * PIXELS]
    features, labels = features[chosen], labels[chosen]
    low = labels < YOUNG
    east, truth = _pixels(scene.isel(x=slice(SIDE + GAP, None)))
    full = _learn(features[:PIXELS], labels[:PIXELS]).predict(east)
    young = _learn(features[low][:PIXELS], labels[low][:PIXELS]).predict(east)
    return Maps(*(values.reshape(SIDE, SIDE) for values in (truth, full, young)))


def _pixels(scene: xr.Dataset) -> tuple[Floats, Floats]:
    image = scene["image"].values.reshape(-1, scene["agb"].size).T
    return image, scene["agb"].values.ravel().astype(np.float64)


def _learn(features: Floats, labels: Floats) -> HistGradientBoostingRegressor:
    model = HistGradientBoostingRegressor(max_iter=100, random_state=0)
    return model.fit(features, labels)


def _by_chip(values: Floats) -> Floats:
    """(y, x) -> (chip, pixel), in chips of 64 x 64 pixels."""
    rows, columns = (side // CHIP for side in values.shape)
    cut = values.reshape(rows, CHIP, columns, CHIP).swapaxes(1, 2)
    return cut.reshape(rows * columns, -1)


def draw_average() -> Figure:
    """Draw the error of each chip, and the two averages."""
    found = maps()
    truth, error = _by_chip(found.truth), _by_chip(found.full - found.truth)
    by_chip = np.sqrt((error**2).mean(axis=1))
    average, pixel = by_chip.mean(), np.sqrt((error**2).mean())
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.bar(np.arange(len(by_chip)), np.sort(by_chip), width=1, color=BLUE)
    for value, name, style in (
        (average, "average RMSE", "-"),
        (pixel, "pixel RMSE", "--"),
    ):
        left.axhline(value, color=ORANGE, ls=style, label=f"{name} {value:.1f}")
    left.set(xlabel="chips, by their error", ylabel="RMSE of the chip, Mg/ha")
    left.legend(frameon=False)
    right.scatter(truth.mean(axis=1), by_chip, s=14, color=BLUE)
    right.axhline(average, color=ORANGE)
    right.set(xlabel="mean biomass of the chip, Mg/ha", ylabel="RMSE, Mg/ha")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_bins() -> Figure:
    """Draw predicted over observed biomass, and bias by bin."""
    found = maps()
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    _cloud(left, found.truth, found.full)
    edges = [*BIOMASS_BINS[:-1], 500.0]
    error = found.full - found.truth
    names, biases = [], []
    for low, high in pairwise(edges):
        inside = (found.truth >= low) & (found.truth < high)
        names.append(f"{low:.0f}-{high:.0f}" if high < 500 else f"{low:.0f}+")
        biases.append(error[inside].mean())
    right.bar(names, biases, color=[ORANGE if b > 0 else BLUE for b in biases])
    for place, bias in enumerate(biases):
        up, off = ("bottom", 4) if bias > 0 else ("top", -4)
        right.text(place, bias + off, f"{bias:+.0f}", ha="center", va=up, fontsize=9)
    right.axhline(0, color="black", lw=0.8)
    right.axhline(error.mean(), color=GREY, ls="--")
    right.annotate(
        f"all pixels {error.mean():+.1f}",
        (len(names) - 0.5, 0),
        (0, 12),
        textcoords="offset points",
        ha="right",
        color=GREY,
    )
    right.set(xlabel="observed biomass, Mg/ha", ylabel="bias, Mg/ha")
    right.margins(y=0.12)
    right.spines[["top", "right"]].set_visible(False)
    return figure


def draw_range() -> Figure:
    """Draw the same landscape mapped by a model that saw tall forest, and not."""
    found = maps()
    figure = Figure(figsize=(8.4, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _cloud(left, found.truth, found.full)
    left.set_title("trained on all biomass", fontsize=10)
    _cloud(right, found.truth, found.young)
    right.axvline(YOUNG, color=GREY, ls="--", lw=1)
    right.set_title(f"trained on forest below {YOUNG:.0f} Mg/ha", fontsize=10)
    right.set_ylabel("")
    return figure


def _cloud(axes: Axes, truth: Floats, predicted: Floats) -> None:
    """Draw counts of pixels, and the mean prediction by observed biomass."""
    end = 400.0
    axes.hist2d(
        truth.ravel(),
        predicted.ravel(),
        bins=80,
        range=((0, end), (0, end)),
        norm="log",
        cmap="Greys",
    )
    edges = np.arange(0, end + 1, 20)
    which = np.digitize(truth.ravel(), edges) - 1
    kept = [place for place in range(len(edges) - 1) if (which == place).sum() > 50]
    means = [predicted.ravel()[which == place].mean() for place in kept]
    axes.plot([0, end], [0, end], color=GREY, ls=":", label="as observed")
    axes.plot(edges[kept] + 10, means, color=ORANGE, lw=2, label="mean prediction")
    axes.set(xlabel="observed, Mg/ha", ylabel="predicted, Mg/ha", aspect="equal")
    axes.legend(frameon=False, loc="upper left", fontsize=9)
