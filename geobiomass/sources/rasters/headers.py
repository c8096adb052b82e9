"""What the headers of raster files say: their bands, place and overviews."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from geobiomass.sources.rasters.find import Found, Problems
from geobiomass.sources.rasters.read import Layer, gdal, open_raster, ratio


@dataclass(frozen=True)
class Image:
    """A file's bands, ready to be read, and their month.

    Parameters
    ----------
    found : Found
        The file.
    layers : tuple of Layer
        Those of its bands that are wanted.
    names : tuple of str
        What all of its bands are called.
    """

    found: Found
    layers: tuple[Layer, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """How values of bands are read: one setting for all, or by band.

    Parameters
    ----------
    resampling, nodata, scale, offset
        As :func:`geobiomass.from_rasters` takes them.
    """

    resampling: Any
    nodata: Any
    scale: Any
    offset: Any

    def of(self, layer: Layer) -> Layer:
        """Give a layer with the settings of its band."""
        return replace(
            layer,
            resampling=_setting(self.resampling, layer.band) or "bilinear",
            nodata=_setting(self.nodata, layer.band),
            scale=_setting(self.scale, layer.band),
            offset=_setting(self.offset, layer.band),
        )


def _setting(value: Any, band: str) -> Any:
    return value.get(band) if isinstance(value, Mapping) else value


def look(
    found: Sequence[Found],
    bands: Sequence[str] | Mapping[Any, str] | None,
    problems: Problems,
    skip: bool = False,
) -> list[Image]:
    """Read the headers of files; no pixels.

    Parameters
    ----------
    found : sequence of Found
        The files.
    bands : sequence of str or mapping, optional
        As :func:`geobiomass.from_rasters` takes it.
    problems : Problems
        Takes what is wrong with them.
    skip : bool
        Warn of files that cannot be opened, and leave them out.
    """
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    images = []
    with gdal(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # told as a problem
        for each in found:
            try:
                with open_raster(each.path) as source:
                    images.append(_image(source, each, bands, problems))
            except (RasterioError, OSError) as error:
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
            "it has no place on Earth (reference system and transform); give it one, "
            "gdal_edit.py -a_srs EPSG:... -a_ullr ...",
        )
        return Image(found, (), ())
    indexes = [
        index
        for index, kind in zip(source.indexes, source.colorinterp, strict=True)
        if kind != ColorInterp.alpha
    ]
    unreal = sorted({str(t) for t in source.dtypes if str(t).startswith("complex")})
    if unreal:
        problems.add(found.path, f"values are {unreal[0]}; store them as real numbers.")
        return Image(found, (), ())
    names = _band_names(source, indexes, found, bands, problems)
    wanted = {name: name for name in names if bands is None or name in bands}
    if isinstance(bands, Mapping):
        wanted = {str(there): name for there, name in bands.items()}
    geobox = GeoBox.from_rio(source)
    layers = tuple(
        Layer(found.path, index, geobox, wanted[name])
        for index, name in zip(indexes, names, strict=False)
        if name in wanted
    )
    return Image(found, layers, tuple(names))


def _band_names(
    source: Any,
    indexes: Sequence[int],
    found: Found,
    bands: Sequence[str] | Mapping[Any, str] | None,
    problems: Problems,
) -> list[str]:
    """Give each band of a file its name; none where something is wrong with them."""
    described = [source.descriptions[index - 1] for index in indexes]
    if found.band is not None:
        if len(indexes) != 1 and bands is not None and found.band not in bands:
            return []  # such as a picture for looking at, beside the bands
        if len(indexes) != 1:
            problems.add(
                found.path,
                f"it is named as band {found.band!r} and has {len(indexes)} bands.",
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
            f"its {len(indexes)} bands have no names; name them in their order, "
            "bands=['B02', ...], or some by number, bands={1: 'B02', ...}.",
        )
        return []
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        problems.add(found.path, f"it has the bands {twice} twice.")
        return []
    return names


def with_overview(layer: Layer, grid: Any) -> Layer:
    """Choose the overview that is read, where the grid is much coarser than a file.

    Two of the overview's pixels, at least, still make one of the grid's.
    """
    step = min(ratio(layer.geobox, grid))
    if layer.resampling in ("nearest", "mode") or not step >= 4 or math.isinf(step):
        return layer
    from odc.geo.geobox import GeoBox

    with gdal(), open_raster(layer.path) as source:
        factors = source.overviews(layer.index)
    fit = [i for i, factor in enumerate(factors) if factor <= step / 2]
    if not fit:
        return layer
    with gdal(), open_raster(layer.path, fit[-1]) as source:
        return replace(layer, overview=fit[-1], geobox=GeoBox.from_rio(source))
