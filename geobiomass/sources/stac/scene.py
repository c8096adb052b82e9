"""One satellite image as its STAC item describes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from geobiomass.cube import CubeError
from geobiomass.cube.antimeridian import box_of_shapes, continuous, wrapped
from geobiomass.outside_text import one_line
from geobiomass.sources.stac.addresses import Guard, without_secrets
from geobiomass.sources.stac.archives import PASSES, Archive, Box, Sensor
from geobiomass.sources.stac.search import catalogue_of
from geobiomass.training.json_files import finite_number

if TYPE_CHECKING:
    import pystac

# Copernicus, Sentinel-2 Products Specification: BOA_ADD_OFFSET is -1000 for all bands
# since processing baseline 04.00, in use since 25 January 2022.
OFFSET = 1000
_OFFSET_BASELINE = (4, 0)
_OFFSET_SINCE = datetime(2022, 1, 25, tzinfo=UTC)


@dataclass(frozen=True)
class Scene:
    """An image and the facts to read it; small, because dask tasks contain it."""

    item: str
    collection: str
    archive: str
    sensor: Sensor
    when: datetime
    box: Box  # degrees: west, south, east, north
    sweep: str  # pass of the satellite: all its scenes are one observation
    assets: tuple[tuple[str, str, str], ...]  # band, name of the asset, its address
    offset: int = 0  # added to the digital numbers of Sentinel-2
    cloud: float | None = None  # cloud cover of the scene, percent
    tile: str = ""
    preference: tuple[int, int, int] = (0, 0, 0)  # lower values are preferred
    address: str = ""  # of the item itself, if it is on the internet
    catalogue: str = ""  # whose rule for addresses holds; empty for the user's own

    @property
    def baseline(self) -> str:
        """The processing baseline, such as "05.10"; empty if the item has none."""
        _, major, minor = self.preference
        return f"{-major:02d}.{-minor:02d}" if major or minor else ""

    @property
    def month(self) -> tuple[int, int]:
        """Year and month."""
        return self.when.year, self.when.month

    @property
    def reach(self) -> Box:
        """The box with a margin, because the edges of a tile are curved in degrees."""
        west, south, east, north = self.box
        west, east = continuous(west, east)
        margin = 0.02 * max(east - west, north - south)
        return wrapped(west - margin, south - margin, east + margin, north + margin)

    def asset(self, band: str) -> tuple[str, str] | None:
        """Return the name and the address of the asset of a band, or None."""
        return next(((n, href) for b, n, href in self.assets if b == band), None)


def archive_of(item: pystac.Item, archives: Iterable[Archive]) -> Archive | None:
    """Return the first archive whose asset names match an item's, or None."""
    fitting = (a for a in archives if a.optical_assets(item) or a.radar_assets(item))
    return next(fitting, None)


def as_scene(item: pystac.Item, archive: Archive, offset: int | None) -> Scene:
    """Convert a STAC item to a scene.

    Parameters
    ----------
    item : pystac.Item
        An item of Sentinel-2 L2A or Sentinel-1 RTC.
    archive : Archive
        The archive whose asset names match.
    offset : int, optional
        Number added to the digital numbers of Sentinel-2, for items that do not state
        it or state it wrongly.

    Raises
    ------
    CubeError
        If the item does not state its time, its location, its pass, or whether its
        digital numbers have an offset.
    """
    try:
        return _scene(item, archive, offset)
    except CubeError:
        raise
    except (
        *(AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError),
    ) as error:
        raise CubeError(
            f"Item {_name(item)} has values of other types than STAC has ({error!r}); "
            "leave the item out."
        ) from error


def _scene(item: pystac.Item, archive: Archive, offset: int | None) -> Scene:
    optical = archive.optical_assets(item)
    when, box = _when(item), _box(item)
    names = optical or archive.radar_assets(item)
    catalogue = catalogue_of(item)
    guard = Guard(catalogue)
    day = (
        when + timedelta(hours=(box[0] + box[2]) / 2 / 15)
    ).date()  # local solar time
    sensor: Sensor = "Sentinel-2" if optical else _pass_of(item)
    # At high latitudes, neighbouring orbits observe the same ground on one day.
    orbit = "" if optical else item.properties.get("sat:relative_orbit", "")
    collections = archive.optical if optical else archive.radar
    collection = str(item.collection_id or "")
    rank = collections.index(collection) if collection in collections else 99
    major, minor = _baseline(item) or (0, 0)
    return Scene(
        item=_name(item),
        collection=one_line(collection),
        archive=archive.title,
        sensor=sensor,
        when=when,
        box=box,
        sweep=f"{item.properties.get('platform', '')} {sensor} {orbit} {day}".lower(),
        assets=tuple(
            (band, name, _href(item, name, guard)) for band, name in names.items()
        ),
        offset=(_offset(item, when) if offset is None else offset) if optical else 0,
        cloud=_cloud(item),
        tile=_tile(item) if optical else "",
        preference=(rank, -major, -minor),
        address=_address(item),
        catalogue="" if guard.place == "file" else str(catalogue),
    )


def _name(item: pystac.Item) -> str:
    return one_line(item.id)


def _href(item: pystac.Item, name: str, guard: Guard) -> str:
    href = item.assets[name].get_absolute_href() or ""
    return guard.check(href, f"Asset {one_line(name)} of item {_name(item)}")


def _cloud(item: pystac.Item) -> float | None:
    cloud = item.properties.get("eo:cloud_cover")
    if cloud is not None and not finite_number(cloud):
        raise CubeError(
            f"eo:cloud_cover of item {_name(item)} must be a number of percent, got "
            f"{cloud!r}; leave the item out."
        )
    return cloud


def _address(item: pystac.Item) -> str:
    """Return an item's address without its signature; empty for a local file."""
    href = item.get_self_href() or ""
    return without_secrets(href) if re.match(r"(https?|s3|gs)://", href) else ""


def _when(item: pystac.Item) -> datetime:
    start = item.properties.get("start_datetime")
    when = item.datetime or (datetime.fromisoformat(start) if start else None)
    if when is None:
        raise CubeError(
            f"Item {_name(item)} must have a datetime, got none; leave the item out."
        )
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)


def _box(item: pystac.Item) -> Box:
    if item.bbox is not None:
        _check_bbox(item)
        half = len(item.bbox) // 2  # of six numbers two are heights
        west, south, east, north = *item.bbox[:2], *item.bbox[half : half + 2]
        west, east = continuous(west, east)
        if east - west > 180 and item.geometry is not None:  # cut at 180 degrees
            west, south, east, north = box_of_shapes([item.geometry])
    elif item.geometry is not None:
        west, south, east, north = box_of_shapes([item.geometry])
    else:
        raise CubeError(
            f"Item {_name(item)} must have a bbox or a geometry, got none; leave the "
            "item out."
        )
    return float(west), float(south), float(east), float(north)


def _check_bbox(item: pystac.Item) -> None:
    bbox: Any = item.bbox
    whole = isinstance(bbox, list) and len(bbox) in (4, 6)
    if whole and all(map(finite_number, bbox)):
        half = len(bbox) // 2
        south, north = bbox[1], bbox[half + 1]
        if -90 <= south <= north <= 90 and max(abs(bbox[0]), abs(bbox[half])) <= 360:
            return
    raise CubeError(
        f"bbox of item {_name(item)} must be west, south, east, north in degrees, got "
        f"{bbox!r}; leave the item out."
    )


def _pass_of(item: pystac.Item) -> Sensor:
    state = str(item.properties.get("sat:orbit_state", "")).lower()
    if state not in ("ascending", "descending"):
        raise CubeError(
            f"sat:orbit_state of item {_name(item)} must be 'ascending' or "
            f"'descending', got {state!r}; leave the item out."
        )
    return PASSES["asc" if state == "ascending" else "desc"]


def _tile(item: pystac.Item) -> str:
    code = item.properties.get("grid:code", item.properties.get("s2:mgrs_tile", ""))
    return str(code).removeprefix("MGRS-")


def _baseline(item: pystac.Item) -> tuple[int, int] | None:
    text = str(item.properties.get("s2:processing_baseline", ""))
    match = re.fullmatch(r"N?(\d\d)\.?(\d\d)", text)
    return (int(match[1]), int(match[2])) if match else None


def _offset(item: pystac.Item, when: datetime) -> int:
    """Return the number that was added to an item's digital numbers.

    The flag of Earth Search takes precedence: its ``raster:bands`` state the offset
    even if it was removed.
    """
    if item.properties.get("earthsearch:boa_offset_applied") is True:
        return 0
    if (baseline := _baseline(item)) is not None:
        return OFFSET if baseline >= _OFFSET_BASELINE else 0
    declared = {_declared_offset(asset.extra_fields) for asset in item.assets.values()}
    if (offsets := declared - {None}) and len(offsets) == 1:
        return next(iter(offsets)) or 0
    if when < _OFFSET_SINCE:
        return 0
    raise CubeError(
        f"Item {_name(item)} of {when:%Y-%m-%d} must state whether 1000 was added to "
        "its numbers (s2:processing_baseline, raster:bands), got neither; give "
        "offset=1000 or offset=0 (on the command line --offset)."
    )


def _declared_offset(fields: Mapping[str, Any]) -> int | None:
    """Return the offset that ``raster:bands`` state for an asset of reflectance."""
    bands = fields.get("raster:bands") or [fields]
    scale = bands[0].get("scale", bands[0].get("raster:scale"))
    offset = bands[0].get("offset", bands[0].get("raster:offset", 0))
    # Other assets, such as water vapour, have other scales.
    if not scale or abs(scale - 1e-4) > 1e-9:
        return None
    return round(-float(offset) / float(scale))
