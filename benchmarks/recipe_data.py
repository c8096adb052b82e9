"""Chips with known biomass to compare recipes, with the missing months of real data.

Every chip has a landscape with its own seed, so that no two are neighbours and none is
in two parts. Missing Sentinel-1 and clouds are those of the landscape: whole months
without a descending pass, for 7 to 18 % of the pixels by month. Months without
Sentinel-2 are assigned: each chip has one of the six patterns of the real set.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count, product
from pathlib import Path

import dask.array as da
import numpy as np
import xarray as xr

import geobiomass as gb
from geobiomass.recipes.band_facts import BIOMASSTERS_RANGE
from geobiomass.sources.landscape.gaps import ACQUISITION_ORDER, optical_missing
from geobiomass.sources.landscape.random_fields import Patch
from geobiomass.sources.landscape.scene import SPECIES
from geobiomass.sources.landscape.versions import VERSIONS

CELL = 128  # pixels: a landscape is computed in squares of this side

# Months with Sentinel-2, September to August: patterns of test and training chips, each
# a subset of the previous one; then those of training chips only, with their share.
TESTED = ("111111111111", "111011111111", "111001111111", "110001111111")
UNTESTED = {"000000111111": 1311 / 8689, "000000011111": 518 / 8689}

DATA = {
    "shift": "training with the two patterns that the test set lacks, as in the real "
    "set: 15 % and 6 % of the chips",
    "even": "training with the patterns of the test set",
}
PARTS = ("validation", "test")


@dataclass(frozen=True)
class Chips:
    """The number of chips by part, their side in pixels and the landscape's version."""

    side: int
    training: int
    validation: int
    test: int
    landscape: int = 2

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of chips by part."""
        return {part: getattr(self, part) for part in ("training", *PARTS)}

    @property
    def fingerprint(self) -> str:
        """Return a key for these chips in the results."""
        known = asdict(self)
        if self.landscape == 1:  # the key of results from before there were versions
            del known["landscape"]
        text = json.dumps([known, TESTED, UNTESTED, CELL])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Chip:
    """One chip: the seed of its landscape and its months with Sentinel-2."""

    seed: int
    pattern: str


def cube_of(folder: Path, part: str, filled: bool = False) -> Path:
    """Return the path of a part's chips: a kind of training, validation or test."""
    return folder / f"{part}{'-filled' if filled else ''}.zarr"


def write_chips(folder: Path, chips: Chips) -> None:
    """Write the chips of all parts as cubes, unless they exist.

    The shares of the four patterns among the test chips are not published. Here they
    are equal, also among the training chips of "even". For "shift", training chips
    drawn at random have the other two patterns, with the shares of the real set.

    Raises
    ------
    ValueError
        If the folder contains other chips.
    """
    mark = folder / "chips.json"
    if mark.exists():
        if json.loads(mark.read_text())["fingerprint"] != chips.fingerprint:
            raise ValueError(
                f"{folder} must contain the chips {chips}, got others; name another "
                "--folder."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    parts = deal(chips)
    training = parts.pop("training")
    parts["even"] = training
    for part, members in parts.items():
        gb.write_cube(
            _cube(part, members, chips), cube_of(folder, part), overwrite=True
        )
    parts["shift"] = shifted(training)
    even = gb.open_cube(cube_of(folder, "even"))
    image = even["image"].where(_kept(parts["shift"], even))
    gb.write_cube(even.assign(image=image), cube_of(folder, "shift"), overwrite=True)
    lists = {
        part: [asdict(chip) for chip in members] for part, members in parts.items()
    }
    mark.write_text(json.dumps({"fingerprint": chips.fingerprint} | lists))


def fill_chips(folder: Path, part: str) -> Path:
    """Write a part with the winner's minima instead of missing values.

    The winner's scaling turns them into zero, and no month counts as missing.
    """
    path = cube_of(folder, part, filled=True)
    if not path.exists():
        cube = gb.open_cube(cube_of(folder, part))
        lowest = [BIOMASSTERS_RANGE[str(band)][0] for band in cube["band"].values]
        minima = xr.DataArray(np.array(lowest, np.float32), dims="band")
        half = path.with_suffix(".half.zarr")
        gb.write_cube(cube.assign(image=cube["image"].fillna(minima)), half)
        half.rename(path)
    return path


def deal(chips: Chips) -> dict[str, list[Chip]]:
    """Assign landscapes to parts and patterns, in equal numbers of the four patterns.

    A landscape has its own pattern. Each pattern is a subset of the previous one, so a
    landscape can have its own or a later one. It is assigned the first that is needed.
    """
    open_ = Counter(
        (part, TESTED[sample % len(TESTED)])
        for part, number in chips.counts.items()
        for sample in range(number)
    )
    parts: dict[str, list[Chip]] = {part: [] for part in chips.counts}
    for seed, natural in _patterns(chips, min(64, sum(open_.values()))):
        fitting = [
            slot
            for slot, number in open_.items()
            if number > 0
            and natural in TESTED
            and slot[1] in TESTED[TESTED.index(natural) :]
        ]
        if not fitting:
            continue
        # Parts take turns by their needs, so that all get the same kinds of landscapes.
        slot = min(
            fitting,
            key=lambda s: (TESTED.index(s[1]), -open_[s] / chips.counts[s[0]], s[0]),
        )
        open_[slot] -= 1
        parts[slot[0]].append(Chip(seed, slot[1]))
        if not any(open_.values()):
            return parts
    raise AssertionError("there are more seeds than chips")


def shifted(training: list[Chip]) -> list[Chip]:
    """Return training chips, of which a share has the patterns of no test chip."""
    order = np.random.default_rng(0).permutation(len(training)).tolist()
    result = list(training)
    for pattern, share in UNTESTED.items():
        for sample in [order.pop() for _ in range(round(share * len(training)))]:
            result[sample] = Chip(training[sample].seed, pattern)
    return result


def _patterns(chips: Chips, together: int) -> Iterator[tuple[int, str]]:
    """Yield seeds whose landscape has one pattern everywhere, with that pattern."""
    for first in count(0, together):
        seeds = range(first, first + together)
        for seed, months in zip(seeds, _observed(seeds, chips), strict=True):
            cells = {_pattern_of(cell) for cell in months}
            if len(cells) == 1 and (pattern := cells.pop()) is not None:
                yield seed, pattern


def _within(pattern: str) -> tuple[str, ...]:
    """Return the patterns of test chips that a landscape of a pattern can have."""
    return TESTED[TESTED.index(pattern) :] if pattern in TESTED else ()


def _observed(seeds: range, chips: Chips) -> list[np.ndarray]:
    """Return for each seed the mask of cells and months with Sentinel-2.

    Only the gaps of landscapes are computed: a tenth of the time of their images.
    """
    starts = range(0, chips.side, CELL)
    version, species = VERSIONS[chips.landscape], tuple(range(len(SPECIES)))
    return [
        np.array(
            [
                [not optical_missing(patch, month).all() for month in ACQUISITION_ORDER]
                for row, column in product(starts, starts)
                for patch in [Patch(seed, row, column, CELL, 10.0, species, version)]
            ]
        )
        for seed in seeds
    ]


def _pattern_of(months: np.ndarray) -> str | None:
    """Return the smallest pattern with these months; a file can be almost empty."""
    for pattern in reversed((*TESTED, *UNTESTED)):
        if all(has == "1" for has, seen in zip(pattern, months, strict=True) if seen):
            return pattern
    return None


def _cube(part: str, members: list[Chip], chips: Chips) -> xr.Dataset:
    """Stack landscapes as chips, without Sentinel-2 in the missing months."""
    scenes = [
        gb.landscape(
            chips.side, seed=chip.seed, block=chips.side, version=chips.landscape
        )
        for chip in members
    ]
    first = scenes[0]
    dims = ("month", "band", "y", "x")
    image = da.stack([scene["image"].data for scene in scenes])
    cube = xr.Dataset(
        {
            "image": (("chip", *dims), image, first["image"].attrs),
            "agb": (
                ("chip", "y", "x"),
                da.stack([scene["agb"].data for scene in scenes]),
                first["agb"].attrs,
            ),
        },
        coords={
            "chip": [f"{part}-{chip.seed}" for chip in members],
            "month": first["month"],
            "band": first["band"],
        },
        attrs={"title": "chips of synthetic landscapes"},
    )
    return cube.assign(image=cube["image"].where(_kept(members, cube)))


def _kept(members: list[Chip], cube: xr.Dataset) -> xr.DataArray:
    """Return the mask of chip, month and band that the chips' patterns keep."""
    flags = [[flag == "1" for flag in chip.pattern] for chip in members]
    radar = [str(band).startswith("V") for band in cube["band"].values]
    kept = xr.DataArray(np.array(flags), dims=("chip", "month"))
    return kept | xr.DataArray(np.array(radar), dims="band")
