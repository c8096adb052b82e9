"""The images that an archive has for a cube: searched, and selected."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geobiomass.cube import CubeError
from geobiomass.sources.stac.archives import Archive, named_archive
from geobiomass.sources.stac.area import lonlat_box
from geobiomass.sources.stac.period import Period
from geobiomass.sources.stac.scene import Scene
from geobiomass.sources.stac.search import find_items
from geobiomass.sources.stac.select_scenes import (
    nothing_left,
    period_covered,
    select_scenes,
)

if TYPE_CHECKING:
    import pystac
    from odc.geo.geobox import GeoBox


@dataclass(frozen=True)
class FoundScenes:
    """The images for a cube, in order of preference.

    Parameters
    ----------
    scenes : list of Scene
        The images that are used.
    items : list of pystac.Item
        The item of each of them.
    period : Period
        The months of the cube.
    archive : Archive or None
        The archive that was named.
    left_out : collections.Counter
        How many items are not used, by reason.
    """

    scenes: list[Scene]
    items: list[pystac.Item]
    period: Period
    archive: Archive | None
    left_out: Counter[str]


def find_scenes(
    items: Any,
    archive: str | Archive | None,
    grid: GeoBox,
    period: Period | None,
    offset: int | None,
    max_cloud: float,
) -> FoundScenes:
    """Search a source of items, and select the images of a cube.

    Raises
    ------
    CubeError
        If the archive is unknown or cannot be reached, or no item can be used.
    """
    named = archive if archive is not None else items
    known = named_archive(named, archive is not None)
    around = lonlat_box(grid)
    found = find_items(items, known, around, period)
    scenes, left_out = select_scenes(found, known, around, offset, max_cloud)
    period = period or period_covered([scene for scene, _ in scenes])
    within = [pair for pair in scenes if pair[0].month in period.months]
    left_out["outside the period"] += len(scenes) - len(within)
    if not within:
        raise CubeError(nothing_left(len(found), period, left_out))
    used, their_items = zip(*within, strict=True)
    return FoundScenes(list(used), list(their_items), period, known, left_out)
