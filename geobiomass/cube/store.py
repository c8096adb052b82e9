"""Opening a cube on disk: a Zarr group, read lazily a window at a time."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.cube.addresses import check_exists as check_exists
from geobiomass.cube.addresses import is_local as is_local
from geobiomass.cube.addresses import missing as missing
from geobiomass.cube.addresses import open_group as open_group
from geobiomass.cube.addresses import store_at as store_at
from geobiomass.cube.checked_layers import checked_when_read
from geobiomass.cube.codecs import quick_codecs
from geobiomass.cube.grid import placed
from geobiomass.cube.missing_values import LOOKED_AT
from geobiomass.cube.one_state import Origin, consistently
from geobiomass.cube.plain_attributes import mapping_in, without_storage
from geobiomass.cube.schema import CubeError, DamagedError, check_cube
from geobiomass.cube.selection import PREFIX
from geobiomass.cube.static_layers import PIXELS
from geobiomass.cube.store_seal import UNFINISHED as UNFINISHED
from geobiomass.cube.store_seal import Seal, check_store
from geobiomass.cube.stored_array import StoredArray
from geobiomass.cube.without_dask import open_lazily
from geobiomass.training.setting_names import explain_arguments

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

VERSION = "geobiomass_cube"
STORED_DTYPE = "stored_dtype"
"""The type on disk, in the encoding of an opened array."""
STATISTICS, LAYER_STATISTICS = "band_statistics", "layer_statistics"
WRITTEN_FROM = "geobiomass_written_from"
"""Attribute of a finished cube: what the last call of write_cube was given."""

# Attributes of an image that describe its encoding; users do not need them.
_INTERNAL = {"stored_units", "scale_factor", "_FillValue", "coordinates"}

# Errors of codecs, and of reading a damaged zarr.json.
# RecursionError, a RuntimeError: of one that is nested deeply.
_UNREADABLE = (RuntimeError, JSONDecodeError, UnicodeDecodeError)


@explain_arguments
def open_cube(
    path: str | Path | Store,
    chunks: Mapping[str, int] | Literal["shards"] | None = "shards",
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Open a Zarr cube lazily and check it against the schema.

    Parameters
    ----------
    path : str, Path or zarr.abc.store.Store
        A Zarr group, written by :func:`write_cube` or by plain xarray: a folder, an
        address that fsspec knows (``s3://bucket/chips.zarr``), or a store of Zarr,
        such as one of obstore.
    chunks : mapping, "shards" or None
        dask chunks by dimension. By default each chunk is one shard of the store;
        None reads the whole cube into memory.
    storage_options : mapping, optional
        What fsspec needs for the address: credentials, an endpoint.

    Returns
    -------
    xarray.Dataset
        Physical values as float32: dB, reflectance x 10^4; NaN where missing. Only
        the selected part is read.

    Raises
    ------
    FileNotFoundError
        If nothing is at `path`.
    CubeError
        If the store is not a Zarr group, is not a cube, was not finished, or is being
        written by another process. A cube that is appended to opens as it was before,
        or after.
    DamagedError
        If its coordinates, statistics or metadata cannot be read, or are not what was
        written. Pixels are checked when they are read, with the same error.
    """
    opened, store = consistently(
        [path], lambda: _open_stored(path, storage_options), storage_options
    )
    lazy = {name: _in_dask(a, chunks) for name, a in store.arrays.items()}
    cube = _tidy(_with_values(opened, store, lazy), np.float32)
    wanted = store.chunks if chunks == "shards" else chunks
    cube = cube if wanted is None else cube.chunk(_known(wanted, cube))
    _check_stored(cube, path)
    cube = placed(cube)
    return cube.compute() if chunks is None else cube


def inspect_cube(path: str | Path | Store) -> tuple[xr.Dataset, dict[str, StoredArray]]:
    """Open a cube for a look at its facts, without dask, which takes long to import.

    Parameters
    ----------
    path : str, Path or zarr.abc.store.Store
        As :func:`open_cube` has it, with the same checks and the same errors.

    Returns
    -------
    cube : xarray.Dataset
        Lazy variables without chunks: only what is selected is read, but arithmetic
        reads a whole variable.
    arrays : dict of StoredArray
        Those of ``image``, ``agb`` and ``static``; not those that xarray decodes.
    """
    opened, store = consistently([path], lambda: _open_stored(path))
    lazy = {
        name: xr.core.indexing.LazilyIndexedArray(WithoutDask(array))
        for name, array in store.arrays.items()
    }
    cube = _tidy(_with_values(opened, store, lazy))
    for name in cube.data_vars:
        cube[name].encoding[LOOKED_AT] = True
    _check_stored(cube, path)
    return placed(cube), store.arrays


class WithoutDask(xr.backends.BackendArray):
    """A stored array that xarray indexes itself."""

    def __init__(self, stored: StoredArray) -> None:
        self.stored = stored
        self.shape = stored.shape
        self.dtype = stored.dtype

    def __getitem__(self, key: xr.core.indexing.ExplicitIndexer) -> Any:
        support = xr.core.indexing.IndexingSupport.OUTER
        return xr.core.indexing.explicit_indexing_adapter(
            key, self.shape, support, self.stored.__getitem__
        )


def _open_stored(
    path: str | Path | Store, storage_options: Mapping[str, Any] | None = None
) -> tuple[xr.Dataset, StoreFacts]:
    """Open a finished cube with xarray; arrays of ours are left undecoded."""
    check_exists(path)
    try:
        sealed = check_store(store_at(path, storage_options), str(path))
        store = read_facts(path, storage_options, sealed)
        if UNFINISHED in store.attrs:
            raise CubeError(
                f"{path} was not finished being written; run the same ingest or "
                "write_cube again, it continues where it stopped."
            )
        cube = open_lazily(
            store.address,
            decode_coords="all",
            mask_and_scale=dict.fromkeys(store.arrays, False),
            consolidated=store.consolidated,
        )
        cube = checked_when_read(cube, sealed, store.group, str(path), but=store.arrays)
    except DamagedError:
        raise
    except (FileNotFoundError, KeyError, TypeError) as error:
        if (nothing := missing(path, storage_options, "a Zarr cube")) is not None:
            raise nothing from error
        raise CubeError(
            f"{path} is not a Zarr group that xarray can read ({error}); give the path "
            "of a cube, or write one there with write_cube."
        ) from error
    except _UNREADABLE as error:
        raise DamagedError(
            f"{path} is damaged where it describes itself, in its coordinates, "
            f"statistics or zarr.json ({error}); restore it from a copy, or write it "
            "again.",
            str(path),
        ) from error
    return cube, store


def _check_stored(cube: xr.Dataset, path: str | Path | Store) -> None:
    try:
        check_cube(cube)
    except CubeError as error:
        raise CubeError(f"{path} is not a cube. {error}") from error


@dataclass(frozen=True)
class StoreFacts:
    """Facts of a group that are needed before xarray opens it."""

    address: Any
    attrs: dict[str, Any]
    consolidated: bool
    chunks: dict[str, int]  # the best ones for dask
    arrays: dict[str, StoredArray]  # those that this package reads itself
    group: zarr.Group


def read_facts(
    path: str | Path | Store,
    storage_options: Mapping[str, Any] | None = None,
    sealed: Seal | None = None,
) -> StoreFacts:
    """Read a group's metadata; `sealed` are its checksums, if it has them.

    Raises
    ------
    FileNotFoundError, KeyError, ValueError
        If it is not a Zarr group.
    """
    import zarr

    group = open_group(path, "r", storage_options)
    consolidated = group.metadata.consolidated_metadata is not None
    with quick_codecs():
        image = group.get("image")
        others = {name: group.get(name) for name in PIXELS[1:]}
    chunks: dict[str, int] = {}
    arrays: dict[str, StoredArray] = {}
    if isinstance(image, zarr.Array):
        dims = _dims(image)
        # Smaller dask chunks would decode the same chunks of a shard again and again.
        chunks = dict(zip(dims, image.shards or image.chunks, strict=False))
        chunks |= {dim: -1 for dim in ("month", "band") if dim in chunks}
        if (stored := _stored(group, image, dims, str(path))) is not None:
            arrays["image"] = stored
            for name, other in others.items():
                if isinstance(other, zarr.Array):
                    found = _stored(group, other, _dims(other), str(path))
                    arrays |= {name: found} if found is not None else {}
    for name, array in arrays.items():
        array.sealed = None if sealed is None else sealed.of_array(name)
        array.origin = Origin.of(array.array, str(path), array.sealed)
    address = str(path) if is_local(path) else store_at(path, storage_options)
    attrs = dict(group.attrs)
    return StoreFacts(address, attrs, consolidated, chunks, arrays, group)


def _dims(array: zarr.Array[Any]) -> tuple[str, ...]:
    # Zarr v2 has no names; xarray writes them as an attribute.
    names: Any = getattr(array.metadata, "dimension_names", None)
    return tuple(map(str, names or cast(Any, array.attrs.get("_ARRAY_DIMENSIONS", ()))))


def _stored(
    group: zarr.Group, array: zarr.Array[Any], dims: tuple[str, ...], where: str
) -> StoredArray | None:
    """Return the reader of a variable, None if xarray has to decode it."""
    attrs = dict(array.attrs)
    whole = np.issubdtype(array.dtype, np.integer)
    scale: Any = attrs.get("scale_factor")
    missing: Any = attrs.get("_FillValue")
    known = (
        array.metadata.zarr_format == 3
        and len(dims) == array.ndim
        and "add_offset" not in attrs
        and (
            isinstance(scale, int | float) and isinstance(missing, int)
            if whole
            else array.dtype.kind == "f" and scale is None and missing is None
        )
    )
    if not known:
        return None
    steps = None
    if whole:
        steps = np.full(1, scale, np.float32)
        if "multiplier" in group:
            multiplier = np.asarray(group["multiplier"], np.float64)
            steps = (multiplier * scale).astype(np.float32)[:, None, None]
    labels: dict[str, list[str]] = {
        dim: [str(label) for label in np.asarray(group[dim]).tolist()]
        for dim in ("chip", "month", "band", "layer")
        if dim in dims and dim in group
    }
    counted = "present" if "band" in dims else "labelled"
    tables = {"band": STATISTICS, "layer": LAYER_STATISTICS}
    return StoredArray(
        array,
        where,
        steps,
        missing if whole else None,
        labels,
        None if "layer" in dims else _held(group, counted),
        _statistics(group.attrs.get(tables.get("".join(dims[-3:-2]), ""))),
    )


def _held(group: zarr.Group, name: str) -> npt.NDArray[np.bool_] | None:
    """Return which chips, or blocks of a scene, contain any value."""
    if f"statistics/{name}" not in group:
        return None
    counts = np.asarray(group[f"statistics/{name}"])
    return np.asarray(counts.any(axis=(-2, -1)) if name == "present" else counts > 0)


def availability(
    path: str | Path | Store, storage_options: Mapping[str, Any] | None = None
) -> xr.DataArray | None:
    """Return the number of pixels with a value, of each band and month.

    Parameters
    ----------
    path : str, Path or zarr.abc.store.Store
        A cube that :func:`write_cube` wrote.
    storage_options : mapping, optional
        What fsspec needs for the address.

    Returns
    -------
    xarray.DataArray or None
        (chip, month, band), or (row, column, month, band) of a scene's blocks of
        256 x 256 pixels. None if the cube has no counts, because other software
        wrote it.
    """

    def read() -> xr.DataArray | None:
        check_store(store_at(path, storage_options), str(path))
        group = open_group(path, "r", storage_options)
        if (known := _counts_in(group)) is None:
            return None
        counts, dims = known
        coords = {dim: np.asarray(group[dim]) for dim in dims if dim in group}
        return xr.DataArray(counts, coords, dims)

    return consistently([path], read, storage_options)


def read_counts(
    stored: StoredArray,
) -> tuple[npt.NDArray[Any], tuple[str, ...]] | None:
    """Return the values and the dimensions of :func:`availability`.

    Parameters
    ----------
    stored : StoredArray
        The array ``image`` of a cube; its store may have more chips by now.

    Raises
    ------
    ChangedError
        If the store was written again since the array was opened.
    """
    store = stored.array.store
    known = consistently([store], lambda: _counts_in(open_group(store, "r")))
    if stored.origin is not None:
        stored.origin.check(now=True)
    return known


def _counts_in(
    group: zarr.Group,
) -> tuple[npt.NDArray[Any], tuple[str, ...]] | None:
    if "statistics/present" not in group:
        return None
    array = cast(Any, group["statistics/present"])
    counts = np.asarray(array)
    if "chip" in _dims(array) and "chip" in group:
        # An append writes counts of chips that readers do not see yet.
        counts = counts[: cast(Any, group["chip"]).shape[0]]
    return counts, _dims(array)


def _statistics(text: Any) -> pd.DataFrame | None:
    kept = mapping_in(text)
    if kept is None:
        return None
    table = pd.DataFrame(kept["values"], kept["bands"], kept["columns"], dtype=float)
    return table.astype({"count": np.int64})


def _in_dask(
    stored: StoredArray, chunks: Mapping[str, int] | Literal["shards"] | None
) -> Any:
    """Return a dask array of a stored variable."""
    import dask.array as da

    shard = stored.array.shards or stored.array.chunks
    sizes = dict(zip(_dims(stored.array), shard, strict=True))
    sizes |= {dim: -1 for dim in ("month", "band") if dim in sizes}
    if isinstance(chunks, Mapping):
        sizes |= {dim: size for dim, size in chunks.items() if dim in sizes}
    return da.from_array(
        stored,
        chunks=tuple(sizes.values()),
        name=PREFIX + uuid.uuid4().hex,
        meta=np.empty((0,) * stored.ndim, np.float32),
    )


def _with_values(
    cube: xr.Dataset, store: StoreFacts, lazy: Mapping[str, Any]
) -> xr.Dataset:
    """Return the cube with lazy arrays as values, and how they are encoded."""
    for name, data in lazy.items():
        stored = store.arrays[name]
        variable = cube[name].copy(data=data)
        # Not "dtype" and chunks: to_netcdf and to_zarr of xarray would write the
        # decoded values with them, decibels as whole numbers.
        kept = {"grid_mapping", "source"} & variable.encoding.keys()
        variable.encoding = {key: variable.encoding[key] for key in kept}
        variable.encoding[STORED_DTYPE] = stored.array.dtype
        if stored.steps is not None and stored.array.dtype == np.int16:
            bands = stored.labels.get("band", [])
            steps = np.broadcast_to(stored.steps.ravel(), len(bands))
            # By band, so that a selection of bands keeps the right ones.
            variable.encoding["quantum"] = {
                band: float(str(step)) for band, step in zip(bands, steps, strict=True)
            }
        cube[name] = variable
    return cube


def _tidy(cube: xr.Dataset, dtype: npt.DTypeLike | None = None) -> xr.Dataset:
    """Return the cube of the schema, without the attributes of its encoding.

    Floating-point values are converted to `dtype`, if it is given.
    """
    for name in PIXELS:
        if name in cube:
            variable = cube[name]
            floats = dtype is not None and variable.dtype.kind == "f"
            if floats and variable.dtype != dtype:
                variable = variable.astype(dtype, keep_attrs=True)
            kept = {k: v for k, v in variable.attrs.items() if k not in _INTERNAL}
            encoding = dict(variable.encoding)
            encoding.pop("coordinates", None)
            variable.attrs, variable.encoding = kept, encoding
            cube[name] = variable
    cube = cube.drop_vars("multiplier", errors="ignore")
    for coordinate in cube.coords.values():
        coordinate.encoding = without_storage(coordinate.variable).encoding
    for name in (VERSION, STATISTICS, LAYER_STATISTICS, WRITTEN_FROM):
        cube.attrs.pop(name, None)
    names = [str(name) for name in cube.data_vars]
    return cube[sorted(names, key=lambda name: name != "image")]


def _known(chunks: Mapping[str, int], cube: xr.Dataset) -> dict[str, int]:
    return {dim: size for dim, size in chunks.items() if dim in cube.dims}
