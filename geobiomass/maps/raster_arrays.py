"""Bands of a raster as lazy arrays: errors are named, and checksums compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from geobiomass.cube.one_state import state_at
from geobiomass.cube.raster_errors import named_errors
from geobiomass.cube.schema import ChangedError, DamagedError
from geobiomass.maps.raster_checksums import SIDE, RasterChecksums


def with_named_reads(
    bands: xr.DataArray, path: str, checksums: RasterChecksums | None
) -> xr.DataArray:
    """Return the bands of a raster, whose windows are checked as they are read.

    Parameters
    ----------
    bands : xarray.DataArray
        (band, y, x), lazy, as ``rioxarray.open_rasterio`` returns it.
    path : str
        The file, for messages.
    checksums : RasterChecksums, optional
        Of the file, if it has any.
    """
    array = indexing.LazilyIndexedArray(_Reads(bands, path, checksums))
    variable = xr.Variable(bands.dims, array, bands.attrs, bands.encoding)
    return bands.copy(data=variable)


class _Reads(BackendArray):
    def __init__(
        self, bands: xr.DataArray, path: str, checksums: RasterChecksums | None
    ) -> None:
        self.bands, self.path, self.checksums = bands, path, checksums
        self.shape, self.dtype = bands.shape, bands.dtype
        self.state = state_at(path)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self._read
        )

    def _read(self, key: tuple[int | slice, ...]) -> npt.NDArray[Any]:
        which = np.arange(self.shape[0])[key[0]]
        inner, spans = [], []
        for one, size in zip(key[1:], self.shape[1:], strict=True):
            span, within = self._span(one, size)
            spans.append(span)
            inner.append(within)
        if any(span.start == span.stop for span in spans):
            return np.empty(self.shape, self.dtype)[key]
        found = [self._band(int(n), *spans)[tuple(inner)] for n in np.atleast_1d(which)]
        return np.stack(found) if np.ndim(which) else found[0]

    def _span(self, key: int | slice, size: int) -> tuple[slice, int | slice]:
        """Return the span of whole blocks that has an index, and the index in it."""
        if isinstance(key, slice):
            steps = range(*key.indices(size))
            if not len(steps):
                return slice(0, 0), slice(0, 0)
            low, high = min(steps[0], steps[-1]), max(steps[0], steps[-1]) + 1
        else:
            low = int(key) % size
            high = low + 1
        if self.checksums is not None:
            low, high = low // SIDE * SIDE, min(-(-high // SIDE) * SIDE, size)
        if not isinstance(key, slice):
            return slice(low, high), int(key) % size - low
        stop = steps[-1] + (1 if steps.step > 0 else -1) - low
        return slice(low, high), slice(
            steps[0] - low, stop if stop >= 0 else None, steps.step
        )

    def _band(self, number: int, rows: slice, columns: slice) -> npt.NDArray[Any]:
        try:
            return self._checked(number, rows, columns)
        except DamagedError as error:
            if state_at(self.path) == self.state:
                raise
            raise ChangedError(
                f"{self.path} was written again since it was opened; open it again."
            ) from error

    def _checked(self, number: int, rows: slice, columns: slice) -> npt.NDArray[Any]:
        with named_errors(self.path, rows, columns):
            part = self.bands.isel(band=number, y=rows, x=columns)
            values: npt.NDArray[Any] = part.values
        if self.checksums is not None:
            self.checksums.check(number + 1, values, rows.start, columns.start)
        return values
