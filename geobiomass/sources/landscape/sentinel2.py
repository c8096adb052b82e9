"""Sentinel-2 over the synthetic landscape: canopy and ground under clouds."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geobiomass.sources.landscape.climates import Climate
from geobiomass.sources.landscape.forest import (
    BIRCH,
    FIELD,
    MEADOW,
    MIRE,
    Ground,
    Stands,
    gradient,
)
from geobiomass.sources.landscape.random_fields import (
    Floats,
    Integers,
    Patch,
    chance,
    smooth,
)
from geobiomass.sources.landscape.versions import Version

OPTICAL_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")

# The azimuth of the sun in degrees is the same all year because the orbit is
# sun-synchronous.
SUN_AZIMUTH = 168.0

# Tables by calendar month have 12 entries, from January to December. Those that differ
# between climates are in climates.py.
#
# Threshold in standard deviations above which the cloud field is cloud, and the cloud
# probability in percent that haze gives to clear pixels.
CLOUD_LEVEL = (0.9, 1.2, 1.0, 1.2, 1.3, 1.4, 1.3, 0.6, 1.1, 0.8, 0.6, 0.1)
HAZE = (3, 2, 3, 3, 2, 2, 2, 3, 4, 8, 12, 10)

# Reflectance x 10^4 by surface (row) and optical band (column). The magnitudes follow
# published boreal spectra (understorey: Rautiainen and co-workers 2011;
# stands of pine, spruce and birch: Lukes and co-workers 2013; snow: Warren 1982).
# The levels follow the medians of two real BioMassters chips in July.
CANOPY_GREEN = np.array(
    [
        [150, 305, 175, 530, 1620, 1900, 2000, 2080, 940, 430],  # pine
        [115, 250, 135, 430, 1430, 1720, 1810, 1890, 740, 325],  # spruce
        [170, 400, 185, 720, 2650, 3250, 3350, 3450, 1450, 620],  # birch
    ],
    np.float32,
)
CANOPY_DORMANT = np.array(
    [
        [170, 290, 210, 480, 1280, 1460, 1560, 1640, 860, 420],
        [130, 240, 160, 400, 1180, 1380, 1460, 1540, 700, 320],
        [290, 410, 440, 640, 1020, 1180, 1270, 1370, 1400, 820],
    ],
    np.float32,
)
# Rows: heath floor, herb-rich floor, mire, field, meadow, felled ground.
GROUND_GREEN = np.array(
    [
        [360, 620, 540, 1020, 2000, 2250, 2400, 2520, 2150, 1250],
        [270, 560, 370, 950, 2600, 3050, 3150, 3300, 1950, 1000],
        [310, 580, 520, 1060, 1900, 2150, 2300, 2400, 1850, 900],
        [260, 640, 330, 1150, 3500, 4400, 4600, 4750, 1950, 950],
        [310, 650, 390, 1180, 3100, 3700, 3900, 4000, 2150, 1150],
        [330, 580, 580, 1120, 2250, 2550, 2700, 2850, 2650, 1550],
    ],
    np.float32,
)
GROUND_DORMANT = np.array(
    [
        [400, 600, 640, 930, 1600, 1800, 1950, 2100, 2250, 1400],
        [350, 520, 600, 850, 1400, 1600, 1700, 1850, 2100, 1300],
        [360, 540, 680, 930, 1350, 1500, 1600, 1700, 1700, 1000],
        [560, 780, 1020, 1280, 1700, 1850, 2000, 2150, 2700, 2000],
        [420, 620, 720, 1020, 1700, 1900, 2050, 2200, 2400, 1500],
        [450, 640, 840, 1080, 1600, 1800, 1950, 2100, 2700, 1800],
    ],
    np.float32,
)
FELLED = 5  # row of felled ground
WATER = np.array([150, 170, 105, 95, 75, 70, 65, 60, 30, 20], np.float32)
ROAD = np.array([700, 920, 1020, 1200, 1650, 1800, 1900, 2000, 2100, 1600], np.float32)
SNOWPACK = np.array(
    [6900, 6800, 6800, 6700, 6600, 6400, 6500, 6200, 700, 560], np.float32
)
CLOUD = np.array(
    [5000, 4700, 4700, 4850, 5100, 5050, 5300, 5200, 3000, 2300], np.float32
)
# Brightness of haze relative to blue, and share of direct sunlight, by band. Skylight
# is blue, so both depend on the wavelength.
PATH = np.array([1.0, 0.8, 0.65, 0.5, 0.4, 0.35, 0.3, 0.3, 0.1, 0.05], np.float32)
DIRECT = np.array([0.6, 0.7, 0.75, 0.8, 0.85, 0.85, 0.9, 0.9, 1, 1], np.float32)


@dataclass(frozen=True)
class Optics:
    """The parts of reflectance that all months share: arrays (y, x) unless noted.

    `tables` (month, side, band, surface) holds the ground and canopy spectra of each
    stand, then of water and roads; `surface` is each pixel's index into it. `grain` is
    the persistent texture, `leaf` the leaf area index at full leaf, `deciduous` a mask.
    """

    tables: Floats
    surface: Integers
    leaf: Floats
    deciduous: npt.NDArray[np.bool_]
    grain: Floats
    slopes: tuple[Floats, Floats]


def _spectra(stands: Stands, version: Version, climate: Climate, month: int) -> Floats:
    """Return the ground and canopy reflectance (2, band, surface) of a month."""
    floor = np.where(stands.fertility > 0, 1, 0)
    floor = np.where(stands.biomass < 12, FELLED, floor)
    kinds = {MIRE: 2, FIELD: 3, MEADOW: 4}
    for land, row in kinds.items():
        floor = np.where(stands.land == land, row, floor)
    green = np.where(
        stands.land == FIELD,
        climate.green_crop[month - 1],
        climate.green_ground[month - 1],
    )
    birch = stands.species == BIRCH
    leafy = np.where(
        birch, climate.green_birch[month - 1], climate.green_ground[month - 1]
    )
    # The deviation of a stand in greenness and brightness is the same all year.
    green = np.clip(green * (1 + 0.15 * stands.vigour[0]), 0, 1.2)
    soil = GROUND_DORMANT[floor].T
    soil = soil + green * (GROUND_GREEN[floor].T - soil)
    crown = CANOPY_DORMANT[stands.species].T
    crown = crown + leafy * (CANOPY_GREEN[stands.species].T - crown)
    soil = soil * np.exp(version.soil_spread * stands.vigour[1])
    crown = crown * np.exp(version.crown_spread * stands.vigour[2])
    fixed = np.stack([WATER, ROAD], axis=1)
    both = [np.concatenate([spectra, fixed], axis=1) for spectra in (soil, crown)]
    return np.stack(both).astype(np.float32)


def optical_parts(ground: Ground, months: tuple[int, ...]) -> Optics:
    """Return the parts of reflectance that all months share.

    Leaf area saturates with biomass, because canopies close at about 100 Mg/ha.
    """
    patch, stands = ground.patch, ground.stands
    surface = ground.trimmed(ground.stand)
    deciduous = stands.species[surface] == BIRCH
    lushness = np.exp(np.float32(0.08) * stands.vigour[0])[surface]
    clumping = smooth(patch, ("clumping",), 1.62 * patch.resolution)
    canopy = ground.trimmed(ground.canopy)
    depth = np.float32(-patch.version.leaf_depth)
    leaf = np.float32(4.3) * (1 - np.exp(canopy / depth)) * lushness
    leaf *= np.exp(np.float32(0.28) * clumping)
    # In the tables, water and roads follow after the stands.
    last = stands.land.size
    surface = np.where(ground.trimmed(ground.road), last + 1, surface)
    surface = np.where(ground.trimmed(ground.water), last, surface)
    grain = smooth(patch, ("grain",), 1.46 * patch.resolution)
    return Optics(
        tables=np.stack(
            [_spectra(stands, patch.version, patch.climate, month) for month in months]
        ),
        surface=surface,
        leaf=leaf,
        deciduous=deciduous,
        grain=np.exp(np.float32(0.12) * grain),
        slopes=gradient(ground.elevation, ground),
    )


def reflectance(
    ground: Ground, optics: Optics, step: int, month: int, random: np.random.Generator
) -> Floats:
    """Return clear-sky reflectance x 10^4 (band, y, x) of a month.

    The share of light that reaches the ground is gap = exp(-0.55 leaf area index), the
    law of Beer and Lambert (Monsi and Saeki 1953). Canopy and ground mix linearly.
    """
    leaf = optics.leaf
    green = ground.patch.climate.green_birch[month - 1]
    if green < 1:
        left = np.float32(0.3 + 0.7 * green)
        leaf = np.where(optics.deciduous, left * leaf, leaf)
    gap = np.exp(np.float32(-0.55) * leaf)
    soil, crown = (
        np.take(side, optics.surface, axis=1) for side in optics.tables[step]
    )
    snow = _snow(ground, month)
    if snow is not None:
        pack = SNOWPACK[:, None, None]
        soil += snow * (pack - soil)
        crown += np.float32(0.09) * snow * (pack - crown)
    scene: Floats = crown + gap * (soil - crown)
    scene *= optics.grain
    light, shade = _illumination(ground, optics.slopes, month)
    scene *= 1 + DIRECT[:, None, None] * (light * shade - 1)
    _blur(ground.patch, scene, month, random)
    return scene


def _snow(ground: Ground, month: int) -> Floats | None:
    """Return the share of open ground under snow, or None outside the season."""
    patch = ground.patch
    usual = patch.climate.snow[month - 1]
    if usual < -1:
        return None
    weather = 0.8 * (chance(patch.seed, "snow", month) - 0.5)
    depth = ground.trimmed(ground.elevation) / np.float32(90)
    depth = depth + np.float32(usual + weather)
    depth += np.float32(0.25) * smooth(patch, ("snow", month), 1500.0, octaves=4)
    cover: Floats = np.clip(depth, 0, 1)
    return cover


def _illumination(
    ground: Ground, slopes: tuple[Floats, Floats], month: int
) -> tuple[Floats, Floats]:
    """Return the light on slopes relative to level ground, and the factor of shade.

    The cosine of the incidence angle is softened as in the C correction (Teillet,
    Guindon and Goodenough 1982). Shade has two parts. Crowns shade each other, more
    when they are taller. Taller neighbours towards the sun cast shadows, which are
    traced over the canopy height.
    """
    elevation = np.deg2rad(ground.patch.climate.sun_elevation[month - 1])
    azimuth = np.deg2rad(SUN_AZIMUTH)
    south, east = slopes
    tilt = 1 / np.sqrt(1 + south * south + east * east)
    # The surface normal is (-east, +south, 1) in (east, north, up).
    toward = np.float32(np.cos(azimuth)) * south - np.float32(np.sin(azimuth)) * east
    incidence = tilt * (
        np.float32(np.sin(elevation)) + np.float32(np.cos(elevation)) * toward
    )
    light = (incidence + np.float32(0.5)) / np.float32(np.sin(elevation) + 0.5)
    height = ground.trimmed(ground.height)
    crowns = 1 - np.float32(0.12) * (1 - np.exp(height / np.float32(-7)))
    drop = np.float32(ground.patch.resolution * np.tan(elevation))
    tallest = np.zeros_like(height)
    first, size = ground.margin, height.shape[0]
    for distance in range(1, ground.margin + 1):
        aside = round(distance * np.tan(np.pi - azimuth))
        rows = slice(first + distance, first + distance + size)
        cols = slice(first + aside, first + aside + size)
        tops = ground.height[rows, cols] - drop * np.float32(distance)
        np.maximum(tallest, tops, out=tallest)
    shadow = np.clip((tallest - height) / np.float32(12), 0, 1)
    return np.clip(light, 0.4, 1.6), crowns * (1 - np.float32(0.5) * shadow)


def _blur(patch: Patch, scene: Floats, month: int, random: np.random.Generator) -> None:
    """Add the residuals of atmospheric correction and the noise of pixels, in place."""
    air = smooth(patch, ("air", month), 7000.0, octaves=4)
    clear = chance(patch.seed, "air", month) - 0.5
    gain = np.float32(1 + 0.08 * clear) + np.float32(0.012) * air
    offset = np.float32(60 * clear) + np.float32(7) * air
    scene *= gain
    scene += PATH[:, None, None] * offset
    noise = random.standard_normal(scene.shape, dtype=np.float32)
    scene += noise * (np.float32(14) + np.float32(0.045) * scene)


def add_clouds(
    patch: Patch, month: int, optical: Floats, random: np.random.Generator
) -> None:
    """Add clouds to the reflectances and write the cloud probability, in place.

    Of version 1: the probability misses no cloud and invents none.

    `optical` (band and CLP, y, x) is rounded to whole numbers.
    """
    clouds = smooth(patch, ("cloud", month), 16000.0, octaves=9, persistence=0.66)
    level = CLOUD_LEVEL[month - 1] + 1.2 * (chance(patch.seed, "cloud", month) - 0.5)
    edge = np.clip((clouds - np.float32(level)) / np.float32(0.9) + 0.5, 0, 1)
    opacity = edge * edge * (3 - 2 * edge)
    brightness = 1 + np.float32(0.08) * clouds
    thick = opacity * brightness
    optical[:10] *= 1 - opacity
    optical[:10] += CLOUD[:, None, None] * thick
    haze = np.float32(HAZE[month - 1]) * np.exp(np.float32(0.5) * clouds)
    noise = random.standard_normal(edge.shape, np.float32)
    haze *= 1 + np.float32(0.3) * noise
    # Cloud detection responds before a cloud is opaque, hence the square root.
    likely = (104 + 7 * noise) * np.sqrt(edge)
    optical[10] = np.clip(haze + likely, 0, 100)
    np.rint(optical, out=optical)
    np.clip(optical[:10], 1, 20000, out=optical[:10])
