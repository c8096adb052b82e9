"""What differs between open archives: collections, names of assets, the offset.

Turns an item of STAC into a :class:`Scene`, which is all that reading it needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from geobiomass.cube import CubeError

if TYPE_CHECKING:
    import pystac

Sensor = Literal["Sentinel-2", "Sentinel-1 ascending", "Sentinel-1 descending"]
Box = tuple[float, float, float, float]

REFLECTANCES = (
    "B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12",
)  # fmt: skip
CLASSIFICATION, CLOUD_PROBABILITY = "SCL", "CLP"
PASSES: Mapping[str, Sensor] = {
    "asc": "Sentinel-1 ascending",
    "desc": "Sentinel-1 descending",
}
RADAR = ("VV", "VH")
RADAR_BANDS = tuple(f"{band}_{ending}" for ending in PASSES for band in RADAR)

# Copernicus, Sentinel-2 Products Specification: BOA_ADD_OFFSET is -1000 for all bands
# from processing baseline 04.00 on, which was put to use on 25 January 2022.
OFFSET = 1000
_OFFSET_BASELINE = (4, 0)
_OFFSET_SINCE = datetime(2022, 1, 25, tzinfo=UTC)


@dataclass(frozen=True)
class Archive:
    """An archive of Sentinel-2 L2A and Sentinel-1 RTC, as its items name things.

    Parameters
    ----------
    title : str
        What it is called.
    url : str
        Of its STAC API.
    assets : mapping of str to str
        Name of the asset by band: B01 to B12, SCL, CLP (cloud probability in percent),
        VV and VH (gamma0, linear power).
    optical, radar : tuple of str
        Its collections of Sentinel-2 L2A and Sentinel-1 RTC. Where two collections
        hold the same tile of the same day, the first of them is used.
    """

    title: str
    url: str
    assets: Mapping[str, str] = field(hash=False)
    optical: tuple[str, ...] = ()
    radar: tuple[str, ...] = ()

    def optical_assets(self, item: pystac.Item) -> dict[str, str]:
        """Give the item's assets of Sentinel-2 by band; empty if it is none."""
        names = (*REFLECTANCES, CLASSIFICATION, CLOUD_PROBABILITY)
        found = self._found(item, names)
        known = CLASSIFICATION in found and not found.keys().isdisjoint(REFLECTANCES)
        return found if known else {}

    def radar_assets(self, item: pystac.Item) -> dict[str, str]:
        """Give the item's assets of Sentinel-1 RTC by band; empty if it is none.

        Assets of ground range detected images have the same names, and other units.
        """
        collection = item.collection_id or ""
        if collection not in self.radar and "rtc" not in collection.lower():
            return {}
        return self._found(item, RADAR)

    def _found(self, item: pystac.Item, bands: Iterable[str]) -> dict[str, str]:
        names = {band: self.assets[band] for band in bands if band in self.assets}
        return {band: name for band, name in names.items() if name in item.assets}


# Names as in the items of https://earth-search.aws.element84.com/v1. Collection 1
# comes first: in the older collection the note whether the offset was removed is wrong
# for some items (github.com/Element84/earth-search, issues 66 and 71).
EARTH_SEARCH = Archive(
    title="Earth Search",
    url="https://earth-search.aws.element84.com/v1",
    assets={
        **{"B01": "coastal", "B02": "blue", "B03": "green", "B04": "red"},
        **{"B05": "rededge1", "B06": "rededge2", "B07": "rededge3", "B08": "nir"},
        **{"B8A": "nir08", "B09": "nir09", "B11": "swir16", "B12": "swir22"},
        **{"SCL": "scl", "CLP": "cloud"},
    },
    optical=("sentinel-2-c1-l2a", "sentinel-2-l2a"),
)
# Names as in the items of https://planetarycomputer.microsoft.com/api/stac/v1.
PLANETARY_COMPUTER = Archive(
    title="Planetary Computer",
    url="https://planetarycomputer.microsoft.com/api/stac/v1",
    assets={
        **{band: band for band in (*REFLECTANCES, CLASSIFICATION)},
        **{"VV": "vv", "VH": "vh"},
    },
    optical=("sentinel-2-l2a",),
    radar=("sentinel-1-rtc",),
)
ARCHIVES: Mapping[str, Archive] = {
    "earth-search": EARTH_SEARCH,
    "planetary-computer": PLANETARY_COMPUTER,
}


@dataclass(frozen=True)
class Scene:
    """What it takes to read one item: small, since dask tasks carry them."""

    item: str
    collection: str
    archive: str
    sensor: Sensor
    when: datetime
    box: Box  # degrees: west, south, east, north
    sweep: str  # the pass of the satellite: its scenes are one observation
    assets: tuple[tuple[str, str, str], ...]  # band, name of the asset, address
    offset: int = 0  # added to the numbers of Sentinel-2
    cloud: float | None = None  # percent of the scene
    tile: str = ""
    preference: tuple[int, int, int] = (0, 0, 0)  # the lower, the rather
    address: str = ""  # of the item itself, where that is on the internet

    @property
    def baseline(self) -> str:
        """The processing baseline, such as "05.10"; "" where the item does not say."""
        _, major, minor = self.preference
        return f"{-major:02d}.{-minor:02d}" if major or minor else ""

    @property
    def month(self) -> tuple[int, int]:
        """Year and month."""
        return self.when.year, self.when.month

    @property
    def reach(self) -> Box:
        """The box, a little wider: edges of a tile bulge in degrees."""
        west, south, east, north = self.box
        margin = 0.02 * max(east - west, north - south)
        return west - margin, south - margin, east + margin, north + margin

    def asset(self, band: str) -> tuple[str, str] | None:
        """Name and address of the asset that holds a band."""
        return next(((n, href) for b, n, href in self.assets if b == band), None)


def archive_of(item: pystac.Item, archives: Iterable[Archive]) -> Archive | None:
    """Find the archive whose names fit an item's assets."""
    fitting = (a for a in archives if a.optical_assets(item) or a.radar_assets(item))
    return next(fitting, None)


def as_scene(item: pystac.Item, archive: Archive, offset: int | None) -> Scene:
    """Read what matters of an item that fits an archive.

    Parameters
    ----------
    item : pystac.Item
        Of Sentinel-2 L2A or Sentinel-1 RTC.
    archive : Archive
        Whose names fit.
    offset : int, optional
        What was added to the numbers of Sentinel-2, where items do not say it or say
        it wrong.

    Raises
    ------
    CubeError
        If the item does not say when or where it was taken, in which pass, or whether
        its numbers have an offset.
    """
    optical = archive.optical_assets(item)
    when, box = _when(item), _box(item)
    names = optical or archive.radar_assets(item)
    day = (when + timedelta(hours=(box[0] + box[2]) / 2 / 15)).date()  # by the sun
    sensor: Sensor = "Sentinel-2" if optical else _pass_of(item)
    # In the north, orbits beside each other see the same ground on one day.
    orbit = "" if optical else item.properties.get("sat:relative_orbit", "")
    collections = archive.optical if optical else archive.radar
    collection = item.collection_id or ""
    rank = collections.index(collection) if collection in collections else 99
    major, minor = _baseline(item) or (0, 0)
    return Scene(
        item=item.id,
        collection=collection,
        archive=archive.title,
        sensor=sensor,
        when=when,
        box=box,
        sweep=f"{item.properties.get('platform', '')} {sensor} {orbit} {day}".lower(),
        assets=tuple(
            (band, name, item.assets[name].get_absolute_href() or "")
            for band, name in names.items()
        ),
        offset=(_offset(item, when) if offset is None else offset) if optical else 0,
        cloud=item.properties.get("eo:cloud_cover"),
        tile=_tile(item) if optical else "",
        preference=(rank, -major, -minor),
        address=_address(item),
    )


def _address(item: pystac.Item) -> str:
    """Give an item's address without a signature; none of a file on this machine."""
    said = item.get_self_href() or ""
    return said.split("?")[0] if re.match(r"(https?|s3|gs)://", said) else ""


def _when(item: pystac.Item) -> datetime:
    start = item.properties.get("start_datetime")
    when = item.datetime or (datetime.fromisoformat(start) if start else None)
    if when is None:
        raise CubeError(f"Item {item.id} must say when it was taken, got no datetime.")
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)


def _box(item: pystac.Item) -> Box:
    from shapely.geometry import shape

    if item.bbox is not None:
        half = len(item.bbox) // 2  # of six numbers two are heights
        west, south, east, north = *item.bbox[:2], *item.bbox[half : half + 2]
    elif item.geometry is not None:
        west, south, east, north = shape(item.geometry).bounds
    else:
        raise CubeError(f"Item {item.id} must say where it lies, got no geometry.")
    if west > east:  # across the antimeridian
        west, east = -180.0, 180.0
    return float(west), float(south), float(east), float(north)


def _pass_of(item: pystac.Item) -> Sensor:
    state = str(item.properties.get("sat:orbit_state", "")).lower()
    if state not in ("ascending", "descending"):
        raise CubeError(
            f"sat:orbit_state of item {item.id} must be 'ascending' or 'descending', "
            f"got {state!r}; leave the item out."
        )
    return PASSES["asc" if state == "ascending" else "desc"]


def _tile(item: pystac.Item) -> str:
    code = item.properties.get("grid:code", item.properties.get("s2:mgrs_tile", ""))
    return str(code).removeprefix("MGRS-")


def _baseline(item: pystac.Item) -> tuple[int, int] | None:
    said = str(item.properties.get("s2:processing_baseline", ""))
    match = re.fullmatch(r"N?(\d\d)\.?(\d\d)", said)
    return (int(match[1]), int(match[2])) if match else None


def _offset(item: pystac.Item, when: datetime) -> int:
    """Tell what was added to an item's numbers.

    What Earth Search says of its own doing comes first: its ``raster:bands`` speak
    of the offset even where it was removed.
    """
    if item.properties.get("earthsearch:boa_offset_applied") is True:
        return 0
    if (baseline := _baseline(item)) is not None:
        return OFFSET if baseline >= _OFFSET_BASELINE else 0
    declared = {_declared_offset(asset.extra_fields) for asset in item.assets.values()}
    if (said := declared - {None}) and len(said) == 1:
        return next(iter(said)) or 0
    if when < _OFFSET_SINCE:
        return 0
    raise CubeError(
        f"Item {item.id} of {when:%Y-%m-%d} must say whether 1000 was added to its "
        "numbers (s2:processing_baseline, raster:bands), got neither; give "
        "offset=1000 or offset=0 (on the command line --offset)."
    )


def _declared_offset(fields: Mapping[str, Any]) -> int | None:
    """Read the offset of an asset of reflectance as its ``raster:bands`` say."""
    bands = fields.get("raster:bands") or [fields]
    scale = bands[0].get("scale", bands[0].get("raster:scale"))
    offset = bands[0].get("offset", bands[0].get("raster:offset", 0))
    # Other assets, such as water vapour, have other scales.
    if not scale or abs(scale - 1e-4) > 1e-9:
        return None
    return round(-float(offset) / float(scale))
