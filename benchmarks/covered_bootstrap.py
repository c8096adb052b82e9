"""Coverage of bootstrap intervals of metrics, if pixels of a group share errors.

The true bias is zero and the true root mean squared error is known. The groups are
drawn by the same code as in ``model.evaluate`` and ``cv.evaluate``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import numpy as np

from covered_runs import Go
from error_fields import Floats
from geobiomass.evaluation.metrics import BOOTSTRAP, CONFIDENCE, Tally
from tables import Row

RUNS = 400
UNITS = (5, 10, 20, 40, 80)
SIDE = 6  # side of a group, pixels
BETWEEN, WITHIN = 20.0, 10.0  # Mg/ha: standard deviations of errors
_TRUE = {"bias": 0.0, "pixel_rmse": math.hypot(BETWEEN, WITHIN)}
_LEVEL = 100.0  # Mg/ha, observed everywhere: bins of biomass do not matter here


def holds(errors: Iterable[Floats], metric: str, seed: int) -> bool:
    """Return whether the interval of a metric contains the true value.

    Parameters
    ----------
    errors : iterable of numpy.ndarray
        (y, x) Mg/ha, of each group that the bootstrap draws.
    metric : str
        "bias" or "pixel_rmse".
    seed : int
        Random seed of the bootstrap.
    """
    tally = Tally()
    for error in errors:
        tally.add(_LEVEL + error, np.full_like(error, _LEVEL))
    found = tally.table(bootstrap=BOOTSTRAP, seed=seed).loc["all"]
    return bool(found[f"{metric}_lower"] <= _TRUE[metric] <= found[f"{metric}_upper"])


def run(units: int, seed: int) -> tuple[bool, bool, bool]:
    """Draw errors of a number of groups, and compute three intervals.

    Returns
    -------
    tuple of bool
        Whether each contains the true value: bias, root mean squared error, and the
        bias with a bootstrap of pixels instead of groups.
    """
    random = np.random.default_rng(seed)
    shared = BETWEEN * random.normal(size=(units, 1, 1))
    errors = shared + WITHIN * random.normal(size=(units, SIDE, SIDE))
    pixels = errors.reshape(-1, 1, 1)
    return (
        holds(errors, "bias", seed),
        holds(errors, "pixel_rmse", seed),
        holds(pixels, "bias", seed),
    )


def tables(go: Go, runs: int, seed: int) -> dict[str, list[Row]]:
    """Return the coverage of the intervals, one row per number of groups."""
    rows: list[Row] = []
    for units in UNITS:
        found = go(partial(run, units), range(seed, seed + runs), f"{units} groups")
        bias, rmse, by_pixel = np.mean(found, axis=0)
        rows.append(
            {
                "groups": units,
                "bias": f"{100 * bias:.0f} %",
                "pixel RMSE": f"{100 * rmse:.0f} %",
                "bias, with a bootstrap over pixels": f"{100 * by_pixel:.0f} %",
            }
        )
    return {
        f"Share of intervals of {100 * CONFIDENCE:.0f} % that cover the truth, "
        f"{runs} runs": rows
    }
