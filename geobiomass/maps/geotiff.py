"""A finished map as a cloud-optimised GeoTIFF."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import xarray as xr

FINGERPRINT = "geobiomass_fingerprint"
"""Attribute of a map, and tag of a GeoTIFF: what its values depend on."""


def write_geotiff(store: Path, path: Path, names: list[str], fingerprint: str) -> None:
    """Make a cloud-optimised GeoTIFF from a finished store, strip by strip.

    In two passes, as overviews come before the pixels in a COG and need the whole
    map: a tiled GeoTIFF first, which GDAL's COG driver then lays out anew.
    """
    from rasterio.shutil import copy

    plain = path.with_name(path.name + ".plain.tif")
    making = path.with_name(path.name + ".making.tif")
    try:
        _write_plain_geotiff(store, plain, names, fingerprint)
        copy(
            plain,
            making,
            driver="COG",
            compress="DEFLATE",
            predictor=3,
            blocksize=512,
            overview_resampling="AVERAGE",
            bigtiff="IF_SAFER",
        )
        os.replace(making, path)
    finally:
        for leftover in (plain, making):
            leftover.unlink(missing_ok=True)


def _write_plain_geotiff(
    store: Path, plain: Path, names: list[str], fingerprint: str
) -> None:
    import rasterio
    import rioxarray  # noqa: F401  (the .rio accessor)

    scene = xr.open_zarr(store, chunks=None, decode_coords="all")
    height, width = scene.sizes["y"], scene.sizes["x"]
    side = min(scene.attrs["block"], height)
    with rasterio.open(
        plain,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=len(names),
        dtype="float32",
        crs=scene.rio.crs,
        transform=scene.rio.transform(),
        nodata=np.nan,
        tiled=True,
        blockxsize=256,
        blockysize=256,
        bigtiff="IF_SAFER",
    ) as target:
        target.update_tags(**{FINGERPRINT: fingerprint})
        for band, name in enumerate(names, start=1):
            attributes = scene[name].attrs
            target.set_band_description(band, name)
            target.set_band_unit(band, attributes.get("units", ""))
            sums = _Sums()
            for top in range(0, height, side):
                strip = scene[name][top : top + side].values
                target.write(strip, band, window=((top, top + len(strip)), (0, width)))
                sums.add(strip)
            target.update_tags(band, **sums.tags(), **attributes)


@dataclass
class _Sums:
    """Statistics of a band, gathered strip by strip, as GDAL names them."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")

    def add(self, strip: npt.NDArray[np.float32]) -> None:
        values = strip[np.isfinite(strip)].astype(np.float64)
        if values.size == 0:
            return
        self.count += values.size
        self.total += float(values.sum())
        self.squares += float((values**2).sum())
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    def tags(self) -> dict[str, str]:
        if self.count == 0:
            return {}
        mean = self.total / self.count
        spread = max(0.0, self.squares / self.count - mean**2) ** 0.5
        return {
            "STATISTICS_MINIMUM": repr(self.low),
            "STATISTICS_MAXIMUM": repr(self.high),
            "STATISTICS_MEAN": repr(mean),
            "STATISTICS_STDDEV": repr(spread),
        }


def geotiff_fingerprint(path: Path) -> str | None:
    """Give what a GeoTIFF of ours was made from; None for any other file."""
    import rasterio
    from rasterio.errors import RasterioIOError

    try:
        with rasterio.open(path) as source:
            return cast("str | None", source.tags().get(FINGERPRINT))
    except RasterioIOError:
        return None
