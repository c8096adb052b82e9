"""Lazy variables that xarray decodes, with their files checked at the first read."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from geobiomass.cube.one_state import Origin
from geobiomass.cube.schema import DamagedError
from geobiomass.cube.store_seal import ArraySeal, Seal

if TYPE_CHECKING:
    import zarr

_SMALL = 65_536  # values: read at once, as coordinates are


def checked_when_read(
    opened: xr.Dataset,
    sealed: Seal | None,
    store: zarr.Group,
    where: str,
    *,
    but: Collection[str] = (),
) -> xr.Dataset:
    """Return a dataset whose variables are checked when they are read later.

    Those of pixels are compared with their checksums, and all with the store's state.
    What is smaller is read now, so that it is of the state that is opened.

    Parameters
    ----------
    opened : xarray.Dataset
        A group, opened without dask.
    sealed : Seal or None
        The store's checksums, if it has any.
    store : zarr.Group
        The group.
    where : str
        The store as the user named it, for messages.
    but : collection of str
        Variables that check themselves.
    """
    for name, variable in opened.variables.items():
        if name in but or variable._in_memory:
            continue
        array: Any = store[str(name)]
        found = None if sealed is None else sealed.of_array(array.path)
        if found is None and (variable.ndim < 2 or variable.size <= _SMALL):
            variable.load()
            continue
        origin = Origin.of(array, where, found)
        checked = _Checked(variable, found, origin)
        opened[name] = variable.copy(data=lazily(checked))
    return opened


def lazily(array: xr.backends.BackendArray) -> Any:
    """Return an array that xarray reads when it is needed, and keeps then."""
    indexing: Any = xr.core.indexing
    lazy = indexing.LazilyIndexedArray(array)
    return indexing.MemoryCachedArray(indexing.CopyOnWriteArray(lazy))


class _Checked(xr.backends.BackendArray):
    """A lazy variable; all of its files are checked before its first value is read."""

    def __init__(
        self, variable: xr.Variable, sealed: ArraySeal | None, origin: Origin
    ) -> None:
        self.variable = variable
        self.sealed = sealed
        self.origin = origin
        self.shape = variable.shape
        self.dtype = variable.dtype

    def __getitem__(self, key: xr.core.indexing.ExplicitIndexer) -> Any:
        self._check()
        support = xr.core.indexing.IndexingSupport.OUTER
        values = xr.core.indexing.explicit_indexing_adapter(
            key, self.shape, support, lambda part: np.asarray(self.variable[part])
        )
        self.origin.check()
        return values

    def _check(self) -> None:
        """Compare all files with their checksums."""
        if self.sealed is None:
            return
        found = self.sealed.problem(self.origin.store, list(self.sealed.files))
        if found is not None:
            self.origin.check(now=True)
            file, problem = f"{self.sealed.path}/{found[0]}", found[1]
            raise DamagedError(
                f"{self.sealed.path} of {self.origin.where} cannot be read: {file} "
                f"{problem}; restore it from a copy, or write the store again.",
                f"{self.origin.where}/{file}",
            )
