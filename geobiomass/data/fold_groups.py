"""The groups that folds hold out: options of ``make_folds``, counts of labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.areas import pixel_size
from geobiomass.data.fingerprint import hash_values
from geobiomass.data.groups import (
    NOWHERE,
    ChipGround,
    Ground,
    PolygonGround,
    ZoneGround,
    corners_of,
    polygons_of,
)
from geobiomass.data.reader import Reader, Sample
from geobiomass.data.splits import FEWEST_BLOCKS, NARROWEST_BLOCK
from geobiomass.statistics.variogram import suggest_block
from geobiomass.tiles import blocks, even_blocks

_BLOCK = 256  # pixels: side of a scene's blocks by default
_WINDOW = 1024  # pixels: side of the windows that are read to count labels
_RANDOM = ("pixel", "pixels", "random")
_NEVER = (
    "by={!r} is not on offer: neighbouring pixels are similar, so a model that has "
    "seen the neighbours of a held-out pixel is scored on what it remembers (Roberts "
    "et al. 2017, Ecography 40:913; Ploton et al. 2020, Nature Communications "
    "11:4540). Use by='block' for a scene, by='chip' for chips, or the name of a "
    "region."
)


def check_options(
    count: int, by: str, block: Any, buffer: int, column: str | None, chips: bool
) -> None:
    """Check the options of ``make_folds`` against each other and the kind of cube.

    Raises
    ------
    CubeError
        If a scene is asked for what only chips have, or chips for what a scene has.
    ValueError
        If an option is out of range, goes with another `by`, or asks for pixels.
    """
    if by in _RANDOM:
        raise ValueError(_NEVER.format(by))
    if count < 2:
        raise ValueError(f"count of folds must be 2 or more, got {count}.")
    if buffer < 0:
        raise ValueError(f"buffer must be 0 pixels or more, got {buffer}.")
    if block is not None and by != "block":
        raise ValueError(f"block goes with by='block', got block={block!r}, by={by!r}.")
    if block not in (None, "auto") and (not isinstance(block, int) or block < 1):
        raise ValueError(f"block must be pixels, or 'auto', got {block!r}.")
    if column is not None and by != "polygon":
        raise ValueError(f"column goes with polygons, got by={by!r}.")
    if by == "block" and chips:
        raise CubeError("by='block' needs a scene; for chips there is by='chip'.")
    if by == "chip" and not chips:
        raise CubeError("by='chip' needs chips; for a scene there is by='block'.")
    if chips and by == "polygon":
        raise CubeError(
            "Polygons need a scene, got chips, which have no georeference; use "
            "by='chip' or the name of a coordinate along 'chip'."
        )


def side_of_blocks(
    cube: xr.Dataset,
    count: int,
    block: int | str | None,
    variogram: Any,
    residuals: Any,
) -> int:
    """Return the side of the blocks of a scene, pixels.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene.
    count : int
        Number of folds, which need two blocks each.
    block, variogram, residuals
        As ``make_folds`` takes them.
    """
    if isinstance(block, int):
        return block
    height, width = cube.sizes["y"], cube.sizes["x"]
    if block == "auto":
        return suggested_side(cube, variogram, residuals)
    side = _BLOCK
    wanted = max(FEWEST_BLOCKS, 2 * count)
    while side > NARROWEST_BLOCK and len(even_blocks(height, width, side)) < wanted:
        side //= 2
    return side


def suggested_side(cube: xr.Dataset, variogram: Any, residuals: Any) -> int:
    """Return the side of blocks beyond which errors hardly correlate, pixels.

    Raises
    ------
    ValueError
        If there is neither a variogram nor residuals.
    """
    if variogram is None and residuals is None:
        raise ValueError(
            "block='auto' needs variogram= or residuals= of a model's errors, got "
            "neither; gb.cross_validate(cube).residuals() returns residuals."
        )
    if variogram is None:
        return suggest_block(residuals)
    return suggest_block(variogram, pixel_size(cube))


def regions_in(cube: xr.Dataset, by: Any, column: str | None) -> Ground:
    """Return the regions or polygons of a scene as groups.

    Raises
    ------
    CubeError
        If the scene has no such layer, or the polygons cannot be read.
    """
    height, width = cube.sizes["y"], cube.sizes["x"]
    if not isinstance(by, str):
        return PolygonGround(polygons_of(by, cube, column), height, width)
    if by not in cube.variables or set(cube[by].dims) != {"y", "x"}:
        known = [str(n) for n, v in cube.variables.items() if set(v.dims) == {"y", "x"}]
        raise CubeError(
            "by must be 'block', polygons, or the name of a coordinate or variable "
            f"(y, x) with regions, got {by!r}; the cube has {sorted(known)}."
        )
    return ZoneGround(cube[by].transpose("y", "x"))


def chips_in(
    cube: xr.Dataset, by: str, buffer: int, names: tuple[str, str]
) -> ChipGround:
    """Return the chips, or groups of them by a coordinate, as groups.

    Raises
    ------
    CubeError
        If there is no such coordinate, or a buffer and no positions of the chips.
    """
    corners = corners_of(cube, names)
    if buffer and corners is None:
        raise CubeError(
            f"buffer={buffer} needs the positions of chips, to know which are near "
            f"each other; the cube has no coordinates {names[0]!r} and {names[1]!r} "
            "along 'chip' (corners=). Without them hold out whole regions, for example "
            "by='region'."
        )
    ids = [str(chip) for chip in cube["chip"].values]
    if by != "chip":
        if by not in cube.coords or cube[by].dims != ("chip",):
            known = [str(n) for n, v in cube.coords.items() if v.dims == ("chip",)]
            raise CubeError(
                "by must be 'chip' or the name of a coordinate along 'chip', got "
                f"{by!r}; the cube has {sorted(known)}."
            )
        ids = [str(value) for value in cube[by].values]
    return ChipGround(ids, cube.sizes["y"], cube.sizes["x"], corners)


def count_labels_in_memory(
    cube: xr.Dataset, ground: ChipGround
) -> tuple[int, ...] | None:
    """Count labels by group of chips; return None if they would have to be read."""
    labels = cube["agb"].data
    if not isinstance(labels, np.ndarray):
        return None
    counts = np.isfinite(labels).sum((1, 2))
    return tuple(np.bincount(ground.group_of, counts).astype(int).tolist())


def count_labels(
    cube: xr.Dataset, ground: Ground
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Count labelled pixels, and all pixels, by group of a scene, in windows."""
    reader = Reader(cube, [str(cube["band"].values[0])])
    count = len(ground.names)
    labelled, area = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for window in blocks(reader.height, reader.width, _WINDOW):
        groups = ground.groups(Sample(window))
        inside = groups != NOWHERE
        known = inside & np.isfinite(reader.labels(Sample(window)))
        area += np.bincount(groups[inside], minlength=count)
        labelled += np.bincount(groups[known], minlength=count)
    return labelled, area


def size_of(cube: xr.Dataset) -> tuple[int, int, int]:
    """Return chips (0 for a scene), rows and columns of a cube."""
    return cube.sizes.get("chip", 0), cube.sizes["y"], cube.sizes["x"]


def grid_of(cube: xr.Dataset) -> str:
    """Return a fingerprint of the names of chips, or of a scene's coordinates."""
    dims = ("chip",) if "chip" in cube.dims else ("y", "x")
    return hash_values(
        [cube[dim].values.tolist() for dim in dims if dim in cube.coords]
    )
