"""A summary of a cube: months, bands, and the share of values that are present."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.cube import check_cube, is_chips
from geobiomass.cube.found_images import image_facts
from geobiomass.cube.grid_summary import bytes_in, grid_facts, size_in_words
from geobiomass.cube.one_state import consistently
from geobiomass.cube.quantity import quantity_of
from geobiomass.cube.sealing import damage_in_words
from geobiomass.cube.selection import Selection
from geobiomass.cube.static_layers import STATIC, units_of_layers
from geobiomass.cube.store import STORED_DTYPE, inspect_cube, read_counts
from geobiomass.summary import Table, bytes_in_words, month_names

# Chips that are read for the table of months: enough to see the pattern, few enough
# to answer at once.
SAMPLES = 8
SIDE = 256  # pixels along a side: the part of a scene that is read, in its middle
IN_MEMORY = 50_000_000  # values: a larger array in memory is sampled

Facts = dict[str, str | Table]
Shares = npt.NDArray[np.float64]  # by month and band


def describe_stored_cube(path: str | Path) -> Facts:
    """Describe a cube on a disk or at an address."""
    return consistently([path], lambda: _describe_stored(path))


def _describe_stored(path: str | Path) -> Facts:
    cube, arrays = inspect_cube(path)
    stored = arrays.get("image")
    image = cube["image"]
    encoding = image.encoding
    dtype = encoding.get(STORED_DTYPE, encoding.get("dtype"))
    memory = image.size * np.dtype(dtype or np.float32).itemsize
    disk = bytes_in(path)
    found = None if stored is None else Selection.all_of(stored)
    layers = Selection.all_of(arrays[STATIC]) if STATIC in arrays else None
    known = _known(image, found)
    present = _sampled(cube) if known is None else _table(known, image, "")
    facts = _facts(cube, present) | _ranges(cube, "band", found)
    facts |= _ranges(cube, "layer", layers)
    facts["stored as"] = (
        f"{dtype or image.dtype}, {bytes_in_words(disk)} on disk, "
        f"compressed {memory / max(disk, 1):.1f} to 1"
    )
    facts |= damage_in_words(path)
    tables = [name for name, fact in facts.items() if isinstance(fact, Table)]
    return facts | {name: facts.pop(name) for name in tables}


def describe_cube(cube: xr.Dataset, *, sample: bool = True) -> Facts:
    """Describe an opened cube.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene or chips.
    sample : bool
        Whether a few pixels may be computed if dask has not computed them; pixels on
        disk or in memory are read in any case.

    Raises
    ------
    CubeError
        If it is not a cube.
    """
    found = presence(cube, sample=sample)
    facts = _facts(cube, found)
    facts |= _ranges(cube, "band", _selection(cube["image"]))
    if STATIC in cube:
        facts |= _ranges(cube, "layer", _selection(cube[STATIC]))
    return facts


def _selection(image: xr.DataArray) -> Selection | None:
    return Selection.of(image.data) if image.chunks is not None else None


def _labels(cube: xr.Dataset) -> str:
    """Return the name and the units of the labels, and their number if it is known."""
    if "agb" not in cube:
        return "none"
    target = quantity_of(cube["agb"])
    count = cube["agb"].attrs.get("labelled_pixels")
    number = "" if count is None else f", {int(count):,} labelled pixels"
    return f"{target.name}, {target.units}{number}"


def _facts(cube: xr.Dataset, present: Table | None) -> Facts:
    facts: Facts = {
        "what": "chips" if is_chips(cube) else "scene",
        "size": size_in_words(cube),
        "months": " ".join(map(str, cube["month"].values.tolist())),
        "bands": " ".join(map(str, cube["band"].values.tolist())),
        "labels": _labels(cube),
    }
    if STATIC in cube:
        units = units_of_layers(cube[STATIC])
        named = [name if u == "1" else f"{name} ({u})" for name, u in units.items()]
        facts["static layers"] = ", ".join(named)
    for name in ("title", "source", "licence"):
        if name in cube.attrs:
            facts[name] = str(cube.attrs[name])
    facts |= grid_facts(cube)
    facts |= image_facts(cube)
    facts["values present"] = present or (
        "not known before it is computed; gb.describe(cube) looks at a few pixels"
    )
    return facts


def presence(cube: xr.Dataset, *, sample: bool = True) -> Table | None:
    """Return the share of values that are present, by band and month, in percent.

    100 means all and 0 means none: any other share is rounded to 1 to 99.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene or chips.
    sample : bool
        Whether a few pixels may be computed if dask has not computed them.

    Returns
    -------
    Table or None
        With a note if it is a sample; None if nothing may be computed.

    Raises
    ------
    CubeError
        If it is not a cube.
    """
    check_cube(cube)
    image = cube["image"]
    found = _selection(image)
    known = _known(image, found)
    if known is not None:
        return _table(known, image, "")
    if image.chunks is None and image.size <= IN_MEMORY:
        return _table(_share(image), image, "")
    if found is None and image.chunks is not None and not sample:
        return None
    return _sampled(cube)


def _known(image: xr.DataArray, found: Selection | None) -> Shares | None:
    """Return the share that the store counted, if all its pixels are selected."""
    if found is None or found.stored.array.path != "image":
        return None
    *before, months, bands, rows, columns = found.positions
    sizes = found.stored.shape[-2:]
    for positions, size in zip((rows, columns), sizes, strict=True):
        if not np.array_equal(np.sort(positions), np.arange(size)):
            return None
    # Not a DataArray: xarray imports dask.array to make one of numpy's arrays.
    known = read_counts(found.stored)
    if known is None:
        return None
    counts, dims = known
    chosen = {"month": months, "band": bands}
    if before:
        chosen["chip"] = before[0]
    for dim, positions in chosen.items():
        counts = counts.take(positions, dims.index(dim))
    over = tuple(i for i, dim in enumerate(dims) if dim not in ("month", "band"))
    pixels = image.size / image.sizes["month"] / image.sizes["band"]
    share: Shares = counts.sum(over) / pixels
    return share


def _share(image: xr.DataArray) -> Shares:
    over = [dim for dim in image.dims if dim not in ("month", "band")]
    share: Shares = image.notnull().mean(over).transpose("month", "band").values
    return share


def _sampled(cube: xr.Dataset) -> Table:
    """Return the share on a few chips, or in the middle of a scene."""
    image = cube["image"]
    if is_chips(cube):
        chips = np.unique(np.linspace(0, cube.sizes["chip"] - 1, SAMPLES).astype(int))
        part = image.isel(chip=chips)
        note = "" if part.sizes == image.sizes else f"sampled: {len(chips)} chips"
        return _table(_share(part), part, note)
    middle = {
        dim: slice(max(0, n // 2 - SIDE // 2), n // 2 + SIDE // 2)
        for dim, n in cube.sizes.items()
        if dim in ("y", "x")
    }
    part = image.isel(middle)
    whole = part.sizes == image.sizes
    return _table(_share(part), part, "" if whole else "sampled: the middle")


def _table(share: Shares, image: xr.DataArray, note: str) -> Table:
    exact = 100 * share.T
    whole = np.clip(np.rint(exact), 1, 99).astype(int)
    percent = np.where(exact >= 100, 100, np.where(exact <= 0, 0, whole))
    frame = pd.DataFrame(
        percent,
        pd.Index([str(band) for band in image["band"].values], name="% by month"),
        month_names(image["month"].values),
    )
    return Table(frame, note, shares=True)


def _ranges(cube: xr.Dataset, dim: str, found: Selection | None) -> Facts:
    """Return the range of values of each band or static layer, if it is stored."""
    if found is None or found.stored.statistics is None or not found.whole:
        return {}
    columns = ["minimum", "p1", "p50", "p99", "maximum", "mean", "sd"]
    every = found.stored.statistics.loc[[str(name) for name in cube[dim].values]]
    table = every[columns].round(2)
    if dim == "band":
        return {"value ranges": Table(table, fold=f"{len(table)} bands")}
    table.insert(0, "missing, %", (100 * every["missing"]).round(1))
    return {"static values": Table(table, fold=f"{len(table)} static layers")}
