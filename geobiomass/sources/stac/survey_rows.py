"""What an archive has for a cube: by month and sensor, from metadata only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.cube.antimeridian import continuous
from geobiomass.outside_text import one_line
from geobiomass.sources.stac.archives import PASSES, Sensor
from geobiomass.sources.stac.area import lonlat_box
from geobiomass.sources.stac.bytes_to_fetch import (
    BASES,
    HEADER,
    AssetBytes,
    bytes_to_fetch,
    ground_area,
)
from geobiomass.sources.stac.found_scenes import FoundScenes
from geobiomass.sources.stac.scene import Scene

if TYPE_CHECKING:
    import pystac
    from odc.geo.geobox import GeoBox

Mask = npt.NDArray[np.bool_]
SENSORS: tuple[Sensor, ...] = ("Sentinel-2", *PASSES.values())
_POINTS = 32  # of the area, along a side: shares are steps of a thousandth


def survey_rows(
    found: FoundScenes,
    bands: Sequence[str],
    grid: GeoBox,
    sign: Callable[[str], str] | None = None,
    headers: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a row for each month and sensor, and the bytes by what they rest on.

    Parameters
    ----------
    found : FoundScenes
        The images of a cube.
    bands : sequence of str
        Its bands.
    grid : GeoBox
        Its grid.
    sign : callable, optional
        Function that signs addresses.
    headers : bool
        Whether headers may be read.

    Returns
    -------
    rows : pandas.DataFrame
        Index: month, sensor; sensors that have an item in any month.
    sizes : pandas.DataFrame
        A row for each basis of `BASES` that occurs.
    """
    lon, lat = _points(grid)
    pairs = list(zip(found.scenes, found.items, strict=True))
    seen = [_seen(scene, item, lon, lat) for scene, item in pairs]
    shares = [float(mask.mean()) for mask in seen]
    with_shares = [(*pair, share) for pair, share in zip(pairs, shares, strict=True)]
    area = _area(grid)
    counted = bytes_to_fetch(with_shares, bands, grid, area, sign, headers)
    groups: dict[tuple[str, Sensor], list[int]] = defaultdict(list)
    for index, scene in enumerate(found.scenes):
        groups["{}-{:02d}".format(*scene.month), scene.sensor].append(index)
    by_scene: dict[int, float] = defaultdict(float)
    for asset in counted:
        by_scene[id(asset.scene)] += asset.count
    rows = []
    for sensor in SENSORS:
        if not any(known == sensor for _, known in groups):
            continue
        for month in found.period.names:
            mine = groups.get((month, sensor), [])
            size = sum(by_scene[id(found.scenes[i])] for i in mine)
            rows.append(
                {"month": month, "sensor": sensor}
                | _row([pairs[i] for i in mine], [seen[i] for i in mine])
                | {"bytes": round(size)}
            )
    table = pd.DataFrame(rows).set_index(["month", "sensor"])
    return table, _sizes(counted)


def _row(pairs: list[tuple[Scene, pystac.Item]], seen: list[Mask]) -> dict[str, Any]:
    """Return the facts of one month and sensor."""
    if not pairs:
        return {
            **{"items": 0, "dates": 0, "covered": 0.0, "clear": np.nan},
            **{"clear_dates": np.nan, "archive": "", "platforms": ""},
        }
    scenes = [scene for scene, _ in pairs]
    passes: dict[str, Mask] = {}
    clear_by_pass: dict[str, npt.NDArray[np.float64]] = {}
    for scene, mask in zip(scenes, seen, strict=True):
        before = passes.get(scene.sweep, np.zeros_like(mask))
        clear = clear_by_pass.setdefault(scene.sweep, np.full(mask.shape, np.nan))
        if scene.cloud is not None:  # of tiles that overlap, the first one counts
            clear[mask & ~before] = 1 - min(max(scene.cloud, 0.0), 100.0) / 100
        passes[scene.sweep] = before | mask
    covered = np.any(list(passes.values()), axis=0)
    clear = np.stack(list(clear_by_pass.values()))
    known = np.isfinite(clear)
    return {
        "items": len(scenes),
        "dates": len(passes),
        "covered": round(float(covered.mean()), 3),
        "clear": round(float(clear[known].mean()), 3) if known.any() else np.nan,
        "clear_dates": (
            round(float(np.nansum(clear, axis=0).mean()), 2) if known.any() else np.nan
        ),
        "archive": ", ".join(sorted({scene.archive for scene in scenes})),
        "platforms": ", ".join(sorted({_platform(item) for _, item in pairs} - {""})),
    }


def _area(grid: GeoBox) -> float:
    """Return the area of a grid, square metres."""
    crs: Any = grid.crs
    if crs.geographic:
        return ground_area(lonlat_box(grid))
    a, height, width = grid.affine, *grid.shape
    return abs(a.a * a.e - a.b * a.d) * height * width


def _platform(item: pystac.Item) -> str:
    return one_line(str(item.properties.get("platform") or "").lower())


def _points(grid: GeoBox) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return longitudes and latitudes of the centres of 32 x 32 cells of a grid."""
    from pyproj import Transformer

    height, width = grid.shape
    at = (np.arange(_POINTS) + 0.5) / _POINTS
    rows, columns = np.meshgrid(height * at, width * at, indexing="ij")
    to = grid.affine
    x = to.a * columns + to.b * rows + to.c
    y = to.d * columns + to.e * rows + to.f
    move = Transformer.from_crs(str(grid.crs), "EPSG:4326", always_xy=True)
    lon, lat = move.transform(x.ravel(), y.ravel())
    return np.asarray(lon), np.asarray(lat)


def _seen(
    scene: Scene, item: pystac.Item, lon: npt.NDArray[Any], lat: npt.NDArray[Any]
) -> Mask:
    """Return which points an image covers, by its footprint, or else by its box."""
    import shapely

    west, south, east, north = scene.box
    west, east = continuous(west, east)
    shape = _footprint(item) or shapely.box(west, south, east, north)
    shapely.prepare(shape)
    middle = (shape.bounds[0] + shape.bounds[2]) / 2
    turned = lon + 360 * np.round((middle - lon) / 360)
    return np.asarray(shapely.intersects_xy(shape, turned, lat), bool)


def _footprint(item: pystac.Item) -> Any:
    """Return the footprint of an item, None if it has none that can be used."""
    import shapely
    from shapely.geometry import shape

    with suppress(AttributeError, KeyError, IndexError, TypeError, ValueError):
        made = shape(item.geometry) if item.geometry else None
        if made is None or made.is_empty or shapely.get_dimensions(made) < 2:
            return None
        west, _, east, _ = made.bounds
        if not np.isfinite(made.bounds).all() or east - west > 180:
            return None  # cut at 180 degrees: its box is continuous there
        return made if made.is_valid else shapely.make_valid(made)
    return None


def _sizes(counted: Sequence[AssetBytes]) -> pd.DataFrame:
    """Return files and bytes by what the bytes rest on."""
    rows = {
        basis: {
            "files": sum(one.basis == basis for one in counted),
            "bytes": round(sum(one.count for one in counted if one.basis == basis)),
            "estimate": basis != HEADER,
            "meaning": meaning,
        }
        for basis, meaning in BASES.items()
    }
    kept = {basis: row for basis, row in rows.items() if row["files"]}
    columns = ["files", "bytes", "estimate", "meaning"]
    table = pd.DataFrame.from_dict(kept, orient="index", columns=columns)
    table.index.name = "basis"
    return table
