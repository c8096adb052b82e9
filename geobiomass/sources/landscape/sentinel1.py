"""Sentinel-1 over the synthetic landscape: water-cloud model and speckle."""

from dataclasses import dataclass

import numpy as np

from geobiomass.sources.landscape.forest import FIELD, MIRE, Ground, gradient
from geobiomass.sources.landscape.random_fields import Floats, chance, smooth

RADAR_BANDS = ("VV_asc", "VH_asc", "VV_desc", "VH_desc")

# Water-cloud model: backscatter of dense canopy, bare soil and water in dB.
CANOPY_DB = {"VV": -9.1, "VH": -14.5}
SOIL_DB = {"VV": -13.2, "VH": -19.6}
WATER_DB = {"VV": -20.0, "VH": -26.5}
INCIDENCE = 39.0  # degrees
# Equivalent number of looks of a monthly value. It gives 1 dB of speckle; with the
# persistent texture that is the spread of 1.2 to 2.9 dB in forest of real chips.
LOOKS = 20.0


@dataclass(frozen=True)
class Radar:
    """Backscatter in linear power that all months share: arrays (y, x), no speckle.

    `canopy` and `soil` by polarisation; `view` is the factor of each pass.
    """

    canopy: dict[str, Floats]
    soil: dict[str, Floats]
    view: dict[str, Floats]


def radar_parts(ground: Ground) -> Radar:
    """Return the parts of the water-cloud model (Attema and Ulaby 1978).

    Backscatter = canopy (1 - T) + soil T, with the two-way transmission
    T = exp(-biomass / depth). Texture multiplies it, as in the product model of
    Jakeman and Pusey (1976). It is the same in all months, as in the real chips.
    """
    patch, stands = ground.patch, ground.stands
    stand, water = ground.trimmed(ground.stand), ground.trimmed(ground.water)
    biomass = ground.trimmed(ground.canopy)
    crop = np.select([stands.land == FIELD, stands.land == MIRE], [0.8, 1.0], 0.0)
    rough = (crop + stands.vigour[1]).astype(np.float32)[stand]
    crowns = (0.35 * stands.vigour[2]).astype(np.float32)[stand]
    texture = np.float32(0.9) * smooth(patch, ("texture",), 1.57 * patch.resolution)
    canopy: dict[str, Floats] = {}
    soil: dict[str, Floats] = {}
    for band, depth in zip(("VV", "VH"), patch.version.radar_depth, strict=True):
        through = np.exp(biomass / np.float32(-depth))
        canopy[band] = _power(CANOPY_DB[band] + crowns) * (1 - through)
        bare = np.where(water, np.float32(WATER_DB[band]), SOIL_DB[band] + rough)
        soil[band] = _power(bare) * through
    view: dict[str, Floats] = {}
    surface = ground.elevation + np.float32(0.35) * ground.height
    _, east = gradient(surface, ground)
    for orbit, rise in (("asc", east), ("desc", -east)):
        own = smooth(patch, ("texture", orbit), 1.57 * patch.resolution)
        view[orbit] = _facing(rise) * _power(texture + np.float32(0.7) * own)
    return Radar(canopy, soil, view)


def _power(decibels: Floats) -> Floats:
    power: Floats = np.exp(np.float32(np.log(10) / 10) * decibels)
    return power


def _facing(rise: Floats) -> Floats:
    """Return the brightness factor of slopes that rise by `rise` away from the radar.

    The area of a resolution cell is proportional to 1 / tan of the local incidence
    angle (Ulander 1996, for slopes along the range). Both passes look to the right:
    ascending ones eastwards, descending ones westwards.
    """
    local = np.float32(np.deg2rad(INCIDENCE)) - np.arctan(rise)
    gain = np.float32(np.tan(np.deg2rad(INCIDENCE))) / np.tan(np.clip(local, 0.2, 1.4))
    return np.clip(gain, 0.6, 1.7)


def backscatter(
    ground: Ground, radar: Radar, month: int, random: np.random.Generator
) -> Floats:
    """Return the backscatter in dB (band, y, x) of a month.

    Speckle is a gamma factor of mean 1 (Goodman 1976).
    """
    patch = ground.patch
    climate = patch.climate
    moist = smooth(patch, ("moisture", month), 3500.0, octaves=5)
    wet = 3.0 * (chance(patch.seed, "moisture", month) - 0.5)
    moisture = _power(np.float32(wet) + np.float32(0.9) * moist)
    scene = random.standard_gamma(LOOKS, (4, *moist.shape), dtype=np.float32)
    for index, band in enumerate(RADAR_BANDS):
        polarisation, orbit = band.split("_")
        frost = (climate.frost_vv, climate.frost_vh)[polarisation == "VH"][month - 1]
        drift = 0.5 * (chance(patch.seed, "drift", month, orbit) - 0.5)
        level = frost + drift - 0.3 * (orbit == "desc")
        canopy, soil = radar.canopy[polarisation], radar.soil[polarisation]
        scene[index] *= (canopy + moisture * soil) * radar.view[orbit]
        scene[index] *= np.float32(10 ** (level / 10) / LOOKS)
    return np.float32(10) * np.log10(scene)
