"""Monthly images of Sentinel-1 and Sentinel-2 over the synthetic landscape."""

import numpy as np

from geobiomass.sources.landscape.clouds import add_sky
from geobiomass.sources.landscape.forest import Ground
from geobiomass.sources.landscape.gaps import remove_missing
from geobiomass.sources.landscape.random_fields import Floats, layer_key
from geobiomass.sources.landscape.sentinel1 import backscatter, radar_parts
from geobiomass.sources.landscape.sentinel2 import (
    add_clouds,
    optical_parts,
    reflectance,
)


def observe(ground: Ground, months: tuple[int, ...]) -> Floats:
    """Return the image (month, band, y, x) of a patch: dB, reflectance x 10^4, %.

    The random draws of a month depend on seed and position, not on other months.
    """
    patch = ground.patch
    image = np.empty((len(months), 15, patch.side, patch.side), np.float32)
    optics = optical_parts(ground, months)
    radar = radar_parts(ground)
    for step, month in enumerate(months):
        key = layer_key(patch.seed, "noise", month, patch.row, patch.col)
        random = np.random.Generator(np.random.SFC64(int(key)))
        image[step, :4] = backscatter(ground, radar, month, random)
        image[step, 4:14] = reflectance(ground, optics, step, month, random)
        sky = add_clouds if patch.version.number == 1 else add_sky
        sky(patch, month, image[step, 4:], random)
        remove_missing(patch, month, image[step], random)
    return image
