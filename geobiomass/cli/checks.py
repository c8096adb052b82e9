"""Checks of what a command is given, before PyTorch is imported, which takes seconds.

What is wrong with a path, an option, a label or a band is then reported at once. The
functions that do the work check all of it again, for those who call them from Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

    from geobiomass.recipes.recipe import Recipe


def open_labelled(path: str | Path) -> xr.Dataset:
    """Open a cube, and check that it has labels."""
    from geobiomass.cube.first_look import check_quickly

    check_quickly(path, labels=True)
    from geobiomass.cube import open_cube
    from geobiomass.cube.convert import need_target
    from geobiomass.cube.store import inspect_cube

    need_target(inspect_cube(path)[0])  # first, because open_cube imports dask
    return need_target(open_cube(path))


def open_for_model(
    folder: Path, path: str | Path, *, labels: bool = False, groups: str | None = None
) -> xr.Dataset:
    """Open a cube for a saved model, and check that the two fit.

    Parameters
    ----------
    folder : Path
        The model's folder.
    path : str or Path
        The cube.
    labels : bool
        Whether the cube must have labels.
    groups : str, optional
        A coordinate that the cube must have along its chips.

    Raises
    ------
    ModelError
        If the folder is not a model's, or a file of it is missing.
    CubeError
        If there is no cube, or it lacks a band, labels or the coordinate.
    """
    from geobiomass.cube.first_look import check_quickly

    settings = [*_model_settings(folder)]
    for each in settings or [{}]:
        check_quickly(path, labels=labels, bands=tuple(each.get("bands", ())))
    from geobiomass.cube import open_cube, select_bands
    from geobiomass.cube.convert import need_target
    from geobiomass.cube.store import inspect_cube

    cube, _ = inspect_cube(path)  # first, because open_cube imports dask
    cube = need_target(cube) if labels else cube
    for each in settings:
        select_bands(cube, tuple(each.get("bands", ())))
    if groups is not None:
        from geobiomass.data.splits import groups_of

        groups_of(cube, [], groups)
    cube = open_cube(path)
    return need_target(cube) if labels else cube


def check_model(folder: Path) -> None:
    """Check that a folder contains all files of a model, or of an ensemble."""
    for _ in _model_settings(folder):
        pass


def _model_settings(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the settings of a saved model and of its members."""
    from geobiomass.training.model_folder import (
        WEIGHTS,
        broken,
        member_folders,
        read_config,
    )

    settings = read_config(folder)["settings"]
    yield settings
    members = settings.get("members")
    if isinstance(members, list):
        for member in member_folders(folder, settings):
            yield from _model_settings(member)
    elif not (folder / WEIGHTS).is_file():
        raise broken(folder / WEIGHTS, "no such file")


def check_map_path(path: str) -> None:
    """Check that a map can be written to a path, by its ending."""
    from geobiomass.maps.destination import Destination

    Destination.of(path)


def check_recipe(name: str, changes: Mapping[str, Any]) -> Recipe:
    """Return a recipe with changes; raise if a name or a value is unknown."""
    from geobiomass.recipes.recipe import find_recipe

    return find_recipe(name, **changes)


def check_asked(
    name: str | None, minutes: float | None, changes: Mapping[str, Any]
) -> Recipe | None:
    """Return the recipe that is asked for, None for a choice; raise if any is wrong."""
    from geobiomass.recipes.asked import asked_recipe

    return asked_recipe(name, minutes, changes)


def check_rows(by: str, choices: tuple[str, ...], confidence: float) -> None:
    """Check the rows of a table of metrics, and the confidence of its intervals."""
    from geobiomass.statistics.confidence import check_confidence

    if by not in choices:
        raise ValueError(f"--by must be one of {choices}, got {by!r}.")
    check_confidence(confidence)
