"""Clouds over version 2 of the synthetic landscape: shadow, haze and a flag that errs.

The cloud probability (CLP) is what a model sees; `opacity` is the truth behind it.
"""

from dataclasses import dataclass, replace

import numpy as np

from geobiomass.sources.landscape.random_fields import Floats, Patch, chance, smooth
from geobiomass.sources.landscape.sentinel2 import (
    CLOUD,
    CLOUD_LEVEL,
    HAZE,
    SUN_AZIMUTH,
)

FLAGGED = 40.0
"""Cloud probability in percent from which a pixel counts as cloud (s2cloudless)."""

# How often the flag errs. Published shares of correct pixels: Fmask 90 %, MAJA 91 %,
# Sen2Cor 84 % (Baetens, Desjardins and Hagolle 2019, ten sites); s2cloudless and Fmask
# above 85 % (Skakun and co-workers 2022, CMIX, where masks agree about thick clouds and
# differ about thin ones). In August, the flag of the two real BioMassters chips misses
# 1 % of the pixels that are brighter by 1000 in blue than in July and 36 % of those
# that are brighter by 300 to 1000, and flags 4 and 44 % of the others. In December it
# misses 29 % of a chip that is all cloud. In clear months it flags nothing. So errors
# come in patches, and their share differs from month to month.
#
# A pixel is missed where a smooth standard normal field exceeds THICK (opaque cloud)
# to THIN (almost clear).
THIN, THICK = 0.6, 1.9
# A clear pixel is flagged where the field is below a threshold between these two; the
# second power of a uniform number decides, so that most months have few.
NEVER, OFTEN = -2.8, -0.1

HAZE_MOST = 0.35  # opacity of the thickest haze
# Share of light that is lost in full shadow, by band. Skylight lights what the sun
# does not, and it is blue. In dark pixels of the real August chips the near infrared
# has half its value of July, blue about all.
SHADOW = np.array([0.15, 0.25, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.45], np.float32)


@dataclass(frozen=True)
class Sky:
    """The sky over a patch in a month: arrays (y, x), shares from 0 to 1.

    `cloud` and `haze` are opacities, `edge` the position between clear sky and opaque
    cloud, `field` the standard normal field out of which clouds are cut.
    """

    field: Floats
    edge: Floats
    cloud: Floats
    haze: Floats
    shade: Floats

    @property
    def opacity(self) -> Floats:
        """Return the share of the surface's signal that cloud or haze replaces."""
        return 1 - (1 - self.cloud) * (1 - self.haze)


def sky_of(patch: Patch, month: int) -> Sky:
    """Return clouds, haze and shadows of a month, by seed and position alone."""
    field = _cloud_field(patch, month, octaves=9)
    edge = _edge(patch, month, field)
    cloud = edge * edge * (3 - 2 * edge)
    # A month has its own haze, often little; thin clouds of a few kilometres add to it.
    level = chance(patch.seed, "haze", month)
    veil = smooth(patch, ("haze", month), 5000.0, octaves=4)
    thin = np.float32(0.05 * level**4) + np.float32(0.22) * (
        veil - np.float32(2.3 - 1.2 * level)
    )
    base = np.float32(0.04 * level**4)
    haze = np.clip(thin, base, np.float32(HAZE_MOST))
    return Sky(field, edge, cloud, haze, _shade(patch, month))


def _cloud_field(patch: Patch, month: int, octaves: int) -> Floats:
    return smooth(patch, ("cloud", month), 16000.0, octaves, persistence=0.66)


def _edge(patch: Patch, month: int, field: Floats) -> Floats:
    level = CLOUD_LEVEL[month - 1] + 1.2 * (chance(patch.seed, "cloud", month) - 0.5)
    edge: Floats = np.clip((field - np.float32(level)) / np.float32(0.9) + 0.5, 0, 1)
    return edge


def _shade(patch: Patch, month: int) -> Floats:
    """Return the opacity of the cloud between each pixel and the sun."""
    height = 600 + 1200 * chance(patch.seed, "cloud base", month)
    distance = height / np.tan(np.deg2rad(patch.climate.sun_elevation[month - 1]))
    azimuth = np.deg2rad(SUN_AZIMUTH)
    south = round(-np.cos(azimuth) * distance / patch.resolution)
    east = round(np.sin(azimuth) * distance / patch.resolution)
    towards_sun = replace(patch, row=patch.row + south, col=patch.col + east)
    # The sun is half a degree wide, so that shadows have soft edges: octaves of less
    # than 250 m are left out.
    edge = _edge(patch, month, _cloud_field(towards_sun, month, octaves=7))
    return edge * edge * (3 - 2 * edge)


def add_sky(
    patch: Patch, month: int, optical: Floats, random: np.random.Generator
) -> None:
    """Add shadows, haze and clouds, and write the cloud probability, in place.

    `optical` (band and CLP, y, x) is rounded to whole numbers.
    """
    sky = sky_of(patch, month)
    optical[:10] *= 1 - SHADOW[:, None, None] * sky.shade
    optical[:10] += sky.haze * (CLOUD[:, None, None] - optical[:10])
    brightness = 1 + np.float32(0.08) * sky.field
    optical[:10] *= 1 - sky.cloud
    optical[:10] += CLOUD[:, None, None] * (sky.cloud * brightness)
    optical[10] = _probability(patch, month, sky, random)
    np.rint(optical, out=optical)
    np.clip(optical[:10], 1, 20000, out=optical[:10])


def _probability(
    patch: Patch, month: int, sky: Sky, random: np.random.Generator
) -> Floats:
    """Return the cloud probability in percent, with clouds missed and invented."""
    noise = random.standard_normal(sky.edge.shape, np.float32)
    # Clear pixels of two months differ up to tenfold in the real chips.
    usual = HAZE[month - 1] * np.exp(1.6 * (chance(patch.seed, "clear", month) - 0.6))
    clear = np.float32(usual) * np.exp(np.float32(0.5) * sky.field)
    clear *= 1 + np.float32(0.3) * noise
    # Detection responds before a cloud is opaque, hence the square root.
    likely = (104 + 7 * noise) * np.maximum(np.sqrt(sky.edge), 2.5 * sky.haze)
    errs = smooth(patch, ("flag", month), 700.0, octaves=4, persistence=0.6)
    missed = errs > np.float32(THIN) + np.float32(THICK - THIN) * sky.opacity
    likely = np.where(missed, np.float32(0.2) * likely, likely)
    often = chance(patch.seed, "flag", month) ** 2
    invented = np.float32(NEVER + (OFTEN - NEVER) * often) - errs
    raised = np.where(invented > 0, FLAGGED + 30 * invented + 5 * noise, 0)
    percent: Floats = np.clip(np.maximum(clear + likely, raised), 0, 100)
    return percent
