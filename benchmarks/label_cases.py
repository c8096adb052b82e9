"""The cases of the comparison by number of labels: cubes with few labels, and tests.

A cell is a set of data, a kind of labels, how they lie, and their number. A case is a
cell with a seed: a cube to train on, and one whose labels test. Ground that tests has
no label in training: blocks of a scene, or sites.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import rioxarray  # noqa: F401  (the .rio accessor)
import xarray as xr

import geobiomass as gb
from geobiomass.tiles import even_blocks

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Layout = Literal["random", "clustered"]
Random = np.random.Generator

DENSE = 0  # as a number of labels: every pixel of the training blocks
COUNTS = (30, 100, 300, 1_000, 10_000)
TESTED = 5_000  # pixels that test, at most

# Landscapes that nothing was designed on: the first has this seed.
UNSEEN = 9_000
LANDSCAPE, BLOCK = 384, 64  # side of a landscape, and of its blocks, pixels
CAMPAIGN = 32  # side of the square in which labels of a campaign lie, pixels
# GEDI: footprints 25 m wide, 60 m apart along a track, with a horizontal error of about
# 10 m (version 2, Dubayah and co-workers 2020, doi 10.1016/j.srs.2020.100002).
FOOTPRINT, ALONG, SHIFT = 25.0, 60.0, 10.0
LEAN = 0.22  # across over along: how tracks lean
# Footprints of one pass are off together (Pauls and co-workers 2024, "Estimating canopy
# height at scale"): by the shift of their track, and each by this much more, assumed.
OWN_SHIFT = 3.0
BY_TRACK = "footprints off by track"
FOOTPRINT_ERROR = 0.2  # relative standard deviation of a footprint's label
# Labels "with errors": half of them have the first relative error, half the second, and
# all this one more, Mg/ha. Their errors are known, `agb_se`.
RELATIVE_ERRORS, MORE_ERROR = (0.1, 0.6), 3.0
WITH_ERRORS = "points with errors"

# Channels of the tiles of Nicaragua.
CHANNELS = {
    **{f"B{n:02d}": n - 1 for n in range(1, 9)},
    **{"B8A": 8, "B09": 9, "B11": 10, "B12": 11, "VV_asc": 20, "VH_asc": 21},
    **{"HH": 24, "HV": 25, "elevation": 26, "slope": 27},
}
FUEL_BANDS = (
    *("VV", "VH", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09"),
    *("B11", "B12", "temperature", "precipitation", "elevation", "slope", "NDVI"),
)


@dataclass(frozen=True)
class Cell:
    """A set of data, a kind of labels, how they lie, and their number."""

    data: str
    kind: str
    layout: Layout
    labels: int

    @property
    def name(self) -> str:
        """Return its name in tables, results and on the command line."""
        count = "dense" if self.labels == DENSE else f"{self.labels}"
        how = "" if self.labels == DENSE else f", {self.layout}"
        return f"{self.data} | {self.kind}{how} | {count}"


@dataclass(frozen=True)
class Case:
    """A cube with few labels to train on, and a cube whose labels test.

    Parameters
    ----------
    training, test : xarray.Dataset
        Scenes with the same image, or chips.
    block : int
        Side of the blocks that are held out, pixels.
    groups : str, optional
        Coordinate of the chips' groups.
    network : bool
        Whether images are large enough for a network.
    """

    training: xr.Dataset
    test: xr.Dataset
    block: int
    groups: str | None = None
    network: bool = True


def make_cells() -> dict[str, Cell]:
    """Return all cells by name."""
    layouts: tuple[Layout, Layout] = ("random", "clustered")
    cells = [
        Cell("landscape", kind, layout, count)
        for kind in ("points", "footprints")
        for layout in layouts
        for count in COUNTS
    ]
    cells.append(Cell("landscape", "points", "random", DENSE))
    for count in (30, 100, 300):
        cells.append(Cell("nicaragua", "footprints", "random", count))
    for layout in layouts:
        cells += [Cell("fuel moisture", "points", layout, n) for n in COUNTS[:3]]
    for count in (1_000, DENSE):
        cells.append(Cell("fuel moisture", "points", "random", count))
    cells += [Cell("texas", "footprints", "random", count) for count in (30, 100, 160)]
    for layout in layouts:
        cells += [Cell("worldcereal", "points", layout, n) for n in COUNTS[:3]]
    for count in (1_000, DENSE):
        cells.append(Cell("worldcereal", "points", "random", count))
    return {cell.name: cell for cell in cells}


def absent(cell: Cell) -> str | None:
    """Return why a cell cannot be made, or None."""
    if cell.data == "landscape":
        return None
    root = os.environ.get("GEOBIOMASS_DATA")
    if not root:
        return "GEOBIOMASS_DATA is not set: no real data"
    folder = Path(root) / FOLDERS[cell.data]
    return None if folder.exists() else f"{folder} does not exist"


def make_case(
    cell: Cell,
    seed: int,
    quick: bool = False,
    scene: tuple[xr.Dataset, int] | None = None,
) -> Case:
    """Return the case of a cell with a seed.

    Parameters
    ----------
    cell : Cell
        Data, and labels to draw.
    seed : int
        Of the draw, and of a landscape.
    quick : bool
        Whether a landscape is tiny.
    scene : tuple, optional
        Another scene with all of its labels, and the side of its blocks.
    """
    random = np.random.default_rng([seed, *cell.name.encode()])
    if cell.data == "fuel moisture":
        return _of_sites(cell, random)
    cube, block = scene or _scene(cell.data, seed, quick)
    # The same blocks test for all numbers and kinds of labels.
    test = _held_out(cube, block, np.random.default_rng([seed, *cell.data.encode()]))
    truth = cube["agb"].values
    known = np.isfinite(truth) & cube["image"].notnull().any(("month", "band")).values
    if cell.kind in ("footprints", BY_TRACK) and cell.data == "landscape":
        labels = _footprints(cell, cube, known & ~test, random)
    else:
        labels = np.where(_drawn(cell, known & ~test, truth, random), truth, np.nan)
    tested = _choose(known & test, TESTED, random)
    training = _with(cube, labels)
    if cell.kind == WITH_ERRORS:
        noisy, errors = _with_errors(labels, random)
        training = _with(cube, noisy)
        training = training.assign(agb_se=training["agb"].copy(data=errors))
    return Case(training, _with(cube, np.where(tested, truth, np.nan)), block)


def _with(scene: xr.Dataset, labels: Floats) -> xr.Dataset:
    return scene.assign(agb=scene["agb"].copy(data=labels.astype(np.float32)))


def _with_errors(labels: Floats, random: Random) -> tuple[Floats, Floats]:
    """Return labels with errors of a gamma distribution, and the standard errors.

    It has the label as its mean, and no value below 0.
    """
    known = np.isfinite(labels)
    truth = labels[known].astype(np.float64)
    errors = random.choice(RELATIVE_ERRORS, truth.size) * truth + MORE_ERROR
    scale = errors**2 / truth.clip(min=1e-6)
    found = random.gamma(truth.clip(min=1e-6) / scale, scale)
    noisy, spread = np.full_like(labels, np.nan), np.full_like(labels, np.nan)
    noisy[known], spread[known] = found, errors
    return noisy, spread


def _held_out(scene: xr.Dataset, block: int, random: Random) -> Mask:
    """Return the mask of a third of the blocks, among those with labels."""
    known = np.isfinite(scene["agb"].values)
    windows = [
        window
        for window in even_blocks(*known.shape, block)
        if known[window.rows, window.columns].any()
    ]
    mask = np.zeros(known.shape, bool)
    for number in random.permutation(len(windows))[: round(len(windows) / 3)]:
        mask[windows[number].rows, windows[number].columns] = True
    return mask


def _choose(mask: Mask, count: int, random: Random) -> Mask:
    """Return at most `count` pixels of a mask, drawn at random."""
    places = np.flatnonzero(mask)
    if len(places) > count:
        places = random.choice(places, count, replace=False)
    chosen = np.zeros(mask.shape, bool)
    chosen.flat[places] = True
    return chosen


def _drawn(cell: Cell, free: Mask, truth: Floats, random: Random) -> Mask:
    """Return the labelled pixels; they are drawn again if all labels are alike."""
    if cell.labels == DENSE:
        return free
    draw = _campaigns if cell.layout == "clustered" else _choose
    while True:
        drawn = draw(free, cell.labels, random)
        if np.ptp(truth[drawn]) > 0:
            return drawn


def _campaigns(free: Mask, count: int, random: Random) -> Mask:
    """Return pixels of a few squares: three, and more with more labels, up to twelve.

    So few labels are less than they seem: those of a square are alike.
    """
    squares = int(np.clip(count // 20, 3, 12))
    side = min(CAMPAIGN, min(free.shape) // 4)
    places = np.argwhere(free)
    chosen = np.zeros(free.shape, bool)
    area = np.zeros(free.shape, bool)
    for number in range(count):  # squares may overlap or be cut: then some more
        centre = places[random.integers(len(places))] - side // 2
        top, left = np.clip(centre, 0, np.array(free.shape) - side)
        area[top : top + side, left : left + side] = True
        if number + 1 >= squares and (area & free).sum() >= count:
            break
    chosen |= _choose(area & free, count, random)
    return chosen


def _footprints(cell: Cell, scene: xr.Dataset, free: Mask, random: Random) -> Floats:
    """Return labels of footprints: means of a disc that lies a little off, with noise.

    Clustered are footprints along tracks, random those of a grid of many passes. By
    track, those of a track are off together, and each a little more.
    """
    resolution = float(abs(scene["x"][1] - scene["x"][0]))
    truth = scene["agb"].values
    while True:
        if cell.layout == "clustered":
            tracks = _tracks(free, cell.labels, resolution, random)
            on = tracks >= 0
        else:
            on = _choose(free, cell.labels, random)
        by_track = cell.kind == BY_TRACK
        together = (
            random.normal(0, SHIFT / resolution, (int(tracks.max()) + 1, 2))
            if by_track
            else None
        )
        labels = np.full(truth.shape, np.nan, np.float32)
        for row, column in np.argwhere(on):
            own = OWN_SHIFT if by_track else SHIFT
            off = random.normal(0, own / resolution, 2)
            if together is not None:
                off = off + together[tracks[row, column]]
            mean = _disc(truth, row + off[0], column + off[1], resolution)
            labels[row, column] = mean * max(0.0, 1 + FOOTPRINT_ERROR * random.normal())
        if np.ptp(labels[on]) > 0:
            return labels


def _disc(truth: Floats, row: float, column: float, resolution: float) -> float:
    """Return the mean within a footprint, by pixel centres."""
    reach = FOOTPRINT / 2 / resolution
    rows, columns = (
        np.arange(
            max(0, int(np.floor(at - reach))),
            min(side, int(np.ceil(at + reach)) + 1),
        )
        for at, side in zip((row, column), truth.shape, strict=True)
    )
    if not len(rows) or not len(columns):
        rows, columns = (
            np.array([int(np.clip(round(at), 0, side - 1))])
            for at, side in zip((row, column), truth.shape, strict=True)
        )
    far = np.hypot(rows[:, None] - row, columns[None] - column)
    inside = far <= max(reach, far.min())
    return float(truth[np.ix_(rows, columns)][inside].mean())


def _tracks(
    free: Mask, count: int, resolution: float, random: Random
) -> npt.NDArray[np.int64]:
    """Return the number of the track at pixels along leaning tracks, elsewhere -1.

    They are parallel but for the side that they lean to, and as many as are needed.
    """
    height, width = free.shape
    step = ALONG / resolution
    chosen: list[int] = []
    number_of: list[int] = []
    while len(chosen) < count:
        column, row = random.uniform(-LEAN * height, width), random.uniform(0, step)
        lean = LEAN * (1 if random.random() < 0.5 else -1)
        start = column if lean > 0 else column + LEAN * height
        rows = np.arange(row, height, step)
        places = np.stack([rows, start + lean * rows]).astype(int)
        inside = (places[1] >= 0) & (places[1] < width)
        flat = np.ravel_multi_index(tuple(places[:, inside]), free.shape)
        new = [int(n) for n in flat if free.flat[n] and n not in set(chosen)]
        chosen += new
        number_of += [max(number_of, default=-1) + 1] * len(new)
    found = np.full(free.shape, -1)
    found.flat[chosen[:count]] = number_of[:count]
    return found


# The sets ----------------------------------------------------------------------


@lru_cache(maxsize=1)
def _scene(data: str, seed: int, quick: bool) -> tuple[xr.Dataset, int]:
    """Return a scene with all of its labels, and the side of its blocks."""
    if data == "landscape":
        side, months, block = (96, 2, 16) if quick else (LANDSCAPE, 12, BLOCK)
        return gb.landscape(side, months, UNSEEN + seed, version=1).load(), block
    folder = Path(os.environ["GEOBIOMASS_DATA"]) / FOLDERS[data]
    return READERS[data](folder)


def _nicaragua(folder: Path) -> tuple[xr.Dataset, int]:
    """Return twelve tiles as one scene, with canopy heights (RH95) at footprints."""
    side, across = 128, 4
    image = np.full((len(CHANNELS), 3 * side, across * side), np.nan, np.float32)
    labels = np.full(image.shape[1:], np.nan, np.float32)
    with (folder / "tile_grid.csv").open() as file:
        corner = next(csv.DictReader(file))
    for number in range(12):
        top, left = side * (number // across), side * (number % across)
        rows, columns = slice(top, top + side), slice(left, left + side)
        values = np.load(folder / f"X_tile_tile_116_{number}.npy")[
            list(CHANNELS.values())
        ]
        values[:, (values == 0).all(axis=0)] = np.nan  # no data, which no tag says
        values[: list(CHANNELS).index("VV_asc")] *= 10_000
        image[:, rows, columns] = values
        labels[rows, columns] = np.load(folder / f"y_tile_tile_116_{number}.npy")[2]
    first, step = (
        [float(corner[name]) for name in names]
        for names in (
            ("lat_first_row_centre", "lon_first_col_centre"),
            ("dlat_per_row", "dlon_per_col"),
        )
    )
    cube = xr.Dataset(
        {
            "image": (("month", "band", "y", "x"), image[None]),
            "agb": (("y", "x"), labels, {"units": "m", "target": "rh95"}),
        },
        coords={
            "month": [7],
            "band": list(CHANNELS),
            "y": first[0] + step[0] * np.arange(image.shape[1]),
            "x": first[1] + step[1] * np.arange(image.shape[2]),
        },
    )
    return cube.rio.write_crs("EPSG:4326"), 64


def _texas(folder: Path) -> tuple[xr.Dataset, int]:
    """Return one chip of Landsat bands with labels like those of GEDI L4A."""
    cube = gb.from_rasters(
        folder / "regression_test_0_input.tif",
        bands={index: f"band{index}" for index in range(1, 8)},
        months=[7],
        agb=folder / "regression_test_0_label.tif",
        agb_nodata=-1,
    )
    return cube.load(), 32


def _worldcereal(folder: Path) -> tuple[xr.Dataset, int]:
    """Return November to June, with the NDVI of July as a dense target."""
    raw = xr.open_dataset(
        folder / "worldcereal_preprocessed_inputs.nc", engine="h5netcdf"
    )
    crs = raw["crs"].attrs["crs_wkt"] if "crs" in raw else "EPSG:32631"
    raw = raw[[name for name in raw if raw[name].ndim == 3]]
    raw = raw.where(raw != 65535)
    optical = {n: str(n).removeprefix("S2-L2A-") for n in raw if "S2-L2A" in str(n)}
    bands = raw[list(optical)].rename(optical)
    for theirs, ours in {"S1-SIGMA0-VV": "VV", "S1-SIGMA0-VH": "VH"}.items():
        bands[ours] = 20 * np.log10(raw[theirs]) - 83
    july = bands.sel(t=bands["t"].dt.month == 7).isel(t=0)
    ndvi = (july["B08"] - july["B04"]) / (july["B08"] + july["B04"])
    cube = gb.as_cube(bands.sel(t=bands["t"] < july["t"]), agb=ndvi, crs=crs)
    return cube.load(), 20


def _of_sites(cell: Cell, random: Random) -> Case:
    """Return points as chips of one pixel, with the sites as groups.

    The set's own split into 100 training and 50 test sites holds. Months are counted
    from the first of a point's three, since points have different ones. Clustered are
    all points of a few sites.
    """
    folder = Path(os.environ["GEOBIOMASS_DATA"]) / FOLDERS[cell.data]
    names = ("s1_s2_era5_srtm", "target", "is_test", "site")
    image, target, tests, sites = (np.load(folder / f"{n}.npy") for n in names)
    tests = tests.astype(bool)
    free = np.flatnonzero(~tests)
    if cell.labels == DENSE:
        chosen = free
    elif cell.layout == "random":
        chosen = random.choice(free, cell.labels, replace=False)
    else:
        order = random.permutation(np.unique(sites[free]))
        rows = np.concatenate(
            [free[sites[free] == site] for site in order[: cell.labels]]
        )
        chosen = rows[: cell.labels]

    def chips(rows: npt.NDArray[np.int64]) -> xr.Dataset:
        return xr.Dataset(
            {
                "image": (
                    ("chip", "month", "band", "y", "x"),
                    image[rows].astype(np.float32)[..., None, None],
                ),
                "agb": (
                    ("chip", "y", "x"),
                    target[rows].astype(np.float32)[:, None, None],
                    {"units": "%", "target": "fuel_moisture"},
                ),
            },
            coords={
                "chip": [f"{row:04d}" for row in rows],
                "month": [1, 2, 3],
                "band": list(FUEL_BANDS),
                "site": ("chip", sites[rows].astype(str)),
            },
        )

    return Case(
        chips(np.sort(chosen)), chips(np.flatnonzero(tests)), 1, "site", network=False
    )


READERS: dict[str, Callable[[Path], tuple[xr.Dataset, int]]] = {
    "nicaragua": _nicaragua,
    "texas": _texas,
    "worldcereal": _worldcereal,
}
FOLDERS = {
    "nicaragua": "gedi_s1s2_nicaragua",
    "texas": "hls_gedi_agb_texas",
    "worldcereal": "worldcereal_monthly",
    "fuel moisture": "fuel_moisture_points",
}


def labelled_pixels(cube: xr.Dataset) -> tuple[Floats, Floats]:
    """Return the labels of a cube, and (pixel, month, band) of their pixels."""
    known = np.isfinite(cube["agb"].values)
    image = cube["image"].values
    if "chip" in cube.dims:
        image = np.moveaxis(image, (1, 2), (-2, -1))
    else:
        image = np.moveaxis(image, (0, 1), (-2, -1))
    return cube["agb"].values[known], image[known]
