"""Lazy variables that xarray decodes, with their files checked at the first read."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from geobiomass.cube.schema import DamagedError
from geobiomass.cube.seal import ArraySeal, Seal

if TYPE_CHECKING:
    from zarr.abc.store import Store


def checked_when_read(
    opened: xr.Dataset,
    sealed: Seal | None,
    store: Store,
    where: str,
    *,
    but: Collection[str] = (),
    group: str = "",
) -> xr.Dataset:
    """Return a dataset whose variables of pixels are checked before they are read.

    Parameters
    ----------
    opened : xarray.Dataset
        From a sealed store, without dask.
    sealed : Seal or None
        The store's checksums; None: nothing is checked.
    store : zarr.abc.store.Store
        The store.
    where : str
        The store as the user named it, for messages.
    but : collection of str
        Variables that check themselves.
    group : str
        Path of the dataset's group in the store.
    """
    if sealed is None:
        return opened
    for name, variable in opened.variables.items():
        path = f"{group}/{name}".lstrip("/")
        found = None if name in but else sealed.of_array(path)
        if found is not None and not variable._in_memory:
            checked = _Checked(variable, found, store, where)
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
        self, variable: xr.Variable, sealed: ArraySeal, store: Store, where: str
    ) -> None:
        self.variable = variable
        self.sealed = sealed
        self.store = store
        self.where = where
        self.shape = variable.shape
        self.dtype = variable.dtype

    def __getitem__(self, key: xr.core.indexing.ExplicitIndexer) -> Any:
        found = self.sealed.problem(self.store, list(self.sealed.files))
        if found is not None:
            file, problem = f"{self.sealed.path}/{found[0]}", found[1]
            raise DamagedError(
                f"{self.sealed.path} of {self.where} cannot be read: {file} {problem}; "
                "restore it from a copy, or write the store again.",
                f"{self.where}/{file}",
            )
        support = xr.core.indexing.IndexingSupport.OUTER
        return xr.core.indexing.explicit_indexing_adapter(
            key, self.shape, support, lambda part: np.asarray(self.variable[part])
        )
