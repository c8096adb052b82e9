"""Pictures of real and synthetic biomass: chips, histograms and variograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]
SHOWN = 4  # chips of each kind
BRIGHTEST = 300.0  # Mg/ha
COLOURS = ("black", "tab:orange", "tab:blue")


def draw(
    folder: Path,
    biomass: Mapping[str, list[Pixels]],
    lags: Sequence[int],
    curves: Mapping[str, Pixels],
) -> None:
    """Write `landscape-chips.jpg` and `landscape-curves.png` into a folder."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(
        len(biomass), SHOWN, figsize=(7.4, 1.75 * len(biomass)), layout="constrained"
    )
    for line, (name, chips) in zip(axes, biomass.items(), strict=True):
        # Evenly through the ranks of the mean: no chip is chosen by hand.
        order = np.argsort([chip.mean() for chip in chips])
        at = np.linspace(0, len(chips) - 1, SHOWN + 2).round().astype(int)[1:-1]
        for axis, index in zip(line, order[at], strict=True):
            shown = axis.imshow(chips[index], vmin=0, vmax=BRIGHTEST)
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(name)
    figure.colorbar(shown, ax=axes, label="biomass, Mg/ha", shrink=0.6)
    figure.savefig(folder / "landscape-chips.jpg", dpi=100)
    plt.close(figure)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    edges = np.arange(0, 460, 20)
    for colour, (name, chips) in zip(COLOURS, biomass.items(), strict=True):
        pixels = np.concatenate([chip.ravel() for chip in chips])
        share = 100 * np.histogram(pixels, edges)[0] / pixels.size
        left.stairs(share, edges, label=name, color=colour)
        right.plot([10 * lag for lag in lags], curves[name], "o-", color=colour, ms=3)
    left.set(xlabel="biomass, Mg/ha", ylabel="% of pixels", yscale="log")
    left.legend(frameon=False)
    right.set(xlabel="distance, m", ylabel="semivariance / variance", xscale="log")
    figure.savefig(folder / "landscape-curves.png", dpi=75)
    plt.close(figure)
