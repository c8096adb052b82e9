"""Descriptions of rasters, such as GeoTIFF, and what all maps have; without xarray."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.cube.claimed_size import check_blocks, driver_of, pixels_to_read
from geobiomass.cube.grid_area import area_facts
from geobiomass.cube.grid_size import check_size
from geobiomass.cube.raster_errors import named_errors
from geobiomass.maps.raster_checksums import RasterChecksums
from geobiomass.metadata.provenance import provenance_in
from geobiomass.summary import Table
from geobiomass.training.packages import need_for_address

SAMPLES = 8  # blocks to read of a map without overviews
SIDE = 512  # pixels of such a block, and of a raster's overview
SMALL = 1_000_000_000  # pixels of a raster's band that are read for a smaller picture
MOST_LAYERS = 1000  # whose values are described

Facts = dict[str, str | Table]


def provenance_facts(attrs: Mapping[str, Any]) -> Facts:
    """Return the provenance of a map, if it is known, and its overviews."""
    known = provenance_in(attrs)
    facts = {} if known is None else known.main_facts()
    if levels := levels_in(attrs):
        facts["overviews"] = " ".join(levels)
    return facts


def levels_in(attrs: Mapping[str, Any]) -> list[str]:
    """Return the factors of a map's overviews, finest first."""
    levels = [
        level["asset"].split("/")[1]
        for level in attrs.get("multiscales", {}).get("layout", [])
        if level["asset"].startswith("overviews/")
    ]
    return list(dict.fromkeys(levels))


def numbers_of(values: npt.NDArray[Any]) -> dict[str, float]:
    """Return mean, minimum and maximum of values, and the missing share in percent."""
    finite = values[np.isfinite(values)].astype(np.float64)
    missing = 100 * (1 - finite.size / max(1, values.size))
    numbers = (
        (finite.mean(), finite.min(), finite.max()) if finite.size else [np.nan] * 3
    )
    row = dict(zip(("mean", "minimum", "maximum"), map(float, numbers), strict=True))
    return {name: round(value, 2) for name, value in row.items()} | {
        "missing, %": round(missing, 1)
    }


def describe_raster_at(address: str) -> Facts:
    """Return the facts of a raster at an address."""
    import fsspec

    need_for_address(address)
    with fsspec.open(address, "rb") as file:
        return describe_raster(file)


def _step_of(source: Any) -> float:
    return float(max(SIDE, source.height, source.width)) / SIDE


def _sample_of_band(source: Any, index: int) -> tuple[npt.NDArray[Any], str]:
    """Read a band at a small size, or some blocks of it if all would be read for it."""
    step = _step_of(source)
    if pixels_to_read(source, step) > SMALL:
        corners = [
            [int(share * max(0, size - SIDE)) // SIDE * SIDE for size in source.shape]
            for share in (np.arange(SAMPLES) + 0.5) / SAMPLES
        ]
        parts = [
            source.read(
                index + 1,
                window=((top, top + SIDE), (left, left + SIDE)),
                masked=True,
            ).ravel()
            for top, left in corners
        ]
        values = cast(Any, np.ma).concatenate(parts)
        note = f"sampled: {SAMPLES} blocks"
    else:
        shape = tuple(max(1, round(size / step)) for size in source.shape)
        values = source.read(index + 1, out_shape=shape, masked=True).ravel()
        note = f"sampled: one of {step:.3g} x {step:.3g} pixels" if step > 1 else ""
    scaled = values.astype(np.float64) * source.scales[index] + source.offsets[index]
    return np.ma.filled(scaled, np.nan), note


def describe_raster(path: Any) -> Facts:
    """Return the facts of a raster, such as a GeoTIFF; values of a small overview."""
    import rasterio

    checksums = RasterChecksums.of(path)
    driver = driver_of(path) if isinstance(path, str | Path) else None
    with named_errors(path), rasterio.open(path, driver=driver) as source:
        check_blocks(source, source.name)
        step = _step_of(source)
        if pixels_to_read(source, step) > SMALL:
            check_size(source.shape, source.name, source.res, source.bounds)
        elif checksums is not None:
            shape = (max(1, round(size / step)) for size in source.shape)
            checksums.check_for(path, *shape)
        names = [name or f"band {i}" for i, name in enumerate(source.descriptions, 1)]
        rows, note = {}, ""
        for index, name in enumerate(names[:MOST_LAYERS]):
            values, note = _sample_of_band(source, index)
            rows[name] = numbers_of(values)
        return {
            "what": "raster",
            "size": f"{source.height} x {source.width} pixels",
            "layers": ", ".join(
                f"{name}, {unit}"
                for name, unit in zip(names, source.units, strict=True)
            ),
            "reference system": str(source.crs),
            "bounds": ", ".join(f"{edge:.10g}" for edge in source.bounds),
            **area_facts(source.crs, source.bounds),
            "nodata": str(source.nodata),
            "overviews": " ".join(map(str, source.overviews(1))) or "none",
            **provenance_facts(source.tags()),
            "values": Table(pd.DataFrame(rows).T, note),
        }
