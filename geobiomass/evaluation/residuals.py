"""Errors pixel by pixel, as a table: what a variogram and an error model start from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.cube import CubeError, as_cube
from geobiomass.cube.areas import pixel_size
from geobiomass.cube.axes import in_our_names
from geobiomass.data.folds import Folds
from geobiomass.data.groups import NOWHERE, BlockGround, ChipGround, Ground
from geobiomass.data.reader import Sample
from geobiomass.files import sha256_of, sha256_of_file, write_whole
from geobiomass.tiles import blocks

MOST = 200_000  # rows of a table: 14 MB
_UNIT = 256  # pixels: side of the blocks of a scene that count as units
_PIECE = 1024  # pixels: side of what is compared at once
LAYERS = {"agb": "predicted", "agb_lower": "lower", "agb_upper": "upper"}
TABLE = "residuals.csv"
_COLUMNS = ("observed", "predicted", "y", "x", "unit")
_NUMBERS = ("observed", "predicted", "lower", "upper", "y", "x")
_FORMAT = 1


@dataclass(frozen=True)
class _Piece:
    """Where something is compared: rows of the cube's axes, and the place."""

    sample: Sample
    number: int

    def cut(self, data: xr.DataArray) -> npt.NDArray[Any]:
        window = self.sample.window
        where: dict[str, Any] = {"y": window.rows, "x": window.columns}
        if self.sample.chip is not None:
            where["chip"] = self.sample.chip
        return np.asarray(data.isel(where).values)


def residuals(
    map: xr.Dataset | xr.DataArray,
    cube: xr.Dataset | xr.DataArray,
    *,
    folds: Folds | None = None,
    most: int = MOST,
    pixel: float | tuple[float, float] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Give the errors of a map where labels are, a row a pixel.

    Parameters
    ----------
    map : xarray.Dataset or xarray.DataArray
        ``agb`` (y, x) or (chip, y, x), Mg/ha, on the cube's grid; with ``agb_lower``
        and ``agb_upper`` where it has intervals. A lazy map is computed piece by
        piece. Errors say how good a map is only where its model has not seen the
        labels: :func:`cross_validate` gives such a map.
    cube : xarray.Dataset
        With ``agb``.
    folds : Folds, optional
        What was held out together: units are its blocks, regions or chips, and there
        is a column ``fold``. Pixels of none of its groups are left out.
    most : int
        Rows at most. Of more labels, units give about the same number each, drawn at
        random from all of the unit, and small units all that they have.
    pixel : float or tuple of float, optional
        Metres down and across; by default those on the ground at the scene's centre.
        Chips have no place on Earth, so that theirs must be given.
    seed : int
        Of the draw.

    Returns
    -------
    pandas.DataFrame
        ``observed``, ``predicted`` and, where the map has them, ``lower`` and
        ``upper``, Mg/ha; ``y``, ``x``: metres from the upper left corner of the scene,
        or of the pixel's chip; ``unit``: the chip, or block of 256 pixels of a scene,
        or what `folds` held out together; ``fold``. ``attrs``: "kind" is "scene" or
        "chips", "pixel" metres down and across.

    Raises
    ------
    CubeError
        If the cube has no labels, shapes differ, or there is no pixel with both.
    ValueError
        If a number is out of range, or chips come without `pixel`.
    """
    cube = as_cube(cube)
    layers = _layers(map)
    _check(layers, cube, most)
    if folds is not None:
        folds.check(cube)
    chips = "chip" in cube.dims
    size = _pixel(cube, pixel)
    ground = _ground(cube) if folds is None else folds.ground
    share = _shares(cube, ground, most)
    parts = [
        _rows(piece, layers, cube["agb"], ground, share, size, seed)
        for piece in _pieces(cube)
    ]
    table = pd.concat([part for part in parts if len(part)] or parts[:1])
    if table.empty:
        raise CubeError(
            "'agb' has no label where the map has a value; nothing to compare."
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
    return table


def _layers(map: xr.Dataset | xr.DataArray) -> dict[str, xr.DataArray]:
    if isinstance(map, xr.DataArray):
        return {"predicted": in_our_names(map)}
    data = in_our_names(map)
    return {column: data[name] for name, column in LAYERS.items() if name in data}


def _check(layers: dict[str, xr.DataArray], cube: xr.Dataset, most: int) -> None:
    if "agb" not in cube:
        raise CubeError("The cube has no 'agb' to compare with; cube.assign(agb=...).")
    if "predicted" not in layers:
        raise CubeError("The map has no 'agb'; model.predict(cube) gives one.")
    if most < 1:
        raise ValueError(f"most must be a number of rows above 0, got {most}.")
    truth = cube["agb"]
    for layer in layers.values():
        if layer.dims != truth.dims or layer.shape != truth.shape:
            raise CubeError(
                f"The map must have the cube's axes {dict(truth.sizes)}, got "
                f"{dict(layer.sizes)}."
            )
        for dim in truth.dims:
            both = dim in truth.coords and dim in layer.coords
            if both and not np.array_equal(truth[dim].values, layer[dim].values):
                raise CubeError(f"{dim!r} of the map is not the cube's; map this cube.")


def _pixel(
    cube: xr.Dataset, given: float | tuple[float, float] | None
) -> tuple[float, float]:
    if given is None and "chip" in cube.dims:
        raise ValueError(
            "pixel must be given for chips, metres, as they have no place on Earth: "
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


def _pieces(cube: xr.Dataset) -> Iterator[_Piece]:
    windows = blocks(cube.sizes["y"], cube.sizes["x"], _PIECE)
    chips = range(cube.sizes["chip"]) if "chip" in cube.dims else (None,)
    every = (Sample(window, chip) for chip in chips for window in windows)
    return (_Piece(sample, number) for number, sample in enumerate(every))


def _shares(cube: xr.Dataset, ground: Ground, most: int) -> npt.NDArray[np.float64]:
    """Give the part of each unit's labels to draw, so that there are `most` in all."""
    counts = np.zeros(len(ground.names), np.int64)
    for piece in _pieces(cube):
        groups = ground.groups(piece.sample)
        known = np.isfinite(piece.cut(cube["agb"])) & (groups != NOWHERE)
        counts += np.bincount(groups[known], minlength=len(counts))
    if counts.sum() <= most:
        return np.ones(len(counts))
    # How many a draw gives varies; more than `most` would have to be thrown away.
    wanted = max(1.0, most - 3 * np.sqrt(most))
    # Units with fewer labels than the others' part leave theirs to those.
    ordered = np.sort(counts)
    left = wanted - np.concatenate([[0], ordered[:-1].cumsum()])
    each = left / np.arange(len(ordered), 0, -1)
    quota = each[np.argmax(each <= ordered)]
    return np.asarray(np.minimum(1.0, quota / np.maximum(counts, 1)))


def _rows(
    piece: _Piece,
    layers: dict[str, xr.DataArray],
    labels: xr.DataArray,
    ground: Ground,
    share: npt.NDArray[np.float64],
    pixel: tuple[float, float],
    seed: int,
) -> pd.DataFrame:
    """Draw the rows of one piece; what is drawn depends on the piece alone."""
    truth = piece.cut(labels).astype(np.float64)
    groups = ground.groups(piece.sample)
    draw = np.random.default_rng([seed, piece.number]).random(truth.shape)
    wanted = np.isfinite(truth) & (groups != NOWHERE) & (draw < share[groups])
    columns = {"observed": truth}
    if wanted.any():
        columns |= {n: piece.cut(v).astype(np.float64) for n, v in layers.items()}
        wanted &= np.isfinite(columns["predicted"])
    else:
        columns |= dict.fromkeys(layers, truth)
    rows, across = np.nonzero(wanted)
    window = piece.sample.window
    table = {name: values[wanted] for name, values in columns.items()}
    table["y"] = (rows + window.top) * pixel[0]
    table["x"] = (across + window.left) * pixel[1]
    table["unit"] = groups[wanted]
    return pd.DataFrame(table)


# --- on disk ----------------------------------------------------------------------


def write_residuals(table: pd.DataFrame, path: str | Path) -> None:
    """Write residuals as a CSV, and what a CSV cannot say as JSON beside it.

    Numbers are written so that the same bits are read again. The JSON, named as the
    table with ``.json`` behind, has the table's ``attrs`` and its checksum.

    Parameters
    ----------
    table : pandas.DataFrame
        As :func:`geobiomass.residuals` gives it, with its ``attrs``.
    path : str or Path
        The table, ``.csv``; one that is there is replaced.

    Raises
    ------
    ValueError
        If `path` does not end with .csv, or the table lacks a column, "kind" or
        "pixel".
    """
    path = Path(path)
    if path.suffix != ".csv":
        raise ValueError(
            f"path of a table of residuals must end with .csv, got {path}."
        )
    _need_columns(table, "The table")
    lacking = [name for name in ("kind", "pixel") if name not in table.attrs]
    if lacking:
        raise ValueError(
            f"attrs of a table of residuals must have {lacking}, got {table.attrs}; "
            "gb.residuals sets them."
        )
    content = table.to_csv(index=False, lineterminator="\n").encode()
    facts = {
        "format": _FORMAT,
        "kind": table.attrs["kind"],
        "pixel": [float(side) for side in table.attrs["pixel"]],
        "sha256": sha256_of(content),
    }
    for sample, written in (
        (path, content),
        (_facts_beside(path), json.dumps(facts, indent=2).encode()),
    ):
        write_whole(sample, written)


def read_residuals(path: str | Path) -> pd.DataFrame:
    """Read a table of residuals.

    Parameters
    ----------
    path : str or Path
        What :func:`write_residuals` wrote, or a folder of
        :meth:`geobiomass.CrossValidation.save` with such a table; or any CSV with the
        columns ``observed``, ``predicted`` (Mg/ha), ``y``, ``x`` (metres) and ``unit``.

    Returns
    -------
    pandas.DataFrame
        As :func:`geobiomass.residuals` gives it. A CSV with no JSON beside it has no
        ``attrs``.

    Raises
    ------
    FileNotFoundError
        If there is no such table.
    ValueError
        If the table is not as it was written, lacks a column, or is no CSV.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / TABLE).is_file():
            found = sorted(file.name for file in path.iterdir())
            raise FileNotFoundError(
                f"{path} must hold {TABLE}, got {found}; give the folder of a finished "
                "geobiomass validate, or a CSV."
            )
        path = path / TABLE
    if not path.is_file():
        raise FileNotFoundError(f"There is nothing at {path}; expected residuals.")
    facts = _read_facts(path)
    try:
        cells = pd.read_csv(path, dtype=str, keep_default_na=False)
        _need_columns(cells, str(path))
        table = pd.DataFrame({name: _parsed(cells[name]) for name in cells})
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError) as error:
        raise ValueError(
            f"{path} must be a CSV of residuals with columns {_COLUMNS}, got a file "
            f"that is none ({error})."
        ) from error
    table.attrs.update(facts)
    return table


def _parsed(cells: pd.Series) -> Any:
    """Read a column as Python does: releases of pandas differ in the last bit."""
    if cells.name not in (*_NUMBERS, "fold"):
        return cells
    try:
        if cells.name == "fold":
            return np.array([int(cell) for cell in cells], np.int64)
        return np.array([float(cell or "nan") for cell in cells], np.float64)
    except ValueError as error:
        raise ValueError(
            f"Column {cells.name!r} of residuals must be numbers, {error}."
        ) from error


def _facts_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_facts(path: Path) -> dict[str, Any]:
    """Give the attributes of a table; none where nothing was noted of it."""
    beside = _facts_beside(path)
    if not beside.exists():
        return {}
    try:
        facts = json.loads(beside.read_text("utf-8"))
        down, across = map(float, facts["pixel"])
        form, kind, checksum = facts["format"], str(facts["kind"]), facts["sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{beside} is damaged ({error!r}); write the residuals again."
        ) from error
    if form != _FORMAT:
        raise ValueError(
            f"{beside} must be of format {_FORMAT}, got {form}; read it with the "
            "version of geobiomass that wrote it."
        )
    if sha256_of_file(path) != checksum:
        raise ValueError(
            f"{path} must be as it was written, but its checksum is another; write the "
            f"residuals again, or delete {beside.name} to read it as any CSV."
        )
    return {"kind": kind, "pixel": (down, across)}


def _need_columns(table: pd.DataFrame, what: str) -> None:
    lacking = [name for name in _COLUMNS if name not in table]
    if lacking:
        raise ValueError(
            f"{what} must have the columns {_COLUMNS}, got {list(table)} without "
            f"{lacking}."
        )
