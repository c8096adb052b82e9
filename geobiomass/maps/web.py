"""A map as an interactive page of the web: pan, zoom, opacity, legend.

Needs folium, ``pip install 'geobiomass[plots]'``. Pictures are made here, so a map of
any size becomes a page of a few megabytes.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.axes import in_our_names
from geobiomass.cube.store import is_local, open_group
from geobiomass.summary import html_environment, html_macros
from geobiomass.training.packages import need

MERCATOR = "EPSG:3857"
LARGEST = 2000  # pixels of a picture's side: 16 MB in memory, 1 to 5 MB as PNG
PIECE = 2048  # pixels of a side that are read at once where a map is made smaller


def explore_map(
    data: str | Path | xr.Dataset | xr.DataArray,
    layers: Mapping[str, str | Path | xr.Dataset | xr.DataArray] | None = None,
    *,
    limits: tuple[float, float] | None = None,
    opacity: float = 0.8,
    tiles: str | None = "OpenStreetMap",
    largest: int = LARGEST,
    leaflet: str | Path | None = None,
) -> Any:
    """Show a map on a page of the web, over a base map.

    Parameters
    ----------
    data : str, Path, xarray.Dataset or xarray.DataArray
        A map: a Zarr group, a GeoTIFF, or in hand. Each of its layers can be switched
        on and off; the first one is shown. Of a large one overviews are read, or a
        piece at a time, never all at once.
    layers : mapping, optional
        Other layers by name, such as ``{"true biomass": cube["agb"]}``, in colours of
        the same scale.
    limits : tuple of float, optional
        Ends of the colour scale, Mg/ha; by default 0 and the 99th percentile.
    opacity : float
        Of the map at first, 0 to 1; there is a slider.
    tiles : str, optional
        The base map, as folium names it; None for none, which needs no internet.
    largest : int
        Pixels of a picture's longer side at most; the map is made so much smaller.
    leaflet : str or Path, optional
        A folder with ``leaflet.js`` and ``leaflet.css`` (such as ``dist`` of the npm
        package leaflet): they are written into the page, which then needs no server.

    Returns
    -------
    folium.Map
        Shows itself in Jupyter; ``.save("map.html")`` writes one file.

    Raises
    ------
    MissingPackageError
        If folium is not installed.
    FileNotFoundError
        If nothing is at a path, or Leaflet is not in its folder.
    ValueError
        If a map has no place on Earth, as chips have none, has no value, or a setting
        is out of its range.
    """
    need("model.explore", "plots", "folium", "matplotlib")
    import folium
    from markupsafe import escape

    if not 0 <= opacity <= 1 or largest < 2:
        raise ValueError(
            "opacity must be 0 to 1 and largest at least 2 pixels, got "
            f"{opacity} and {largest}."
        )
    pictures = _layers_of(data, largest)
    for name, other in (layers or {}).items():
        pictures[name] = next(iter(_layers_of(other, largest).values()))
    first = next(iter(pictures.values()))
    low, high = limits or _limits(first)
    page: Any = folium.Map(tiles=tiles, control_scale=True, zoom_snap=0.25)
    overlays: list[Any] = []
    for name, values in pictures.items():
        overlay = folium.raster_layers.ImageOverlay(
            image=_png(values.values, low, high),
            bounds=_bounds(values),
            opacity=opacity,
            name=_without_braces(str(escape(name))),  # Leaflet sets it as HTML
            show=not overlays,
            pixelated=True,
        )
        overlays.append(overlay.add_to(page))
    page.fit_bounds(overlays[0].get_bounds())
    if len(overlays) > 1:
        folium.LayerControl(collapsed=False).add_to(page)
    names = [overlay.get_name() for overlay in overlays]
    _legend(low, high, str(first.attrs.get("units", "Mg/ha"))).add_to(page)
    _slider(names, opacity).add_to(page)
    if leaflet is not None:
        _write_in(page, Path(leaflet))
    return page


# --- a map, small enough to be looked at, where Mercator has it ----------------


def _layers_of(
    data: str | Path | xr.Dataset | xr.DataArray, largest: int
) -> dict[str, xr.DataArray]:
    """Give each layer of a map in web Mercator, no longer than `largest`."""
    if isinstance(data, str | Path):
        scene = _opened(data, largest)
    elif isinstance(data, xr.DataArray):
        scene = data.to_dataset(name=data.name or "map")
    else:
        scene = data
    scene = in_our_names(scene)
    maps = {
        str(name): layer
        for name, layer in scene.items()
        if set(layer.dims) == {"y", "x"}
    }
    if not maps:
        raise ValueError(
            "The map must have a layer (y, x), got "
            f"{ {str(n): tuple(map(str, v.dims)) for n, v in scene.items()} }; chips "
            "have no place on Earth: look at them with gb.plots.comparison."
        )
    return {name: _mercator(layer, largest) for name, layer in maps.items()}


def _opened(path: str | Path, largest: int) -> xr.Dataset:
    """Open a map by its overview that is just as fine as it takes."""
    if is_local(path) and not Path(path).exists():
        raise FileNotFoundError(f"There is nothing at {path}; expected a map.")
    if str(path).rstrip("/").endswith((".tif", ".tiff")):
        return _raster(str(path), largest)
    attributes: Mapping[str, Any] = open_group(path, "r").attrs
    group = None
    for level in attributes.get("multiscales", {}).get("layout", []):
        if not level["asset"].startswith("overviews/"):
            side = max(level.get("spatial:shape", [0]))
        elif side > largest:
            group, side = (
                level["asset"].rsplit("/", 1)[0],
                max(level.get("spatial:shape", [0])),
            )
    return xr.open_dataset(
        str(path), engine="zarr", group=group, chunks=None, decode_coords="all"
    )


def _raster(path: str, largest: int) -> xr.Dataset:
    """Read a GeoTIFF at a size that fits; GDAL takes the overview next to it."""
    import rasterio
    import rioxarray  # noqa: F401  (the .rio accessor)
    from rasterio.enums import Resampling

    with rasterio.open(path) as source:
        step = max(1.0, max(source.height, source.width) / largest)
        height, width = (max(1, round(n / step)) for n in source.shape)
        values = source.read(
            out_shape=(source.count, height, width),
            masked=True,
            resampling=Resampling.average,
        ).astype(np.float32)
        place = source.transform * source.transform.scale(
            source.width / width, source.height / height
        )
        names = [name or f"band {i}" for i, name in enumerate(source.descriptions, 1)]
        units, crs = source.units, source.crs
    scene = xr.Dataset(
        {
            name: (("y", "x"), np.ma.filled(layer, np.nan), {"units": unit or "Mg/ha"})
            for name, layer, unit in zip(names, values, units, strict=True)
        }
    )
    if crs is not None:
        scene = scene.rio.write_crs(crs)
    placed: xr.Dataset = scene.rio.write_transform(place).assign_coords(
        y=place.f + place.e * (np.arange(height) + 0.5),
        x=place.c + place.a * (np.arange(width) + 0.5),
    )
    return placed


def _mercator(layer: xr.DataArray, largest: int) -> xr.DataArray:
    """Make a layer small, then bring it to web Mercator, nearest pixels."""
    import rioxarray  # noqa: F401  (the .rio accessor)
    from rasterio.enums import Resampling

    if not {"y", "x"} <= set(layer.coords) or layer.rio.crs is None:
        raise ValueError(
            f"{layer.name} must have a place on Earth, got no reference system or no "
            "coordinates; add it with map.rio.write_crs('EPSG:...')."
        )
    small = shrunk(layer.transpose("y", "x"), largest)
    if not np.isfinite(small.values).any():
        raise ValueError(f"{layer.name} must have a value, got none but nodata.")
    small = small.rio.write_crs(layer.rio.crs).rio.write_nodata(np.nan)
    turned: xr.DataArray = small.rio.reproject(
        MERCATOR, resampling=Resampling.nearest, nodata=np.nan
    )
    step = -(-max(turned.shape) // largest)
    return turned[::step, ::step] if step > 1 else turned


def shrunk(layer: xr.DataArray, largest: int) -> xr.DataArray:
    """Average pixels in squares until no side is longer than `largest`.

    A piece at a time, so that a map of any size, on disk or yet to be computed, is
    never in memory as a whole.

    Parameters
    ----------
    layer : xarray.DataArray
        (y, x), NaN where there is nothing.
    largest : int
        Pixels.

    Returns
    -------
    xarray.DataArray
        (y, x) float32 in memory, at the centres of the squares. A square at the edge
        may reach beyond the map.
    """
    step = -(-max(layer.sizes["y"], layer.sizes["x"]) // largest)
    if step <= 1:
        return layer.astype(np.float32).load()
    height, width = (-(-layer.sizes[dim] // step) for dim in ("y", "x"))
    result = np.full((height, width), np.nan, np.float32)
    for rows, columns in _pieces(height, width, max(1, PIECE // step)):
        fine = layer.isel(
            y=slice(rows.start * step, rows.stop * step),
            x=slice(columns.start * step, columns.stop * step),
        )
        result[rows, columns] = _averaged(np.asarray(fine.values, np.float32), step)
    coordinates = {}
    for dim, size in (("y", height), ("x", width)):
        centres = layer[dim].values
        side = (centres[-1] - centres[0]) / max(1, centres.size - 1)
        first = centres[0] + side * (step - 1) / 2
        coordinates[dim] = first + side * step * np.arange(size)
    return xr.DataArray(result, coordinates, ("y", "x"), layer.name, layer.attrs)


def _pieces(height: int, width: int, side: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield (
                slice(top, min(top + side, height)),
                slice(left, min(left + side, width)),
            )


def _averaged(values: npt.NDArray[np.float32], step: int) -> npt.NDArray[np.float32]:
    """Give the mean of the finite values of each square, NaN where none is."""
    ragged = [(0, -size % step) for size in values.shape]
    padded = np.pad(values, ragged, constant_values=np.nan)
    height, width = (size // step for size in padded.shape)
    squares = padded.reshape(height, step, width, step)
    finite = np.isfinite(squares)
    total = np.where(finite, squares, 0).sum(axis=(1, 3), dtype=np.float64)
    count = finite.sum(axis=(1, 3))
    mean = np.full((height, width), np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean.astype(np.float32)


def _bounds(values: xr.DataArray) -> list[list[float]]:
    """Give [[south, west], [north, east]] in degrees, as Leaflet takes them."""
    from rasterio.warp import transform_bounds

    west, south, east, north = transform_bounds(
        MERCATOR, "EPSG:4326", *values.rio.bounds()
    )
    return [[south, west], [north, east]]


def _limits(values: xr.DataArray) -> tuple[float, float]:
    finite = values.values[np.isfinite(values.values)]
    return 0.0, max(1.0, float(np.percentile(finite, 99)))


# --- the page ------------------------------------------------------------------


def _png(values: npt.NDArray[np.float32], low: float, high: float) -> str:
    """Give a picture, clear where there is nothing, as an address of data."""
    import matplotlib
    from PIL import Image

    shares = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    colours = matplotlib.colormaps["viridis"](np.nan_to_num(shares), bytes=True)
    colours[..., 3] = np.where(np.isfinite(values), 255, 0)
    file = io.BytesIO()
    Image.fromarray(colours).save(file, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


_BOX = (
    "background:white;color:black;padding:6px 10px;border-radius:4px;"
    "box-shadow:0 1px 4px rgba(0,0,0,.4);font:12px sans-serif"
)


def _legend(low: float, high: float, unit: str) -> Any:
    """Give the colours with five figures below them."""
    import matplotlib
    from matplotlib.colors import to_hex

    stops = [to_hex(matplotlib.colormaps["viridis"](i / 8)) for i in range(9)]
    figures = [
        f"{'≥ ' if i == 4 else ''}{low + (high - low) * i / 4:.0f}" for i in range(5)
    ]
    content = html_macros("map_controls.html").legend(unit, stops, figures)
    return _control("geobiomass-legend", content, "bottomleft")


def _slider(names: list[str], opacity: float) -> Any:
    """Give a slider that sets how much of the ground shows through."""
    macros = html_macros("map_controls.html")
    script = macros.opacity_script(names)
    content = macros.opacity(f"{opacity:g}")
    return _control("geobiomass-opacity", content, "topright", script)


def _without_braces(html: str) -> str:
    """Return HTML with its curly brackets escaped.

    branca renders the script of a page as a template once more, in which they would
    be an expression.
    """
    return html.replace("{", "&#123;").replace("}", "&#125;")


def _control(name: str, content: str, corner: str, script: str = "") -> Any:
    """Give a box in a corner of the map that keeps clicks to itself."""
    from branca.element import MacroElement

    element: Any = MacroElement()  # type: ignore[no-untyped-call]
    element._name = name.replace("-", "_")
    element.html, element.style = _without_braces(str(content)), _BOX
    element.class_, element.corner, element.script = name, corner, script
    element._template = html_environment().get_template("map_control.html")
    return element


def _write_in(page: Any, folder: Path) -> None:
    """Write Leaflet into the page, and link to nothing else."""
    from branca.element import Element

    files = [folder / name for name in ("leaflet.js", "leaflet.css")]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"There is no {file}; leaflet must be a folder with leaflet.js and "
                "leaflet.css, such as dist of the npm package leaflet."
            )
    script, style = (file.read_text(encoding="utf-8") for file in files)
    # Pictures of controls come along; a closing tag within the script would end it.
    style = re.sub(
        r"url\(\s*['\"]?(images/[\w.-]+)['\"]?\s*\)", _picture(folder), style
    )
    script = re.sub(r"//# sourceMappingURL=.*", "", script).replace("</", "<\\/")
    page.default_js, page.default_css = [], []
    header = page.get_root().header
    for tag, content in (("style", style), ("script", script)):
        text = "{% raw %}" + f"<{tag}>{content}</{tag}>" + "{% endraw %}"
        header.add_child(Element(text), name=f"leaflet_{tag}")


def _picture(folder: Path) -> Any:
    def embed(found: re.Match[str]) -> str:
        file = folder / found[1]
        if not file.is_file():
            return found[0]
        content = base64.b64encode(file.read_bytes()).decode()
        return f"url(data:image/png;base64,{content})"

    return embed
