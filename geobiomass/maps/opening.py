"""Opening the Zarr group of a finished map: what is damaged is named."""

from __future__ import annotations

from collections.abc import Mapping
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from geobiomass.cube.checked_layers import checked_when_read, lazily
from geobiomass.cube.one_state import Origin
from geobiomass.cube.schema import CubeError, DamagedError
from geobiomass.cube.store import WithoutDask, missing, open_group, store_at
from geobiomass.cube.store_seal import Seal, check_store
from geobiomass.cube.stored_array import StoredArray
from geobiomass.cube.without_dask import open_lazily

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

_REMEDY = (
    "restore the file from a copy, or make the map again (overwrite=True, on the "
    "command line --overwrite)"
)


def check_map(
    path: str | Path | Store, storage_options: Mapping[str, Any] | None = None
) -> Seal | None:
    """Check what describes a map: metadata and small arrays."""
    return check_store(store_at(path, storage_options), str(path))


def open_layers(
    path: str | Path | Store,
    group: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Open a map, or a group of its overviews, lazily and without dask.

    Raises
    ------
    DamagedError
        If metadata or coordinates are damaged. Reading values raises it too, and then
        names the window.
    """
    store = store_at(path, storage_options)
    sealed = check_store(store, str(path))
    try:
        # It checks what arrays claim, before coordinates are read.
        here: Any = open_group(store, "r", consolidated=False)
        made = open_lazily(store, group=group, decode_coords="all", consolidated=False)
    except FileNotFoundError as error:
        if (nothing := missing(path, storage_options, "a map")) is not None:
            raise nothing from error
        raise CubeError(
            f"{path} is no map that can be read ({error}); give a finished map, .zarr "
            "or .tif."
        ) from error
    except (RuntimeError, JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedError(
            f"{path} is damaged where it describes itself, in its coordinates or "
            f"zarr.json ({error}); {_REMEDY}.",
            str(path),
        ) from error
    here = here if group is None else here[group]
    ours = [str(name) for name in made if _is_plain(made[name].variable, here[name])]
    for name in ours:
        array = here[name]
        sums = None if sealed is None else sealed.of_array(array.path)
        stored = StoredArray(
            array,
            str(path),
            labels=_labels(made[name]),
            sealed=sums,
            remedy=_REMEDY,
            origin=Origin.of(array, str(path), sums),
        )
        values = made[name].variable.copy(data=lazily(WithoutDask(stored)))
        made[name] = values
    return checked_when_read(made, sealed, here, str(path), but=ours)


def _is_plain(variable: xr.Variable, array: zarr.Array[Any]) -> bool:
    """Return whether a layer's values are stored as they are read: float32, NaN."""
    encoding = variable.encoding
    fill = encoding.get("_FillValue", np.nan)
    return (
        array.metadata.zarr_format == 3
        and tuple(variable.dims[-2:]) == ("y", "x")
        and array.dtype == variable.dtype == np.dtype(np.float32)
        and not {"scale_factor", "add_offset", "missing_value"} & encoding.keys()
        and isinstance(fill, float | np.floating)
        and bool(np.isnan(fill))
    )


def _labels(layer: xr.DataArray) -> dict[str, list[str]]:
    if "chip" not in layer.coords:
        return {}
    return {"chip": [str(chip) for chip in layer["chip"].values]}
