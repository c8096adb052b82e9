"""Coverage of totals without plots, on worlds that differ from the error model's.

An error model is fitted to held-out blocks of a scene, or to chips, and gives the
interval of a region elsewhere. Each row is a world: errors from the truth, a spread
that varies, correlation beyond the scene, taller forest. Coverage is shown by the
verdict of the checks: it must hold where none of them speaks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from covered_runs import Go
from error_fields import Floats, blocks, field, residuals
from geobiomass.accounting.check import OK, VERDICTS
from geobiomass.accounting.error_checks import error_checks
from geobiomass.accounting.error_model import ErrorSum, fit_error_model
from geobiomass.accounting.region_sums import WHOLE, RegionSum
from geobiomass.cube.region import Region
from geobiomass.statistics.variogram import Variogram
from tables import Row

RUNS = 200
CONFIDENCE = 0.9
PIXEL = (10.0, 10.0)
SCENE, REGION, BLOCK = 240, 80, 40  # sides in pixels
CHIP = 32

Land = tuple[Floats, Floats]  # biomass and the map, Mg/ha
World = Callable[[int, np.random.Generator], Land]


def waves(
    side: int, reach: float, random: np.random.Generator, nugget: float = 0.0
) -> Floats:
    """Draw errors or forest with a range in metres, variance 1."""
    shape = Variogram(nugget, 1 - nugget, reach, "exponential")
    return field((side, side), shape, PIXEL, random)


def stands(side: int, random: np.random.Generator, mean: float = 120) -> Floats:
    """Draw biomass, Mg/ha."""
    return np.maximum(mean + 50 * waves(side, 250, random), 0)


def shown(truth: Floats, errors: Floats) -> Land:
    """Return the truth and a map with errors that grow with the truth."""
    return truth, np.maximum(truth + (10 + 0.15 * truth) * errors, 0)


def from_prediction(side: int, random: np.random.Generator) -> Land:
    """Draw errors that follow from the prediction, as the error model assumes."""
    mapped = stands(side, random)
    errors = (8 + 0.15 * mapped) * waves(side, 150, random, 0.3)
    return mapped - (12 - 0.1 * mapped) - errors, mapped


def from_truth(side: int, random: np.random.Generator) -> Land:
    """Draw errors that follow from the truth."""
    return shown(stands(side, random), waves(side, 150, random, 0.3))


def saturated(side: int, random: np.random.Generator) -> Land:
    """Draw a map that does not go beyond 180 Mg/ha."""
    truth = stands(side, random, 140)
    low = 180 * (1 - np.exp(-truth / 120))
    return truth, np.maximum(low + 10 * waves(side, 150, random, 0.3), 0)


def skewed(side: int, random: np.random.Generator) -> Land:
    """Draw lognormal biomass, a map of errors by a factor."""
    truth = np.exp(4.2 + 0.7 * waves(side, 250, random))
    return truth, truth * np.exp(0.35 * waves(side, 150, random, 0.3) - 0.06)


def uneven(side: int, random: np.random.Generator) -> Land:
    """Draw errors with a spread that varies over 300 m."""
    spread = np.exp(0.8 * waves(side, 300, random))
    return shown(stands(side, random), spread * waves(side, 150, random, 0.3))


def long(side: int, random: np.random.Generator) -> Land:
    """Draw errors with an effective range of 3 km."""
    return shown(stands(side, random), waves(side, 1000, random, 0.1))


def two_ranges(side: int, random: np.random.Generator) -> Land:
    """Draw errors of which 30 % of the variance has a range of 4.5 km."""
    errors = np.sqrt(0.7) * waves(side, 50, random, 0.4)
    return shown(
        stands(side, random), errors + np.sqrt(0.3) * waves(side, 1500, random)
    )


def stretched(side: int, random: np.random.Generator) -> Land:
    """Draw errors that reach five times as far across as down."""
    errors = waves(side, 300, random, 0.2)[: side // 5 + 1]
    return shown(stands(side, random), np.repeat(errors, 5, axis=0)[:side].T)


def taller(side: int, random: np.random.Generator) -> Land:
    """Draw held-out land of 90 Mg/ha, a region of 230 that the map saturates in."""
    truth = stands(side, random, 230 if side == REGION else 90)
    low = 220 * (1 - np.exp(-truth / 140))
    return truth, np.maximum(low + 8 * waves(side, 150, random, 0.3), 0)


def denser(side: int, random: np.random.Generator) -> Land:
    """Draw a region whose wood is 20 % denser, in the same images."""
    truth, mapped = from_truth(side, random)
    return truth * (1.2 if side == REGION else 1.0), mapped


@dataclass(frozen=True)
class Case:
    """A world, and how many blocks of 400 m or chips of 320 m of it are held out."""

    world: World
    units: int = 36
    chips: bool = False


CASES = {
    "errors from the prediction": Case(from_prediction),
    "errors from the truth": Case(from_truth),
    "errors from the truth, 18 blocks": Case(from_truth, 18),
    "errors from the truth, 9 blocks": Case(from_truth, 9),
    "errors from the truth, 5 blocks": Case(from_truth, 5),
    "saturating map": Case(saturated),
    "skewed forest, errors by a factor": Case(skewed),
    "spread that varies (log-sd 0.8 over 300 m)": Case(uneven),
    "30 % of the variance over 4.5 km": Case(two_ranges),
    "all errors over 3 km": Case(long),
    "errors five times as long across": Case(stretched),
    "region taller than the held-out land": Case(taller),
    "region of denser wood, same images": Case(denser),
    "chips, errors from the truth": Case(from_truth, 64, True),
    "chips, 30 % of the variance over 4.5 km": Case(two_ranges, 64, True),
}


def held_out(
    case: Case, random: np.random.Generator
) -> tuple[Land, npt.NDArray[np.str_]]:
    """Return the held-out land and its units."""
    if case.chips:
        across = round(case.units**0.5)
        rows = [
            [case.world(CHIP, random) for _ in range(across)] for _ in range(across)
        ]
        land = [
            np.block([[chip[part] for chip in row] for row in rows]) for part in (0, 1)
        ]
        side = CHIP
    else:
        land, side = list(case.world(SCENE, random)), BLOCK
    return (land[0], land[1]), blocks(land[0].shape, side)


def run(case: Case, seed: int) -> tuple[bool, str, float, float]:
    """Estimate the total of a region with errors known from held-out land.

    Returns
    -------
    bool
        Whether the truth is in the interval.
    str
        Verdict of the checks.
    float, float
        Error of the estimate, and half the width of its interval, both over the truth.
    """
    random = np.random.default_rng(seed)
    (truth, mapped), unit = held_out(case, random)
    kind = "chips" if case.chips else "scene"
    table = residuals(mapped - truth, PIXEL, predicted=mapped, unit=unit, kind=kind)
    names = random.permutation(table["unit"].unique())[: case.units]
    attrs, table = table.attrs, table[table["unit"].isin(names)]
    table = table.sample(min(len(table), 40_000), random_state=seed)
    table.attrs = attrs
    model = fit_error_model(table, pairs=40_000, seed=seed)
    truth, mapped = case.world(REGION, random)
    total = ErrorSum(model, PIXEL)
    total.add(0, 0, np.full(mapped.shape, 0.01), mapped)
    one = region_of(mapped, model.held_out)
    one.errors = total
    estimate = one.sums[WHOLE] - total.bias()
    half, known = total.half_width(CONFIDENCE), 0.01 * float(truth.sum())
    verdict = max(
        (check.verdict for check in error_checks(one, model, PIXEL)),
        key=VERDICTS.index,
    )
    return abs(estimate - known) <= half, verdict, estimate / known - 1, half / known


def region_of(mapped: Floats, known: tuple[float, float] | None) -> RegionSum:
    """Return the sums of a square region of a map."""
    side = len(mapped)
    ring = [[0, 0], [side, 0], [side, side], [0, side], [0, 0]]
    square = {"type": "Polygon", "coordinates": [ring]}
    region = Region((square,), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    one = RegionSum("region", region, np.zeros(0, bool))
    one.areas[WHOLE], one.sums[WHOLE] = 0.01 * mapped.size, 0.01 * float(mapped.sum())
    low, high = known or (-np.inf, np.inf)
    one.extrapolated = 0.01 * float(((mapped < low) | (mapped > high)).sum())
    return one


def tables(go: Go, runs: int, seed: int) -> dict[str, list[Row]]:
    """Return the coverage by world and verdict."""
    rows: list[Row] = []
    for name, case in CASES.items():
        found = go(partial(run, case), range(seed, seed + runs), name)
        held, verdicts, errors, halves = (
            np.array(part) for part in zip(*found, strict=True)
        )
        fine = verdicts == OK
        doubtful, broken = verdicts == "doubtful", verdicts == "broken"
        rows.append(
            {
                "world": name,
                "covered": _percent(held),
                "checks ok, %": f"{100 * fine.mean():.0f}",
                "covered, ok": _percent(held[fine]),
                "covered, doubtful": _percent(held[doubtful]),
                "broken, %": f"{100 * broken.mean():.0f}",
                "error, %": f"{100 * errors.mean():+.1f}",
                "half width, %": f"{100 * np.median(halves):.1f}",
            }
        )
    title = f"Share of intervals of 90 % that cover the truth, {runs} regions of 64 ha"
    return {title: rows}


def _percent(held: npt.NDArray[np.bool_]) -> str:
    return f"{100 * held.mean():.0f}" if held.size else ""
