"""A random forest validated on random pixels and on blocks, with known truth.

Field campaigns label some pixels of a landscape, close together. A random forest of
scikit-learn, on one thread, is trained on the bands, row and column of these pixels.
It maps the whole landscape.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr
from sklearn.ensemble import RandomForestRegressor

import geobiomass as gb
from covered_runs import Go
from error_fields import Floats
from geobiomass.statistics.variogram import fit_variogram, suggest_block
from geobiomass.tiles import Sample, Window
from tables import Row

RUNS = 12
SIZE, APART = 512, 128  # side in pixels of a landscape, and of a campaign's cell
CAMPAIGN, PLOTS = 32, 150  # side of a campaign in pixels, and its number of labels
FOLDS, TREES = 4, 100
RANDOM = "random pixels"
TRUTH = "none: the true error, of the whole map"
BLOCKS = {
    "blocks of 16 pixels": 16,
    "blocks of 32 pixels": 32,
    "blocks of 128 pixels, a whole campaign each": APART,
}
Mask = npt.NDArray[np.bool_]


class Judged(NamedTuple):
    """The result of a validation: error, range of correlation, suggested block.

    Parameters
    ----------
    rmse : float
        Mg/ha.
    reach : float
        Effective range of the held-out errors' variogram, metres; NaN for none.
    block : float
        Side of blocks that it suggests, pixels; NaN for none.
    """

    rmse: float
    reach: float = np.nan
    block: float = np.nan


def campaigns(random: np.random.Generator) -> Mask:
    """Return the mask of labelled pixels, (y, x): one campaign in each cell."""
    known = np.zeros((SIZE, SIZE), bool)
    for top in range(0, SIZE, APART):
        for left in range(0, SIZE, APART):
            y, x = np.array([top, left]) + random.integers(0, APART - CAMPAIGN + 1, 2)
            plots = random.choice(CAMPAIGN**2, PLOTS, replace=False)
            rows, columns = np.divmod(plots, CAMPAIGN)
            known[y + rows, x + columns] = True
    return known


def seen_at(ground: xr.Dataset) -> Floats:
    """Return the bands, row and column of each pixel: (y, x, predictor)."""
    bands = ground["image"].isel(month=0).transpose("y", "x", "band").values
    samples = np.indices(bands.shape[:2]).transpose(1, 2, 0)
    return np.concatenate([bands, samples], axis=2, dtype=np.float64)


def grown(seen: Floats, observed: Floats, seed: int) -> Any:
    """Train a random forest on (pixel, predictor) and (pixel)."""
    return RandomForestRegressor(TREES, random_state=seed).fit(seen, observed)


def rmse(error: Floats) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(error**2)))


def held_out(
    seen: Floats, observed: Floats, fold: npt.NDArray[Any], seed: int
) -> Floats:
    """Predict each labelled pixel with the forest trained without its fold."""
    predicted = np.empty_like(observed)
    for number in range(FOLDS):
        out = fold == number
        forest = grown(seen[~out], observed[~out], seed)
        predicted[out] = forest.predict(seen[out])
    return predicted


def run(seed: int) -> dict[str, Judged]:
    """Validate the forest of one landscape with every method."""
    random = np.random.default_rng(seed)
    ground = gb.landscape(SIZE, 1, seed, version=1).load()
    known = campaigns(random)
    whole, truth = seen_at(ground), ground["agb"].values.astype(np.float64)
    seen, observed = whole[known], truth[known]
    dealt = random.permutation(len(observed)) % FOLDS
    found = {RANDOM: Judged(rmse(held_out(seen, observed, dealt, seed) - observed))}
    cube = ground.assign(agb=ground["agb"].where(known))
    for name, side in BLOCKS.items():
        folds = gb.make_folds(cube, FOLDS, block=side, seed=seed)
        fold = folds.numbers(Sample(Window(0, 0, SIZE, SIZE)))[known]
        predicted = np.full(truth.shape, np.nan)
        predicted[known] = held_out(seen, observed, fold, seed)
        table = gb.residuals(cube["agb"].copy(data=predicted), cube, folds=folds)
        found[name] = Judged(
            rmse(predicted[known] - observed),
            fit_variogram(table).effective_range,
            suggest_block(table),
        )
    mapped = grown(seen, observed, seed).predict(whole.reshape(truth.size, -1))
    found[TRUTH] = Judged(rmse(mapped - truth.ravel()))
    return found


def tables(go: Go, runs: int, seed: int) -> dict[str, list[Row]]:
    """Return the error by method, and the correlation range of held-out errors."""
    found = go(run, range(seed, seed + runs), "landscapes")
    true = np.array([each[TRUTH].rmse for each in found])
    judged: list[Row] = []
    for name in (RANDOM, *BLOCKS, TRUTH):
        errors = np.array([each[name].rmse for each in found])
        share = 100 * errors / true
        judged.append(
            {
                f"held out, {FOLDS} folds": name,
                "RMSE, Mg/ha": f"{errors.mean():.1f} ({errors.std():.1f})",
                "relative to the true error": ""
                if name == TRUTH
                else f"{share.mean():.0f} % ({share.std():.0f})",
            }
        )
    advised: list[Row] = []
    for name in BLOCKS:
        reach = np.array([each[name].reach for each in found])
        sides = [int(each[name].block) for each in found]
        advised.append(
            {
                "held out": name,
                "effective range, median, m": f"{np.median(reach):.0f}",
                "from - to, m": f"{reach.min():.0f} - {reach.max():.0f}",
                "suggested block, pixels (landscapes)": ", ".join(
                    f"{side} ({sides.count(side)})" for side in sorted({*sides})
                ),
            }
        )
    return {
        f"Errors of a random forest, means of {runs} landscapes "
        "(standard deviation)": judged,
        "Correlation of held-out errors": advised,
    }
