"""Selection of the scenes that a cube uses, and why others are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from geobiomass.cube import BIOMASSTERS_BANDS, CubeError
from geobiomass.cube.antimeridian import boxes_touch
from geobiomass.sources.stac.archives import (
    ARCHIVES,
    CLOUD_PROBABILITY,
    RADAR_BANDS,
    REFLECTANCES,
    Archive,
    Box,
)
from geobiomass.sources.stac.period import Period, period_of
from geobiomass.sources.stac.scene import Scene, archive_of, as_scene

if TYPE_CHECKING:
    import pystac

_KNOWN_BANDS = (*RADAR_BANDS, *REFLECTANCES, CLOUD_PROBABILITY)


def select_scenes(
    items: Iterable[pystac.Item],
    archive: Archive | None,
    around: Box,
    offset: int | None,
    max_cloud: float,
) -> tuple[list[tuple[Scene, pystac.Item]], Counter[str]]:
    """Return the usable scenes in order of preference, and counts of the others.

    Each scene is beside its item. The counter has the reasons as keys.
    """
    left_out: Counter[str] = Counter()
    scenes: list[tuple[Scene, pystac.Item]] = []
    for item in items:
        known = archive_of(item, [archive] if archive else ARCHIVES.values())
        if known is None:
            left_out["neither Sentinel-2 L2A nor Sentinel-1 RTC"] += 1
            continue
        scene = as_scene(item, known, offset)
        if not boxes_touch(scene.reach, around):
            left_out["outside the area"] += 1
        elif scene.cloud is not None and scene.cloud > max_cloud:
            left_out["too cloudy"] += 1
        else:
            scenes.append((scene, item))
    once = _without_duplicates(scenes)
    left_out["in a better collection as well"] += len(scenes) - len(once)
    once.sort(key=lambda pair: (*pair[0].preference, pair[0].when, pair[0].item))
    return once, left_out


def _without_duplicates(
    scenes: list[tuple[Scene, pystac.Item]],
) -> list[tuple[Scene, pystac.Item]]:
    """Return the scenes without tiles that a preferred collection has of that day."""
    best: dict[tuple[str, str], int] = {}
    for scene, _ in scenes:
        key, rank = (scene.tile, scene.sweep), scene.preference[0]
        best[key] = min(rank, best.get(key, rank))
    return [
        (scene, item)
        for scene, item in scenes
        if not scene.tile or scene.preference[0] == best[scene.tile, scene.sweep]
    ]


def check_bands(bands: Sequence[str] | None) -> None:
    """Check that bands are of sensors that archives have.

    Raises
    ------
    CubeError
        If one is not.
    """
    if unknown := [band for band in bands or () if band not in _KNOWN_BANDS]:
        raise CubeError(f"bands must be among {list(_KNOWN_BANDS)}, got {unknown}.")


def period_covered(scenes: list[Scene]) -> Period:
    """Return the months from the first scene to the last.

    Raises
    ------
    CubeError
        If there are no scenes, or they cover more than a year.
    """
    if not scenes:
        raise CubeError("No items over this area; give months, or other items.")
    numbers = [year * 12 + month - 1 for year, month in (s.month for s in scenes)]
    first, last = min(numbers), max(numbers)
    said = f"the items are from {first // 12}-{first % 12 + 1:02d} to "
    return period_of(first, last, said + f"{last // 12}-{last % 12 + 1:02d}")


def nothing_left(count: int, period: Period, left_out: Counter[str]) -> str:
    """Return the message that no item can be used, with the reasons."""
    why = ", ".join(f"{n} {reason}" for reason, n in left_out.items() if n)
    return (
        f"No items over this area from {period.start} to {period.end}: got {count}"
        f"{f', of which {why}' if why else ''}; look at bounds, months and archive."
    )


def default_bands(scenes: list[Scene]) -> tuple[str, ...]:
    """Return the bands of BioMassters that the scenes' sensors have."""
    optical = any(scene.sensor == "Sentinel-2" for scene in scenes)
    radar = any(scene.sensor != "Sentinel-2" for scene in scenes)
    cloud = any(scene.asset(CLOUD_PROBABILITY) for scene in scenes)
    there = {CLOUD_PROBABILITY} if cloud else set()
    there |= set(RADAR_BANDS) if radar else set()
    there |= set(REFLECTANCES) if optical else set()
    return tuple(band for band in BIOMASSTERS_BANDS if band in there)
