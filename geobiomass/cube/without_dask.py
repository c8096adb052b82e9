"""Opening a Zarr group with xarray, without dask.

xarray asks dask whether an array is one of dask's each time that it makes an index of
numpy's values, and importing dask takes as long as the rest of a cube's description.
So the indexes are made here, of pandas: the dataset is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from xarray.backends import ZarrBackendEntrypoint


def open_lazily(store: Any, **options: Any) -> xr.Dataset:
    """Return a group as ``xarray.open_dataset`` does, its variables lazy.

    Parameters
    ----------
    store : str or zarr.abc.store.Store
        What xarray opens.
    options : dict
        Its other options.
    """
    opened = xr.open_dataset(
        store,
        # The name "zarr" would import each package that has an engine for xarray.
        engine=ZarrBackendEntrypoint,
        chunks=None,
        create_default_indexes=False,
        **options,
    )
    indexes = {
        str(name): _index(str(name), coordinate.variable)
        for name, coordinate in opened.coords.items()
        if coordinate.dims == (name,) and name not in opened.xindexes
    }
    variables = {
        name: index.create_variables({name: opened[name].variable})[name]
        for name, index in indexes.items()
    }
    return opened.assign_coords(xr.Coordinates(variables, indexes))


def _index(name: str, coordinate: xr.Variable) -> xr.indexes.PandasIndex:
    """Return the index that xarray makes of a coordinate."""
    if coordinate.dtype == np.float16:  # which pandas lacks: xarray says what it does
        return xr.indexes.PandasIndex(coordinate, name, coordinate.dtype)
    kind: dict[str, Any] = {"dtype": object} if coordinate.dtype.kind == "O" else {}
    index = pd.Index(np.asarray(coordinate), **kind)
    return xr.indexes.PandasIndex(index, name, coordinate.dtype)
