"""A cube of monthly composites of Sentinel images in open archives (STAC)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import xarray as xr

from geobiomass.cube import CubeError, check_cube
from geobiomass.cube.antimeridian import boxes_touch
from geobiomass.cube.claimed_size import check_tasks
from geobiomass.cube.found_images import SURVEY
from geobiomass.sources.grid import SCENES, WGS84
from geobiomass.sources.stac.access import signer
from geobiomass.sources.stac.archives import PASSES, Archive
from geobiomass.sources.stac.area import (
    coordinates,
    grid_of,
    lonlat_box,
    one_area,
)
from geobiomass.sources.stac.cloud_masks import (
    CloudMask,
    default_classes,
    find_mask,
    words_of,
)
from geobiomass.sources.stac.composites import CLASSES
from geobiomass.sources.stac.found_scenes import find_scenes
from geobiomass.sources.stac.period import Period, asked_period, in_steps
from geobiomass.sources.stac.read_month import Settings, read_month
from geobiomass.sources.stac.scene import Scene
from geobiomass.sources.stac.select_scenes import check_bands, default_bands
from geobiomass.sources.stac.survey import survey_of
from geobiomass.training.json_files import parse_json
from geobiomass.training.packages import need
from geobiomass.training.setting_names import explain_arguments

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

FINGERPRINT = "source_fingerprint"
_COMPOSITES, _DAMAGED = ("median", "best"), ("raise", "skip")


@explain_arguments
def from_stac(
    items: Any,
    bounds: Any = None,
    resolution: float = 10.0,
    crs: Any = "utm",
    months: str | Sequence[str] | Sequence[int] | int | None = None,
    *,
    archive: str | Archive | None = None,
    area: Any = None,
    year: int | None = None,
    step: Literal["month", "dekad", "season"] | Sequence[Any] = "month",
    bounds_crs: Any = WGS84,
    like: Any = None,
    bands: Sequence[str] | None = None,
    composite: Literal["median", "best"] = "median",
    masked_classes: Sequence[int] | None = None,
    cloud_mask: CloudMask | Literal["classification", "omnicloudmask"] | None = None,
    max_cloud: float = 100.0,
    offset: int | None = None,
    resampling: str = "nearest",
    damaged: Literal["raise", "skip"] = "raise",
    sign: Callable[[str], str] | bool | None = None,
    block: int = 512,
) -> xr.Dataset:
    """Open monthly composites of Sentinel-2 L2A and Sentinel-1 RTC as a lazy cube.

    Sentinel-2: clouds are masked with the scene classification, the offset of 2022 is
    removed, and the clear observations of a month are combined. Sentinel-1: the mean
    of linear power by pass, in dB. Months and passes without images are NaN. Opening
    reads only metadata; pixels are read when they are computed, one month and block
    per task.

    Parameters
    ----------
    items : optional
        The name of an archive, "planetary-computer" (both sensors) or
        "earth-search" (Sentinel-2); the address of a STAC API; the path or address
        of an item collection or a static catalogue; a search of pystac-client; or
        items, which may mix both sensors and several archives.
    bounds : optional
        West, south, east, north in `bounds_crs`, or a polygon (a vector file,
        GeoJSON, shapely, geopandas), whose bounding box is used.
    resolution : float
        Side of a pixel in units of `crs`.
    crs : optional
        CRS of the cube, such as "EPSG:32633"; "utm" is the UTM zone of the centre.
    months : str, pair of str, or numbers
        First and last month, ``"2023-09:2024-08"``, at most one year; or with `year`
        consecutive numbers from 1 to 12, ``range(4, 11)``. A search needs it. By
        default from the first to the last month of `items`.
    archive : str or Archive, optional
        Archive that defines the names of assets and collections. By default it is
        recognised from the items.
    area : optional
        Another name of `bounds`: one of them is given.
    year : int, optional
        Year of `months` that are numbers; those after December are in the next year.
        Without `months` the whole year.
    step : "month", "dekad", "season" or sequence of dates
        What is composed into one image: a calendar month; the days 1 to 10, 11 to 20
        and the rest of each month; December to February, March to May, ..., cut where
        `months` end; or the days between dates, which are the first days of the steps
        and the day after the last one, in place of `months`. The coordinate `month` is
        then the calendar month of each step's middle, and `start` and `end` are its
        first and last day.
    bounds_crs : optional
        CRS of `bounds`; by default longitude and latitude.
    like : optional
        The grid, instead of `bounds`, `resolution` and `crs`: a GeoBox of odc-geo, an
        xarray object with coordinates and a CRS, or the path of a raster.
    bands : sequence of str, optional
        VV_asc, VH_asc, VV_desc, VH_desc, B01 to B12, CLP; a band that the items lack
        is NaN. By default the bands of BioMassters that the items' sensors have; CLP,
        cloud probability, only if its asset exists (Collection 1 of Earth Search).
    composite : "median" or "best"
        Method for Sentinel-2, by pixel. "median" is the median of clear observations.
        "best" takes all bands from the observation least likely to be cloud or shadow
        (vegetation, bare soil and water before snow, before dark and unclassified);
        among equals, the closest to the middle of the month.
    masked_classes : sequence of int
        Classes of the scene classification (0 to 11) that are masked: by default 0,
        1, 3, 8, 9 and 10; with another `cloud_mask` 0 and 1.
    cloud_mask : "classification", "omnicloudmask", OmniCloudMask or callable
        What finds clouds and their shadows: the scene classification; the networks of
        OmniCloudMask (``pip install 'geobiomass[clouds]'``; ``gb.OmniCloudMask(weights=
        folder)`` has its settings); or a function that takes an image, (band, y, x)
        reflectance x 10^4 with NaN where there is no data, and returns a bool for each
        pixel, True where it is cloud or shadow. A function may have the attributes
        `bands`, names of those it needs (by default those of the cube), and `margin`,
        the pixels around a block that it looks at too.
    max_cloud : float
        Scenes whose ``eo:cloud_cover`` in percent is above this are left out.
    offset : int, optional
        Number added to the digital numbers of Sentinel-2, for items that do not state
        it or state it wrongly: 0 or 1000. By default 0 if
        ``earthsearch:boa_offset_applied`` is true; else 1000 since
        ``s2:processing_baseline`` 04.00; else the offset in ``raster:bands``.
    resampling : str
        Method for reflectance and backscatter, a name of rasterio; classes always use
        "nearest".
    damaged : "raise" or "skip"
        Action for an asset that cannot be read: raise an error, or log its name once
        and treat that band of that item as missing (the whole item, if the asset is
        the classification).
    sign : callable or bool, optional
        Function that signs an address. It is called when pixels are read, because
        signatures expire. By default ``planetary_computer`` signs addresses of the
        Planetary Computer; False signs nothing.
    block : int
        Side of a dask chunk in pixels; a chunk contains one month and all bands. Use
        multiples of 256 for :func:`write_cube`. Larger blocks read fewer bytes twice
        over the network, smaller blocks need less memory.

    Returns
    -------
    xarray.Dataset
        ``image`` (month, band, y, x) float32: dB of gamma0 for Sentinel-1,
        reflectance x 10^4 for Sentinel-2, percent for CLP. The attribute
        `observations` (JSON) counts items by month and sensor, `scenes` lists them,
        `left_out` counts the unused ones by reason, `survey` (JSON) has what
        :func:`geobiomass.survey_archive` counts without reading a header.

    Raises
    ------
    CubeError
        If the period, the area or a setting is invalid, the archive cannot be reached,
        the offset of an item is unknown, or no item can be used.
    DamagedError
        While computing, if an asset cannot be read; it names item, asset and address.
    """
    import rioxarray  # noqa: F401  (the .rio accessor)

    need("gb.from_stac", "stac", "odc.stac", "pystac_client")
    mask = find_mask(cloud_mask)
    if masked_classes is None:
        masked_classes = default_classes(mask)
    _check(composite, masked_classes, damaged, block, bands)
    grid = grid_of(one_area(bounds, area), resolution, crs, bounds_crs, like)
    period = in_steps(asked_period(months, year), step)
    found = find_scenes(items, archive, grid, period, offset, max_cloud)
    within, period = found.scenes, found.period
    settings = Settings(
        tuple(bands) if bands is not None else default_bands(within),
        composite,
        tuple(sorted(set(masked_classes))),
        resampling,
        damaged,
        mask,
        signer(sign, within),
    )
    cube = xr.Dataset(
        {"image": _lazy_image(within, period, grid, settings, block)},
        coords=coordinates(grid, period, settings.bands),
        attrs=_attributes(within, period, settings, found.left_out),
    )
    if mask is not None:
        cube.attrs["cloud_mask"] = words_of(mask)
    cube.attrs[SURVEY] = survey_of(found, settings.bands, grid).to_json()
    cube = cube.rio.write_crs(str(grid.crs))
    placed: xr.Dataset = cube.rio.write_transform(grid.affine)
    check_cube(placed)
    return placed


def summary(cube: xr.Dataset) -> str:
    """Return a few lines about the images in a cube of :func:`from_stac`."""
    counts: dict[str, dict[str, int]] = parse_json(
        cube.attrs["observations"], "The attribute observations", dict
    )
    lines = []
    for sensor in ("Sentinel-2", *PASSES.values()):
        by_month = {m: found[sensor] for m, found in counts.items() if sensor in found}
        if by_month:
            months = ", ".join(f"{month}: {n}" for month, n in by_month.items())
            lines.append(f"{sensor}: {sum(by_month.values())} items ({months})")
    if empty := [month for month, found in counts.items() if not found]:
        lines.append(f"Without images: {', '.join(empty)}")
    if left_out := parse_json(cube.attrs["left_out"], "The attribute left_out", dict):
        why = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
        lines.append(f"Left out: {why}")
    return "\n".join(lines)


def _check(
    composite: str,
    masked_classes: Sequence[int],
    damaged: str,
    block: int,
    bands: Sequence[str] | None,
) -> None:
    for what, value, known in (
        ("composite", composite, _COMPOSITES),
        ("damaged", damaged, _DAMAGED),
    ):
        if value not in known:
            raise CubeError(f"{what} must be one of {list(known)}, got {value!r}.")
    if strange := [one for one in masked_classes if one not in range(CLASSES)]:
        raise CubeError(
            f"masked_classes must be from 0 to {CLASSES - 1}, got {strange}."
        )
    if block < 1:
        raise CubeError(f"block must be at least 1 pixel, got {block}.")
    check_bands(bands)


# The lazy cube ------------------------------------------------------------------------


def _lazy_image(
    scenes: list[Scene], period: Period, grid: GeoBox, settings: Settings, block: int
) -> xr.Variable:
    """Return the image as a dask array with one task per month and block."""
    import dask.array as da
    from dask.base import tokenize
    from odc.geo.geobox import GeoboxTiles

    check_tasks(len(period.steps), grid.shape, block)
    by_step: dict[str | None, list[Scene]] = defaultdict(list)
    for scene in scenes:
        by_step[period.name_of(scene.when)].append(scene)
    tiles = GeoboxTiles(grid, (block, block))
    mark = _fingerprint(scenes, settings, period)
    name = f"stac-{tokenize(mark, str(grid), block, period)}"
    tasks = {}
    for row, column in np.ndindex(*tiles.shape):
        part = cast("GeoBox", tiles[row, column])
        around = lonlat_box(part)
        for index, step in enumerate(period.steps):
            near = [s for s in by_step[step.name] if boxes_touch(s.reach, around)]
            key = (name, index, 0, row, column)
            tasks[key] = (read_month, near, step.middle, part, settings)
    chunks = ((1,) * len(period.steps), (len(settings.bands),), *tiles.chunks)
    image = cast(Any, da.Array)(tasks, name, chunks, dtype=np.float32)
    attrs = {
        "long_name": "monthly Sentinel-1 backscatter and Sentinel-2 reflectance",
        "units": "dB (VV, VH); reflectance x 10^4 (B01 to B12); percent (CLP)",
    }
    return xr.Variable(("month", "band", "y", "x"), image, attrs)


def _fingerprint(scenes: list[Scene], settings: Settings, period: Period) -> str:
    """Return a hash of the images and settings.

    Signatures, which follow the question mark of an address, change every day, so they
    are left out.
    """
    from dask.base import tokenize

    described = [
        (s.item, s.offset, [(band, href.split("?")[0]) for band, _, href in s.assets])
        for s in scenes
    ]
    text = repr((described, settings))
    # Of what was new later, only where it is used: others are as before.
    if settings.cloud_mask is not None:
        text += f"{words_of(settings.cloud_mask)} {tokenize(settings.cloud_mask)}"
    if period.step != "month":
        text += repr(period)
    return hashlib.sha256(text.encode()).hexdigest()


def _attributes(
    scenes: list[Scene], period: Period, settings: Settings, left_out: Counter[str]
) -> dict[str, Any]:
    counts: dict[str, Counter[str]] = {name: Counter() for name in period.names}
    for scene in scenes:
        counts[str(period.name_of(scene.when))][scene.sensor] += 1
    years = sorted({scene.when.year for scene in scenes})
    collections = {f"{s.archive}: {s.collection}" for s in scenes}
    return {
        "title": _title(period),
        "source": ", ".join(sorted(collections)),
        "licence": "Copernicus Sentinel data terms: free, full and open",
        "attribution": "Contains modified Copernicus Sentinel data "
        + ", ".join(map(str, years)),
        "time_coverage_start": period.start,
        "time_coverage_end": period.end,
        "composite": settings.composite,
        "observations": json.dumps(counts),
        SCENES: json.dumps(_scenes_by_step(scenes, period)),
        "left_out": json.dumps({why: n for why, n in left_out.items() if n}),
        FINGERPRINT: _fingerprint(scenes, settings, period),
    }


def _title(period: Period) -> str:
    kinds = {"month": "Monthly", "dekad": "Dekadal", "season": "Seasonal"}
    if period.step not in kinds:
        return (
            f"Composites of {len(period.steps)} steps, {period.start} to {period.end}"
        )
    return f"{kinds[period.step]} composites, {period.start[:7]} to {period.end[:7]}"


def _scenes_by_step(
    scenes: list[Scene], period: Period
) -> dict[str, list[dict[str, Any]]]:
    """Return the items of each step, grouped by what they have in common."""
    by_step: dict[str, dict[tuple[str | int, ...], list[str]]] = defaultdict(dict)
    for scene in sorted(scenes, key=lambda scene: (scene.when, scene.item)):
        folder, _, name = scene.address.rpartition("/")
        key = (
            f"{scene.archive}: {scene.collection}",
            scene.baseline,
            scene.offset,
            folder if name == scene.item else "",
        )
        step = by_step[str(period.name_of(scene.when))]
        step.setdefault(key, []).append(scene.item)
    names = ("collection", "baseline", "offset", "at")
    return {
        name: [
            {name: value for name, value in zip(names, key, strict=True) if value}
            | {"ids": ids}
            for key, ids in groups.items()
        ]
        for name, groups in by_step.items()
    }
