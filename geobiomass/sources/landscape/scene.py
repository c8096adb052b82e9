"""A synthetic landscape with known biomass as a lazy scene cube."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeGuard

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from geobiomass.sources.landscape.climates import CLIMATES
from geobiomass.sources.landscape.forest import CELL, survey
from geobiomass.sources.landscape.gaps import ACQUISITION_ORDER
from geobiomass.sources.landscape.random_fields import Floats, Patch
from geobiomass.sources.landscape.sensors import observe
from geobiomass.sources.landscape.sentinel1 import RADAR_BANDS
from geobiomass.sources.landscape.sentinel2 import OPTICAL_BANDS
from geobiomass.sources.landscape.versions import NUMBERS, VERSIONS
from geobiomass.training.setting_names import explain_arguments

if TYPE_CHECKING:
    from rasterio.crs import CRS

__all__ = ["landscape"]

SCENE_DIMS = ("month", "band", "y", "x")
IMAGE_NAME = "backscatter, dB; reflectance x 10^4; cloud probability, percent"
SPECIES = ("pine", "spruce", "birch")  # in the order of forest.PINE, SPRUCE, BIRCH
BANDS = (*RADAR_BANDS, *OPTICAL_BANDS, "CLP")

# Outer corner of the first pixel: central Finland in EPSG:3067.
EAST, NORTH = 400_000.0, 6_900_000.0


@explain_arguments
def landscape(
    size: int | tuple[int, int],
    months: int = 12,
    seed: int = 0,
    *,
    block: int = 256,
    resolution: float = 10.0,
    crs: str | int | CRS = "EPSG:3067",
    species: Sequence[str] = SPECIES,
    climate: Literal["boreal", "temperate"] = "boreal",
    version: int = 2,
) -> xr.Dataset:
    """Build a synthetic boreal landscape with known above-ground biomass.

    The scene cube resembles a BioMassters chip, at any size: stands of pine, spruce
    and birch of all ages among fields, mires, lakes and roads. Sentinel-1 and
    Sentinel-2 observe it over a year with snow, frost, clouds and gaps. Pixels are
    computed lazily. A pixel depends only on `seed` and on its row and column from the
    upper left corner; on one kind of CPU the bits are equal. Neither `block` nor the
    computed window matters, and a smaller landscape of a seed is the upper left part
    of a larger one.

    Parameters
    ----------
    size
        Height and width in pixels; one number for a square.
    months
        Number of monthly steps, 1 to 12. They are the last ones of the year from
        September to August, so that a short cube has the summer (3: June to August).
    seed
        Number of the landscape, 0 or more.
    block
        Side in pixels of the dask chunks; multiples of 128 compute fastest.
    resolution
        Side of a pixel in metres, 1 to 100. Features of the ground have a fixed size
        in metres, texture and noise a fixed size in pixels.
    crs
        Any projected CRS in metres. The upper left corner is at 400,000 east,
        6,900,000 north in all of them.
    species
        Which of "pine", "spruce" and "birch" grow there. Each of the others is
        replaced by its nearest neighbour in this order, so that terrain, fields and
        ages stay the same.
    climate
        "boreal" is Finland's. "temperate" has a higher sun, leaves from April to
        October, hardly any snow or frost, crops that ripen in July, and stands that
        grow to 1.4 times the biomass, on the same terrain. A model of one maps the
        other badly: something to adapt to.
    version
        2 is nearer to real data. 1 is the landscape as it was before there were
        versions, bit for bit: figures that were recorded with it can be made again.

    Returns
    -------
    xarray.Dataset
        `image` (month, band, y, x) float32: Sentinel-1 in dB, Sentinel-2
        reflectance x 10^4 and cloud probability in percent as whole numbers, NaN
        where missing. `agb` (y, x) float32, Mg/ha, complete. Coordinates
        `month` (calendar months in acquisition order), `band`, `y`, `x` and
        `spatial_ref`. The attribute `synthetic` says which ground it is: a model that
        learnt one landscape did not learn another one at the same coordinates.

    Raises
    ------
    ValueError
        If `size`, `months`, `seed`, `block`, `resolution`, `crs`, `species`,
        `climate` or `version` is out of range or of the wrong kind.

    Notes
    -----
    Sources of the relations (the constants are next to them in the code):

    - growth of stands with age: Richards (1959), Chapman (1961);
    - shapes of stands: power diagrams, Aurenhammer (1987);
    - light through the canopy: Monsi and Saeki (1953), Beer-Lambert;
    - spectra of canopy, understorey and snow: order of magnitude of Rautiainen
      and co-workers (2011), Lukes and co-workers (2013), Warren (1982);
    - light on slopes: C correction, Teillet, Guindon and Goodenough (1982);
    - backscatter of vegetation: water-cloud model, Attema and Ulaby (1978);
    - radar on slopes: Ulander (1996);
    - speckle: Goodman (1976); texture: Jakeman and Pusey (1976).

    Growth asymptotes, noise levels and the shares of gaps are chosen so that the
    statistics resemble those published for BioMassters: biomass of mean 63 and
    standard deviation 71 Mg/ha, 19 to 32 % zeros, saturation from 100 to 150 Mg/ha.

    Version 2 also follows the distribution and the variogram of 67 real label chips,
    has stands that differ in leaf area and backscatter at equal biomass, and a sky that
    is harder to read:

    - The cloud probability misses some clouds: the image is bright there and the
      probability is low. Opaque clouds are missed less often than thin ones. In other
      places it flags clear pixels. Errors come in patches; most months have few.
    - Haze is a veil of low opacity (at most 0.35) that brightens all bands, blue most
      over forest. It raises the probability little.
    - Clouds cast shadows, away from the sun; the probability does not show them.

    In version 1 the probability is right everywhere, and there is neither haze nor
    cloud shadow. ``python -m benchmarks.landscape_truth`` compares both with real data.

    There are no buildings, no tree species beyond three groups, no outliers of labels
    and no change within the year.

    Examples
    --------
    >>> scene = landscape((300, 400), months=3, seed=7)
    >>> scene.image.sizes["month"], scene.agb.attrs["units"]
    (3, 'Mg/ha')
    """
    height, width = _shape(size)
    _check_integer("months", months, 1, 12)
    _check_integer("seed", seed, 0)
    _check_integer("block", block, 1)
    if not 1 <= resolution <= 100:
        raise ValueError(
            f"resolution of a landscape must be 1 to 100 metres, got {resolution!r}"
        )
    steps = ACQUISITION_ORDER[-months:]
    kinds = _species_of(species)
    if climate not in CLIMATES:
        raise ValueError(
            f"climate of a landscape must be one of {tuple(CLIMATES)}, got {climate!r}"
        )
    if not _is_integer(version) or version not in NUMBERS:
        raise ValueError(
            f"version of a landscape must be 1 or 2, got {version!r}; older "
            "figures are of 1"
        )
    order = _Order(
        (height, width),
        steps,
        int(seed),
        int(block),
        resolution,
        kinds,
        climate,
        int(version),
        "image",
    )
    image = xr.Variable(SCENE_DIMS, _lazy(order), {"long_name": IMAGE_NAME})
    agb = xr.Variable(
        ("y", "x"),
        _lazy(order._replace(kind="agb")),
        {"long_name": "above-ground biomass density", "units": "Mg/ha"},
    )
    scene = xr.Dataset(
        {"image": image, "agb": agb},
        coords={
            "month": ("month", np.array(steps), {"long_name": "calendar month"}),
            "band": ("band", np.array(BANDS)),
            "y": NORTH - (np.arange(height) + 0.5) * resolution,
            "x": EAST + (np.arange(width) + 0.5) * resolution,
        },
        attrs={
            "title": _title(seed, version),
            # Which ground it is: coordinates are the same for all seeds.
            "synthetic": _ground_of(seed, species, climate, version),
        },
    )
    return _georeferenced(scene, crs, resolution)


def _title(seed: int, version: int) -> str:
    # The title of version 1 is that of older cubes.
    number = "" if version == 1 else f" {version}"
    return f"synthetic landscape{number}, seed {seed}"


def _ground_of(seed: int, species: Sequence[str], climate: str, version: int) -> str:
    # That of the boreal climate is as in older cubes.
    weather = "" if climate == "boreal" else f", {climate}"
    return f"seed {seed}, {' '.join(species)}{weather}, version {version}"


def _shape(size: int | tuple[int, int]) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2:
        raise ValueError(
            f"size of a landscape must be a number of pixels or (height, width), "
            f"got {size!r}"
        )
    for side in sides:
        _check_integer("size", side, 1)
    return int(sides[0]), int(sides[1])


def _species_of(species: Sequence[str]) -> tuple[int, ...]:
    chosen = tuple(i for i, name in enumerate(SPECIES) if name in species)
    if not chosen or isinstance(species, str) or not set(species) <= set(SPECIES):
        raise ValueError(
            f"species of a landscape must be some of {SPECIES}, got {species!r}"
        )
    return chosen


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _check_integer(name: str, value: object, low: int, high: int | None = None) -> None:
    if _is_integer(value):
        above = high is not None and value > high
        if value >= low and not above:
            return
    expected = f"{low} or more" if high is None else f"{low} to {high}"
    raise ValueError(
        f"{name} of a landscape must be a whole number, {expected}, got {value!r}"
    )


class _Order(NamedTuple):
    """What a chunk depends on, besides its position."""

    shape: tuple[int, int]
    months: tuple[int, ...]
    seed: int
    block: int
    resolution: float
    species: tuple[int, ...]
    climate: str
    version: int
    kind: Literal["image", "agb"]

    @property
    def leading(self) -> tuple[int, ...]:
        """Return the sizes of the dimensions before y and x."""
        return (len(self.months), len(BANDS)) if self.kind == "image" else ()

    def patch(self, row: int, col: int) -> Patch:
        """Return the cell from a row and a column on."""
        return Patch(
            self.seed,
            row,
            col,
            CELL,
            self.resolution,
            self.species,
            VERSIONS[self.version],
            CLIMATES[self.climate],
        )


def _lazy(order: _Order) -> da.Array:
    """Return a dask array whose chunks are computed from their position alone."""
    chunks = da.core.normalize_chunks(
        (*order.leading, order.block, order.block), (*order.leading, *order.shape)
    )
    lazy: da.Array = da.map_blocks(
        partial(_block, order),
        chunks=chunks,
        dtype=np.float32,
        meta=np.empty((0,) * len(chunks), np.float32),
        name=f"landscape-{order.kind}-{tokenize(tuple(order))}",
    )
    return lazy


def _block(order: _Order, block_id: tuple[int, ...]) -> Floats:
    """Compute one chunk; `block_id` is its index in the grid of chunks."""
    rows, cols = (
        slice(index * order.block, min((index + 1) * order.block, side))
        for index, side in zip(block_id[-2:], order.shape, strict=True)
    )
    sides = rows.stop - rows.start, cols.stop - cols.start
    out = np.empty((*order.leading, *sides), "f4")
    for row in range(rows.start // CELL * CELL, rows.stop, CELL):
        for col in range(cols.start // CELL * CELL, cols.stop, CELL):
            ground = survey(order.patch(row, col))
            if order.kind == "image":
                cell = observe(ground, order.months)
            else:
                cell = ground.trimmed(ground.biomass)
            y_out, y_cell = _overlap(rows, row)
            x_out, x_cell = _overlap(cols, col)
            out[..., y_out, x_out] = cell[..., y_cell, x_cell]
    return out


def _overlap(window: slice, first: int) -> tuple[slice, slice]:
    """Return the overlap of a window and the cell from `first`, counted from each."""
    start, stop = max(window.start, first), min(window.stop, first + CELL)
    return (
        slice(start - window.start, stop - window.start),
        slice(start - first, stop - first),
    )


def _georeferenced(
    scene: xr.Dataset, crs: str | int | CRS, resolution: float
) -> xr.Dataset:
    """Return the scene with the grid mapping that rioxarray writes."""
    import rioxarray  # noqa: F401  registers the accessor .rio
    from rasterio.crs import CRS
    from rasterio.errors import CRSError
    from rasterio.transform import Affine

    try:
        system = CRS.from_user_input(crs)
        metres = system.is_projected and system.linear_units_factor[1] == 1.0
    except CRSError as error:
        raise ValueError(
            f"crs of a landscape must be a CRS such as 'EPSG:3067', got {crs!r}: "
            f"{error}"
        ) from error
    if not metres:
        raise ValueError(
            f"crs of a landscape must be projected in metres, got {crs!r}; "
            "EPSG:3067 is Finland's"
        )
    transform = Affine(resolution, 0.0, EAST, 0.0, -resolution, NORTH)
    # Both return copies; the grid mapping ends in the encoding of the variables.
    placed: xr.Dataset = scene.rio.write_crs(system).rio.write_transform(transform)
    return placed
