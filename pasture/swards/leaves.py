"""Leaves on a quadrat: outlines, each with an area and a mass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..photos import TARGETS
from .visits import Floats, Visit, spread

Outlines = npt.NDArray[np.complex128]

QUADRAT = (70.0, 30.0)  # cm; a photo shows it twice as wide as high
GREEN, DEAD, CLOVER = range(3)


@dataclass(frozen=True)
class Grass:
    """A grass species, with the shape and colour of its blades."""

    name: str
    width: float  # cm, of a blade
    mass: float  # g/cm2
    colour: tuple[int, int, int]  # RGB
    bend: float  # radians, standard deviation
    tussocks: float  # share of the blades in tussocks


_GRASSES = (
    Grass("Ryegrass", 0.42, 0.010, (96, 144, 60), 0.9, 0.4),
    Grass("Phalaris", 0.95, 0.020, (98, 140, 66), 0.7, 0.6),
    Grass("Fescue", 0.62, 0.015, (88, 134, 58), 0.5, 0.7),
    Grass("Silvergrass", 0.22, 0.006, (106, 146, 70), 1.1, 0.3),
)
# Probability of each grass species by state.
_FLORA = {
    "Tas": (0.60, 0.10, 0.20, 0.10),
    "Vic": (0.35, 0.40, 0.10, 0.15),
    "NSW": (0.15, 0.45, 0.25, 0.15),
    "WA": (0.25, 0.10, 0.10, 0.55),
}
STRAW = ((206, 184, 128), (164, 146, 116), (126, 98, 70))  # fresh, grey, rotten
_CLOVER_COLOUR = (92, 144, 64)
_CLOVER_MASS = 0.009  # g/cm2
_STALK = 0.0027  # g, mean mass of the stalk of a clover leaf

_NODES = np.linspace(0, 1, 6)  # along a blade
# Width of a blade at the nodes, relative to its widest.
_TAPER = np.array([0.55, 0.9, 1.0, 0.85, 0.55, 0.0])
# Area of a blade relative to length x width.
_FULLNESS = float(np.trapezoid(_TAPER, _NODES))
# Outline of a leaflet of length 1 from the origin, with the notch at its end.
_EDGE = np.array([0.2 + 0.2j, 0.5 + 0.4j, 0.8 + 0.43j, 0.98 + 0.28j, 1 + 0.1j])
_LEAFLET = np.concatenate([[0], _EDGE.conj(), [0.93], _EDGE[::-1]])
_MARK = 0.3 + 0.28j * _LEAFLET.imag / 0.43 + 0.35 * _LEAFLET.real


@dataclass(frozen=True, eq=False)
class Sward:
    """The leaves on a quadrat, from the ground up.

    Parameters
    ----------
    outlines
        (leaf, point) complex, cm from the top left of the quadrat: right + 1j down.
    kinds
        (leaf,) 0 green, 1 dead, 2 clover.
    masses
        (leaf,) g/cm2; 0 for the white marks on clover.
    colours
        (leaf, 3) RGB, 0 to 255, in full light.
    species
        Names of the species.
    height
        Height of the sward, cm.
    """

    outlines: Outlines
    kinds: npt.NDArray[np.int64]
    masses: Floats
    colours: Floats
    species: str
    height: float

    @property
    def areas(self) -> Floats:
        """Area within each outline, (leaf,) cm2, by the shoelace formula."""
        return _areas(self.outlines)

    @property
    def grams(self) -> dict[str, float]:
        """Dry mass of the quadrat, g, for each of `pasture.TARGETS`."""
        weights = np.bincount(self.kinds, self.areas * self.masses, minlength=3)
        green, dead, clover = map(float, weights)
        matter = green + clover
        sums = (green, dead, clover, matter, matter + dead)
        return dict(zip(TARGETS, sums, strict=True))


def _areas(outlines: Outlines) -> Floats:
    after = np.roll(outlines, -1, axis=-1)
    areas: Floats = np.abs((outlines.conj() * after).imag.sum(axis=-1)) / 2
    return areas


class _Leaves(NamedTuple):
    """Columns of a `Sward`, and the height of each leaf, cm."""

    outlines: Outlines
    kinds: npt.NDArray[np.int64]
    masses: Floats
    colours: Floats
    heights: Floats


def grow(
    visit: Visit,
    grams: tuple[float, float, float],
    random: np.random.Generator,
    grass: Grass | None = None,
) -> Sward:
    """Build a sward with approximately the given grams of green, dead and clover.

    Parameters
    ----------
    visit
        The state, date and season.
    grams
        Green, dead and clover, g. The sward has a slightly different mass, because it
        consists of whole leaves: `Sward.grams` has the exact mass.
    random
        Generator of positions, sizes and colours of leaves.
    grass
        The grass species; by default a random one, by its probability in the state.
    """
    if grass is None:
        grass = _GRASSES[random.choice(len(_GRASSES), p=_FLORA[visit.state])]
    green, dead, clover = grams
    tall = float((3 + 2.2 * np.sqrt(green + 0.5 * clover)) * spread(random, 0.2, 1)[0])
    tufts = _points(random, int(random.integers(8, 20)))
    leaves = [
        _blades(random, visit, grass, green, tall, tufts),
        _blades(random, visit, grass, dead, tall, tufts, dead=True),
        _clover(random, visit, clover, tall),
    ]
    outlines, kinds, masses, colours, heights = (
        np.concatenate(column) for column in zip(*leaves, strict=True)
    )
    # A stable sort keeps the white mark of a clover leaf above the leaf.
    order = np.argsort(heights, kind="stable")
    species = grass.name + ("_Clover" if len(leaves[2].kinds) else "")
    return Sward(
        outlines[order], kinds[order], masses[order], colours[order], species, tall
    )


def _blades(
    random: np.random.Generator,
    visit: Visit,
    grass: Grass,
    grams: float,
    tall: float,
    tufts: Outlines,
    dead: bool = False,
) -> _Leaves:
    """Build curved, tapered blades; dead ones are thinner, more bent and lower."""
    mean_length = np.clip(0.8 * tall, 3, 28) * (0.8 if dead else 1)
    mean_width = grass.width * (tall / 14) ** 0.3 * (0.75 if dead else 1)
    mass = grass.mass * (0.85 if dead else 1)
    count = round(grams / (mean_length * mean_width * _FULLNESS * mass))
    length = mean_length * spread(random, 0.35, count)
    width = mean_width * spread(random, 0.2, count)
    angle = random.uniform(0, 2 * np.pi, count)
    bend = random.normal(0, grass.bend * (1.6 if dead else 1), count)
    root = _roots(random, tufts, grass.tussocks, 0.06 * tall, count)
    height = tall * random.uniform(size=count) ** (1.2 if dead else 0.8)
    colour = (_straw if dead else _greenery)(random, visit, grass, count)
    return _Leaves(
        _strokes(root, length, width, angle, bend),
        np.full(count, DEAD if dead else GREEN),
        np.full(count, mass),
        colour * spread(random, 0.14, count)[:, None],
        height,
    )


def _roots(
    random: np.random.Generator,
    tufts: Outlines,
    share: float,
    radius: float,
    count: int,
) -> Outlines:
    """Draw random points (point,): a share of them near tufts, the others anywhere."""
    anywhere = _points(random, count)
    tufted = random.uniform(size=count) < share
    around = radius * random.normal(size=(2, count))
    close = random.choice(tufts, count) + around[0] + 1j * around[1]
    return np.where(tufted, close, anywhere)


def _greenery(
    random: np.random.Generator, visit: Visit, grass: Grass, count: int
) -> Floats:
    """Return colours (leaf, 3) of living blades, some of them partly straw-coloured."""
    turned = np.clip(random.normal(visit.yellowing, 0.15, (count, 1)), 0, 1) * 0.45
    colours: Floats = np.array(grass.colour) * (1 - turned)
    return colours + np.array(STRAW[0]) * turned


def _straw(
    random: np.random.Generator, visit: Visit, grass: Grass, count: int
) -> Floats:
    """Return colours (leaf, 3) of dead blades of any grass, from fresh to rotten."""
    age = np.clip(random.normal(2 * visit.rotting, 0.5, count), 0, 2)
    stages = np.array(STRAW, np.float64)
    return np.stack([np.interp(age, range(3), stages[:, c]) for c in range(3)], axis=1)


def _strokes(
    root: Outlines,
    length: Floats,
    width: Floats,
    angle: Floats,
    bend: Floats,
) -> Outlines:
    """Return outlines (leaf, 12): up the left side of a blade and down the right."""
    course = np.exp(1j * (angle[:, None] + bend[:, None] * _NODES))
    steps = (course[:, 1:] + course[:, :-1]) / 2 * np.diff(_NODES)
    middle = np.pad(np.cumsum(steps, axis=1), ((0, 0), (1, 0))) * length[:, None]
    side = 0.5j * course * _TAPER * width[:, None]
    left, right = middle + side, middle - side
    outlines: Outlines = np.concatenate([left, right[:, ::-1]], axis=1)
    return root[:, None] + outlines


def _clover(
    random: np.random.Generator, visit: Visit, grams: float, tall: float
) -> _Leaves:
    """Build clover: three leaflets on a stalk, with white marks in half the swards."""
    mean = random.uniform(0.9, 1.6) * (tall / 14) ** 0.3  # cm, a leaflet
    leaf = 3 * mean**2 * 1.06 * float(_areas(_LEAFLET)) * _CLOVER_MASS
    count = round(grams / (leaf + _STALK))
    size = mean * spread(random, 0.25, count)
    centre = _patches(random, count)
    angle = random.uniform(0, 2 * np.pi, count)
    length, width = random.uniform(2, 5, count), np.full(count, 0.12)
    bend = random.normal(0, 0.6, count)
    stalks = _strokes(centre, length, width, angle + np.pi, bend)
    turned = size[:, None] * np.exp(1j * (angle[:, None] + np.array([0, 2.1, -2.1])))
    parts = [centre[:, None, None] + turned[..., None] * _LEAFLET]
    if random.uniform() < 0.5:
        parts.append(centre[:, None, None] + turned[..., None] * _MARK)
    outlines = np.concatenate([stalks[:, None], *parts], axis=1)
    marks = outlines.shape[1] - 4
    colour = np.array(_CLOVER_COLOUR) * spread(random, 0.14, count)[:, None]
    pale = 0.6 * colour + 0.4 * np.array([200, 215, 190])
    height = 0.75 * tall * random.uniform(size=count) ** 0.6
    return _Leaves(
        outlines.reshape(-1, 12),
        np.full(count * (4 + marks), CLOVER),
        np.tile([_CLOVER_MASS] * 4 + [0.0] * marks, count),
        np.stack([colour] * 4 + [pale] * marks, axis=1).reshape(-1, 3),
        np.repeat(height, 4 + marks),
    )


def _patches(random: np.random.Generator, count: int) -> Outlines:
    """Draw random points (point,) in a few clusters, all within the quadrat."""
    patches = _points(random, int(random.integers(2, 7)))
    around = random.normal(0, 6, (2, count))
    far = random.choice(patches, count) + around[0] + 1j * around[1]
    wide, high = QUADRAT
    inside = (abs(far.real / wide - 0.5) < 0.5) & (abs(far.imag / high - 0.5) < 0.5)
    return np.where(inside, far, _points(random, count))


def _points(random: np.random.Generator, count: int) -> Outlines:
    x, y = random.uniform(size=(2, count))
    points: Outlines = x * QUADRAT[0] + 1j * y * QUADRAT[1]
    return points
