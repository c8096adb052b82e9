"""The map and the folds in a cross-validation's folder, and the cube they belong to."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.cluster_watch import computed
from geobiomass.cube.plain_attributes import as_json
from geobiomass.cube.region import Region
from geobiomass.cube.store import is_local
from geobiomass.data.folds import Folds
from geobiomass.data.groups import (
    BlockGround,
    ChipGround,
    Ground,
    PolygonGround,
    ZoneGround,
)
from geobiomass.maps import MADE_WITH, Block, fingerprint_of, write_map
from geobiomass.maps.reading import open_map
from geobiomass.tiles import Sample, blocks, indexers_of, samples_on_chips
from geobiomass.validation.folder import PREDICTIONS

_PLAIN = ("by", "count", "fold_of", "pixels", "buffer", "seed", "block", "size", "grid")


# --- the map ----------------------------------------------------------------------


def write_predictions(
    folder: Path,
    predictions: xr.Dataset,
    made_with: Mapping[str, Any],
    side: int,
    progress: bool,
    overwrite: bool,
) -> None:
    """Write a lazy map block by block, continuing where an earlier call stopped.

    Parameters
    ----------
    folder : Path
        Folder of the cross-validation.
    predictions : xarray.Dataset
        (y, x) or (chip, y, x) float32, lazy.
    made_with : mapping
        All that its values depend on.
    side : int
        Side of a block, pixels.
    progress, overwrite : bool
        As in :func:`geobiomass.maps.write_map`.

    Raises
    ------
    FileExistsError, MapInUseError, IncompleteMapError
        As in that function.
    """
    # Other coordinates, such as regions, are read from the cube.
    coords = predictions.coords
    others = [n for n in coords if n not in predictions.dims and coords[n].ndim]
    predictions = predictions.drop_vars(others)
    windows = blocks(predictions.sizes["y"], predictions.sizes["x"], side)
    samples = samples_on_chips(windows, predictions.sizes.get("chip"))
    write_map(
        folder / PREDICTIONS,
        predictions.assign_attrs({MADE_WITH: as_json(made_with)}),
        [Block(sample.window, sample.chip) for sample in samples],
        partial(_compute, predictions),
        fingerprint_of(dict(made_with)),
        side=side,
        progress=progress,
        overwrite=overwrite,
    )


def _compute(predictions: xr.Dataset, block: Block) -> npt.NDArray[np.float32]:
    part = predictions.isel(indexers_of(Sample(block.window, block.chip)))
    found = computed(part, "held-out predictions were being computed")
    return np.stack([layer.values.astype(np.float32) for layer in found.values()])


def open_predictions(folder: Path, cube: xr.Dataset, side: int) -> xr.Dataset:
    """Open the map that :func:`write_predictions` wrote, lazily.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    CubeError
        If it is unfinished, or not on the cube's grid.
    """
    found = open_map(str(folder / PREDICTIONS))
    first = next(iter(found.values()))  # every layer has the map's axes
    sizes = {str(dim): size for dim, size in first.sizes.items()}
    expected = {str(dim): size for dim, size in cube["agb"].sizes.items()}
    if sizes != expected:
        raise CubeError(
            f"{folder / PREDICTIONS} must be on the cube's grid, {expected}, got "
            f"{sizes}."
        )
    return found.chunk({dim: 1 if dim == "chip" else side for dim in sizes})


# --- folds ------------------------------------------------------------------------


def folds_to_dict(folds: Folds) -> dict[str, Any]:
    """Return folds as a dictionary for JSON, which :func:`folds_from_dict` reads.

    Parameters
    ----------
    folds : Folds
        Only the name of a layer of regions is kept: the cube has the layer.
    """
    facts = {name: getattr(folds, name) for name in _PLAIN}
    return facts | {"ground": _ground_to_dict(folds.ground), "identity": folds.identity}


def _ground_to_dict(ground: Ground) -> dict[str, Any]:
    if isinstance(ground, ChipGround):
        groups = [ground.names[number] for number in ground.group_of]
        corners = None if ground.corners is None else ground.corners.tolist()
        return {"kind": "chips", "groups": groups, "corners": corners}
    if isinstance(ground, PolygonGround):
        regions = [
            {"group": group, "shapes": region.shapes, "transform": region.transform}
            for group, region in ground.regions
        ]
        return {"kind": "polygons", "regions": regions}
    return {"kind": "layer" if isinstance(ground, ZoneGround) else "blocks"}


def folds_from_dict(facts: Mapping[str, Any], cube: xr.Dataset) -> Folds:
    """Restore folds from a dictionary of :func:`folds_to_dict`.

    Parameters
    ----------
    facts : mapping
        As read from JSON.
    cube : xarray.Dataset
        The cube of the folds.

    Raises
    ------
    CubeError
        If the cube is a different one, or lacks or has changed its layer of regions.
    ValueError
        If `facts` are damaged.
    """
    try:
        plain = {name: facts[name] for name in _PLAIN}
        for name in ("fold_of", "pixels", "size"):
            plain[name] = None if plain[name] is None else tuple(plain[name])
        ground = _ground_from_dict(facts["ground"], plain, cube)
        folds = Folds(ground=ground, **plain)
        same = folds.identity == facts["identity"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"Folds that were saved are damaged ({error!r}); copy the folder again, or "
            "make the cross-validation again."
        ) from error
    folds.check(cube)
    if not same:
        raise CubeError(
            f"Folds that were saved must hold out the same pixels as before, got "
            f"others: {folds.by!r} of the cube has changed since, or their record has. "
            "Give the cube as it was, or validate again."
        )
    return folds


def _ground_from_dict(
    ground: Mapping[str, Any], plain: Mapping[str, Any], cube: xr.Dataset
) -> Ground:
    _, height, width = plain["size"]
    if ground["kind"] == "chips":
        found = ground["corners"]
        corners = None if found is None else np.array(found, np.int64)
        return ChipGround(ground["groups"], height, width, corners)
    if ground["kind"] == "polygons":
        regions = [
            (each["group"], Region(tuple(each["shapes"]), tuple(each["transform"])))
            for each in ground["regions"]
        ]
        return PolygonGround(regions, height, width)
    if ground["kind"] == "blocks":
        return BlockGround(height, width, plain["block"])
    if plain["by"] not in cube.variables:
        raise CubeError(
            f"The cube must have {plain['by']!r}, the regions that folds held out, got "
            f"{sorted(map(str, cube.variables))}; give the cube as it was."
        )
    return ZoneGround(cube[plain["by"]].transpose("y", "x"))


# --- the cube ---------------------------------------------------------------------


def find_cube(recorded: str | None, folder: Path) -> str:
    """Return the path or address of a cube that was recorded, if it still exists.

    Raises
    ------
    FileNotFoundError
        If none was recorded, or there is nothing at the path.
    """
    if recorded is not None and (not is_local(recorded) or Path(recorded).exists()):
        return recorded
    where = (
        "whose path was not recorded"
        if recorded is None
        else f"which is not at {recorded}"
    )
    raise FileNotFoundError(
        f"{folder} needs the cube that it was made of, {where}; give it: "
        "gb.CrossValidation.load(folder, cube)."
    )


def check_unchanged(
    before: Mapping[str, str], now: Mapping[str, str], where: str, folder: Path
) -> None:
    """Check that a cube is unchanged: raise if labels differ, warn if images do.

    Parameters
    ----------
    before, now : mapping
        Facts that identify the cube; only facts in both are compared.
    where : str
        Name of the cube in messages.
    folder : Path
        Folder of the cross-validation.

    Raises
    ------
    CubeError
        If labels, months or the grid differ.

    Warns
    -----
    UserWarning
        If only images differ.
    """
    changed = {k: v for k, v in before.items() if k in now and now[k] != v}
    if "data" in changed:
        raise CubeError(
            f"{where} must be as it was when {folder} was made, got other labels, "
            f"months or grid: it was {before['data']} and is {now['data']}. Give the "
            "cube as it was, gb.CrossValidation.load(folder, cube), or validate again, "
            "in another folder."
        )
    for name, known in changed.items():
        warnings.warn(
            f"{where} has other images than when {folder} was made, and the same "
            f"labels: {name} was {known} and is {now[name]}. The saved map and its "
            "errors are valid for the images as they were; validate again for these.",
            stacklevel=3,
        )
