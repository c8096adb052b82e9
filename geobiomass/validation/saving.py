"""What a cross-validation's folder holds of maps and folds: written and read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.region import Region
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
from geobiomass.tiles import Window, blocks
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
    """Write a lazy map block by block, going on where an earlier call stopped.

    Parameters
    ----------
    folder : Path
        Of the cross-validation.
    predictions : xarray.Dataset
        (y, x) or (chip, y, x) float32, lazy.
    made_with : mapping
        What its values depend on.
    side : int
        Of a block, pixels.
    progress, overwrite : bool
        As :func:`geobiomass.maps.write_map` takes them.

    Raises
    ------
    FileExistsError, MapInUseError, IncompleteMapError
        As that function says.
    """
    # Regions and names of chips' flights are the cube's, which goes with the folder.
    coords = predictions.coords
    others = [n for n in coords if n not in predictions.dims and coords[n].ndim]
    predictions = predictions.drop_vars(others)
    windows = list(blocks(predictions.sizes["y"], predictions.sizes["x"], side))
    chips = range(predictions.sizes["chip"]) if "chip" in predictions.dims else (None,)
    write_map(
        folder / PREDICTIONS,
        predictions.assign_attrs({MADE_WITH: dict(made_with)}),
        [Block(window, chip) for chip in chips for window in windows],
        partial(_compute, predictions),
        fingerprint_of(dict(made_with)),
        side=side,
        progress=progress,
        overwrite=overwrite,
    )


def _compute(predictions: xr.Dataset, block: Block) -> npt.NDArray[np.float32]:
    found = predictions.isel(_indexers(block.window, block.chip)).compute()
    return np.stack([layer.values.astype(np.float32) for layer in found.values()])


def _indexers(window: Window, chip: int | None) -> dict[str, Any]:
    where: dict[str, Any] = {"y": window.rows, "x": window.columns}
    return where if chip is None else where | {"chip": chip}


def open_predictions(folder: Path, cube: xr.Dataset, side: int) -> xr.Dataset:
    """Open what :func:`write_predictions` wrote, lazy.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    CubeError
        If it is unfinished, or not on the cube's grid.
    """
    found = open_map(str(folder / PREDICTIONS))
    sizes = {str(dim): size for dim, size in found["agb"].sizes.items()}
    expected = {str(dim): size for dim, size in cube["agb"].sizes.items()}
    if sizes != expected:
        raise CubeError(
            f"{folder / PREDICTIONS} must be on the cube's grid, {expected}, got "
            f"{sizes}."
        )
    return found.chunk({dim: 1 if dim == "chip" else side for dim in sizes})


# --- folds ------------------------------------------------------------------------


def folds_to_dict(folds: Folds) -> dict[str, Any]:
    """Give what :func:`folds_from_dict` takes, ready for JSON.

    Parameters
    ----------
    folds : Folds
        Of a layer of regions only the name is kept: the cube has the layer.
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
    """Make folds again of what :func:`folds_to_dict` gave.

    Parameters
    ----------
    facts : mapping
        As it was read from JSON.
    cube : xarray.Dataset
        That they were made of.

    Raises
    ------
    CubeError
        If the cube is another, lacks the layer of regions, or that has changed.
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
        raise ValueError(f"Folds that were saved are damaged ({error!r}).") from error
    folds.check(cube)
    if not same:
        raise CubeError(
            f"Folds that were saved hold out other ground than they did: {folds.by!r} "
            "of the cube has changed since, or their record has."
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
            f"{sorted(map(str, cube.variables))}."
        )
    return ZoneGround(cube[plain["by"]].transpose("y", "x"))
