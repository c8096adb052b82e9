"""How many bytes the images of a cube have where its area is, by their metadata."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geobiomass.sources.stac.archives import (
    CLASSIFICATION,
    CLOUD_PROBABILITY,
    PASSES,
    RADAR,
    REFLECTANCES,
    Box,
)
from geobiomass.sources.stac.file_headers import Header, read_header
from geobiomass.sources.stac.file_places import (
    FilePlace,
    Needed,
    needed_of,
    stated_place,
)
from geobiomass.sources.stac.scene import Scene

if TYPE_CHECKING:
    import pystac
    from odc.geo.geobox import GeoBox

FILE_SIZE, SHAPE, HEADER = "file:size", "proj:shape", "header"
OTHER_HEADER, RESOLUTION = "header of another image", "resolution"
BASES: Mapping[str, str] = {
    HEADER: "the blocks of the area, as the file's header lists them",
    FILE_SIZE: "the size of the whole file, by the share of its blocks in the area",
    SHAPE: "the pixels of the blocks in the area, not compressed",
    OTHER_HEADER: "the area, by the bytes per pixel of another image of its kind",
    RESOLUTION: "the area, by the sensor's resolution, not compressed",
}
"""What a number of bytes rests on. All but the first are estimates."""

_EARTH = 6_371_000.0  # mean radius, metres
_COARSE = ("B05", "B06", "B07", "B8A", "B11", "B12", CLASSIFICATION, CLOUD_PROBABILITY)
_COARSEST = ("B01", "B09")
_READS = 8  # headers that are read at the same time: most of it is waiting


@dataclass(frozen=True)
class AssetBytes:
    """The bytes of an asset that the area needs, and what the number rests on."""

    scene: Scene
    band: str
    count: float
    basis: str


def assets_read(scene: Scene, bands: Sequence[str]) -> list[str]:
    """Return the bands of a scene's assets that a cube of these bands reads."""
    if scene.sensor == "Sentinel-2":
        wanted = [b for b in (*REFLECTANCES, CLOUD_PROBABILITY) if b in bands]
        wanted = [CLASSIFICATION, *wanted] if wanted else []
    else:
        endings = [
            ending for ending, sensor in PASSES.items() if sensor == scene.sensor
        ]
        wanted = [b for b in RADAR if f"{b}_{endings[0]}" in bands]
    return [band for band in wanted if scene.asset(band)]


def bytes_to_fetch(
    scenes: Sequence[tuple[Scene, pystac.Item, float]],
    bands: Sequence[str],
    grid: GeoBox,
    area: float,
    sign: Callable[[str], str] | None,
    headers: bool,
) -> list[AssetBytes]:
    """Return the bytes of each asset that a cube reads.

    Parameters
    ----------
    scenes : sequence
        Scenes, each with its item and the share of the area that it covers.
    bands : sequence of str
        Bands of the cube.
    grid : GeoBox
        Grid of the cube.
    area : float
        Area of the grid, square metres.
    sign : callable, optional
        Function that signs addresses.
    headers : bool
        Whether the header of one image of each kind may be read, where items state
        neither size nor shape.

    Raises
    ------
    DamagedError
        If a header cannot be read.
    """
    needs = _Needs(grid)
    counted: list[AssetBytes] = []
    silent: dict[tuple[str, str, str], list[tuple[Scene, str, float]]]
    silent = defaultdict(list)  # by archive, collection and band
    for scene, item, covered in scenes:
        for band in assets_read(scene, bands):
            said = _stated(item, scene, band, covered, area, needs)
            if said is not None:
                counted.append(said)
            else:
                kind = (scene.archive, scene.collection, band)
                silent[kind].append((scene, band, covered))
    # The image with most of the area: its blocks are like those of the others.
    chosen = [max(group, key=lambda one: one[2]) for group in silent.values()]
    found: list[Header | None] = [None] * len(chosen)
    if headers and chosen:
        with ThreadPoolExecutor(_READS) as pool:
            found = list(
                pool.map(lambda one: read_header(one[0], one[1], sign), chosen)
            )
    for group, own, header in zip(silent.values(), chosen, found, strict=True):
        for one in group:
            counted.append(_by_header(one, header, one is own, area, needs))
    return counted


class _Needs:
    """What the area needs of each grid of files: tiles have the same one each date."""

    def __init__(self, grid: GeoBox) -> None:
        self._grid = grid
        self._known: dict[FilePlace, Needed] = {}
        side, degree = abs(grid.resolution.y), float(np.deg2rad(_EARTH))
        self._metres = side * (degree if _in_degrees(grid) else 1.0)

    def __call__(self, place: FilePlace) -> Needed:
        if place not in self._known:
            self._known[place] = needed_of(place, self._grid)
        return self._known[place]

    def pixels(self, band: str, covered: float, area: float) -> float:
        """Return the pixels of the area that a file without a known grid has."""
        side = _side(band)
        step = 2 ** np.floor(np.log2(max(1.0, self._metres / side)))
        return float(covered * area / (side * step) ** 2)


def ground_area(box: Box) -> float:
    """Return the area of a box in degrees, square metres, on a sphere."""
    west, south, east, north = box
    width = np.deg2rad((east - west) % 360 or 360.0)
    height = np.sin(np.deg2rad(north)) - np.sin(np.deg2rad(south))
    return float(_EARTH**2 * width * height)


def _in_degrees(grid: GeoBox) -> bool:
    crs: Any = grid.crs
    return bool(crs.geographic)


def _side(band: str) -> float:
    """Return the side of a pixel, metres: Sentinel-2 L2A, and RTC of Sentinel-1."""
    return 60.0 if band in _COARSEST else 20.0 if band in _COARSE else 10.0


def _value_bytes(band: str) -> int:
    """Return the bytes of a value where the item does not say its type."""
    return (
        1 if band in (CLASSIFICATION, CLOUD_PROBABILITY) else 4 if band in RADAR else 2
    )


def _stated(
    item: pystac.Item,
    scene: Scene,
    band: str,
    covered: float,
    area: float,
    needs: _Needs,
) -> AssetBytes | None:
    """Return the bytes of an asset by its item, None if that says too little."""
    found = scene.asset(band)
    assert found is not None  # of assets_read
    fields = item.assets[found[0]].extra_fields
    size, place = _stated_size(fields), stated_place(item, found[0])
    if place is not None:
        needed = needs(place)
        if size:
            count = size * needed.pixels / place.pixels
            return AssetBytes(scene, band, count, FILE_SIZE)
        count = needed.pixels * (_stated_bytes(fields) or _value_bytes(band))
        return AssetBytes(scene, band, count, SHAPE)
    if size:  # its grid is not known: the box of the item is about that of the file
        whole = ground_area(scene.box) / _side(band) ** 2
        share = min(1.0, needs.pixels(band, covered, area) / whole)
        return AssetBytes(scene, band, size * share, FILE_SIZE)
    return None


def _stated_size(fields: Mapping[str, Any]) -> int | None:
    """Return the bytes of the file by file:size."""
    size: Any = fields.get("file:size")
    whole = isinstance(size, int) and not isinstance(size, bool)
    return size if whole and size > 0 else None


def _stated_bytes(fields: Mapping[str, Any]) -> int | None:
    """Return the bytes of a value by raster:bands, bands, or data_type of STAC 1.1."""
    for name in ("raster:bands", "bands"):
        bands = fields.get(name)
        if isinstance(bands, list) and bands and isinstance(bands[0], Mapping):
            fields = {**fields, **bands[0]}
    kind = fields.get("data_type", fields.get("raster:data_type"))
    known = isinstance(kind, str) and kind in _TYPES
    return np.dtype(kind).itemsize if known else None


_TYPES = frozenset(
    {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
    | {"float16", "float32", "float64"}
)  # of the raster extension of STAC, without complex numbers


def _by_header(
    one: tuple[Scene, str, float],
    header: Header | None,
    own: bool,
    area: float,
    needs: _Needs,
) -> AssetBytes:
    """Return the bytes of an asset by its own header, another one's, or none."""
    scene, band, covered = one
    pixels = needs.pixels(band, covered, area)
    if header is None:
        return AssetBytes(scene, band, pixels * _value_bytes(band), RESOLUTION)
    place, sizes = header.place, header.block_bytes
    if place is None or sizes is None:  # JPEG 2000 does not list its blocks
        count = pixels * header.value_bytes
        return AssetBytes(scene, band, count, OTHER_HEADER)
    needed = needs(place)
    if own:
        count = float(sizes[needed.blocks].sum()) / needed.step**2
        return AssetBytes(
            scene, band, count, HEADER if needed.step == 1 else OTHER_HEADER
        )
    return AssetBytes(scene, band, pixels * sizes.sum() / place.pixels, OTHER_HEADER)
