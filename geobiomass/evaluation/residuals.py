"""Residuals: errors of a map pixel by pixel, as a table.

Variograms and error models are fitted to them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.cube import CubeError, as_cube, open_cube
from geobiomass.cube.alignment import check_one_grid
from geobiomass.cube.areas import pixel_size
from geobiomass.cube.axes import in_our_names
from geobiomass.cube.cluster_watch import computed
from geobiomass.cube.corners import located
from geobiomass.cube.missing_values import measured_layer
from geobiomass.cube.quantity import Quantity, of_layer, quantity_of, target_of
from geobiomass.cube.target import in_units_of, times
from geobiomass.cube.units import MASS_PER_AREA, hectare_factor, plain
from geobiomass.cube.values import decoded_layers
from geobiomass.data.folds import Folds
from geobiomass.data.groups import NOWHERE, BlockGround, ChipGround, Ground
from geobiomass.evaluation.residual_files import TABLE, read_residuals, write_residuals
from geobiomass.maps.reading import open_map
from geobiomass.tiles import Sample, blocks, indexers_of, samples_on_chips
from geobiomass.training.setting_names import explain_arguments

__all__ = ["MOST", "TABLE", "read_residuals", "residuals", "write_residuals"]

MOST = 200_000  # rows of a table: 14 MB
_UNIT = 256  # pixels: side of the blocks of a scene that are exchangeable groups
_BLOCK = 1024  # pixels: side of the blocks that are compared one by one
_SUFFIXES = {"": "predicted", "_lower": "lower", "_upper": "upper"}


@explain_arguments
def residuals(
    map: str | os.PathLike[str] | xr.Dataset | xr.DataArray,
    cube: str | os.PathLike[str] | xr.Dataset | xr.DataArray,
    *,
    folds: Folds | None = None,
    most: int = MOST,
    pixel: float | tuple[float, float] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the errors of a map where labels are, one row for each pixel.

    Parameters
    ----------
    map : str, Path, xarray.Dataset or xarray.DataArray
        A map, or the path of one: ``agb`` (y, x) or (chip, y, x), on the cube's grid;
        with ``agb_lower`` and ``agb_upper`` where it has intervals; or the target of
        another model by its own name. A mass per area is converted to Mg/ha. A lazy map
        is computed block by block. Errors show the quality of a map only where its
        model has not seen the labels: :func:`cross_validate` makes such a map.
    cube : str, Path or xarray.Dataset
        A cube, or the path of one, with ``agb``, in units that can be converted to the
        map's.
    folds : Folds, optional
        The groups that were held out together. Units are then its blocks, regions or
        chips, and there is a column ``fold``. Pixels of none of its groups are left
        out.
    most : int
        Largest number of rows. Where there are more labels, about the same number is
        drawn at random from each unit, and all labels of small units are kept.
    pixel : float or tuple of float, optional
        Height and width of a pixel, metres; by default on the ground at the scene's
        centre. Chips have no georeference, so they need it.
    seed : int
        Seed of the draw.

    Returns
    -------
    pandas.DataFrame
        ``observed``, ``predicted`` and, where the map has them, ``lower`` and
        ``upper``, Mg/ha; ``y``, ``x``: metres from the upper left corner of the scene,
        or of the pixel's chip; ``unit``, the exchangeable group: the chip, or block
        of 256 pixels of a scene, or group that `folds` held out together; ``fold``.
        ``attrs``: "kind" is "scene" or "chips", "pixel" its height and width, metres;
        of another quantity than biomass also "target" and "units".

    Raises
    ------
    CubeError
        If the cube has no labels, shapes or quantities differ, or there is no pixel
        with both.
    ValueError
        If a number is out of range, or chips come without `pixel`.
    """
    if isinstance(cube, str | os.PathLike):
        cube = open_cube(os.fspath(cube))
    cube = as_cube(cube)
    if isinstance(map, str | os.PathLike):
        map = open_map(os.fspath(map))
    layers, target = _layers(map)
    _check(layers, cube, most)
    if target is None:
        target = quantity_of(cube["agb"])
    cube = in_units_of(cube, target, "The map shows")
    if folds is not None:
        folds.check(cube)
    chips = "chip" in cube.dims
    size = _pixel(cube, pixel)
    ground = _ground(cube) if folds is None else folds.ground
    share = _shares(cube, ground, most)
    parts = [
        _rows(sample, layers, cube["agb"], ground, share, size, [seed, number])
        for number, sample in enumerate(_blocks_of(cube))
    ]
    table = pd.concat([part for part in parts if len(part)] or parts[:1])
    if table.empty:
        raise CubeError(
            "'agb' must have a label where the map has a value, got none: there is "
            "nothing to compare. Give a cube with labels."
        )
    table = table.reset_index(drop=True)
    if len(table) > most:
        kept = np.random.default_rng(seed).permutation(len(table))[:most]
        table = table.iloc[np.sort(kept)].reset_index(drop=True)
    numbers = table["unit"].to_numpy()
    if folds is not None:
        table["fold"] = np.array(folds.fold_of)[numbers]
    table["unit"] = np.array(ground.names, object)[numbers]
    table.attrs = {"kind": "chips" if chips else "scene", "pixel": size}
    if target.units != MASS_PER_AREA:
        table.attrs |= {"target": target.name, "units": target.units}
    return table


def _layers(
    map: xr.Dataset | xr.DataArray,
) -> tuple[dict[str, xr.DataArray], Quantity | None]:
    """Return the layers of a map by column, and what they are, if units say so.

    A mass per area is returned in Mg/ha.
    """
    if not isinstance(map, xr.Dataset | xr.DataArray):
        raise CubeError(
            "The map must be an xarray Dataset or a path to Zarr or GeoTIFF, got a "
            f"{type(map).__name__}."
        )
    if isinstance(map, xr.DataArray):
        map = decoded_layers(map)
        found = {"predicted": located(in_our_names(map))}
        target = of_layer(map, "agb" if map.name is None else None)
    else:
        data = located(in_our_names(decoded_layers(map)))
        target = target_of(data)
        names = {column: target.name + end for end, column in _SUFFIXES.items()}
        found = {column: data[name] for column, name in names.items() if name in data}
    axes = ("chip", "y", "x", ...)
    found = {
        column: measured_layer(layer.transpose(*axes, missing_dims="ignore"))
        for column, layer in found.items()
    }
    if "predicted" not in found or not plain(found["predicted"].attrs.get("units")):
        return found, None
    factor = hectare_factor(target.units)
    if factor is None:
        return found, target
    target = dataclasses.replace(target, units=MASS_PER_AREA)
    return {column: times(layer, factor) for column, layer in found.items()}, target


def _check(layers: dict[str, xr.DataArray], cube: xr.Dataset, most: int) -> None:
    if "agb" not in cube:
        raise CubeError(
            f"The cube must have 'agb' to compare with, got {sorted(map(str, cube))}; "
            "add it with cube.assign(agb=...)."
        )
    if "predicted" not in layers:
        raise CubeError(
            f"The map must have 'agb', got {sorted(layers)}; model.predict(cube) "
            "makes such a map."
        )
    if most < 1:
        raise ValueError(f"most must be a number of rows above 0, got {most}.")
    truth = cube["agb"]
    for layer in layers.values():
        if layer.dims != truth.dims or layer.shape != truth.shape:
            raise CubeError(
                f"The map must have the cube's axes {dict(truth.sizes)}, got "
                f"{dict(layer.sizes)}."
            )
        named = "chip" in truth.coords and "chip" in layer.coords
        if named and not np.array_equal(truth["chip"].values, layer["chip"].values):
            raise CubeError("'chip' of the map is not the cube's; map this cube.")
        check_one_grid(truth, layer, "The map", "the cube")


def _pixel(
    cube: xr.Dataset, given: float | tuple[float, float] | None
) -> tuple[float, float]:
    if given is None and "chip" in cube.dims:
        raise ValueError(
            "pixel must be given for chips, in metres, as they have no georeference: "
            "10 for those of BioMassters."
        )
    if given is None:
        return pixel_size(cube)
    down, across = given if isinstance(given, tuple) else (given, given)
    if not (down > 0 and across > 0):
        raise ValueError(f"pixel must be metres above 0, got {given}.")
    return float(down), float(across)


def _ground(cube: xr.Dataset) -> Ground:
    height, width = cube.sizes["y"], cube.sizes["x"]
    if "chip" not in cube.dims:
        return BlockGround(height, width, _UNIT)
    return ChipGround([str(chip) for chip in cube["chip"].values], height, width)


def _blocks_of(cube: xr.Dataset) -> list[Sample]:
    windows = blocks(cube.sizes["y"], cube.sizes["x"], _BLOCK)
    return samples_on_chips(windows, cube.sizes.get("chip"))


def _values(data: xr.DataArray, sample: Sample) -> npt.NDArray[Any]:
    part = data.isel(indexers_of(sample))
    return np.asarray(computed(part, "the map and labels were being read").values)


def _shares(cube: xr.Dataset, ground: Ground, most: int) -> npt.NDArray[np.float64]:
    """Return the share of each unit's labels to draw, so that `most` are drawn."""
    counts = np.zeros(len(ground.names), np.int64)
    for sample in _blocks_of(cube):
        groups = ground.groups(sample)
        known = np.isfinite(_values(cube["agb"], sample)) & (groups != NOWHERE)
        counts += np.bincount(groups[known], minlength=len(counts))
    if counts.sum() <= most:
        return np.ones(len(counts))
    # The number of drawn rows is random, with a standard deviation below sqrt(most).
    # Aiming three of them lower makes it unlikely that rows must be thrown away.
    wanted = max(1.0, most - 3 * np.sqrt(most))
    # Units with fewer labels than the quota leave their remainder to the others.
    ordered = np.sort(counts)
    left = wanted - np.concatenate([[0], ordered[:-1].cumsum()])
    each = left / np.arange(len(ordered), 0, -1)
    quota = each[np.argmax(each <= ordered)]
    return np.asarray(np.minimum(1.0, quota / np.maximum(counts, 1)))


def _rows(
    sample: Sample,
    layers: dict[str, xr.DataArray],
    labels: xr.DataArray,
    ground: Ground,
    share: npt.NDArray[np.float64],
    pixel: tuple[float, float],
    seed: Sequence[int],
) -> pd.DataFrame:
    """Draw the rows of one block; the draw depends on `seed` alone."""
    truth = _values(labels, sample).astype(np.float64)
    groups = ground.groups(sample)
    draw = np.random.default_rng(seed).random(truth.shape)
    wanted = np.isfinite(truth) & (groups != NOWHERE) & (draw < share[groups])
    columns = {"observed": truth}
    if wanted.any():
        columns |= {
            name: _values(layer, sample).astype(np.float64)
            for name, layer in layers.items()
        }
        wanted &= np.isfinite(columns["predicted"])
    else:
        columns |= dict.fromkeys(layers, truth)
    rows, across = np.nonzero(wanted)
    window = sample.window
    table = {name: values[wanted] for name, values in columns.items()}
    table["y"] = (rows + window.top) * pixel[0]
    table["x"] = (across + window.left) * pixel[1]
    table["unit"] = groups[wanted]
    return pd.DataFrame(table)
