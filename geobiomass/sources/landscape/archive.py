"""A landscape written as an open archive stores it: dated images and a STAC catalogue.

For tests and examples of :func:`geobiomass.from_stac` without a download.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.grid import Grid
from geobiomass.cube.schema import CubeError

Image = npt.NDArray[Any]

OFFSET = 1000
"""Added to reflectance x 10^4, as in Sentinel-2 since 2022."""

SCENE_CLASSES = {"nodata": 0, "vegetation": 4, "cloud": 9}
"""Class numbers of the scene classification (SCL) of Sentinel-2 L2A."""

_OPTICAL = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
_DAYS = (6, 21, 11, 26, 16)  # days of a month with a Sentinel-2 image
_RADAR = {"asc": ("ascending", 10), "desc": ("descending", 12)}
_CLOUD_SHARE = 0.3  # share of an image under cloud
_CLOUD_SIZE = 24  # approximate size of a cloud, pixels
_NOISE = 0.01  # relative difference of reflectance between two dates of a month


def write_archive(
    scene: xr.Dataset,
    folder: str | os.PathLike[str],
    year: int = 2023,
    *,
    dates: int = 2,
    seed: int = 0,
    address: str | None = None,
) -> Path:
    """Write a scene as Sentinel-2 L2A and Sentinel-1 RTC images and their catalogue.

    Sentinel-2 has images on several dates of a month, each with different clouds. They
    are whole numbers with the offset of processing baseline 05.10, and have a scene
    classification at half the resolution. Sentinel-1 has one image per month and pass,
    in linear power. Names follow the Planetary Computer. Pixels that are missing
    in the scene are nodata. A month without data of a sensor has no image.

    Parameters
    ----------
    scene : xarray.Dataset
        A scene with a CRS, such as :func:`geobiomass.landscape` returns.
    folder : path
        Folder to write into; it is created if it does not exist.
    year : int
        Year of the scene's first month; the months after December are in the next year.
    dates : int
        Number of Sentinel-2 images per month, 1 to 5.
    seed : int
        Random seed of clouds and noise.
    address : str, optional
        Address at which `folder` is served, such as ``"http://127.0.0.1:8000"``. By
        default the catalogue contains paths of local files.

    Returns
    -------
    Path
        ``items.json``, a STAC item collection.

    Raises
    ------
    CubeError
        If the scene has no CRS.
    ValueError
        If `dates` is out of range.

    Examples
    --------
    >>> import geobiomass as gb
    >>> from geobiomass.sources.landscape.archive import write_archive
    >>> items = write_archive(gb.landscape(256), "archive")  # doctest: +SKIP
    >>> cube = gb.from_stac(items, months="2023-09:2024-08")  # doctest: +SKIP
    """
    import rioxarray  # noqa: F401  (the .rio accessor)

    if not 1 <= dates <= len(_DAYS):
        raise ValueError(f"dates must be 1 to {len(_DAYS)}, got {dates}.")
    if scene.rio.crs is None:
        raise CubeError(
            "A scene in an archive must have a CRS (coordinate reference system), got "
            "none; add it with "
            "scene.rio.write_crs('EPSG:...')."
        )
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    months = scene["month"].values.astype(int)
    years = year + np.cumsum(np.diff(months, prepend=months[0]) < 0)
    items = []
    for step in range(scene.sizes["month"]):
        month = scene["image"].isel(month=step).compute()
        random = np.random.default_rng([seed, step])
        images = [*_optical_images(month, dates, random), *_radar_images(month)]
        for day, properties, bands in images:
            date = datetime(years[step], months[step], day)
            items.append(_item(scene, folder, date, properties, bands, address))
    path = folder / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return path


def _optical_images(
    month: xr.DataArray, dates: int, random: np.random.Generator
) -> Iterator[tuple[int, dict[str, Any], dict[str, Image]]]:
    """Yield day, properties and bands of each Sentinel-2 image of a month."""
    names = [str(name) for name in month["band"].values if name in _OPTICAL]
    truth = month.sel(band=names).values
    if not names or not np.isfinite(truth).any():
        return
    for day in _DAYS[:dates]:
        cloudy = _clouds(truth.shape[1:], random)
        noise = 1 + _NOISE * random.standard_normal(truth.shape)
        bright = random.normal(7000, 500, truth.shape[1:])
        values = np.where(cloudy, bright, truth * noise)
        seen = np.isfinite(truth).all(axis=0) | cloudy
        counts = np.rint(np.clip(values, 1 - OFFSET, 20_000)) + OFFSET
        bands = {
            name: np.where(seen, band, 0).astype(np.uint16)
            for name, band in zip(names, counts, strict=True)
        }
        classes = np.where(cloudy, SCENE_CLASSES["cloud"], SCENE_CLASSES["vegetation"])
        classes = np.where(seen, classes, SCENE_CLASSES["nodata"]).astype(np.uint8)
        # Half the resolution: a cell is cloud where any of its four pixels is.
        bands["SCL"] = _coarse(classes)
        yield day, _OPTICAL_PROPERTIES | {"eo:cloud_cover": 100 * cloudy.mean()}, bands


_OPTICAL_PROPERTIES = {
    "collection": "sentinel-2-l2a",
    "platform": "Sentinel-2A",
    "s2:processing_baseline": "05.10",
}


def _clouds(
    shape: tuple[int, ...], random: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Draw a cloud mask: smooth noise above one of its percentiles."""
    coarse = [-(-side // _CLOUD_SIZE) + 3 for side in shape]
    field = random.standard_normal(coarse)
    for axis, side in enumerate(shape):
        at = np.arange(side) / _CLOUD_SIZE
        low = at.astype(int)
        part = (at - low)[(slice(None), None) if axis == 0 else slice(None)]
        part = part * part * (3 - 2 * part)  # smoothstep: else clouds are squares
        field = (
            np.take(field, low, axis) * (1 - part)
            + np.take(field, low + 1, axis) * part
        )
    drawn: npt.NDArray[np.bool_] = field > np.quantile(field, 1 - _CLOUD_SHARE)
    return drawn


def _coarse(classes: Image) -> Image:
    """Halve the resolution; each cell takes the highest class of its four pixels."""
    height, width = classes.shape
    padded = np.pad(classes, ((0, height % 2), (0, width % 2)), mode="edge")
    cells = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2)
    highest: Image = cells.max(axis=(1, 3))
    return highest


def _radar_images(
    month: xr.DataArray,
) -> Iterator[tuple[int, dict[str, Any], dict[str, Image]]]:
    """Yield day, properties and bands of each Sentinel-1 pass of a month."""
    there = [str(name) for name in month["band"].values]
    for orbit, (state, day) in _RADAR.items():
        names = {p.lower(): f"{p}_{orbit}" for p in ("VV", "VH")}
        if not set(names.values()) <= set(there):
            continue
        decibels = {asset: month.sel(band=name).values for asset, name in names.items()}
        if not any(np.isfinite(values).any() for values in decibels.values()):
            continue
        properties = {"collection": "sentinel-1-rtc", "platform": "Sentinel-1A"}
        properties["sat:orbit_state"] = state
        bands = {a: (10 ** (v / 10)).astype(np.float32) for a, v in decibels.items()}
        yield day, properties, bands


# Files and their items ---------------------------------------------------------


def _item(
    scene: xr.Dataset,
    folder: Path,
    date: Any,
    properties: Mapping[str, Any],
    bands: Mapping[str, Image],
    address: str | None,
) -> dict[str, Any]:
    """Write the files of an image and return its STAC 1.0 item."""
    from rasterio.warp import transform_bounds
    from shapely import box, to_geojson

    rest = dict(properties)
    collection = rest.pop("collection")
    name = f"{collection}-{date:%Y%m%d}-{rest.get('sat:orbit_state', 'l2a')}"
    grid, crs = Grid.of(scene), scene.rio.crs
    transform = grid.transform
    assets = {}
    for band, values in bands.items():
        file = f"{name}-{band}.tif"
        step = 2 if band == "SCL" else 1
        coarser = transform @ transform.scale(step)
        _write(folder / file, values, crs, coarser)
        href = f"{address.rstrip('/')}/{file}" if address else str(folder / file)
        assets[band] = {
            "href": href,
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data"],
            "proj:shape": list(values.shape),
            "proj:transform": list(coarser)[:6],
        }
    edges = transform_bounds(crs, "EPSG:4326", *grid.bounds)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": name,
        "collection": collection,
        "geometry": json.loads(to_geojson(box(*edges))),
        "bbox": list(edges),
        "properties": rest
        | {
            "datetime": f"{date:%Y-%m-%d}T10:00:00Z",
            "proj:epsg": crs.to_epsg(),
            "proj:code": crs.to_string(),
        },
        "links": [],
        "assets": assets,
    }


def _write(path: Path, values: Image, crs: Any, transform: Any) -> None:
    import rasterio

    with rasterio.open(
        path,
        "w",
        driver="COG",
        height=values.shape[0],
        width=values.shape[1],
        count=1,
        dtype=values.dtype,
        crs=crs,
        transform=transform,
        nodata=np.nan if values.dtype.kind == "f" else 0,
        compress="deflate",
        overviews="none",
    ) as target:
        target.write(values, 1)
