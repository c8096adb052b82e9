"""What stands on the synthetic ground: terrain, water, roads, stands, biomass.

Everything is a function of the seed and of the position, computed in square
cells of fixed size and place, so no result depends on how a scene is cut.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]
Item = TypeVar("Item", bound=np.generic)

CELL = 128
"""Side in pixels of the squares in which everything is computed."""

STAND_SPACING = 180.0
SHADOW_REACH = 40.0

# Land types of a stand, and species groups of the forest.
FOREST, FIELD, MEADOW, MIRE = range(4)
PINE, SPRUCE, BIRCH = range(3)

# Chapman-Richards growth by species group: asymptote in Mg/ha of a stand of
# average site and stocking, rate per year, shape. Chosen so that a mature stand
# carries what Finnish forests do and 0.1 to 0.3 % of pixels pass 400 Mg/ha.
ASYMPTOTE = np.array([130.0, 196.0, 138.0], np.float32)
RATE = np.array([0.030, 0.032, 0.042], np.float32)
SHAPE = np.array([2.2, 2.6, 1.9], np.float32)


@dataclass(frozen=True)
class Patch:
    """A square of pixels of the endless landscape that `seed` names.

    `species` are the species groups that grow there, in rising order.
    """

    seed: int
    row: int
    col: int
    side: int
    resolution: float
    species: tuple[int, ...] = (PINE, SPRUCE, BIRCH)

    def grown(self, pixels: int) -> "Patch":
        """Return the square with a margin of `pixels` on every side."""
        return replace(
            self,
            row=self.row - pixels,
            col=self.col - pixels,
            side=self.side + 2 * pixels,
        )

    def metres(self, first: int) -> Floats:
        """Return the pixel centres along an axis, in metres from the origin."""
        return (first + np.arange(self.side) + 0.5) * self.resolution


@dataclass(frozen=True)
class Stands:
    """The stands around a patch, one entry a stand centre.

    `land` holds the land type, `species` the species group, `biomass` Mg/ha at
    average productivity, `fertility` a standard normal score, `softness` the
    share that decides whether a border is gradual, and `vigour` three
    independent standard normal scores that tell stands of equal biomass apart.
    """

    land: Integers
    species: Integers
    biomass: Floats
    fertility: Floats
    softness: Floats
    vigour: Floats


@dataclass(frozen=True)
class Ground:
    """What the sensors look at: arrays (y, x) over a patch with its margin.

    `biomass` in Mg/ha, `height` of the canopy and `elevation` in metres,
    `stand` the index of the stand in `stands`, `water` and `road` masks.
    """

    patch: Patch
    margin: int
    stands: Stands
    stand: Integers
    biomass: Floats
    height: Floats
    elevation: Floats
    water: npt.NDArray[np.bool_]
    road: npt.NDArray[np.bool_]

    def trimmed(self, values: npt.NDArray[Item]) -> npt.NDArray[Item]:
        """Return `values` without the margin."""
        inner = slice(self.margin, self.margin + self.patch.side)
        return values[inner, inner]


@lru_cache(maxsize=8192)
def layer_key(seed: int, *layer: str | int) -> np.uint64:
    """Return the 64-bit key of one random layer of the landscape."""
    words = [int.from_bytes(str(part).encode()) for part in layer]
    return np.uint64(
        np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0]
    )


def scatter(key: np.uint64, row: Integers, col: Integers) -> Floats:
    """Return a uniform number in [0, 1) for every lattice point.

    The mixing step is the finaliser of SplitMix64 (Steele, Lea and Flood 2014),
    applied to the row and then to the column.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    mixed = _mix(np.atleast_1d(row).view(np.uint64) * golden + key)
    mixed = _mix(mixed + np.atleast_1d(col).view(np.uint64) * golden)
    return (mixed >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def _mix(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def chance(seed: int, *layer: str | int) -> float:
    """Return one uniform number in [0, 1) that belongs to the whole landscape."""
    return float(layer_key(seed, *layer) >> np.uint64(11)) * 2.0**-53


# Mean square of the sum of cubic B-spline weights along one axis, 151/315: the
# variance that interpolation leaves of independent lattice values.
_SPLINE_VARIANCE = 151.0 / 315.0


def _taps(position: Floats) -> tuple[Integers, Floats]:
    """Return the first of four lattice points and the weights (4, position).

    Uniform cubic B-spline weights: twice differentiable and, unlike a faded
    linear interpolation, without flat spots at the lattice points.
    """
    base = np.floor(position)
    t = (position - base).astype(np.float32)
    weights = np.stack(
        [
            (1 - t) ** 3,
            3 * t**3 - 6 * t**2 + 4,
            -3 * t**3 + 3 * t**2 + 3 * t + 1,
            t**3,
        ]
    )
    return base.astype(np.int64) - 1, weights / np.float32(6)


def _lattice(key: np.uint64, row: Integers, col: Integers) -> Floats:
    """Return independent values of mean 0, such that the spline has variance 1."""
    scale = np.float32(12**0.5 / _SPLINE_VARIANCE)
    return (scatter(key, row, col) - np.float32(0.5)) * scale


def smooth(
    patch: Patch,
    layer: tuple[str | int, ...],
    spacing: float,
    octaves: int = 1,
    persistence: float = 0.5,
) -> Floats:
    """Return a smooth random field (y, x) of mean 0 and variance 1 over a patch.

    Lattice noise summed over `octaves`, each with half the `spacing` (metres)
    and `persistence` times the amplitude of the one before.
    """
    total = np.zeros((patch.side, patch.side), np.float32)
    for octave in range(octaves):
        step = spacing / 2**octave
        # Shifted, or the lattices of all octaves would meet at the origin.
        shift = [chance(patch.seed, *layer, octave, axis) for axis in ("row", "col")]
        row, row_weights = _taps(patch.metres(patch.row) / step + shift[0])
        col, col_weights = _taps(patch.metres(patch.col) / step + shift[1])
        rows = np.arange(row[0], row[-1] + 4)
        cols = np.arange(col[0], col[-1] + 4)
        key = layer_key(patch.seed, *layer, octave)
        lattice = _lattice(key, rows[:, None], cols[None, :])
        lattice *= np.float32(persistence**octave)
        across = _combine(col_weights, lattice.T, col - col[0]).T
        total += _combine(row_weights, np.ascontiguousarray(across), row - row[0])
    power = sum(persistence ** (2 * octave) for octave in range(octaves))
    total *= np.float32(power**-0.5)
    return total


def _combine(weights: Floats, lattice: Floats, first: Integers) -> Floats:
    """Return the weighted sum of four neighbouring rows of `lattice`."""
    total: Floats = weights[0][:, None] * lattice[first]
    for tap in range(1, 4):
        total += weights[tap][:, None] * lattice[first + tap]
    return total


def smooth_at(
    seed: int,
    layer: tuple[str | int, ...],
    y: Floats,
    x: Floats,
    spacing: float,
) -> Floats:
    """Return one octave of the field of `smooth` at points given in metres."""
    key = layer_key(seed, *layer, 0)
    row, row_weights = _taps(y / spacing)
    col, col_weights = _taps(x / spacing)
    total = np.zeros(y.shape, np.float32)
    for i in range(4):
        for j in range(4):
            values = _lattice(key, row + i, col + j)
            total += row_weights[i] * col_weights[j] * values
    return total


def _normal(key_a: np.uint64, key_b: np.uint64, row: Integers, col: Integers) -> Floats:
    """Return a standard normal number for every lattice point (Box, Muller 1958)."""
    radius: Floats = np.sqrt(-2 * np.log1p(-scatter(key_a, row, col)))
    radius *= np.cos(np.float32(2 * np.pi) * scatter(key_b, row, col))
    return radius


def survey(patch: Patch) -> Ground:
    """Return terrain, stands and biomass of a patch and of its margin.

    Biomass grows with age after Chapman and Richards (Richards 1959, Chapman
    1961), B = A (1 - exp(-k age))^p, with asymptotes by species group and site,
    times a smooth productivity and a texture correlated over two to four
    pixels. Canopy height follows biomass by a power law, as stand allometry does.
    """
    margin = int(np.clip(np.ceil(SHADOW_REACH / patch.resolution), 2, 40))
    wide = patch.grown(margin)
    relief = smooth(wide, ("relief",), 3000.0, octaves=7)
    water = relief < -1.40
    road = _roads(wide)
    stands, stand, other, border = _divide(wide)
    biomass = _mixed_biomass(stands, stand, other, border)
    biomass *= _productivity(wide)
    # Half a tonne per hectare is a few seedlings: map products call that zero.
    biomass[water | road | (biomass < 0.5)] = 0
    return Ground(
        patch=patch,
        margin=margin,
        stands=stands,
        stand=stand,
        biomass=biomass,
        height=np.float32(2.6) * biomass ** np.float32(0.4),
        elevation=np.float32(55) * np.maximum(relief, np.float32(-1.40)),
        water=water,
        road=road,
    )


def _roads(patch: Patch) -> npt.NDArray[np.bool_]:
    """Return the pixels under roads: lines where a smooth field passes zero."""
    road = np.zeros((patch.side, patch.side), bool)
    for name, spacing in (("road", 2600.0), ("track", 1100.0)):
        field = smooth(patch, (name,), spacing, octaves=2, persistence=0.3)
        slope = np.hypot(*np.gradient(field)) + np.float32(1e-6)
        # Tracks come and go, and both are narrower than a pixel.
        present = smooth(patch, (name, "present"), 2 * spacing) > 0.2
        road |= present & (np.abs(field) < 0.6 * slope)
    return road


def _productivity(patch: Patch) -> Floats:
    """Return the factor on biomass by site and by groups of trees, of mean 1."""
    site = np.float32(0.16) * smooth(patch, ("site",), 900.0, octaves=3)
    pixel = patch.resolution
    groups = np.float32(0.16) * smooth(patch, ("groups",), 4.0 * pixel)
    trees = np.float32(0.15) * smooth(patch, ("trees",), 2.0 * pixel)
    variance = 0.16**2 + 0.16**2 + 0.15**2
    product: Floats = np.exp(site + groups + trees - np.float32(variance / 2))
    return product


def _mixed_biomass(
    stands: Stands, stand: Integers, other: Integers, border: Floats
) -> Floats:
    """Return biomass with gradual borders where both neighbours allow them."""
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

    The stands are a power diagram (Aurenhammer 1987) of a jittered grid of
    centres, in coordinates bent by noise. Returns the stands, the index of the
    stand and of the next nearest one, and the distance to their border in metres.
    """
    bend_y, bend_x = (
        smooth(patch, ("bend", axis), 260.0, octaves=4, persistence=0.55)
        for axis in "yx"
    )
    amplitude = np.float32(40.0)
    y = patch.metres(patch.row)[:, None] + amplitude * bend_y
    x = patch.metres(patch.col)[None, :] + amplitude * bend_x
    y, x = y / STAND_SPACING, x / STAND_SPACING
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
    stands = _inventory(patch.seed, grid_row, grid_col, patch.species)
    return stands, stand, other, border


def _two_nearest(
    y: Floats, x: Floats, home: Integers, stride: int, centres: Floats
) -> tuple[Integers, Integers, Floats]:
    """Return the two nearest centres among the nine around each pixel."""
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
    border = (second - first) / (2 * apart) * np.float32(STAND_SPACING)
    return nearest, other, border


def _inventory(
    seed: int, row: Integers, col: Integers, grown: tuple[int, ...]
) -> Stands:
    """Return the properties of the stands centred in the given grid cells.

    Where a species group is not among those `grown`, the nearest of them stands.
    """
    # Four grid cells often share one owner, so that stand sizes vary.
    coarse = scatter(layer_key(seed, "merge"), row // 2, col // 2) < 0.4
    row = np.where(coarse, row // 2 * 2, row)
    col = np.where(coarse, col // 2 * 2, col)

    def uniform(name: str) -> Floats:
        return scatter(layer_key(seed, name), row, col)

    def normal(name: str) -> Floats:
        keys = layer_key(seed, name, "a"), layer_key(seed, name, "b")
        return _normal(*keys, row, col)

    def regional(name: str, spacing: float) -> Floats:
        y, x = (row + 0.5) * STAND_SPACING, (col + 0.5) * STAND_SPACING
        return smooth_at(seed, (name,), y, x, spacing)

    farmland = 0.62 * regional("farms", 2400.0) + 0.45 * regional("farm", 900.0)
    farmland = farmland + 0.45 * normal("farm")
    wetness = 0.7 * regional("wetlands", 1800.0) + 0.6 * normal("wet")
    fertility = 0.6 * regional("fertility", 3000.0) + 0.8 * normal("fertility")
    land = np.full(row.shape, FOREST)
    land[wetness > 1.35] = MIRE
    land[farmland > 0.98] = np.where(uniform("crop") < 0.6, FIELD, MEADOW)[
        farmland > 0.98
    ]
    species_score = fertility + 0.9 * normal("species")
    kinds = np.array(grown)
    nearest = [kinds[np.abs(kinds - kind).argmin()] for kind in range(3)]
    species = np.array(nearest)[np.digitize(species_score, (0.1, 1.05))]
    biomass = _grown(uniform("age"), fertility, normal("stocking"), species)
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
    age: Floats, fertility: Floats, stocking: Floats, species: Integers
) -> Floats:
    """Return the biomass of forest stands in Mg/ha; `age` a share of the stands.

    Forestry keeps few stands beyond a rotation of about a hundred years, so the
    ages are even up to 90 years with a tenth of the stands spread up to 160.
    """
    years = np.where(age < 0.88, age / 0.88 * 92, 92 + (age - 0.88) / 0.12 * 68)
    growth = (1 - np.exp(-RATE[species] * years)) ** SHAPE[species]
    site = np.exp(0.13 * fertility + 0.27 * stocking)
    return np.asarray(ASYMPTOTE[species] * growth * site, np.float32)
