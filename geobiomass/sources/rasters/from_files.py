"""Cubes from raster files of any reference system, month by month."""

from __future__ import annotations

import calendar
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import xarray as xr

from geobiomass.cube import CubeError, check_cube
from geobiomass.sources.grid import SCENES, WGS84, grid_coordinates
from geobiomass.sources.labels import with_labels
from geobiomass.sources.rasters.find import Files, Found, Problems, find_files
from geobiomass.sources.rasters.headers import Image, Reading, look, with_overview
from geobiomass.sources.rasters.lazy import lazy_blocks
from geobiomass.sources.rasters.read import Layer, Resampling
from geobiomass.sources.rasters.target_grid import choose_grid

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

_ByBand = float | Mapping[str, float] | None
_METHODS = ("nearest", "bilinear", "cubic", "average", "mode", "min", "max", "med")


def from_rasters(
    files: Files,
    *,
    agb: Any = None,
    bands: Sequence[str] | Mapping[Any, str] | None = None,
    months: Sequence[int] | None = None,
    like: Any = None,
    bounds: Sequence[float] | None = None,
    resolution: float | None = None,
    crs: Any = None,
    bounds_crs: Any = WGS84,
    resampling: Resampling | Mapping[str, Resampling] = "bilinear",
    nodata: _ByBand = None,
    scale: _ByBand = None,
    offset: _ByBand = None,
    damaged: Literal["raise", "skip"] = "raise",
    column: str = "agb",
    radius: float | None = None,
    agb_nodata: float | None = None,
) -> xr.Dataset:
    """Open GeoTIFFs, or whatever GDAL reads, as a lazy cube on one grid.

    Headers of all files are read and checked at once; pixels when they are computed,
    a block of 256 x 256 pixels of one month at a time. A file whose pixels are the
    grid's gives them to the bit; any other is reprojected, place by place exactly,
    not in steps of an eighth of a pixel as GDAL does by default.

    Parameters
    ----------
    files : str, path, sequence of them, or pandas.DataFrame
        How files are called, with fields for what their names tell:
        ``"data/S2_{year}-{month}_{band}.tif"``. ``{month}`` is 1 to 12 or a name,
        ``{date}`` is 20200731 or 2020-07-31, or has its own format, as strptime
        takes it, ``{date:%Y%j}``; ``{any}`` and ``*`` are anything within a name,
        ``**`` also folders. Or a table (a CSV file, or a DataFrame) with the columns
        path, month (or date), optionally year, and band for files of one band; paths
        are relative to the CSV file. A file without a month holds for all of them
        (elevation). Several files of one month and band are laid over each other:
        the first in the order of date and name, or of rows, that has a value, wins.
    agb : optional
        Labels, as :func:`with_labels` takes them; `column`, `radius` and
        `agb_nodata` (its `nodata`) are handed on.
    bands : sequence or mapping, optional
        Which bands, in which order. A mapping takes them from names (or, where files
        do not name theirs, from numbers, the first being 1) to names in the cube.
        Bands are named by ``{band}``, by the column band, by GDAL's descriptions; or
        by this sequence, in the order of the file, where there is none of these.
    months : sequence of int, optional
        Calendar months of the steps, in their order; one without a file is missing,
        NaN throughout. By default those of the files, in the order of time.
    like : optional
        A cube, an array with a place, a GeoBox, or the path of a raster: the grid.
    bounds, resolution, crs, bounds_crs : optional
        Else the grid, as :func:`geobiomass.sources.grid.make_grid` takes them. By
        default the pixels of the finest file, over all files, or over `bounds`
        (longitude and latitude, unless `bounds_crs` says otherwise).
    resampling : str or mapping of band to str
        "nearest", "bilinear", "cubic", "average", "mode", "min", "max" or "med":
        how pixels come onto another grid than the file's. Where the grid is coarser,
        all but "nearest" take in all pixels there.
    nodata : float or mapping of band to float, optional
        What marks missing pixels, instead of the files' own tags. Masks and alpha
        bands hold in any case; infinite values are missing too.
    scale, offset : float or mapping of band to float, optional
        value = stored x scale + offset. By default what the files themselves say.
        Nothing else is done to values: models are trained on, and want, dB for
        radar and reflectance x 10^4.
    damaged : "raise" or "skip"
        What to do about files that cannot be read: raise, or warn and take them as
        missing.
    column : str
        Of `agb`, where that is a table or a vector file.
    radius : float, optional
        Of points in `agb`, metres.
    agb_nodata : float, optional
        What marks missing labels in a raster, instead of its own tag.

    Returns
    -------
    xarray.Dataset
        ``image`` (month, band, y, x) float32, NaN where missing; ``agb`` (y, x) if
        labels are given. The attribute `scenes` (JSON) names the files by month,
        within the folder that they have in common.

    Raises
    ------
    CubeError
        With all problems of the files at once: no reference system, unreadable, no
        names of bands, bands twice, months that are none; if there is no file, if a
        band is unknown, if there is no one grid, or about the labels.
    DamagedError
        While pixels are computed: names the file that cannot be read.

    Examples
    --------
    >>> import geobiomass as gb
    >>> cube = gb.from_rasters(  # doctest: +SKIP
    ...     "data/S2_{year}-{month}.tif", agb="plots.gpkg", radius=12.5
    ... )
    >>> gb.write_cube(cube, "scene.zarr", progress=True)  # doctest: +SKIP
    """
    import rioxarray  # noqa: F401  (the .rio accessor)

    if damaged not in ("raise", "skip"):
        raise CubeError(f"damaged must be 'raise' or 'skip', got {damaged!r}.")
    _check_methods(resampling)
    skip = damaged == "skip"
    images = _images(files, bands, Reading(resampling, nodata, scale, offset), skip)
    names = _order(images, bands)
    images = [image for image in images if image.layers]
    steps = _steps([image.found for image in images], months)
    grid = choose_grid(_boxes(images), like, bounds, resolution, crs, bounds_crs)
    images = [
        replace(image, layers=tuple(with_overview(x, grid) for x in image.layers))
        for image in images
    ]
    parts = [_layers_of(images, step) for step in steps]
    array = lazy_blocks(parts, names, grid, skip)
    cube = xr.Dataset(
        {"image": (("month", "band", "y", "x"), array)},
        coords={
            "month": np.array([month for _, month in steps], np.int64),
            "band": np.array(names),
            **grid_coordinates(grid),
        },
        attrs=_covered(steps) | {SCENES: json.dumps(_files_by_month(images, steps))},
    )
    cube = cast(
        xr.Dataset, cube.rio.write_crs(str(grid.crs)).rio.write_coordinate_system()
    )
    check_cube(cube)
    if agb is None:
        return cube
    return with_labels(cube, agb, column=column, radius=radius, nodata=agb_nodata)


def _check_methods(resampling: Any) -> None:
    values = resampling.values() if isinstance(resampling, Mapping) else [resampling]
    for value in values:
        if value not in _METHODS:
            raise CubeError(f"resampling must be one of {_METHODS}, got {value!r}.")


def _images(
    files: Files,
    bands: Sequence[str] | Mapping[Any, str] | None,
    reading: Reading,
    skip: bool,
) -> list[Image]:
    problems = Problems()
    found = find_files(files, problems)
    _refuse_twice(found, problems)
    images = look(found, bands, problems, skip)
    problems.check()
    if not images:
        raise CubeError(f"None of {len(found)} files can be opened.")
    return [
        replace(image, layers=tuple(map(reading.of, image.layers))) for image in images
    ]


def _refuse_twice(found: Sequence[Found], problems: Problems) -> None:
    for each in sorted({x.path for x in found if found.count(x) > 1}):
        problems.add(each, "it is listed twice for one month and band.")


def _order(
    images: Sequence[Image], bands: Sequence[str] | Mapping[Any, str] | None
) -> list[str]:
    """Give the cube's bands in their order: as asked for, or as they are met."""
    there = list(dict.fromkeys(x.band for image in images for x in image.layers))
    if bands is None:
        return there
    wanted = list(bands.values() if isinstance(bands, Mapping) else bands)
    lacking = [name for name in wanted if name not in there]
    if lacking:
        known = list(dict.fromkeys(name for image in images for name in image.names))
        if isinstance(bands, Mapping):
            lacking = [str(name) for name, ours in bands.items() if ours in lacking]
        raise CubeError(f"No file has the bands {lacking}; there are {known}.")
    return wanted


Step = tuple[int | None, int]


def _steps(found: Sequence[Found], months: Sequence[int] | None) -> list[Step]:
    """Give year and calendar month of the cube's steps, in their order."""
    dated = {(x.year, x.month) for x in found if x.month is not None}
    known = {month for year, month in dated if year is not None}
    steps = sorted(
        ((y, m) for y, m in dated if y is not None or m not in known),
        key=lambda step: (step[0] or 0, step[1]),
    )
    if months is None:
        if not steps:
            raise CubeError(
                "The names of the files tell no month; put {month} or {date} into the "
                "pattern, a column month into the table, or give months=[7]."
            )
        return steps
    wrong = [m for m in months if isinstance(m, bool) or m not in range(1, 13)]
    if wrong or not len(months):
        raise CubeError(f"months must be whole numbers from 1 to 12, got {months!r}.")
    return [
        step
        for month in months
        for step in ([s for s in steps if s[1] == month] or [(None, int(month))])
    ]


def _layers_of(images: Sequence[Image], step: Step) -> list[Layer]:
    """Give what holds for one step."""
    return [layer for image in images if _holds(image, step) for layer in image.layers]


def _holds(image: Image, step: Step) -> bool:
    year, month = step
    found = image.found
    right_year = found.year is None or year is None or found.year == year
    return right_year and found.month in (None, month)


def _covered(steps: Sequence[Step]) -> dict[str, str]:
    """Give the first and the last day, where the years are known."""
    dated = sorted((year, month) for year, month in steps if year is not None)
    if len(dated) < len(steps):
        return {}
    year, month = dated[-1]
    last = calendar.monthrange(year, month)[1]
    return {
        "time_coverage_start": "{:04d}-{:02d}-01".format(*dated[0]),
        "time_coverage_end": f"{year:04d}-{month:02d}-{last}",
    }


def _names_within(paths: Sequence[str]) -> list[str]:
    """Give paths within the folder they have in common; names where there is none."""
    parts = [path.split("?")[0].replace("\\", "/").split("/") for path in paths]
    folders = [each[:-1] for each in parts]
    above = 0
    while all(
        len(f) > above and f[: above + 1] == folders[0][: above + 1] for f in folders
    ):
        above += 1
    rooted = any(each[0] in ("", "..") or ":" in each[0] for each in parts)
    if above < 2 and rooted:
        return [each[-1] for each in parts]  # folders of this machine say nothing
    return ["/".join(each[above:]) for each in parts]


def _files_by_month(
    images: Sequence[Image], steps: Sequence[Step]
) -> dict[str, list[dict[str, Any]]]:
    """Name the files of each step."""
    names = _names_within([image.found.path for image in images])
    by_month = {}
    for year, month in steps:
        key = f"{month:02d}" if year is None else f"{year:04d}-{month:02d}"
        pairs = zip(names, images, strict=True)
        ids = [name for name, image in pairs if _holds(image, (year, month))]
        by_month[key] = [{"ids": list(dict.fromkeys(ids))}] if ids else []
    return by_month


def _boxes(images: Sequence[Image]) -> list[GeoBox]:
    return list(dict.fromkeys(x.geobox for image in images for x in image.layers))
