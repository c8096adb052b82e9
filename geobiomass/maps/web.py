"""A map as an interactive web page: pan, zoom, opacity, legend.

Needs folium, ``pip install 'geobiomass[plots]'``. The map is made smaller before it
becomes a picture, so the page has a few megabytes, whatever the size of the map.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.axes import in_our_names
from geobiomass.cube.claimed_size import (
    MOST_BLOCK,
    MOST_WHOLE,
    check_blocks,
    driver_of,
    pixels_to_read,
)
from geobiomass.cube.corners import located
from geobiomass.cube.grid import Grid
from geobiomass.cube.grid_size import check_scene_size, check_size
from geobiomass.cube.missing_values import measured_layer
from geobiomass.cube.quantity import Quantity, of_any
from geobiomass.cube.raster_errors import named_errors
from geobiomass.cube.store import is_local, open_group
from geobiomass.cube.values import decoded_layers
from geobiomass.maps.completion import in_one_state
from geobiomass.maps.opening import check_map, open_layers
from geobiomass.maps.raster_checksums import RasterChecksums
from geobiomass.summary import html_environment, html_macros
from geobiomass.tiles import blocks
from geobiomass.training.files import output_file
from geobiomass.training.given_paths import path_text
from geobiomass.training.packages import need

MERCATOR = "EPSG:3857"
LARGEST = 2000  # pixels of a picture's side: 16 MB in memory, 1 to 5 MB as PNG
BLOCK = 2048  # pixels along a side: read at once while a map is made smaller


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
    """Show a map on a web page, over a base map.

    Parameters
    ----------
    data : str, Path, xarray.Dataset or xarray.DataArray
        A map: a path to a Zarr group or a GeoTIFF, or an opened map. Each of its
        layers can be switched on and off; the first one is shown. A large map is read
        from its overviews, or block by block, never all at once.
    layers : mapping, optional
        Other layers by name, such as ``{"true biomass": cube["agb"]}``, in the same
        colour scale.
    limits : tuple of float, optional
        Ends of the colour scale, in the map's units; by default 0 and the 99th
        percentile.
    opacity : float
        Initial opacity of the map, 0 to 1; the page has a slider.
    tiles : str, optional
        The base map, as folium names it; None for no base map, which needs no
        internet.
    largest : int
        Largest number of pixels along a picture's longer side; a larger map is made
        smaller.
    leaflet : str or Path, optional
        A folder with ``leaflet.js`` and ``leaflet.css`` (such as ``dist`` of the npm
        package leaflet): they are written into the page, which then loads nothing.

    Returns
    -------
    folium.Map
        Jupyter displays it; ``.save("map.html")`` writes one file.

    Raises
    ------
    MissingPackageError
        If folium is not installed.
    FileNotFoundError
        If nothing is at a path, or `leaflet` does not contain Leaflet.
    ValueError
        If a map has no georeference (chips have none), has no value, or a setting is
        out of its range.
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
    page: Any = _map_class()(tiles=tiles, control_scale=True, zoom_snap=0.25)
    overlays: list[Any] = []
    for name, values in pictures.items():
        overlay = folium.raster_layers.ImageOverlay(
            image=_png(values, low, high),
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
    below = any(bool((values < low).any()) for values in pictures.values())
    _legend(low, high, of_any(first), below).add_to(page)
    _slider(names, opacity).add_to(page)
    if leaflet is not None:
        _write_in(page, Path(leaflet))
    return page


# --- a small map, in web Mercator ----------------------------------------------


@cache
def _map_class() -> Any:
    """Return folium's map with a page that is saved whole or not at all."""
    import folium

    class Map(folium.Map):  # type: ignore[misc, unused-ignore]
        def save(self, outfile: Any, *more: Any, **settings: Any) -> None:
            if not isinstance(outfile, str | Path):
                super().save(outfile, *more, **settings)
                return
            with output_file(outfile) as part:
                super().save(str(part), *more, **settings)

    return Map


def _layers_of(
    data: str | Path | xr.Dataset | xr.DataArray, largest: int
) -> dict[str, xr.DataArray]:
    """Return each layer of a map in web Mercator, no longer than `largest`."""
    if isinstance(data, str | Path):
        scene = _opened(data, largest)
    elif isinstance(data, xr.DataArray):
        scene = data.to_dataset(name=data.name or "map")
    else:
        scene = data
    scene = located(in_our_names(decoded_layers(scene)))
    check_scene_size(scene)
    maps = {
        str(name): layer
        for name, layer in scene.items()
        if set(layer.dims) == {"y", "x"}
    }
    if not maps:
        raise ValueError(
            "The map must have a layer (y, x), got "
            f"{ {str(n): tuple(map(str, v.dims)) for n, v in scene.items()} }; chips "
            "have no georeference: look at them with gb.plots.comparison."
        )
    return {
        name: _mercator(measured_layer(layer), largest) for name, layer in maps.items()
    }


def _opened(path: str | Path, largest: int) -> xr.Dataset:
    """Open the coarsest overview of a map that is not coarser than needed."""
    if is_local(path) and not Path(path_text(path, "A map", CubeError)).exists():
        raise FileNotFoundError(f"There is nothing at {path}; give the path of a map.")
    if str(path).rstrip("/").lower().endswith((".tif", ".tiff")):
        return in_one_state(str(path), lambda: _raster(str(path), largest))
    return in_one_state(str(path), lambda: _level(path, largest))


def _level(path: str | Path, largest: int) -> xr.Dataset:
    check_map(path)
    try:
        attributes: Mapping[str, Any] = open_group(path, "r").attrs
    except FileNotFoundError as error:
        raise CubeError(
            f"{path} is no map that can be read ({error}); give a finished map, .zarr "
            "or .tif."
        ) from error
    group = None
    for level in attributes.get("multiscales", {}).get("layout", []):
        if not level["asset"].startswith("overviews/"):
            side = max(level.get("spatial:shape", [0]))
        elif side > largest:
            group, side = (
                level["asset"].rsplit("/", 1)[0],
                max(level.get("spatial:shape", [0])),
            )
    return open_layers(path, group)


def _raster(path: str, largest: int) -> xr.Dataset:
    """Read a GeoTIFF at a size that fits; GDAL chooses the overview."""
    import rasterio
    import rioxarray  # noqa: F401  (the .rio accessor)
    from rasterio.enums import Resampling

    checksums = RasterChecksums.of(path)
    with named_errors(path), rasterio.open(path, driver=driver_of(path)) as source:
        check_blocks(source, path)
        step = max(1.0, max(source.height, source.width) / largest)
        height, width = (max(1, round(n / step)) for n in source.shape)
        _check_reading(source, path, step, height * width)
        if checksums is not None:
            checksums.check_for(path, height, width)
        values = source.read(
            out_shape=(source.count, height, width),
            masked=True,
            resampling=Resampling.average,
        ).astype(np.float32)
        transform = source.transform * source.transform.scale(
            source.width / width, source.height / height
        )
        values *= np.asarray(source.scales, np.float32)[:, None, None]
        values += np.asarray(source.offsets, np.float32)[:, None, None]
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
    georeferenced: xr.Dataset = scene.rio.write_transform(transform).assign_coords(
        y=transform.f + transform.e * (np.arange(height) + 0.5),
        x=transform.c + transform.a * (np.arange(width) + 0.5),
    )
    return georeferenced


def _check_reading(source: Any, path: str, step: float, pixels: int) -> None:
    """Check the time and the memory that a picture of a raster takes."""
    whole = pixels_to_read(source, step)
    if whole > MOST_WHOLE:
        check_size(source.shape, path, source.res, source.bounds)
        raise ValueError(
            f"{path} must have overviews to be shown, or at most {MOST_WHOLE:.0e} "
            f"pixels, got {whole:.2g} to read; add them: rio overview --build auto."
        )
    if 4 * source.count * pixels > MOST_BLOCK:
        raise ValueError(
            f"{path} has {source.count:,} layers, too many for one page at this size; "
            "take some of them, or a smaller largest=."
        )


def _mercator(layer: xr.DataArray, largest: int) -> xr.DataArray:
    """Make a layer small, then reproject it to web Mercator, by nearest pixels."""
    import rioxarray  # noqa: F401  (the .rio accessor)
    from rasterio.enums import Resampling

    if not {"y", "x"} <= set(layer.coords) or layer.rio.crs is None:
        raise ValueError(
            f"{layer.name} must have a georeference, got no reference system or no "
            "coordinates; add it with map.rio.write_crs('EPSG:...')."
        )
    small = shrunk(layer.transpose("y", "x"), largest)
    if not np.isfinite(small.values).any():
        raise ValueError(f"{layer.name} must have a value, got none but nodata.")
    small = small.rio.write_crs(layer.rio.crs).rio.write_nodata(np.nan)
    mercator: xr.DataArray = small.rio.reproject(
        MERCATOR, resampling=Resampling.nearest, nodata=np.nan
    )
    step = -(-max(mercator.shape) // largest)
    return mercator[::step, ::step] if step > 1 else mercator


def shrunk(layer: xr.DataArray, largest: int) -> xr.DataArray:
    """Average squares of pixels, so that no side is longer than `largest`.

    Block by block: a map of any size, on disk or not computed yet, is never in memory
    as a whole.

    Parameters
    ----------
    layer : xarray.DataArray
        (y, x), NaN where there is no value.
    largest : int
        Largest number of pixels along a side.

    Returns
    -------
    xarray.DataArray
        (y, x) float32 in memory; coordinates are the centres of the squares. A square
        at the edge may reach beyond the map.
    """
    step = -(-max(layer.sizes["y"], layer.sizes["x"]) // largest)
    if step <= 1:
        return layer.astype(np.float32).load()
    height, width = (-(-layer.sizes[dim] // step) for dim in ("y", "x"))
    result = np.full((height, width), np.nan, np.float32)
    for window in blocks(height, width, max(1, BLOCK // step)):
        rows, columns = window.rows, window.columns
        fine = layer.isel(
            y=slice(rows.start * step, rows.stop * step),
            x=slice(columns.start * step, columns.stop * step),
        )
        result[rows, columns] = _averaged(np.asarray(fine.values, np.float32), step)
    coordinates = {}
    grid = Grid.of(layer, "The map")
    for dim, size in (("y", height), ("x", width)):
        centres = layer[dim].values
        side = grid.resolution[0 if dim == "x" else 1]
        first = centres[0] + side * (step - 1) / 2
        coordinates[dim] = first + side * step * np.arange(size)
    return xr.DataArray(result, coordinates, ("y", "x"), layer.name, layer.attrs)


def _averaged(values: npt.NDArray[np.float32], step: int) -> npt.NDArray[np.float32]:
    """Return the mean of the finite values of each square, NaN where none is."""
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
    """Return [[south, west], [north, east]] in degrees, as Leaflet expects them."""
    from rasterio.warp import transform_bounds

    west, south, east, north = transform_bounds(
        MERCATOR, "EPSG:4326", *Grid.of(values).bounds
    )
    return [[south, west], [north, east]]


def _limits(values: xr.DataArray) -> tuple[float, float]:
    finite = values.values[np.isfinite(values.values)]
    return 0.0, max(1.0, float(np.percentile(finite, 99)))


# --- the page ------------------------------------------------------------------


def _png(values: xr.DataArray, low: float, high: float) -> str:
    """Return a picture as a data URL, transparent where there is no value."""
    import odc.geo.xr  # noqa: F401  (the .odc accessor)

    # matplotlib has colours for infinities; a map's are no values.
    finite = values.where(np.isfinite(values))
    colours = finite.odc.colorize(cmap="viridis", vmin=low, vmax=high)
    return str(colours.odc.compress("png", as_data_url=True))


_BOX = (
    "background:white;color:black;padding:6px 10px;border-radius:4px;"
    "box-shadow:0 1px 4px rgba(0,0,0,.4);font:12px sans-serif"
)


def _legend(low: float, high: float, target: Quantity, below: bool) -> Any:
    """Return the legend: the colours, and five figures below them."""
    import matplotlib
    from matplotlib.colors import to_hex

    stops = [to_hex(matplotlib.colormaps["viridis"](i / 8)) for i in range(9)]
    form = ".0f" if high - low >= 20 else ".3g"  # a share of 0 to 1 needs decimals
    signs = ("≤ " if below else "", "", "", "", "≥ ")
    figures = [
        f"{sign}{low + (high - low) * i / 4:{form}}" for i, sign in enumerate(signs)
    ]
    legend = html_macros("map_controls.html").legend
    content = legend(target.short, target.units, stops, figures)
    return _control("geobiomass-legend", content, "bottomleft")


def _slider(names: list[str], opacity: float) -> Any:
    """Return a slider that sets the opacity of all layers."""
    macros = html_macros("map_controls.html")
    script = macros.opacity_script(names)
    content = macros.opacity(f"{opacity:g}")
    return _control("geobiomass-opacity", content, "topright", script)


def _without_braces(html: str) -> str:
    """Return HTML with its curly brackets escaped.

    branca renders the script of a page as a template again, in which they would be
    an expression.
    """
    return html.replace("{", "&#123;").replace("}", "&#125;")


def _control(name: str, content: str, corner: str, script: str = "") -> Any:
    """Return a box in a corner of the map; clicks in it do not reach the map."""
    from branca.element import MacroElement

    element: Any = MacroElement()  # type: ignore[no-untyped-call]
    element._name = name.replace("-", "_")
    element.html, element.style = _without_braces(str(content)), _BOX
    element.class_, element.corner, element.script = name, corner, script
    element._template = html_environment().get_template("map_control.html")
    return element


def _write_in(page: Any, folder: Path) -> None:
    """Write Leaflet into the page, and remove its links to other files."""
    from branca.element import Element

    files = [folder / name for name in ("leaflet.js", "leaflet.css")]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"There is no {file}; leaflet must be a folder with leaflet.js and "
                "leaflet.css, such as dist of the npm package leaflet."
            )
    script, style = (file.read_text(encoding="utf-8") for file in files)
    # The pictures of the controls are embedded. A closing tag would end the script.
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
