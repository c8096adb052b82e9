"""What each detector of clouds leaves of Sentinel-2, from a sample of pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geobiomass.cube import CubeError
from geobiomass.cube.antimeridian import boxes_touch
from geobiomass.sources.stac.archives import REFLECTANCES
from geobiomass.sources.stac.area import lonlat_box
from geobiomass.sources.stac.cloud_masks import (
    CloudMask,
    default_classes,
    find_mask,
    words_of,
)
from geobiomass.sources.stac.found_scenes import FoundScenes
from geobiomass.sources.stac.read_month import Settings, count_clear

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

_SIDE = 256  # pixels of a sampled square
_ACROSS = 2  # squares along a side of the area


def named_masks(asked: Sequence[Any]) -> dict[str, CloudMask | None]:
    """Return detectors by name; None is the scene classification.

    Raises
    ------
    CubeError
        If one is unknown, or two have the same name.
    """
    if isinstance(asked, str) or callable(asked):
        asked = [asked]
    found: dict[str, CloudMask | None] = {}
    for each in asked:
        mask = find_mask(each)
        name = "classification" if mask is None else words_of(mask)
        if name in found:
            raise CubeError(
                f"cloud_masks must have different names, got {name!r} twice; name a "
                "function otherwise."
            )
        found[name] = mask
    return found


def shares_left(
    found: FoundScenes,
    masks: Mapping[str, CloudMask | None],
    bands: Sequence[str],
    grid: GeoBox,
    sign: Callable[[str], str] | None,
) -> pd.DataFrame:
    """Return the share of observed pixels that each detector leaves, by month.

    A pixel of each satellite pass counts, in up to four squares of 256 x 256 pixels.

    Returns
    -------
    pandas.DataFrame
        Index ``month``; a column of shares (0 to 1, NaN without images) for each
        detector, and ``pixels``, how many were observed.
    """
    optical = tuple(band for band in bands if band in REFLECTANCES)
    settings = [
        Settings(
            bands=optical,
            composite="median",
            masked_classes=default_classes(mask),
            resampling="nearest",
            damaged="raise",
            cloud_mask=mask,
            sign=sign,
        )
        for mask in masks.values()
    ]
    squares = _squares(grid)
    rows: dict[str, dict[str, float]] = {}
    for name in found.period.names:
        mine = [one for one in found.scenes if found.period.name_of(one.when) == name]
        observed, left = 0, np.zeros(len(masks), int)
        for square in squares:
            around = lonlat_box(square)
            near = [one for one in mine if boxes_touch(one.reach, around)]
            more, clear = count_clear(near, square, settings)
            observed, left = observed + more, left + clear
        shares = left / observed if observed else np.full(len(masks), np.nan)
        rows[name] = dict(zip(masks, shares.tolist(), strict=True))
        rows[name]["pixels"] = observed
    table = pd.DataFrame.from_dict(rows, orient="index")[[*masks, "pixels"]]
    table.index.name = "month"
    return table


def _squares(grid: GeoBox) -> list[GeoBox]:
    """Return the whole of a small grid, or squares in the middle of its quarters."""
    height, width = grid.shape
    if height <= _SIDE * _ACROSS and width <= _SIDE * _ACROSS:
        return [grid]
    squares = []
    for row in range(_ACROSS):
        for column in range(_ACROSS):
            top = max(0, (2 * row + 1) * height // (2 * _ACROSS) - _SIDE // 2)
            left = max(0, (2 * column + 1) * width // (2 * _ACROSS) - _SIDE // 2)
            squares.append(grid[top : top + _SIDE, left : left + _SIDE])
    return squares
