"""The settings of a map as options of a command, with the same names and help."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from geobiomass.inference.map_settings import setting_docs, setting_parameters

_PANEL = "Settings of the map"


def takes_map_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each setting of a map to a command.

    Parameters
    ----------
    command : callable
        With ``**settings``, where it gets the settings by name; the region as read
        from its vector file.
    """
    signature = inspect.signature(command)
    types = get_type_hints(command, include_extras=True)
    parameters = [
        *(
            parameter.replace(annotation=types[name])
            for name, parameter in signature.parameters.items()
            if name != "settings"
        ),
        *map(_option, setting_parameters()),
    ]

    @functools.wraps(command)
    def call(**named: Any) -> None:
        if named["region"] is not None:
            # Only now: it imports xarray, which help and most errors do without.
            from geobiomass.cube.vector_areas import checked_area

            named["region"] = checked_area(named["region"])
        command(**named)

    # typer reads both.
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call


def _option(setting: inspect.Parameter) -> inspect.Parameter:
    """Return a setting as an option; the help is the first sentence of its text."""
    name, kind = setting.name, setting.annotation
    text = " ".join(setting_docs()[name][1].split()).split(". ")[0].rstrip(".") + "."
    # Without an explicit name, typer would also add --no-flips.
    flag = f"--{name.replace('_', '-')}"
    if name == "region":
        kind, text = str | None, "Map only this region of a scene: a vector file."
    option = typer.Option(flag, help=text, rich_help_panel=_PANEL)
    return setting.replace(annotation=Annotated[kind, option])
