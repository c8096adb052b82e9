"""Coverage of the intervals of a trained model on new landscapes.

The model is that of the tests: small, and trained for four epochs on one landscape.
Every landscape is cut into 64 blocks of 32 pixels. Some calibrate, the rest test.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch

import geobiomass as gb
from covered_blocks import INTERVAL, Find, pooled, weighted
from covered_runs import Go
from error_fields import Floats
from geobiomass.models.calibration import CLASSES, compare_units, units_of
from geobiomass.statistics.conformal import calibrate
from geobiomass.statistics.conformal_quantile import threshold
from geobiomass.statistics.conformal_units import Unit
from tables import Row

RUNS = 24
SIDE = 32  # side of a block, pixels
ORDERS = 20  # random choices of the blocks that calibrate, per landscape
BANDS = ["VH_asc", "VH_desc", "B04", "B08", "B11", "B12"]
WAYS: dict[str, Find] = {
    "pixel by pixel": pooled,
    "by block, as the library does": threshold,
    "by block, a weight at infinity": weighted,
}
BINS = CLASSES[:-1]  # few predictions are above 400 Mg/ha
COUNTS = (9, 32)  # numbers of blocks that calibrate
Order = npt.NDArray[np.int64]
_FIRST = 1000  # seed of the first test landscape; 100 is that of training


def train() -> gb.BiomassRegressor:
    """Train the model; it takes a minute or two."""
    torch.set_num_threads(1)  # more threads change its last bits
    ground = gb.landscape(256, 2, 100, version=1).sel(band=BANDS).load()
    model = gb.fit(
        ground,
        "quick",
        interval=INTERVAL,
        encoder="resnet10t",
        decoder_channels=(8, 8, 8, 8, 8),
        batch_size=4,
        crop=32,
        epochs=4,
        block=SIDE,
        progress=False,
    )
    assert isinstance(model, gb.BiomassRegressor)
    return model


@cache
def _loaded(folder: str) -> gb.BiomassRegressor:
    model = gb.load(folder)
    assert isinstance(model, gb.BiomassRegressor)
    return model


def blocks_of(folder: str, seed: int) -> list[Unit]:
    """Map a landscape; return its blocks of map and truth."""
    torch.set_num_threads(1)
    ground = gb.landscape(256, 2, _FIRST + seed, version=1).sel(band=BANDS).load()
    mapper = _loaded(folder)._bare(ground)
    return compare_units(mapper, units_of(mapper.reader, SIDE))


def scores_of(unit: Unit) -> Floats:
    """Return by how much the learnt interval of each pixel is too narrow, Mg/ha."""
    values = unit.values
    ends = values["agb_lower_raw"], values["agb_upper_raw"]
    above = unit.observed >= values["agb"]
    far = np.where(
        above, unit.observed - np.maximum(*ends), np.minimum(*ends) - unit.observed
    )
    return np.asarray(far, np.float64)


def one_margin(scores: Sequence[Floats], order: Order) -> list[float]:
    """Calibrate on the first blocks in an order; return the coverage of the others."""
    found = []
    for find in WAYS.values():
        for count in COUNTS:
            limit = find([scores[i] for i in order[:count]], INTERVAL)
            held = [float((scores[i] <= limit).mean()) for i in order[count:]]
            found.append(float(np.mean(held)))
    return found


def by_bin(units: Sequence[Unit], order: Order) -> Floats:
    """Calibrate on half of the blocks by class; return sums over the other half.

    Returns
    -------
    numpy.ndarray
        (6, bin) sums by bin of biomass. By predicted biomass: shares of blocks within
        their interval, number of blocks, pixels within their interval, all pixels. By
        observed biomass: pixels above their interval, all pixels.
    """
    half = len(units) // 2
    step = calibrate([units[i] for i in order[:half]], INTERVAL, CLASSES)
    sums = np.zeros((6, len(BINS) + 1))
    for unit in (units[i] for i in order[half:]):
        ends = step.apply(unit.values)
        above = unit.observed > ends["agb_upper"]
        inside = (ends["agb_lower"] <= unit.observed) & ~above
        which = np.digitize(unit.values["agb"], BINS)
        count = np.bincount(which, minlength=sums.shape[1])
        within = np.bincount(which, inside, sums.shape[1])
        seen = np.digitize(unit.observed, BINS)
        sums += np.array(
            [
                within / np.maximum(count, 1),
                count > 0,
                within,
                count,
                np.bincount(seen, above, sums.shape[1]),
                np.bincount(seen, minlength=sums.shape[1]),
            ]
        )
    return sums


def judge(folder: str, seed: int) -> tuple[Floats, Floats]:
    """Calibrate on random blocks of a landscape, many times, and test on the others.

    Returns
    -------
    tuple of numpy.ndarray
        (order, way and count) of :func:`one_margin`; (6, bin) of :func:`by_bin`.
    """
    units = blocks_of(folder, seed)
    scores = [scores_of(unit) for unit in units]
    random = np.random.default_rng(seed)
    orders = [random.permutation(len(units)) for _ in range(ORDERS)]
    held = np.array([one_margin(scores, order) for order in orders])
    sums = np.sum([by_bin(units, order) for order in orders], axis=0)
    return held, np.asarray(sums)


def tables(go: Go, runs: int, seed: int) -> dict[str, list[Row]]:
    """Return the coverage by method of calibration, and by bin of biomass."""
    with TemporaryDirectory() as folder:
        train().save(folder)
        found = go(partial(judge, folder), range(seed, seed + runs), "landscapes")
    held = np.concatenate([each for each, _ in found])
    names = [(way, count) for way in WAYS for count in COUNTS]
    ways: list[Row] = [
        {
            "one margin, calibrated": way,
            "blocks": count,
            "covered": f"{100 * part.mean():.1f} %",
            "standard deviation": f"{100 * part.std():.1f}",
        }
        for (way, count), part in zip(names, held.T, strict=True)
    ]
    sums = np.sum([each for _, each in found], axis=0)
    edges = ["0", *(f"{edge:g}" for edge in BINS), "and more"]
    bins: list[Row] = []
    shares = zip(*(sums[::2] / np.maximum(sums[1::2], 1)), strict=True)
    for number, (block, pixel, above) in enumerate(shares):
        ends = edges[number : number + 2]
        bins.append(
            {
                "Mg/ha": ("-" if number < len(BINS) else " ").join(ends),
                "class of prediction: covered, by block": f"{100 * block:.1f} %",
                "by pixel": f"{100 * pixel:.1f} %",
                "class of observation: above": f"{100 * above:.1f} %",
            }
        )
    all_of = sums.sum(axis=1)
    _, pixel, above = all_of[::2] / all_of[1::2]
    bins.append(
        {
            "Mg/ha": "all",
            "class of prediction: covered, by block": "",
            "by pixel": f"{100 * pixel:.1f} %",
            "class of observation: above": f"{100 * above:.1f} %",
        }
    )
    return {
        f"One margin for all classes, {runs} landscapes, {ORDERS} draws each": ways,
        "By class of predicted biomass, calibrated on half of the blocks": bins,
    }
