"""Synthetic photos of pasture, whose dry mass is computed from the drawn leaves.

Every blade of grass, green or dead, and every leaf of clover is an outline with an area
and a mass per area. Hidden leaves have mass too. The amount of growth, the share of
dead leaves and the light depend on the state and the sampling date, so that photos of
one date are similar.

The photos are for tests, examples and demonstrations. Means of the targets, shares of
the states and the layout of the tables are those of the CSIRO Image2Biomass competition
(Kaggle, 2025). Leaf sizes and masses per area have the order of magnitude found in
temperate pastures, sheath and stem included. Everything else is invented.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geobiomass.tables import write_csv

from ..photos import TARGETS
from .camera import photograph
from .leaves import CLOVER, DEAD, QUADRAT, Sward, grow
from .visits import DATES, SHARES, YEARS, Part, Visit, slots, spread, visit_of

__all__ = ["DATES", "Sward", "Visit", "draw_swards", "grow", "photograph", "visit_of"]

_MEANS = (26.6, 12.0, 6.7)  # mean grams of green, dead, clover
_WITHOUT_CLOVER = 0.38  # share of the photos


def draw_swards(
    folder: str | Path,
    count: int = 240,
    height: int = 256,
    seed: int = 0,
    *,
    part: Part = "train",
    dates: Mapping[str, int] = DATES,
    progress: bool = False,
) -> pd.DataFrame:
    """Draw synthetic photos of swards, and write them and their table.

    Each photo has its own random state, so that it does not depend on the number of
    photos. Photos come in pairs of one date, so that few photos have few dates.
    Dates of `part` "test" are in another year, so that no date is in both parts.

    Parameters
    ----------
    folder
        Folder to write ``photos/`` to, and the tables. For training: ``train.csv`` in
        the long layout of the CSIRO Image2Biomass competition. For the test:
        ``test.csv`` without grams, and ``truth.csv`` in the layout of ``train.csv``.
        Both parts may be in one folder.
    count
        Number of photos.
    height
        Height of a photo in pixels; its width is twice that. Photos are JPEGs.
    seed
        Random seed.
    part
        "train" or "test".
    dates
        Largest number of sampling dates by state. Other states are left out.
    progress
        Whether to show a progress bar.

    Returns
    -------
    pandas.DataFrame
        One row per photo: ``image_path``, ``Sampling_Date``, ``State``, ``Species``,
        ``Pre_GSHH_NDVI``, ``Height_Ave_cm`` and the grams of `pasture.TARGETS`. The
        grams are those of the leaves drawn (ground truth).

    Raises
    ------
    ValueError
        A setting is out of its range or unknown.

    Examples
    --------
    >>> from pasture.swards import draw_swards
    >>> table = draw_swards("drawn", count=240)  # doctest: +SKIP
    >>> truth = draw_swards("drawn", count=60, part="test")  # doctest: +SKIP
    """
    from tqdm.auto import tqdm

    _check(count, height, part, dates)
    folder = Path(folder)
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    rows = []
    bar = tqdm(
        slots(count, dates),
        desc=f"photos to {part}",
        unit="photo",
        disable=not progress,
    )
    for number, (state, day) in enumerate(bar):
        visit = visit_of(state, day, dates[state], part, seed)
        random = np.random.default_rng([seed, list(YEARS).index(part), 0, number])
        sward = grow(visit, _draw_grams(visit, random), random)
        path = f"photos/{part}{number:04d}.jpg"
        photo = photograph(sward, visit, height, random)
        photo.save(folder / path, quality=90)
        rows.append({"image_path": path} | _describe(sward, visit, random))
    table = pd.DataFrame(rows)
    _write(folder, table, part)
    return table


def _check(count: int, height: int, part: str, dates: Mapping[str, int]) -> None:
    for name, value, least in (("count", count, 1), ("height", height, 16)):
        if value < least:
            raise ValueError(f"{name} of photos must be {least} or more, got {value}")
    if part not in YEARS:
        raise ValueError(f"part must be one of {', '.join(YEARS)}, got {part!r}")
    wrong = {
        state: days
        for state, days in dates.items()
        if state not in SHARES or not 1 <= days <= 52
    }
    if wrong or not dates:
        raise ValueError(
            f"dates must give a number from 1 to 52 to some of {', '.join(SHARES)}, "
            f"got {wrong or 'none'}"
        )


def _draw_grams(
    visit: Visit, random: np.random.Generator
) -> tuple[float, float, float]:
    """Draw the grams of green, dead and clover on a quadrat, gamma-distributed."""
    shapes = np.array([1.7, 1.5, 1.1])
    mean = np.array(_MEANS) * visit.growth
    mean[CLOVER] /= 1 - _WITHOUT_CLOVER
    green, dead, clover = (random.gamma(shapes) / shapes * mean).tolist()
    return green, dead, clover * (random.uniform() >= visit.without_clover)


def _describe(
    sward: Sward, visit: Visit, random: np.random.Generator
) -> dict[str, Any]:
    """Return a photo's columns of the table, with an NDVI and a height as measured."""
    leaves = sward.areas[sward.kinds != DEAD].sum() / (QUADRAT[0] * QUADRAT[1])
    index = 0.2 + 0.65 * (1 - np.exp(-0.7 * leaves)) + random.normal(0, 0.03)
    date = visit.date
    return {
        "Sampling_Date": f"{date.year}/{date.month}/{date.day}",
        "State": visit.state,
        "Species": sward.species,
        "Pre_GSHH_NDVI": round(float(np.clip(index, 0.1, 0.95)), 2),
        "Height_Ave_cm": round(sward.height * float(spread(random, 0.1, 1)[0]), 1),
        **sward.grams,
    }


def _write(folder: Path, table: pd.DataFrame, part: Part) -> None:
    about = [name for name in table if name not in TARGETS]
    long = table.melt(about, list(TARGETS), var_name="target_name", value_name="target")
    photo = long["image_path"].map(lambda path: Path(path).stem)
    long.insert(0, "sample_id", photo + "__" + long["target_name"])
    long = long.sort_values("sample_id", kind="stable")
    if part == "test":
        asked = ["sample_id", "image_path", "target_name"]
        write_csv(long[asked], folder / "test.csv", index=False)
    name = {"train": "train.csv", "test": "truth.csv"}[part]
    write_csv(long, folder / name, index=False)
