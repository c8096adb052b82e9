"""Descriptions of cubes, maps, models and validations, by path or in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.axes import find_axes
from geobiomass.cube.convert import cube_or_chip
from geobiomass.cube.store import is_local
from geobiomass.cube.summary import describe_cube, describe_stored_cube
from geobiomass.info.maps import (
    describe_map,
    describe_raster,
    describe_raster_at,
    describe_stored_map,
    describe_unfinished,
)
from geobiomass.maps import describe_progress, in_one_state
from geobiomass.models.summary import describe_folder, describe_model
from geobiomass.summary import Summary
from geobiomass.training.given_paths import path_text
from geobiomass.training.setting_names import explain_arguments

__all__ = ["describe"]


@explain_arguments
def describe(thing: Any) -> Summary:
    """Return a description: kind, georeference, size, missing values by month.

    It reads little: statistics that a cube on disk contains are used; without them a
    few chips, or the middle of a scene, are read, and the description names them as a
    sample. A lazy map is not computed.

    Parameters
    ----------
    thing : str, Path, xarray.Dataset, xarray.DataArray, model or MapPlan
        A Zarr cube or a map as Zarr or GeoTIFF, finished or not (an address such as
        ``s3://bucket/chips.zarr`` too), the folder of a model or of a cross-validation,
        finished or not; or a cube, a map, a model or a plan in memory.

    Returns
    -------
    Summary
        A mapping of headings to texts. It prints as ``geobiomass info`` does, is shown
        as HTML in Jupyter, and has ``to_dict()``.

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    CubeError
        If the path contains none of these.
    ValueError
        If a cross-validation's folder is damaged.
    TypeError
        If `thing` is something else.

    Examples
    --------
    >>> import geobiomass as gb
    >>> gb.describe(gb.landscape((64, 64)))["size"]
    '64 x 64 pixels'
    """
    if isinstance(thing, str | Path):
        return Summary(in_one_state(str(thing), lambda: _of_path(thing)))
    if isinstance(thing, xr.Dataset) and "image" in thing:
        return Summary(describe_cube(cube_or_chip(thing)))
    if isinstance(thing, xr.Dataset | xr.DataArray):
        if {"month", "y", "x"} <= set(find_axes(thing).values()):
            return Summary(describe_cube(cube_or_chip(thing)))
        return Summary(describe_map(thing))
    from geobiomass.inference.plan import MapPlan  # imports PyTorch

    if isinstance(thing, MapPlan):
        return Summary({"what": "plan of a map", **thing.rows()})
    if hasattr(thing, "bands") and hasattr(thing, "network"):
        return Summary(describe_model(thing))
    raise TypeError(
        "thing to describe must be a path, a cube, a map, a model or a plan, got a "
        f"{type(thing).__name__}."
    )


def _of_path(path: str | Path) -> dict[str, Any]:
    path_text(path, "thing to describe", CubeError)
    progress = None
    if str(path).rstrip("/").endswith((".zarr", ".tif", ".tiff")):
        progress = describe_progress(path)
    if progress is not None and not progress["finished"]:
        return describe_unfinished(progress)
    if progress is not None:
        return describe_stored_map(progress["store"])
    if not is_local(path):
        address = str(path)
        raster = address.lower().endswith((".tif", ".tiff"))
        return describe_raster_at(address) if raster else describe_stored_cube(path)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"There is nothing at {path}; give the path of a cube, map, model or file."
        )
    if path.suffix.lower() in (".tif", ".tiff"):
        return describe_raster(path)
    if (path / "config.json").is_file():
        return describe_folder(path)
    if (path / "zarr.json").is_file():
        return describe_stored_cube(path)
    # Not at the top: they import dask, which a cube's description does without.
    from geobiomass.info.validations import describe_validation
    from geobiomass.validation.folder import is_begun

    if is_begun(path):
        return describe_validation(path)
    return describe_stored_cube(path)
