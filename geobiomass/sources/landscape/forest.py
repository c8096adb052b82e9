"""The synthetic landscape on the ground: terrain, water, roads, stands, biomass.

All values are functions of the seed and the position. They are computed in square
cells of fixed size and position, so no result depends on the chunks of a scene.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from geobiomass.sources.landscape.random_fields import (
    Floats,
    Integers,
    Patch,
    chance,
    layer_key,
    normal_scatter,
    scatter,
    smooth,
    smooth_at,
)
from geobiomass.sources.landscape.versions import Version

Item = TypeVar("Item", bound=np.generic)

CELL = 128
"""Side in pixels of the square cells in which the landscape is computed."""

SHADOW_REACH = 40.0  # metres around a patch within which canopies cast shadows on it

# Texture of version 2: spread of the logarithm of biomass within stands by site, groups
# of trees and single trees, and the sizes of the last two in pixels. Set by the
# variogram of 67 real label chips, on seeds 0 to 66.
SITE, GROUPS, TREES = 0.16, 0.22, 0.28
GROUP_SIZE, TREE_SIZE = 4.5, 1.2
CEILING = 570.0  # Mg/ha; of the real pixels, 0.1 % exceed 400 and 0.015 % exceed 500
# Threshold of single trees on open land: 7 % of the real pixels amid zeros have trees.
LONE = 1.3
# Spread of the logarithm of the canopy that biomass does not explain, between stands
# and between groups of trees, and the part of the fine texture that both have. Set by
# the correlation of bands and biomass of the two real chips.
STAND_FORM, FORM, SHARED = 0.65, 0.6, 0.35

# Land types of a stand, and species groups of the forest.
FOREST, FIELD, MEADOW, MIRE = range(4)
PINE, SPRUCE, BIRCH = range(3)

# Chapman-Richards growth by species group: rate per year, shape. The asymptotes belong
# to the version.
RATE = np.array([0.030, 0.032, 0.042], np.float32)
SHAPE = np.array([2.2, 2.6, 1.9], np.float32)


@dataclass(frozen=True)
class Stands:
    """The stands around a patch: arrays with one entry per stand centre.

    `land` is the land type, `species` the species group, `biomass` Mg/ha at average
    productivity and `fertility` a standard normal score. `softness`, from 0 to 1,
    decides whether a border is gradual. `vigour` holds three independent standard
    normal scores, so that stands of equal biomass look different.
    """

    land: Integers
    species: Integers
    biomass: Floats
    fertility: Floats
    softness: Floats
    vigour: Floats


@dataclass(frozen=True)
class Ground:
    """The ground that the sensors observe: arrays (y, x) over a patch and its margin.

    `biomass` in Mg/ha, `height` of the canopy and `elevation` in metres,
    `stand` the index of the stand in `stands`, `water` and `road` masks. `canopy` is
    the biomass in Mg/ha that stands of average form would need to look like the pixel:
    leaves and backscatter follow it, and stands of equal biomass differ in it.
    """

    patch: Patch
    margin: int
    stands: Stands
    stand: Integers
    biomass: Floats
    canopy: Floats
    height: Floats
    elevation: Floats
    water: npt.NDArray[np.bool_]
    road: npt.NDArray[np.bool_]

    def trimmed(self, values: npt.NDArray[Item]) -> npt.NDArray[Item]:
        """Return `values` without the margin."""
        inner = slice(self.margin, self.margin + self.patch.side)
        return values[inner, inner]


def survey(patch: Patch) -> Ground:
    """Return terrain, stands and biomass of a patch and of its margin.

    Biomass grows with age after Chapman and Richards (Richards 1959, Chapman 1961):
    B = A (1 - exp(-k age))^p, with asymptotes by species group and site. It is
    multiplied by a smooth productivity and a texture correlated over a few pixels.
    Canopy height is a power law of biomass, as in stand allometry.
    """
    margin = int(np.clip(np.ceil(SHADOW_REACH / patch.resolution), 2, 40))
    wide = patch.grown(margin)
    relief = smooth(wide, ("relief",), 3000.0, octaves=7)
    water = relief < -1.40
    road = _roads(wide)
    stands, stand, other, border = _divide(wide)
    biomass = _mixed_biomass(stands, stand, other, border)
    if patch.version.number == 1:
        biomass *= _productivity(wide)
        canopy = biomass
    else:
        biomass, canopy = _textured(wide, stands, stand, biomass)
        canopy[water | road] = 0
    biomass[water | road | (biomass < patch.version.least)] = 0
    return Ground(
        patch=patch,
        margin=margin,
        stands=stands,
        stand=stand,
        biomass=biomass,
        canopy=canopy,
        height=np.float32(2.6) * canopy ** np.float32(0.4),
        elevation=np.float32(55) * np.maximum(relief, np.float32(-1.40)),
        water=water,
        road=road,
    )


def _roads(patch: Patch) -> npt.NDArray[np.bool_]:
    """Return the mask of roads: lines where a smooth field crosses zero."""
    road = np.zeros((patch.side, patch.side), bool)
    for name, spacing in (("road", 2600.0), ("track", 1100.0)):
        field = smooth(patch, (name,), spacing, octaves=2, persistence=0.3)
        slope = np.hypot(*np.gradient(field)) + np.float32(1e-6)
        # Tracks are interrupted, and both kinds are narrower than a pixel.
        present = smooth(patch, (name, "present"), 2 * spacing) > 0.2
        road |= present & (np.abs(field) < 0.6 * slope)
    return road


def _productivity(patch: Patch) -> Floats:
    """Return the factor of site and tree groups on biomass; its mean is 1.

    Of version 1.
    """
    site = np.float32(0.16) * smooth(patch, ("site",), 900.0, octaves=3)
    pixel = patch.resolution
    groups = np.float32(0.16) * smooth(patch, ("groups",), 4.0 * pixel)
    trees = np.float32(0.15) * smooth(patch, ("trees",), 2.0 * pixel)
    variance = 0.16**2 + 0.16**2 + 0.15**2
    product: Floats = np.exp(site + groups + trees - np.float32(variance / 2))
    return product


def _textured(
    patch: Patch, stands: Stands, stand: Integers, biomass: Floats
) -> tuple[Floats, Floats]:
    """Return the biomass of pixels and their canopy out of that of stands, Mg/ha.

    Site, groups of trees and single trees multiply biomass by a factor of mean 1. The
    canopy shares a part of these only. Its other part is the form of a stand and of
    groups of trees, which biomass does not have. Open land has trees too.
    """
    pixel = patch.resolution
    site = np.float32(SITE) * smooth(patch, ("site",), 900.0, octaves=3)
    groups = smooth(patch, ("groups",), GROUP_SIZE * pixel)
    trees = smooth(patch, ("trees",), TREE_SIZE * pixel)
    fine = np.float32(GROUPS) * groups + np.float32(TREES) * trees
    variance = SITE**2 + GROUPS**2 + TREES**2
    biomass = biomass * np.exp(site - np.float32(variance / 2))
    form = (np.float32(STAND_FORM) * stands.vigour[2]).astype(np.float32)[stand]
    form += np.float32(FORM) * smooth(patch, ("form",), 3.0 * pixel)
    canopy: Floats = biomass * np.exp(form + np.float32(SHARED) * fine)
    biomass = biomass * np.exp(fine)
    # Single trees and groups of trees of fields, shores and villages.
    open_land = np.isin(stands.land, (FIELD, MEADOW))[stand]
    village = smooth(patch, ("village",), 700.0, octaves=2)
    least = np.float32(LONE) - np.float32(0.45) * village
    alone = np.maximum(smooth(patch, ("alone",), 1.9 * pixel, octaves=1) - least, 0)
    alone = np.where(open_land, np.float32(110) * alone, 0).astype(np.float32)
    total = biomass + alone
    # Stands thin themselves out: few pixels come near the ceiling.
    thinned = 1 + (total / np.float32(CEILING)) ** 3
    return total * thinned ** np.float32(-1 / 3), canopy + alone


def _mixed_biomass(
    stands: Stands, stand: Integers, other: Integers, border: Floats
) -> Floats:
    """Return biomass, with gradual borders between stands that allow them."""
    near, far = stands.biomass[stand], stands.biomass[other]
    softness = (stands.softness[stand] + stands.softness[other]) % 1
    tended = np.maximum(stands.land[stand], stands.land[other])
    soft = (softness > 0.55) & ((tended == FOREST) | (tended == MIRE))
    width = np.float32(70) * softness - np.float32(25)
    inside = np.clip(border / width, 0, 1)
    share = np.float32(0.5) * (1 - inside * inside * (3 - 2 * inside))
    return np.where(soft, near + share * (far - near), near)


def _divide(patch: Patch) -> tuple[Stands, Integers, Integers, Floats]:
    """Divide a patch into stands.

    The stands are a power diagram (Aurenhammer 1987) of a jittered grid of centres,
    in coordinates distorted by noise.

    Returns
    -------
    stands : Stands
        All stands around the patch.
    stand, other : numpy.ndarray
        Index of each pixel's stand, and of the second nearest stand.
    border : numpy.ndarray
        Distance of each pixel to the border between these two, metres.
    """
    bend_y, bend_x = (
        smooth(patch, ("bend", axis), 260.0, octaves=4, persistence=0.55)
        for axis in "yx"
    )
    amplitude, spacing = np.float32(patch.version.bend), patch.version.stand_spacing
    y = patch.metres(patch.row)[:, None] + amplitude * bend_y
    x = patch.metres(patch.col)[None, :] + amplitude * bend_x
    if patch.version.stretch != 1:
        y, x = _stretched(patch, y, x)
    y, x = y / spacing, x / spacing
    row, col = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    rows = np.arange(row.min() - 1, row.max() + 2)
    cols = np.arange(col.min() - 1, col.max() + 2)
    grid_row, grid_col = (a.ravel() for a in np.meshgrid(rows, cols, indexing="ij"))
    jitter_y, jitter_x, weight = (
        scatter(layer_key(patch.seed, "centre", part), grid_row, grid_col)
        for part in ("y", "x", "weight")
    )
    centre_y = (grid_row - rows[0] + 0.1 + 0.8 * jitter_y).astype(np.float32)
    centre_x = (grid_col - cols[0] + 0.1 + 0.8 * jitter_x).astype(np.float32)
    nearest = _two_nearest(
        (y - rows[0]).astype(np.float32),
        (x - cols[0]).astype(np.float32),
        (row - rows[0]) * cols.size + (col - cols[0]),
        cols.size,
        np.stack([centre_y, centre_x, np.float32(0.25) * weight]),
    )
    stand, other, border = nearest
    border *= np.float32(spacing)
    stands = _inventory(patch, grid_row, grid_col)
    return stands, stand, other, border


def _stretched(patch: Patch, y: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Return coordinates along and across the direction of a landscape's stands."""
    angle = np.pi * chance(patch.seed, "direction")
    along = np.cos(angle) * y + np.sin(angle) * x
    across = np.cos(angle) * x - np.sin(angle) * y
    factor = patch.version.stretch**0.5
    return along / factor, across * factor


def _two_nearest(
    y: Floats, x: Floats, home: Integers, stride: int, centres: Floats
) -> tuple[Integers, Integers, Floats]:
    """Return the two nearest of the nine centres around a pixel, and the border."""
    first = np.full(y.shape, np.inf, np.float32)
    second = first.copy()
    nearest = np.zeros(y.shape, np.int64)
    other = nearest.copy()
    for step in (i * stride + j for i in (-1, 0, 1) for j in (-1, 0, 1)):
        index = home + step
        centre_y, centre_x, weight = centres[:, index]
        power = (y - centre_y) ** 2 + (x - centre_x) ** 2 - weight
        closer, close = power < first, power < second
        other = np.where(closer, nearest, np.where(close, index, other))
        second = np.where(closer, first, np.where(close, power, second))
        nearest = np.where(closer, index, nearest)
        first = np.where(closer, power, first)
    apart = np.hypot(*(centres[:2, nearest] - centres[:2, other]))
    border = (second - first) / (2 * apart)
    return nearest, other, border


def _inventory(patch: Patch, row: Integers, col: Integers) -> Stands:
    """Return the properties of the stands centred in the given grid cells.

    A species group that does not grow there is replaced by the nearest one.
    """
    seed, version = patch.seed, patch.version
    # Several grid cells often share one stand, so that stand sizes vary.
    for side, share in version.merges:
        layer = ("merge",) if side == 2 else ("merge", side)
        coarse = scatter(layer_key(seed, *layer), row // side, col // side) < share
        row = np.where(coarse, row // side * side, row)
        col = np.where(coarse, col // side * side, col)

    def uniform(name: str) -> Floats:
        return scatter(layer_key(seed, name), row, col)

    def normal(name: str) -> Floats:
        keys = layer_key(seed, name, "a"), layer_key(seed, name, "b")
        return normal_scatter(*keys, row, col)

    def regional(name: str, spacing: float) -> Floats:
        apart = version.stand_spacing
        y, x = (row + 0.5) * apart, (col + 0.5) * apart
        return smooth_at(seed, (name,), y, x, spacing)

    farmland = 0.62 * regional("farms", 2400.0) + 0.45 * regional("farm", 900.0)
    farmland = farmland + 0.45 * normal("farm")
    wetness = 0.7 * regional("wetlands", 1800.0) + 0.6 * normal("wet")
    fertility = 0.6 * regional("fertility", 3000.0) + 0.8 * normal("fertility")
    land = np.full(row.shape, FOREST)
    land[wetness > version.wet_level] = MIRE
    farmed = farmland > version.farm_level
    land[farmed] = np.where(uniform("crop") < 0.6, FIELD, MEADOW)[farmed]
    species_score = fertility + 0.9 * normal("species")
    kinds = np.array(patch.species)
    nearest = [kinds[np.abs(kinds - kind).argmin()] for kind in range(3)]
    species = np.array(nearest)[np.digitize(species_score, (0.1, 1.05))]
    biomass = _grown(version, uniform("age"), fertility, normal("stocking"), species)
    biomass *= np.float32(patch.climate.growth)
    bog = 22 * np.maximum(normal("bog"), 0)
    biomass = np.select([land == FOREST, land == MIRE], [biomass, bog], 0)
    return Stands(
        land=land,
        species=species,
        biomass=biomass.astype(np.float32),
        fertility=fertility.astype(np.float32),
        softness=uniform("softness"),
        vigour=np.stack([normal(f"vigour {i}") for i in range(3)]),
    )


def _grown(
    version: Version,
    age: Floats,
    fertility: Floats,
    stocking: Floats,
    species: Integers,
) -> Floats:
    """Return the biomass of forest stands in Mg/ha; `age` is a quantile, 0 to 1.

    Forestry keeps few stands beyond a rotation of about a hundred years. So ages are
    uniform up to about 90 years, and a tenth of the stands is older, up to 160.
    """
    years = np.where(age < 0.88, age / 0.88 * 92, 92 + (age - 0.88) / 0.12 * 68)
    growth = (1 - np.exp(-RATE[species] * years)) ** SHAPE[species]
    site = np.exp(version.site[0] * fertility + version.site[1] * stocking)
    mature = np.array(version.asymptote, np.float32)[species]
    return np.asarray(mature * growth * site, np.float32)


def gradient(surface: Floats, ground: Ground) -> tuple[Floats, Floats]:
    """Return the slope to the south and to the east, metres per metre."""
    step = np.float32(ground.patch.resolution)
    south: Floats = np.gradient(surface, step, axis=0)
    east: Floats = np.gradient(surface, step, axis=1)
    return ground.trimmed(south), ground.trimmed(east)
