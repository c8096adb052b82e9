"""Open archives of Sentinel images: their addresses, collections and asset names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Archive:
    """An archive of Sentinel-2 L2A and Sentinel-1 RTC images.

    Parameters
    ----------
    title : str
        Name of the archive.
    url : str
        Address of its STAC API.
    assets : mapping of str to str
        Name of the asset by band: B01 to B12, SCL, CLP (cloud probability in percent),
        VV and VH (gamma0, linear power).
    optical, radar : tuple of str
        Its collections of Sentinel-2 L2A and Sentinel-1 RTC. If several collections
        contain the same tile of the same day, the first one is used.
    """

    title: str
    url: str
    assets: Mapping[str, str] = field(hash=False)
    optical: tuple[str, ...] = ()
    radar: tuple[str, ...] = ()

    def optical_assets(self, item: pystac.Item) -> dict[str, str]:
        """Return the names of an item's Sentinel-2 assets by band; empty if none."""
        names = (*REFLECTANCES, CLASSIFICATION, CLOUD_PROBABILITY)
        found = self._found(item, names)
        known = CLASSIFICATION in found and not found.keys().isdisjoint(REFLECTANCES)
        return found if known else {}

    def radar_assets(self, item: pystac.Item) -> dict[str, str]:
        """Return the names of an item's Sentinel-1 RTC assets by band.

        Empty if it has none. Ground range detected (GRD) images are left out: their
        assets have the same names but other units.
        """
        collection = str(item.collection_id or "")
        if collection not in self.radar and "rtc" not in collection.lower():
            return {}
        return self._found(item, RADAR)

    def _found(self, item: pystac.Item, bands: Iterable[str]) -> dict[str, str]:
        names = {band: self.assets[band] for band in bands if band in self.assets}
        return {band: name for band, name in names.items() if name in item.assets}


# Names as in the items of https://earth-search.aws.element84.com/v1. Collection 1
# comes first: the older collection states wrongly, for some items, whether the offset
# was removed (github.com/Element84/earth-search, issues 66 and 71).
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


def named_archive(named: Any, must_be_known: bool) -> Archive | None:
    """Return the archive that a name or an `Archive` stands for, None if it is another.

    Raises
    ------
    CubeError
        If it has to be known and is not.
    """
    if isinstance(named, Archive):
        return named
    if isinstance(named, str) and named in ARCHIVES:
        return ARCHIVES[named]
    if must_be_known:
        raise CubeError(f"archive must be one of {list(ARCHIVES)}, got {named!r}.")
    return None
