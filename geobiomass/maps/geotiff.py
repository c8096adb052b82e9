"""A finished map as a cloud-optimised GeoTIFF."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from geobiomass.maps.origin import MAP_CHECKS, PROVENANCE
from geobiomass.maps.raster_checksums import (
    MADE_BY,
    SOFTWARE,
    Sums,
    block_sums,
    record_checksums,
)
from geobiomass.maps.raster_checksums import SIDE as TILE
from geobiomass.tiles import blocks
from geobiomass.training.given_paths import check_file

if TYPE_CHECKING:
    import xarray as xr
    import zarr
    from zarr.abc.store import Store

FINGERPRINT = "geobiomass_fingerprint"
"""Attribute of a map, and tag of a GeoTIFF: hash of what its values depend on."""

CACHE = 64 * 2**20
"""Bytes of GDAL's cache of tiles while a map is written: GDAL's default, 5 % of the
machine's memory, is not bounded."""

Source: TypeAlias = "str | Path | Store | zarr.Group | xr.Dataset"


def write_geotiff(
    source: Source,
    path: Path,
    names: Sequence[str],
    fingerprint: str,
    *,
    side: int = 1024,
    progress: bool = False,
) -> None:
    """Write a cloud-optimised GeoTIFF of a finished map, window by window.

    In two passes, because overviews come before the pixels in a COG and need the whole
    map: a tiled GeoTIFF first, with overviews and checksums, which GDAL's COG driver
    [1]_ then copies in the final order. Meanwhile both files are next to `path`, and
    need up to the space of two and two thirds GeoTIFFs. Leftovers of a call that was
    killed are removed; if this call fails, all its files are removed too.

    Parameters
    ----------
    source : Path, str, zarr.abc.store.Store, zarr.Group or xarray.Dataset
        The map: a store, on a disk or not, a group in a store, or a lazy dataset of
        either. Variables (y, x) float32, NaN where there is no data.
    path : Path
        The GeoTIFF, on a local disk. An existing file is replaced at the end.
    names : sequence of str
        The variables, a band each, in this order.
    fingerprint : str
        Hash of what the values depend on; becomes a tag, see `geotiff_tags`.
    side : int
        Side of the windows that are read, pixels; rounded up to whole tiles.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        If a variable has no dimensions (y, x): chips have no common grid.

    Notes
    -----
    Each band has a description, unit, its attributes and exact statistics as tags,
    and nodata NaN. The map's provenance, if it has one, is a tag of the file.
    Overviews are averages of the pixels that are not NaN. Blocks of 512 x 512 pixels
    have checksums, see :mod:`geobiomass.maps.raster_checksums`.

    References
    ----------
    .. [1] https://gdal.org/drivers/raster/cog.html
    """
    import rasterio
    from rasterio.shutil import copy

    scene = _opened(source)
    for name in names:
        _check_grid(name, scene[name])
    plain, making = (_beside(path, stage) for stage in ("plain", "making"))
    _remove_leftovers(path)
    try:
        with rasterio.Env(GDAL_CACHEMAX=CACHE, GDAL_NUM_THREADS="ALL_CPUS"):
            sums = _write_plain(scene, plain, names, fingerprint, side, progress)
            with _silent_without_georeference(scene):
                _add_overviews(plain)
                record_checksums(plain, sums)
            with _silent_without_georeference(scene):
                copy(plain, making, **_COG)  # with its overviews and checksums
        os.replace(making, path)  # under a fixed name, so that a later call finds it
    finally:
        _remove_leftovers(path)


_PLAIN: dict[str, Any] = {
    "compress": "DEFLATE",
    "zlevel": 1,
    "predictor": 3,
    "num_threads": "ALL_CPUS",
}
_COG: dict[str, Any] = {
    "driver": "COG",
    "compress": "DEFLATE",
    "predictor": 3,
    "blocksize": TILE,
    "overview_resampling": "AVERAGE",
    "bigtiff": "IF_SAFER",
    "num_threads": "ALL_CPUS",
}


def _opened(source: Source) -> xr.Dataset:
    import xarray as xr
    import zarr

    if isinstance(source, xr.Dataset):
        return source
    store: Any = source
    path = None
    if isinstance(source, zarr.Group):
        store, path = source.store, source.path or None
    scene: xr.Dataset = xr.open_zarr(
        store, group=path, chunks=None, consolidated=False, decode_coords="all"
    )
    return scene


def _check_grid(name: str, band: xr.DataArray) -> None:
    if band.dims != ("y", "x"):
        raise ValueError(
            f"A GeoTIFF holds maps on one grid: {name} must have dimensions (y, x), "
            f"got {band.dims}. Write chips to a .zarr."
        )


def _beside(path: Path, stage: str) -> Path:
    return path.with_name(f"{path.name}.{stage}.tif")


def _remove_leftovers(path: Path) -> None:
    """Remove the intermediate files, with the files that GDAL writes next to them."""
    for stage in ("plain", "making"):
        beside = _beside(path, stage)
        for leftover in path.parent.glob(f"{_literal(beside.name)}*"):
            leftover.unlink(missing_ok=True)


def _literal(name: str) -> str:
    from glob import escape

    return escape(name)


@contextmanager
def _silent_without_georeference(scene: xr.Dataset | None) -> Iterator[None]:
    """Silence rasterio's warning about a map without a georeference."""
    from rasterio.errors import NotGeoreferencedWarning

    from geobiomass.cube.grid import transform_of

    with warnings.catch_warnings():
        if scene is None or transform_of(scene) is None:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _write_plain(
    scene: xr.Dataset,
    plain: Path,
    names: Sequence[str],
    fingerprint: str,
    side: int,
    progress: bool,
) -> dict[int, Sums]:
    """Write a tiled GeoTIFF, each tile once, and its statistics.

    Returns
    -------
    dict
        For each band the checksums of its blocks.
    """
    import rasterio
    import rioxarray  # noqa: F401  (the .rio accessor)
    from tqdm.auto import tqdm

    from geobiomass.cube.grid import transform_of

    height, width = scene.sizes["y"], scene.sizes["x"]
    windows = blocks(height, width, -(-side // TILE) * TILE)
    with (
        _silent_without_georeference(scene),
        rasterio.open(
            plain,
            "w",
            driver="GTiff",
            height=height,
            width=width,
            count=len(names),
            dtype="float32",
            crs=scene.rio.crs,
            transform=transform_of(scene),
            nodata=np.nan,
            tiled=True,
            blockxsize=TILE,
            blockysize=TILE,
            interleave="band",
            bigtiff="IF_SAFER",
            **_PLAIN,
        ) as target,
        tqdm(
            total=len(windows) * len(names),
            unit="window",
            desc="GeoTIFF",
            disable=not progress,
        ) as bar,
    ):
        tags = {FINGERPRINT: fingerprint, SOFTWARE: MADE_BY}
        for name in (PROVENANCE, MAP_CHECKS):
            if name in scene.attrs:
                tags[name] = scene.attrs[name]
        target.update_tags(**tags)
        sums: dict[int, Sums] = {}
        for band, name in enumerate(names, start=1):
            statistics = Statistics()
            sums[band] = {}
            for window in windows:
                grid = window.rows, window.columns
                values = scene[name][grid].values
                target.write(values, band, window=tuple(map(_ends, grid)))
                statistics.add(values)
                sums[band] |= block_sums(
                    values, window.rows.start, window.columns.start
                )
                bar.update()
            _describe(target, band, scene[name], statistics.tags(height * width))
    return sums


def _add_overviews(plain: Path) -> None:
    """Add the overviews that GDAL's COG driver would, so that they are known before."""
    import rasterio
    from rasterio.enums import Resampling

    with rasterio.open(plain, "r+") as target:
        factors: list[int] = []
        longest = max(target.shape)
        while longest > TILE:
            factors.append(2 * factors[-1] if factors else 2)
            longest //= 2
        if factors:
            target.build_overviews(factors, Resampling.average)


def _ends(axis: slice) -> tuple[int, int]:
    return axis.start, axis.stop


def _describe(
    target: Any, band: int, variable: xr.DataArray, statistics: dict[str, str]
) -> None:
    """Write a band's name, unit, attributes and statistics."""
    attributes = {name: str(value) for name, value in variable.attrs.items()}
    target.set_band_description(band, str(variable.name))
    target.set_band_unit(band, attributes.get("units", ""))
    target.update_tags(band, **attributes, **statistics)


@dataclass
class Statistics:
    """Statistics of a band, computed window by window, under GDAL's names.

    Means and sums of squared differences are merged by the formulas of Chan, Golub
    and LeVeque [1]_, which lose no digits if the mean is far from zero.

    References
    ----------
    .. [1] Updating formulae and a pairwise algorithm for computing sample
       variances, Stanford STAN-CS-79-773, 1979.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")

    def add(self, window: npt.NDArray[np.float32]) -> None:
        """Add a window; only finite values count."""
        values = window[np.isfinite(window)].astype(np.float64)
        if values.size == 0:
            return
        mean = float(values.mean())
        difference = mean - self.mean
        both = self.count + values.size
        self.squares += float(((values - mean) ** 2).sum())
        self.squares += difference**2 * self.count * (values.size / both)
        self.mean += difference * values.size / both
        self.count = both
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    def tags(self, pixels: int) -> dict[str, str]:
        """Return GDAL's tags for a band of `pixels` pixels; {} if all are NaN."""
        if self.count == 0:
            return {}
        # Rounded: the last digits of a sum depend on the size of the windows.
        spread = (self.squares / self.count) ** 0.5
        return {
            "STATISTICS_MINIMUM": repr(self.low),
            "STATISTICS_MAXIMUM": repr(self.high),
            "STATISTICS_MEAN": f"{self.mean:.15g}",
            "STATISTICS_STDDEV": f"{spread:.15g}",
            "STATISTICS_VALID_PERCENT": f"{100 * self.count / pixels:.4g}",
        }


def geotiff_tags(file: Any) -> dict[str, str]:
    """Return the tags of a GeoTIFF, by path or open file; {} of any other file."""
    import rasterio
    from rasterio.errors import RasterioIOError

    try:
        check_file(file)
        with (
            _silent_without_georeference(None),
            rasterio.open(file, driver="GTiff") as source,
        ):
            return dict(source.tags())
    except RasterioIOError:
        return {}
