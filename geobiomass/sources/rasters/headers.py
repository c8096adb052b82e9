"""Bands, georeference and overviews of raster files, from their headers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from geobiomass.cube.address_errors import failure_of
from geobiomass.cube.claimed_size import check_blocks
from geobiomass.cube.raster_errors import named_errors
from geobiomass.sources.rasters.find_files import Found, Problems
from geobiomass.sources.rasters.grid_geometry import pixel_ratio
from geobiomass.sources.rasters.open_raster import gdal_settings, open_raster
from geobiomass.sources.rasters.read_block import Layer


@dataclass(frozen=True)
class Image:
    """A file with its bands, ready to be read.

    Parameters
    ----------
    found : Found
        The file, with its month.
    layers : tuple of Layer
        Its requested bands.
    names : tuple of str
        Names of all its bands.
    """

    found: Found
    layers: tuple[Layer, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class ReadSettings:
    """Settings of reading: one value for all bands, or a mapping by band.

    Parameters
    ----------
    resampling, nodata, scale, offset
        As :func:`geobiomass.from_rasters` accepts them.
    """

    resampling: Any
    nodata: Any
    scale: Any
    offset: Any

    def apply(self, layer: Layer) -> Layer:
        """Return the layer with the settings of its band."""
        scale = _setting(self.scale, layer.band)
        return replace(
            layer,
            step=layer.step if scale is None else abs(float(scale)) or None,
            resampling=_setting(self.resampling, layer.band) or "bilinear",
            nodata=_setting(self.nodata, layer.band),
            scale=scale,
            offset=_setting(self.offset, layer.band),
        )


def _setting(value: Any, band: str) -> Any:
    return value.get(band) if isinstance(value, Mapping) else value


def read_headers(
    found: Sequence[Found],
    bands: Sequence[str] | Mapping[Any, str] | None,
    problems: Problems,
    skip: bool = False,
) -> list[Image]:
    """Read the headers of files, without their pixels.

    Parameters
    ----------
    found : sequence of Found
        The files.
    bands : sequence of str or mapping, optional
        As :func:`geobiomass.from_rasters` accepts it.
    problems : Problems
        Collects the problems of the files.
    skip : bool
        Warn about files that cannot be opened, and leave them out.
    """
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    images = []
    with gdal_settings(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a problem below
        for each in found:
            try:
                with open_raster(each.path) as source:
                    check_blocks(source, each.path)
                    images.append(_image(source, each, bands, problems))
            except (RasterioError, OSError, UnicodeEncodeError) as raised:
                error = failure_of(raised, each.path, each.path) or raised
                if skip:
                    warnings.warn(f"Left out: {each.path}: {error}", stacklevel=4)
                else:
                    problems.add(each.path, f"it cannot be opened ({error}).")
    return images


def _image(
    source: Any,
    found: Found,
    bands: Sequence[str] | Mapping[Any, str] | None,
    problems: Problems,
) -> Image:
    from odc.geo.geobox import GeoBox
    from rasterio.enums import ColorInterp

    if source.crs is None or source.transform.is_identity:
        problems.add(
            found.path,
            "it has no georeference (CRS and transform); add it, gdal_edit.py -a_srs "
            "EPSG:... -a_ullr ...",
        )
        return Image(found, (), ())
    indexes = [
        index
        for index, kind in zip(source.indexes, source.colorinterp, strict=True)
        if kind != ColorInterp.alpha
    ]
    complex_types = sorted(
        {str(t) for t in source.dtypes if str(t).startswith("complex")}
    )
    if complex_types:
        line = f"its values are {complex_types[0]}; store them as real numbers."
        problems.add(found.path, line)
        return Image(found, (), ())
    names = _band_names(source, indexes, found, bands, problems)
    wanted = {name: name for name in names if bands is None or name in bands}
    if isinstance(bands, Mapping):
        wanted = {str(there): name for there, name in bands.items()}
    geobox = GeoBox.from_rio(source)
    layers = tuple(
        Layer(
            found.path,
            index,
            geobox,
            wanted[name],
            step=_step(source, index),
            whole="int" in str(source.dtypes[index - 1]),
        )
        for index, name in zip(indexes, names, strict=False)
        if name in wanted
    )
    return Image(found, layers, tuple(names))


def _step(source: Any, index: int) -> float | None:
    """Return the scale of whole numbers, None where they have none."""
    whole = "int" in str(source.dtypes[index - 1])
    scale = float(source.scales[index - 1])
    return abs(scale) if whole and scale not in (0.0, 1.0) else None


def _band_names(
    source: Any,
    indexes: Sequence[int],
    found: Found,
    bands: Sequence[str] | Mapping[Any, str] | None,
    problems: Problems,
) -> list[str]:
    """Return the names of a file's bands; an empty list if they have a problem."""
    described = [source.descriptions[index - 1] for index in indexes]
    if found.band is not None:
        if len(indexes) != 1 and bands is not None and found.band not in bands:
            return []  # such as a preview image in the same folder
        if len(indexes) != 1:
            problems.add(
                found.path,
                f"it is named as band {found.band!r} but has {len(indexes)} bands.",
            )
            return []
        names: list[str] = [found.band]
    elif all(described):
        names = described
    elif isinstance(bands, Mapping):
        names = list(map(str, indexes))
    elif bands is not None and len(bands) == len(indexes):
        names = list(bands)
    else:
        problems.add(
            found.path,
            f"its {len(indexes)} bands have no names; give the names in order, "
            "bands=['B02', ...], or some by number, bands={1: 'B02', ...}.",
        )
        return []
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        problems.add(found.path, f"it has the bands {twice} twice.")
        return []
    return names


def choose_overview(layer: Layer, grid: Any) -> Layer:
    """Return the layer with an overview, if the grid is much coarser than the file.

    A pixel of the grid is still at least two pixels of the overview long.
    """
    step = min(pixel_ratio(layer.geobox, grid))
    if layer.resampling in ("nearest", "mode") or not step >= 4 or math.isinf(step):
        return layer
    from odc.geo.geobox import GeoBox

    with named_errors(layer.path), gdal_settings(), open_raster(layer.path) as source:
        factors = source.overviews(layer.index)
    fit = [i for i, factor in enumerate(factors) if factor <= step / 2]
    if not fit:
        return layer
    with (
        named_errors(layer.path),
        gdal_settings(),
        open_raster(layer.path, fit[-1]) as source,
    ):
        return replace(layer, overview=fit[-1], geobox=GeoBox.from_rio(source))
