"""The composite of one month and block, read from its scenes in a dask task."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube import CubeError, DamagedError
from geobiomass.cube.address_errors import failure_of
from geobiomass.cube.grid_size import check_size
from geobiomass.outside_text import one_line
from geobiomass.sources.stac import composites as composites
from geobiomass.sources.stac.addresses import (
    may_redirect,
    without_secrets,
)
from geobiomass.sources.stac.archives import (
    CLASSIFICATION,
    CLOUD_PROBABILITY,
    PASSES,
    RADAR,
    REFLECTANCES,
)
from geobiomass.sources.stac.cloud_masks import CloudMask, cloudy
from geobiomass.sources.stac.scene import Scene
from geobiomass.threads import silence_arrays_in_memory

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

Pixels = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_LOG = logging.getLogger(__name__)

# Files that a task reads at the same time: over the network, most time is waiting.
_READS = 8
_JPEG_2000 = ("JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "JP2Grok", "GTiff")
_BANDS = 4  # bands of all scenes in memory at the same time
GDAL_SETTINGS = {
    "GDAL_HTTP_CONNECTTIMEOUT": "30",
    # A stalled connection is closed, and the request is repeated.
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "GDAL_HTTP_LOW_SPEED_TIME": "60",
    # The whole header in one request.
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    # Else a file that was cut short gives zeros.
    "GTIFF_IGNORE_READ_ERRORS": "NO",
    # Files beside an image, which may name others as its overviews.
    "GDAL_PAM_ENABLED": "NO",
}


@dataclass(frozen=True)
class Settings:
    """Settings of the composite of a month."""

    bands: tuple[str, ...]
    composite: Literal["median", "best"]
    masked_classes: tuple[int, ...]
    resampling: str
    damaged: Literal["raise", "skip"]
    cloud_mask: CloudMask | None = field(default=None, compare=False, repr=False)
    sign: Callable[[str], str] | None = field(default=None, compare=False, repr=False)
    # Item and name of the assets that were reported as unreadable.
    reported: set[tuple[str, str]] = field(
        default_factory=set, compare=False, repr=False
    )


def read_month(
    scenes: Sequence[Scene], middle: datetime, grid: GeoBox, settings: Settings
) -> Pixels:
    """Read the composite of a month, (1, band, y, x): dB, reflectance x 10^4, percent.

    The month may be another step of a cube; `middle` is the middle of it.

    Raises
    ------
    DamagedError
        If an asset cannot be read and `settings.damaged` is "raise".
    """
    silence_arrays_in_memory()
    image: Pixels = np.full((1, len(settings.bands), *grid.shape), np.nan, np.float32)
    optical = [scene for scene in scenes if scene.sensor == "Sentinel-2"]
    _read_optical(image[0], optical, middle, grid, settings)
    for ending, sensor in PASSES.items():
        radar = [scene for scene in scenes if scene.sensor == sensor]
        _read_radar(image[0], radar, ending, grid, settings)
    return image


def _read_radar(
    image: Pixels, scenes: list[Scene], ending: str, grid: GeoBox, settings: Settings
) -> None:
    """Fill the bands of one pass of Sentinel-1."""
    names = {f"{band}_{ending}": band for band in RADAR}
    wanted = {names[b]: i for i, b in enumerate(settings.bands) if b in names}
    for band, power, found in _read(scenes, wanted, grid, settings, np.float32):
        there = np.isfinite(power) & (power > 0)
        kept = composites.first_of_each_pass(there, [scene.sweep for scene in found])
        image[wanted[band]] = composites.mean_decibels(power, kept)


def _read_optical(
    image: Pixels,
    scenes: list[Scene],
    middle: datetime,
    grid: GeoBox,
    settings: Settings,
) -> None:
    """Fill the bands of Sentinel-2: first the classes, then the clear pixels."""
    names = (*REFLECTANCES, CLOUD_PROBABILITY)
    wanted = {band: i for i, band in enumerate(settings.bands) if band in names}
    scenes, classes, there = _observed(scenes if wanted else [], grid, settings)
    if not scenes:
        return
    # Other bands are not read of scenes that are completely cloudy in this block.
    scenes, kept, classes = _clear(scenes, there, classes, grid, settings)
    chosen = None
    if settings.composite == "best" and scenes:
        distances = [abs((s.when - middle).total_seconds()) for s in scenes]
        chosen = composites.least_risk(classes, kept, distances)
    for band, numbers, found in _read(scenes, wanted, grid, settings, np.uint16):
        values: Pixels = np.full(kept.shape, np.nan, np.float32)
        indexes = [scenes.index(scene) for scene in found]
        values[indexes] = _values(band, numbers, found, kept[indexes])
        image[wanted[band]] = (
            composites.median(values)
            if chosen is None
            else composites.pick(values, chosen)
        )


def count_clear(
    scenes: Sequence[Scene], grid: GeoBox, settings: Sequence[Settings]
) -> tuple[int, list[int]]:
    """Return the pixels that the passes of a month observe, and those left as clear.

    A pixel of each pass counts. The settings differ in what masks clouds.
    """
    silence_arrays_in_memory()
    optical = [scene for scene in scenes if scene.sensor == "Sentinel-2"]
    found, classes, there = _observed(optical, grid, settings[0])
    clear = [_clear(found, there, classes, grid, each)[1] for each in settings]
    return int(there.sum()), [int(kept.sum()) for kept in clear]


def _observed(
    scenes: list[Scene], grid: GeoBox, settings: Settings
) -> tuple[list[Scene], npt.NDArray[np.uint8], Mask]:
    """Return the scenes whose classes can be read, these, and the first of each pass.

    Classes and pixels are (scene, y, x).
    """
    read = _read(scenes, [CLASSIFICATION] if scenes else [], grid, settings, np.uint8)
    empty = np.empty((0, *grid.shape), np.uint8)
    _, classes, found = next(read, (CLASSIFICATION, empty, []))
    there = classes != composites.NO_DATA
    passes = [scene.sweep for scene in found]
    return found, classes, composites.first_of_each_pass(there, passes)


def _clear(
    scenes: list[Scene],
    there: Mask,
    classes: npt.NDArray[np.uint8],
    grid: GeoBox,
    settings: Settings,
) -> tuple[list[Scene], Mask, npt.NDArray[np.uint8]]:
    """Return scenes with clear pixels, these pixels, and the classes, (scene, y, x)."""
    kept = there & composites.clear(classes, settings.masked_classes)
    scenes, kept, classes = _some_clear(scenes, kept, classes)
    if settings.cloud_mask is not None and scenes:
        kept &= ~_detected(settings.cloud_mask, scenes, grid, settings)
        scenes, kept, classes = _some_clear(scenes, kept, classes)
    return scenes, kept, classes


def _some_clear(
    scenes: list[Scene], kept: Mask, classes: npt.NDArray[np.uint8]
) -> tuple[list[Scene], Mask, npt.NDArray[np.uint8]]:
    """Return the scenes of which some pixels are kept."""
    seen = np.flatnonzero(kept.any(axis=(1, 2)))
    return [scenes[i] for i in seen], kept[seen], classes[seen]


def _detected(
    mask: CloudMask, scenes: list[Scene], grid: GeoBox, settings: Settings
) -> Mask:
    """Return which pixels a detector masks, (scene, y, x).

    Of scenes that have a band that cannot be read all pixels are masked.
    """
    names = tuple(getattr(mask, "bands", ())) or tuple(
        band for band in settings.bands if band in REFLECTANCES
    )
    for scene in scenes:
        if lacking := [band for band in names if not scene.asset(band)]:
            raise CubeError(
                f"cloud_mask needs band {lacking[0]}, which item {scene.item} does not "
                "have; leave the item out, or use cloud_mask='classification'."
            )
    margin = int(getattr(mask, "margin", 0))
    around = grid.pad(margin) if margin else grid
    images: Pixels = np.full(
        (len(scenes), len(names), *around.shape), np.nan, np.float32
    )
    whole = np.zeros(len(scenes), int)
    for band, numbers, found in _read(scenes, names, around, settings, np.uint16):
        indexes = [scenes.index(scene) for scene in found]
        every = np.ones(numbers.shape, bool)
        images[indexes, names.index(band)] = _values(band, numbers, found, every)
        whole[indexes] += 1
    inner = slice(margin, margin + grid.shape[0]), slice(margin, margin + grid.shape[1])
    masked = np.ones((len(scenes), *grid.shape), bool)
    for index in np.flatnonzero(whole == len(names)):
        image = xr.DataArray(
            images[index], dims=("band", "y", "x"), coords={"band": list(names)}
        )
        masked[index] = cloudy(mask, image)[inner]
    return masked


def _values(
    band: str, numbers: npt.NDArray[np.uint16], scenes: list[Scene], kept: Mask
) -> Pixels:
    """Convert the numbers of a band to physical values, NaN where not kept."""
    if band == CLOUD_PROBABILITY:  # percent, so that 0 is a value
        return np.where(kept, numbers, np.float32(np.nan)).astype(np.float32)
    return composites.harmonise(numbers, [scene.offset for scene in scenes], kept)


def _read(
    scenes: list[Scene],
    bands: Iterable[str],
    grid: GeoBox,
    settings: Settings,
    dtype: type[np.generic],
) -> Iterator[tuple[str, npt.NDArray[Any], list[Scene]]]:
    """Read bands of the scenes that have them, a few bands at a time.

    Yields
    ------
    band, numbers, found
        The band, its numbers (scene, y, x), 0 or NaN without data, and their scenes.
        With ``damaged="skip"``, assets that cannot be read are left out. Bands that no
        scene has are not yielded.
    """
    together: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for band in bands:
        having = [i for i, scene in enumerate(scenes) if scene.asset(band)]
        together[tuple(having)].append(band)
    for indexes, names in together.items():
        having_all = [scenes[i] for i in indexes]
        for start in range(0, len(names) if having_all else 0, _BANDS):
            part = names[start : start + _BANDS]
            yield from _load(having_all, part, grid, settings, dtype)


def _load(
    scenes: list[Scene],
    bands: list[str],
    grid: GeoBox,
    settings: Settings,
    dtype: type[np.generic],
) -> Iterator[tuple[str, npt.NDArray[Any], list[Scene]]]:
    """Read bands that all of the scenes have."""
    import odc.stac

    sign = settings.sign or str
    hrefs = [{b: sign(cast(Any, s.asset(b))[1]) for b in bands} for s in scenes]
    sources = {
        href: (band, scene)
        for scene, of_scene in zip(scenes, hrefs, strict=True)
        for band, href in of_scene.items()
    }
    driver = _driver()(sources, settings)
    missing = np.nan if dtype is np.float32 else 0
    classes = {CLASSIFICATION: "nearest", CLOUD_PROBABILITY: "nearest"}
    # Grouping by id makes each item a separate layer, in the given order.
    loaded = odc.stac.load(
        [_bare_item(s, h) for s, h in zip(scenes, hrefs, strict=True)],
        bands=bands,
        geobox=grid,
        groupby="id",
        preserve_original_order=True,
        dtype=np.dtype(dtype).name,
        nodata=missing,
        resampling={"*": settings.resampling, **classes},
        chunks=None,
        pool=_READS if len(sources) > 1 else None,
        driver=driver,
        stac_cfg={"*": {"assets": {"*": {"nodata": missing}}, "warnings": "ignore"}},
    )
    for href, error in sorted(driver.unreadable.items()):
        _report_once(*sources[href], error, settings)
    for band in bands:
        sound = [i for i, of in enumerate(hrefs) if of[band] not in driver.unreadable]
        if sound:
            yield band, loaded[band].values[sound], [scenes[i] for i in sound]


def _bare_item(scene: Scene, hrefs: Mapping[str, str]) -> Any:
    """Return an item whose assets have the names of the bands.

    Its footprint only decides whether the files are opened, so a box is enough.
    """
    import pystac
    from shapely.geometry import box, mapping

    item = pystac.Item(
        id=scene.item,
        geometry=mapping(box(*scene.reach)),
        bbox=list(scene.reach),
        datetime=scene.when,
        properties={},
    )
    tiff = pystac.MediaType.COG
    for band, href in hrefs.items():
        item.add_asset(band, pystac.Asset(href, media_type=tiff, roles=["data"]))
    return item


@cache
def _driver() -> Any:
    """Return a driver class for odc-stac whose errors name the item and the asset."""
    from odc.loader import RioDriver, RioReader
    from rasterio.errors import RasterioError

    class NamingReader(RioReader):
        def __init__(self, source: Any, context: Any, driver: Any) -> None:
            super().__init__(source, context)
            self._driver = driver

        def read(self, cfg: Any, dst_geobox: Any, **options: Any) -> Any:
            try:
                self._driver.check(self._src.uri)
                return super().read(cfg, dst_geobox, **options)
            except (RasterioError, OSError, ValueError) as error:
                self._driver.report(self._src.uri, error)
            return np.s_[0:0, 0:0], np.empty((0, 0), cfg.dtype)

    class NamingDriver(RioDriver):
        def __init__(
            self, sources: Mapping[str, tuple[str, Scene]], settings: Settings
        ) -> None:
            super().__init__()
            self._sources, self._settings = sources, settings
            self.unreadable: dict[str, Exception] = {}

        def capture_env(self) -> dict[str, Any]:
            # odc-stac's defaults, such as ten retries, or the user's own settings.
            return {**GDAL_SETTINGS, **super().capture_env()}

        def open(self, source: Any, context: Any) -> Any:
            return NamingReader(source, context, self)

        def check(self, href: str) -> None:
            # requests is of the extra "stac", and is needed for a remote file alone.
            from geobiomass.sources.stac.guarded_requests import check_redirects

            scene = self._sources[href][1]
            if scene.catalogue and may_redirect(href):
                check_redirects(href, scene.catalogue)
            check_image(href)

        def report(self, href: str, error: Exception) -> None:
            if self._settings.damaged == "raise":
                raise _damaged(*self._sources[href], error) from error
            self.unreadable[href] = error

    return NamingDriver


@cache
def check_image(href: str) -> None:
    """Check that a file is an image of its own, of a size that images have.

    Drivers of GDAL are chosen by content: a data set of the driver VRT names other
    files, whatever the ending of its own name. Once for each file in a process.

    Raises
    ------
    rasterio.errors.RasterioError, ValueError
        If it is not, or cannot be read.
    """
    import rasterio

    # Sentinel images are GeoTIFF, or JPEG 2000, for which GDAL has several drivers.
    jpeg = urlsplit(href).path.lower().endswith((".jp2", ".j2k"))
    driver = "GTiff"
    if jpeg:
        with rasterio.Env() as env:
            driver = next(name for name in _JPEG_2000 if name in env.drivers())
    with rasterio.open(href, driver=driver, sharing=False) as source:
        if not source.driver.startswith(("GTiff", "JP2")):
            raise ValueError(f"it is of the kind {source.driver}, not an image")
        check_size(source.shape, "The image")
        if other := source.tags(ns="OVERVIEWS"):
            raise ValueError(f"it names another file as its overviews, {other}")


def _damaged(band: str, scene: Scene, error: Exception) -> DamagedError:
    name, href = cast(tuple[str, str], scene.asset(band))
    # Of an unreachable server too, as damaged='skip' leaves out what cannot be read.
    shown = without_secrets(href)
    why = failure_of(error, shown) or (
        f"{shown} is damaged or gone ({error.__cause__ or error})"
    )
    return DamagedError(
        f"Asset {one_line(name)} of item {scene.item} cannot be read: {why}; try "
        "again, leave the item out, or treat the asset as missing with damaged='skip' "
        "(on the command line --damaged skip).",
        href,
    )


def _report_once(band: str, scene: Scene, error: Exception, settings: Settings) -> None:
    """Log that an asset is left out.

    It is not a warning, because filters of warnings belong to all threads: rasterio
    changes them while it reprojects, and can leave one that ignores everything.
    """
    name, href = cast(tuple[str, str], scene.asset(band))
    if (scene.item, name) not in settings.reported:
        settings.reported.add((scene.item, name))
        _LOG.warning(
            "Asset %s of item %s cannot be read and is treated as missing: %s (%s).",
            *(one_line(name), scene.item, without_secrets(href)),
            error.__cause__ or error,
        )
