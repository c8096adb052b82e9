"""Cubes from raster files of any CRS, month by month."""

from __future__ import annotations

import calendar
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import xarray as xr

from geobiomass.cube import CubeError, check_cube
from geobiomass.cube.storage_steps import band_quantum
from geobiomass.sources.gedi_quality import Quality
from geobiomass.sources.grid import SCENES, WGS84, grid_coordinates
from geobiomass.sources.labels import with_labels
from geobiomass.sources.rasters.find_files import Files, Found, Problems, find_files
from geobiomass.sources.rasters.headers import (
    Image,
    ReadSettings,
    choose_overview,
    read_headers,
)
from geobiomass.sources.rasters.lazy_array import lazy_blocks
from geobiomass.sources.rasters.read_block import Layer
from geobiomass.sources.rasters.reproject import Resampling
from geobiomass.sources.rasters.target_grid import choose_grid
from geobiomass.training.setting_names import explain_arguments

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

_ByBand = float | Mapping[str, float] | None
_METHODS = ("nearest", "bilinear", "cubic", "average", "mode", "min", "max", "med")


@explain_arguments
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
    quality: Quality = "good",
    error: Any = None,
) -> xr.Dataset:
    """Open GeoTIFFs, or any raster files that GDAL reads, as a lazy cube on one grid.

    Opening reads and checks the headers of all files. Pixels are read when they are
    computed, in blocks of 256 x 256 pixels of one month. Pixels of a file that is on
    the grid are copied unchanged. Any other file is reprojected with exact coordinates
    for every pixel; GDAL's default is a tolerance of an eighth of a pixel.

    Parameters
    ----------
    files : str, path, sequence of them, or pandas.DataFrame
        A pattern of file names, with fields for the facts in the names:
        ``"data/S2_{year}-{month}_{band}.tif"``. ``{month}`` is 1 to 12 or a name.
        ``{date}`` is 20200731 or 2020-07-31, or has a format for strptime,
        ``{date:%Y%j}``. ``{any}`` and ``*`` match any text within a name, ``**`` also
        folders. Or a table (a CSV file or a DataFrame) with the columns path, month
        (or date), optionally year, and band for files of one band; paths are relative
        to the CSV file. A file without a month applies to all months (elevation).
        Where several files have the same month and band, each pixel takes the first
        value, in the order of date and name, or of rows.
    agb : optional
        Labels, as :func:`with_labels` accepts them, which also receives `column`,
        `radius`, `quality`, `error` and `agb_nodata` (as its `nodata`).
    bands : sequence or mapping, optional
        Bands of the cube, in order. A mapping translates the names in the files (or
        numbers from 1, if the files do not name their bands) into names in the cube.
        The names in the files come from ``{band}``, the column band, or GDAL's
        band descriptions. Without any of these, this sequence names the bands of each
        file, in the order of the file.
    months : sequence of int, optional
        Calendar months of the steps, in order. A month without a file is NaN. By
        default the months of the files, in the order of time.
    like : optional
        The grid, from a cube, a georeferenced array, a GeoBox, or the path of a raster.
    bounds, resolution, crs, bounds_crs : optional
        The grid, as :func:`geobiomass.sources.grid.make_grid` accepts it. By default
        the pixels of the finest file, extended over all files or over `bounds`
        (longitude and latitude, unless `bounds_crs` is another CRS).
    resampling : str or mapping of band to str
        "nearest", "bilinear", "cubic", "average", "mode", "min", "max" or "med": the
        method of reprojection to another grid. If the grid is coarser than the file,
        all methods except "nearest" use all pixels within a pixel of the grid.
    nodata : float or mapping of band to float, optional
        Value of missing pixels, instead of the files' own nodata tags. Masks and alpha
        bands always apply; infinite values are missing too.
    scale, offset : float or mapping of band to float, optional
        value = stored x scale + offset, instead of the files' own tags. Values are not
        converted in any other way. Pretrained models expect dB for radar and
        reflectance x 10^4.
    damaged : "raise" or "skip"
        Action for files that cannot be read: raise an error, or warn and treat them
        as missing.
    column : str
        Column of the labels, if `agb` is a table or a vector file.
    radius : float, optional
        Radius of points in `agb`, metres.
    agb_nodata : float, optional
        Value of missing labels in a raster, instead of its own nodata tag.
    quality : "good" or "keep"
        Whether footprints of GEDI in `agb` that fail their quality flags are left out.
    error : str, path or xarray.DataArray, optional
        Standard errors of the labels: a column of their table, or beside a raster a
        raster; :func:`with_labels` explains them.

    Returns
    -------
    xarray.Dataset
        ``image`` (month, band, y, x) float32, NaN where missing; ``agb`` (y, x) if
        `agb` is given, and ``agb_se`` with `error`. The attribute `scenes` (JSON) lists
        the files of each month, relative to their common folder.

    Raises
    ------
    CubeError
        If files have problems, which are all listed: no CRS, unreadable, unnamed or
        repeated bands, invalid months. Also if there is no file, a band is unknown,
        the grid is ambiguous, or the labels are invalid.
    DamagedError
        While pixels are computed, if a file cannot be read; it names the file.

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
    if error is not None and agb is None:
        raise CubeError(
            "error= are standard errors of labels, got no labels; give agb=."
        )
    _check_methods(resampling)
    skip = damaged == "skip"
    images = _images(
        files, bands, ReadSettings(resampling, nodata, scale, offset), skip
    )
    _tell_mixed_scales(images)
    names = _order(images, bands)
    images = [image for image in images if image.layers]
    steps = _steps([image.found for image in images], months)
    grid = choose_grid(_boxes(images), like, bounds, resolution, crs, bounds_crs)
    images = [
        replace(image, layers=tuple(choose_overview(x, grid) for x in image.layers))
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
        attrs=_time_coverage(steps)
        | {SCENES: json.dumps(_files_by_month(images, steps))},
    )
    cube = cast(
        xr.Dataset, cube.rio.write_crs(str(grid.crs)).rio.write_coordinate_system()
    )
    cube["image"].encoding["quantum"] = _steps_of_bands(images, names)
    check_cube(cube)
    if agb is None:
        return cube
    return with_labels(
        cube,
        agb,
        column=column,
        radius=radius,
        nodata=agb_nodata,
        quality=quality,
        error=error,
    )


def _tell_mixed_scales(images: Sequence[Image]) -> None:
    """Warn if only some files of a band scale their whole numbers."""
    scaled: dict[str, list[str]] = {}
    plain: dict[str, list[str]] = {}
    for layer in (layer for image in images for layer in image.layers if layer.whole):
        kind = plain if layer.step is None else scaled
        kind.setdefault(layer.band, []).append(layer.path)
    both = sorted(scaled.keys() & plain.keys())
    if both:
        band = both[0]
        warnings.warn(
            f"{len(plain[band])} of {len(plain[band]) + len(scaled[band])} files of "
            f"{', '.join(both)} have whole numbers without a scale, such as "
            f"{plain[band][0]}, and the others have one, such as {scaled[band][0]}: "
            "their values are in different units. scale= sets one for all.",
            stacklevel=3,
        )


def _steps_of_bands(images: Sequence[Image], names: Sequence[str]) -> dict[str, float]:
    """Return the steps of storage that keep scaled whole numbers as they are.

    Of bands whose files all have one scale, finer than the usual step of the band's
    name: reflectance from 0 to 1 in steps of 0.0001.
    """
    found: dict[str, set[float | None]] = {}
    for layer in (layer for image in images for layer in image.layers):
        found.setdefault(layer.band, set()).add(layer.step)
    steps = {b: s.pop() for b, s in found.items() if b in names and len(s) == 1}
    usual = {band: band_quantum(band) for band in steps}
    return {
        band: step
        for band, step in steps.items()
        if step is not None and step < (usual[band] or math.inf)
    }


def _check_methods(resampling: Any) -> None:
    values = resampling.values() if isinstance(resampling, Mapping) else [resampling]
    for value in values:
        if value not in _METHODS:
            raise CubeError(f"resampling must be one of {_METHODS}, got {value!r}.")


def _images(
    files: Files,
    bands: Sequence[str] | Mapping[Any, str] | None,
    settings: ReadSettings,
    skip: bool,
) -> list[Image]:
    problems = Problems()
    found = find_files(files, problems)
    _check_repeats(found, problems)
    images = read_headers(found, bands, problems, skip)
    problems.check()
    if not images:
        raise CubeError(
            f"None of the {len(found)} files can be opened; see the warnings above for "
            "the reason of each."
        )
    return [
        replace(image, layers=tuple(map(settings.apply, image.layers)))
        for image in images
    ]


def _check_repeats(found: Sequence[Found], problems: Problems) -> None:
    for each in sorted({x.path for x in found if found.count(x) > 1}):
        problems.add(each, "it is listed twice for one month and band.")


def _order(
    images: Sequence[Image], bands: Sequence[str] | Mapping[Any, str] | None
) -> list[str]:
    """Return the cube's bands in order: as requested, or as found in the files."""
    there = list(dict.fromkeys(x.band for image in images for x in image.layers))
    if bands is None:
        return there
    wanted = list(bands.values() if isinstance(bands, Mapping) else bands)
    lacking = [name for name in wanted if name not in there]
    if lacking:
        known = list(dict.fromkeys(name for image in images for name in image.names))
        if isinstance(bands, Mapping):
            lacking = [str(name) for name, ours in bands.items() if ours in lacking]
        raise CubeError(f"No file has the bands {lacking}; the files have {known}.")
    return wanted


Step = tuple[int | None, int]


def _steps(found: Sequence[Found], months: Sequence[int] | None) -> list[Step]:
    """Return year and calendar month of the cube's steps, in order."""
    dated = {(x.year, x.month) for x in found if x.month is not None}
    known = {month for year, month in dated if year is not None}
    steps = sorted(
        ((y, m) for y, m in dated if y is not None or m not in known),
        key=lambda step: (step[0] or 0, step[1]),
    )
    if months is None:
        if not steps:
            raise CubeError(
                "The names of the files contain no month; put {month} or {date} into "
                "the pattern, a column month into the table, or give months=[7]."
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
    """Return the layers of all images that apply to a step."""
    return [
        layer for image in images if _applies(image, step) for layer in image.layers
    ]


def _applies(image: Image, step: Step) -> bool:
    year, month = step
    found = image.found
    right_year = found.year is None or year is None or found.year == year
    return right_year and found.month in (None, month)


def _time_coverage(steps: Sequence[Step]) -> dict[str, str]:
    """Return the first and the last day, if the years are known."""
    dated = sorted((year, month) for year, month in steps if year is not None)
    if len(dated) < len(steps):
        return {}
    year, month = dated[-1]
    last = calendar.monthrange(year, month)[1]
    return {
        "time_coverage_start": "{:04d}-{:02d}-01".format(*dated[0]),
        "time_coverage_end": f"{year:04d}-{month:02d}-{last}",
    }


def _relative_names(paths: Sequence[str]) -> list[str]:
    """Return paths relative to their common folder; bare names if there is none."""
    parts = [path.split("?")[0].replace("\\", "/").split("/") for path in paths]
    folders = [each[:-1] for each in parts]
    above = 0
    while all(
        len(f) > above and f[: above + 1] == folders[0][: above + 1] for f in folders
    ):
        above += 1
    rooted = any(each[0] in ("", "..") or ":" in each[0] for each in parts)
    if above < 2 and rooted:
        return [each[-1] for each in parts]  # local folders mean nothing elsewhere
    return ["/".join(each[above:]) for each in parts]


def _files_by_month(
    images: Sequence[Image], steps: Sequence[Step]
) -> dict[str, list[dict[str, Any]]]:
    """Return the names of the files of each step, by month."""
    names = _relative_names([image.found.path for image in images])
    by_month = {}
    for year, month in steps:
        key = f"{month:02d}" if year is None else f"{year:04d}-{month:02d}"
        pairs = zip(names, images, strict=True)
        ids = [name for name, image in pairs if _applies(image, (year, month))]
        by_month[key] = [{"ids": list(dict.fromkeys(ids))}] if ids else []
    return by_month


def _boxes(images: Sequence[Image]) -> list[GeoBox]:
    return list(dict.fromkeys(x.geobox for image in images for x in image.layers))
