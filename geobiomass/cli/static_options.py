"""Options of ``geobiomass ingest`` that add static layers to a cube."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from geobiomass.cli.output import say

if TYPE_CHECKING:
    import xarray as xr

Dem = Annotated[
    str | None,
    typer.Option(help="Raster of elevations, for the static layer elevation."),
]
Slope = Annotated[
    bool, typer.Option("--slope", help="Also its slope, in degrees, as a layer.")
]
Aspect = Annotated[
    bool, typer.Option("--aspect", help="Also its aspect, as sine and cosine.")
]
Static = Annotated[
    list[str] | None,
    typer.Option(help="A static layer, canopy_height=chm.tif; can be repeated."),
]
StaticUnits = Annotated[
    list[str] | None,
    typer.Option(help="Units of a layer whose raster states none, soil_carbon=g/kg."),
]


def static_layers(
    dem: str | None,
    slope: bool,
    aspect: bool,
    static: list[str] | None,
    static_units: list[str] | None,
) -> dict[str, Any]:
    """Return the arguments of :func:`geobiomass.with_static`; none without layers."""
    if dem is None and not static:
        if slope or aspect or static_units:
            raise ValueError(
                "--slope and --aspect follow from an elevation model, --static-units "
                "are of a layer, got neither; give --dem FILE, or --static NAME=FILE."
            )
        return {}
    files = _named(static, "--static", "canopy_height=chm.tif")
    given: dict[str, Any] = {"dem": dem, "slope": slope, "aspect": aspect}
    if taken := set(files) & {*given, "units", "nodata", "crs", "resampling", "cube"}:
        raise ValueError(
            f"--static must name a layer of its own, got {sorted(taken)}; give an "
            "elevation with --dem, and another layer another name."
        )
    units = _named(static_units, "--static-units", "soil_carbon=g/kg")
    return given | {"units": units} | files


def _named(words: list[str] | None, option: str, example: str) -> dict[str, str]:
    """Return words such as NAME=VALUE by name."""
    found: dict[str, str] = {}
    for word in words or []:
        name, equals, value = word.partition("=")
        if not (name and equals and value) or name in found:
            raise ValueError(
                f"{option} must be a name and what it is, each name once, such as "
                f"{example}, got {word!r}."
            )
        found[name] = value
    return found


def with_layers(cube: xr.Dataset, layers: dict[str, Any]) -> xr.Dataset:
    """Return a cube with static layers, and say which they are."""
    if not layers:
        return cube
    from geobiomass.cube.static_layers import layers_of
    from geobiomass.sources.static_layers import with_static

    found = with_static(cube, **layers)
    say(f"static layers: {', '.join(layers_of(found))}")
    return found
