"""Values that no measurement has: infinite ones, and nodata that nothing declares.

They become NaN, are counted, and are told in one sentence. Lazy arrays are cleaned
block by block when they are computed, by a rule that needs the value alone; of arrays
in memory, the distance from all other values counts too.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import product
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.selection import Selection
from geobiomass.cube.static_layers import PIXELS

TAKEN = "taken_as_missing"
"""Attribute of an image, of labels or of a table: the values taken as missing."""

# Nothing on Earth is that large: the fill values 1e20 (CMIP), 9.97e36 (netCDF), 1e30
# and 3.4e38 (GDAL) are, and infinity, as the decibels of no power.
_LARGEST = 1e19
# Fill values that no band has as a value: those of GDAL, ESRI and NASA products, and
# the lowest whole numbers of 16 and 32 bits.
_NEVER = (-9999.0, -99999.0, -999999.0, -32768.0, -32767.0, -2147483648.0)
# 65535 is nodata or a saturated pixel of Sentinel-2; as reflectance it would be 6.5.
# Of other whole numbers with a scale it is the largest code, also nodata or saturated.
NEVER_STORED = (*_NEVER, 65535.0)
# Of biomass, height and cover; -999 is a fill value of inventories.
_NEVER_LABELS = (*_NEVER, -9998.0, -999.0)
# Fill values that may be measured too: they are missing only where several pixels have
# exactly this value, and it is far outside of all others.
_PERHAPS = (
    -9998.0, -999.0, -99.0, 255.0, 999.0, 9999.0, 99999.0, 32767.0, 65535.0,
    2147483647.0, 2147483648.0, 4294967295.0, 4294967296.0,
)  # fmt: skip
_FEWEST = 10  # pixels with exactly this value, and as many different other values
_FAR = 1.5  # distance from all others, in their range from lowest to highest
_PREFIX = "measured-"
_SIDE = 512  # pixels: blocks of arrays on disk that come without dask
LOOKED_AT = "looked_at"
"""Mark in the encoding of arrays on disk whose facts are read and not their values."""

Found = Counter[tuple[str, float]]
Values = npt.NDArray[Any]


def clean(
    values: Values,
    bands: Sequence[str] | None = None,
    *,
    whole: bool = True,
    stored: bool = False,
    more: Sequence[float] = (),
) -> tuple[Values, Found]:
    """Return values with NaN where no measurement can be, and the counts of these.

    Parameters
    ----------
    values : numpy.ndarray
        (..., band, y, x); without `bands` labels or a map, of any shape. They are not
        changed; the result is the same array where nothing is found.
    bands : sequence of str, optional
        Names of the bands.
    whole : bool
        Whether these are all values, so that their distribution tells something.
    stored : bool
        Whether the values are stored numbers, before scale and offset.
    more : sequence of float
        Fill values that were found in a sample.
    """
    found: Found = Counter()
    if values.dtype.kind != "f" or not values.size:
        return values, found
    made = values
    for number, band in enumerate([""] if bands is None else bands):
        at: Any = ... if bands is None else (..., number, slice(None), slice(None))
        never: Sequence[float] = _NEVER_LABELS if bands is None else _NEVER
        if stored or re.fullmatch(r"B\d{1,2}A?", band):
            never = NEVER_STORED
        masks = _fills(values[at], tuple(dict.fromkeys((*never, *more))), whole)
        for value, mask in masks:
            if made is values:
                made = values.copy()
            made[at][mask] = np.nan
            found[band, value] += int(np.count_nonzero(mask))
    return made, found


def _fills(
    values: Values, never: Sequence[float], whole: bool
) -> list[tuple[float, npt.NDArray[np.bool_]]]:
    """Return the values that mean missing, each with its pixels."""
    low, high = _ends(values)
    masks = []
    if max(-low, high) >= _LARGEST:
        for mask in (values >= _LARGEST, values <= -_LARGEST):
            if mask.any():
                masks.append((_most_common(values[mask]), mask))
        low, high = _ends(np.where(np.abs(values) < _LARGEST, values, np.nan))
    for value in never:
        if low <= value <= high and (mask := values == value).any():
            masks.append((value, mask))
    if whole and (low in _PERHAPS or high in _PERHAPS):
        tally = FillTally()
        tally.add(values)
        masks += [(v, values == v) for v in tally.fills() if v not in never]
    return masks


def _ends(values: Values) -> tuple[float, float]:
    """Return lowest and highest value; NaN, which is in no range, without any."""
    return (
        float(np.fmin.reduce(values, axis=None)),
        float(np.fmax.reduce(values, axis=None)),
    )


def _most_common(values: Values) -> float:
    found, counts = np.unique(values, return_counts=True)
    return float(f"{found[np.argmax(counts)]:.7g}")


class FillTally:
    """Finds fill values that may be measured too, among all values or a sample."""

    def __init__(self) -> None:
        self.counts: Counter[float] = Counter()
        self.low, self.high = np.inf, -np.inf
        self.others: set[float] = set()  # a few of the other values

    def add(self, values: Values) -> None:
        """Count a block; NaN and what is never measured are left out."""
        values = values[np.abs(values) < _LARGEST]
        perhaps = np.isin(values, _PERHAPS)
        for value, count in zip(
            *np.unique(values[perhaps], return_counts=True), strict=True
        ):
            self.counts[float(value)] += int(count)
        rest = values[~perhaps & ~np.isin(values, _NEVER)]
        if rest.size:
            low, high = _ends(rest)
            self.low, self.high = min(low, self.low), max(high, self.high)
        if len(self.others) < _FEWEST:
            self.others |= set(rest[: 100 * _FEWEST].tolist())

    def fills(self) -> list[float]:
        """Return the values that many pixels have exactly, far from all others."""
        far = _FAR * (self.high - self.low)
        return [
            value
            for value, count in self.counts.items()
            if count >= _FEWEST
            and len(self.others) >= _FEWEST
            and min(abs(value - self.low), abs(value - self.high)) >= far
        ]


# --- cubes and maps -----------------------------------------------------------------


def measured(cube: xr.Dataset, *, lazy: bool = True) -> xr.Dataset:
    """Return a cube whose infinite and undeclared fill values are NaN, and tell it.

    A cube without any stays the same object; so does one on disk that
    :func:`write_cube` wrote, by its statistics; and with `lazy` False all that are not
    in memory.
    """
    told = []
    for name in PIXELS:
        if name not in cube:
            continue
        before = cube[name]
        names = next((before[d] for d in ("band", "layer") if d in before.dims), None)
        bands = None if names is None else [str(one) for one in names.values]
        if not lazy and not before.variable._in_memory:
            continue
        after, found = _measured(before, bands)
        if after is not before:
            cube = cube.assign({name: after})
            cube[name].encoding = {
                key: known for key, known in before.encoding.items() if key != "teller"
            }
        if found:
            told.append(f"{name}: {in_words(found)}")
    if told:
        tell("; ".join(told), stacklevel=4)
    return cube


def measured_layer(layer: xr.DataArray, more: Sequence[float] = ()) -> xr.DataArray:
    """Return a map's layer as :func:`measured` returns a cube.

    `more` are fill values that are known beside those that are never measured. The
    encoding of a lazy layer has its :class:`Teller`, as "teller".
    """
    layer = floats_of(layer)
    after, found = _measured(layer, None, more)
    if found:
        tell(f"map: {in_words(found)}", stacklevel=4)
    return after


def floats_of(layer: xr.DataArray) -> xr.DataArray:
    """Return labels or a map of whole numbers as floats.

    Of a lazy one, which is read from a file, a sample shows undeclared nodata.
    """
    if layer.dtype.kind not in "iu":
        return layer
    fills = sampled_fills(layer) if layer.chunks is not None else []
    wide = np.float32 if layer.dtype.itemsize < 4 else np.float64
    floats = layer.astype(wide).assign_attrs(layer.attrs)
    for fill in fills:
        floats = floats.where(floats != fill)
    if fills:
        words = ", ".join(f"{fill:g}" for fill in fills)
        tell(f"{words}, by a sample of nine windows", stacklevel=5)
    return floats


def sampled_fills(layer: xr.DataArray) -> list[float]:
    """Return undeclared nodata that nine windows of a map show: edges and middle."""
    tally = FillTally()
    side = _SIDE // 4
    starts = [
        sorted({0, max(0, (n - side) // 2), max(0, n - side)}) for n in layer.shape
    ]
    for corner in product(*starts):
        window = tuple(slice(start, start + side) for start in corner)
        tally.add(np.asarray(layer[window].values, np.float64))
    return tally.fills()


def _measured(
    array: xr.DataArray, bands: list[str] | None, more: Sequence[float] = ()
) -> tuple[xr.DataArray, Found]:
    if array.dtype.kind != "f" or not array.size:
        return array, Counter()
    if array.chunks is None and array.variable._in_memory:
        values, found = clean(array.values, bands, more=more)
        if not found:
            return array, found
        return _with_count(array.copy(data=values), found), found
    if array.chunks is None and array.encoding.get(LOOKED_AT):
        return array, Counter()  # its values are not read at all
    if array.chunks is None:
        array = array.chunk({"y": _SIDE, "x": _SIDE})
    if _is_clean(array, bands):
        return array, Counter()
    axis = array.ndim - 3 if bands else None
    cleaner = _Cleaner(bands, axis, more=more)
    cleaned = array.copy(data=_in_blocks(array, cleaner))
    cleaned.encoding = {**array.encoding, "teller": cleaner.teller}
    return cleaned, Counter()


def _with_count(array: xr.DataArray, found: Found) -> xr.DataArray:
    return array.assign_attrs({TAKEN: in_words(found)})


def _is_clean(array: xr.DataArray, bands: list[str] | None) -> bool:
    """Return whether a lazy array was cleaned before, or when it was written."""
    if any(str(layer).startswith(_PREFIX) for layer in array.data.dask.layers):
        return True
    stored = Selection.of(array.data)
    table = None if stored is None else stored.stored.statistics
    if stored is None:
        return False
    if bands is None:  # labels have no statistics; write_cube cleans them
        return stored.stored.held is not None
    if table is None:
        return False
    ends = table[["minimum", "maximum"]].to_numpy()
    known = (*_NEVER, -_LARGEST, _LARGEST)
    return not (np.isin(ends, known) | (np.abs(ends) >= _LARGEST)).any()


def without_fills(
    variable: xr.Variable, name: str, teller: Teller, more: Sequence[float] = ()
) -> xr.Variable:
    """Return stored whole numbers as floats, NaN where they are undeclared nodata.

    With `more`, the values are scaled already, and these are what nodata became.
    """
    stored = not more
    if isinstance(variable.data, np.ndarray):
        floats = variable.data.astype(np.float32)
        values, found = clean(floats, whole=False, stored=stored, more=more)
        teller.add(Counter({(name, v): n for (_, v), n in found.items()}))
        return variable.copy(data=values)
    if variable.chunks is None:
        return variable
    lazy = variable.astype(np.float32)
    cleaner = _Cleaner(None, None, stored=stored, more=more)
    return lazy.copy(data=lazy.data.map_blocks(cleaner))


def _in_blocks(array: xr.DataArray, cleaner: _Cleaner) -> Any:
    from dask.base import tokenize

    return array.data.map_blocks(
        cleaner,
        dtype=array.dtype,
        meta=np.empty((0,) * array.ndim, array.dtype),
        name=_PREFIX + tokenize(array.data.name, cleaner),
    )


class Teller:
    """Counts values taken as missing in lazy blocks, and tells those of the first."""

    def __init__(self, quiet: bool = False) -> None:
        self.found: Found = Counter()
        self._told, self._lock = quiet, Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Teller, ()

    def __dask_tokenize__(self) -> str:
        return "Teller"

    def add(self, found: Found, words: str = "") -> None:
        """Count, and warn the first time, where the values stand being `words`."""
        if not found:
            return
        with self._lock:
            self.found += found
            first, self._told = not self._told, True
        if first:
            tell(f"{in_words(found)} {words}, and wherever else", stacklevel=3)


class _Cleaner:
    """Cleans the blocks of a lazy array."""

    def __init__(
        self,
        bands: list[str] | None,
        axis: Any,
        *,
        stored: bool = False,
        more: Sequence[float] = (),
    ) -> None:
        self.bands, self.axis, self.stored, self.more = bands, axis, stored, more
        self.teller = Teller()

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return "_Cleaner", self.bands, self.axis, self.stored, tuple(self.more)

    def __call__(self, block: Values, block_info: Any = None) -> Values:
        bands = self.bands
        if bands is not None and block_info:
            start, stop = block_info[0]["array-location"][self.axis]
            bands = bands[start:stop]
        values, found = clean(
            block, bands, whole=False, stored=self.stored, more=self.more
        )
        self.teller.add(found, f"of the first {block.size} values read")
        return values


def in_words(found: Found) -> str:
    """Return the values taken as missing with their numbers of pixels."""
    return ", ".join(
        f"{band + ' ' if band else ''}{value:.7g} ({count} pixels)"
        for (band, value), count in sorted(found.items())
    )


def tell(words: str, stacklevel: int) -> None:
    """Warn of values that were taken as missing."""
    warnings.warn(
        "Values that no measurement has are taken as missing: "
        f"{words}. nodata= of gb.as_cube, gb.with_labels and gb.from_rasters declares "
        "such a value.",
        stacklevel=stacklevel + 1,
    )
