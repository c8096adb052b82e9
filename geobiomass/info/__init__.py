"""Descriptions of cubes, maps, models and validations, by path or in memory.

What describes each kind is imported where it is needed: a raster is described without
xarray, a model without Zarr, a stored cube without dask.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geobiomass.cube.addresses import is_local
from geobiomass.cube.errors import CubeError
from geobiomass.maps import describe_progress, in_one_state
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
    return Summary(_in_memory(thing))


def _in_memory(thing: Any) -> Mapping[str, Any]:
    import xarray as xr

    from geobiomass.cube.axes import find_axes
    from geobiomass.cube.convert import cube_or_chip
    from geobiomass.cube.summary import describe_cube
    from geobiomass.info.maps import describe_map

    if isinstance(thing, xr.Dataset) and "image" in thing:
        return describe_cube(cube_or_chip(thing))
    if isinstance(thing, xr.Dataset | xr.DataArray):
        if {"month", "y", "x"} <= set(find_axes(thing).values()):
            return describe_cube(cube_or_chip(thing))
        return describe_map(thing)
    from geobiomass.inference.plan import MapPlan  # imports PyTorch

    if isinstance(thing, MapPlan):
        return {"what": "plan of a map", **thing.rows()}
    if hasattr(thing, "bands") and hasattr(thing, "network"):
        from geobiomass.models.summary import describe_model

        return describe_model(thing)
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
        from geobiomass.info.maps import describe_unfinished

        return describe_unfinished(progress)
    if progress is not None:
        from geobiomass.info.maps import describe_stored_map

        return describe_stored_map(progress["store"])
    if not is_local(path):
        address = str(path)
        if address.lower().endswith((".tif", ".tiff")):
            from geobiomass.info.rasters import describe_raster_at

            return describe_raster_at(address)
        return _of_cube(path)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"There is nothing at {path}; give the path of a cube, map, model or file."
        )
    if path.suffix.lower() in (".tif", ".tiff"):
        from geobiomass.info.rasters import describe_raster

        return describe_raster(path)
    if (path / "config.json").is_file():
        from geobiomass.models.summary import describe_folder

        return describe_folder(path)
    if (path / "zarr.json").is_file():
        return _of_cube(path)
    from geobiomass.info.validations import describe_validation
    from geobiomass.validation.folder import is_begun

    if is_begun(path):
        return describe_validation(path)
    return _of_cube(path)


def _of_cube(path: str | Path) -> dict[str, Any]:
    from geobiomass.cube.summary import describe_stored_cube

    return describe_stored_cube(path)
