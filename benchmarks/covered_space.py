"""Coverage of intervals of totals, on maps whose errors have a known variogram.

An error model is fitted to held-out blocks or chips, and returns the interval of a
region of another map. It is compared with the interval for independent pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from covered_runs import Go
from error_fields import Floats, blocks, field, residuals
from geobiomass.accounting.error_model import ErrorSum, fit_error_model
from geobiomass.statistics.variogram import Variogram
from tables import Row

RUNS = 200
PIXEL = (10.0, 10.0)
LAND = Variogram(0.05, 1.0, 300.0, "exponential")
REGION = 80  # side in pixels: 64 ha


@dataclass(frozen=True)
class Case:
    """A design of held-out data, and the spatial correlation of the errors.

    Parameters
    ----------
    kind : str
        "scene", cut into square blocks, or "chips", which are far apart.
    side, across : int
        Side of a block or chip in pixels, and their number in each row and column.
    parts : tuple of Variogram
        Errors are the sum of one field each; their variances add up to 1.
    """

    kind: str
    side: int
    across: int
    parts: tuple[Variogram, ...]


def errors_of(range_: float) -> tuple[Variogram, ...]:
    """Return errors with 60 % of the variance correlated, by range in metres."""
    return (Variogram(0.4, 0.6, range_, "exponential"),)


CASES = {
    ("36 blocks of 400 m", "150 m (effective 450 m)"): Case(
        "scene", 40, 6, errors_of(150.0)
    ),
    ("36 chips of 400 m", "50 m (effective 150 m)"): Case(
        "chips", 40, 6, errors_of(50.0)
    ),
    ("64 chips of 320 m", "150 m (effective 450 m)"): Case(
        "chips", 32, 8, errors_of(150.0)
    ),
    ("64 chips of 320 m", "50 m, and 30 % of the variance 1.5 km"): Case(
        "chips",
        32,
        8,
        (
            Variogram(0.3, 0.4, 50.0, "exponential"),
            Variogram(0.0, 0.3, 1500.0, "exponential"),
        ),
    ),
}


def land(shape: tuple[int, int], random: np.random.Generator) -> Floats:
    """Draw the predictions of a map, Mg/ha: (y, x), skewed like forests."""
    drawn: Floats = np.exp(4.4 + 0.6 * field(shape, LAND, PIXEL, random))
    return drawn


def standard_errors(
    shape: tuple[int, int], parts: tuple[Variogram, ...], random: np.random.Generator
) -> Floats:
    """Draw a sum of fields: (y, x)."""
    return sum(
        (field(shape, part, PIXEL, random) for part in parts), start=np.zeros(shape)
    )


def units(
    n: int, side: int, parts: tuple[Variogram, ...], random: np.random.Generator
) -> Floats:
    """Draw independent squares, next to each other: (n, n)."""
    across = range(n // side)
    return np.block(
        [[standard_errors((side, side), parts, random) for _ in across] for _ in across]
    )


def errors(predicted: Floats, standard: Floats) -> Floats:
    """Return errors in Mg/ha; they have a bias and grow with the prediction."""
    return 12 - 0.1 * predicted + (8 + 0.15 * predicted) * standard


def run(case: Case, seed: int) -> tuple[bool, bool]:
    """Fit a model to held-out groups, then sum the errors of another map.

    Returns
    -------
    tuple of bool
        Whether the total is in the interval of 90 %, and in that of independent pixels.
    """
    random = np.random.default_rng(seed)
    n = case.side * case.across
    seen, new = land((n, n), random), land((REGION, REGION), random)
    alone = case.side if case.kind == "chips" else n
    table = residuals(
        errors(seen, units(n, alone, case.parts, random)),
        PIXEL,
        predicted=seen,
        unit=blocks((n, n), case.side),
        kind=case.kind,
    )
    model = fit_error_model(table, pairs=20_000)
    weights = np.full((REGION, REGION), 0.01)
    total = ErrorSum(model, PIXEL)
    total.add(0, 0, weights, new)
    error = errors(new, standard_errors((REGION, REGION), case.parts, random))
    off = abs((weights * error).sum() - total.bias())
    independent = 1.645 * np.sqrt(((weights * model.sd(new)) ** 2).sum())
    return bool(off <= total.half_width(0.9)), bool(off <= independent)


def tables(go: Go, runs: int, seed: int) -> dict[str, list[Row]]:
    """Return the coverage of the intervals, one row per case."""
    rows: list[Row] = []
    for (held_out, reach), case in CASES.items():
        found = go(partial(run, case), range(seed, seed + runs), held_out)
        held, alone = np.mean(found, axis=0)
        rows.append(
            {
                "held-out groups": held_out,
                "range of the errors": reach,
                "covered": f"{100 * held:.0f} %",
                "assuming independent pixels": f"{100 * alone:.0f} %",
            }
        )
    return {f"Share of intervals of 90 % that cover the truth, {runs} landscapes": rows}
