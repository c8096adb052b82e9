"""A cube on disk: a Zarr v3 group, written and read a shard at a time."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.schema import CubeError, check_cube, is_chips
from geobiomass.pieces import UNFINISHED, Journal, few_at_a_time, finish

SCHEMA_VERSION = 1
CHUNK = 128  # pixels: one random crop of 128 touches four chunks of a month at most
SHARD = 256  # pixels: a shard is a chip, or a block of a scene as big as one

Dtype = Literal["int16", "int32", "float32"]
_MISSING: dict[str, int | float] = {
    "int16": -(2**15),
    "int32": -(2**31),
    "float32": float("nan"),
}
# A power of two, so that int32 codes decode exactly: whole reflectances up to
# 131,071 and decibels to within 1/256 dB share one CF scale_factor.
_INT32_QUANTUM = 1 / 128


def open_cube(
    path: str | Path, chunks: Mapping[str, int] | Literal["shards"] | None = "shards"
) -> xr.Dataset:
    """Open a Zarr cube lazily and check it against the schema.

    Parameters
    ----------
    path : str or Path
        A Zarr group, written by :func:`write_cube` or by plain xarray.
    chunks : mapping, "shards" or None
        dask chunks by dimension. By default one chunk a shard of the store, which
        is how it reads fastest; None reads the whole cube into memory.

    Returns
    -------
    xarray.Dataset
        Physical values as float32: dB, reflectance x 10^4; NaN where missing.

    Raises
    ------
    FileNotFoundError
        If nothing is at `path`.
    CubeError
        If the store is not a Zarr group, is not a cube, or was not finished.
    """
    _refuse_missing(path)
    try:
        store = _look(path)
        wanted = dict(chunks) if isinstance(chunks, Mapping) else store.chunks
        if UNFINISHED in store.attrs:
            raise CubeError(
                f"{path} was not finished being written; run the same ingest or "
                "write_cube again, it goes on where it stopped."
            )
        cube = xr.open_dataset(
            path,
            engine="zarr",
            chunks=wanted,
            decode_coords="all",
            mask_and_scale={"image": store.quantum is None},
            consolidated=store.consolidated,
        )
    except (FileNotFoundError, KeyError, TypeError) as error:
        raise CubeError(
            f"{path} is not a Zarr group that xarray can read ({error})."
        ) from error
    cube = _decode(cube, store.quantum)
    try:
        check_cube(cube)
    except CubeError as error:
        raise CubeError(f"{path} is not a cube. {error}") from error
    return cube.compute() if chunks is None else cube


def _refuse_missing(path: str | Path) -> None:
    if "://" not in str(path) and not Path(path).exists():
        raise FileNotFoundError(f"There is nothing at {path}; expected a Zarr cube.")


@dataclass(frozen=True)
class _Store:
    """What must be known of a group before it is opened."""

    attrs: dict[str, Any]
    consolidated: bool
    chunks: dict[str, int]  # the best ones for dask
    quantum: tuple[float, ...] | None  # one a band, where they differ


def _look(path: str | Path) -> _Store:
    import zarr

    group = zarr.open_group(str(path), mode="r")
    attrs = dict(group.attrs)
    consolidated = group.metadata.consolidated_metadata is not None
    image = group.get("image")
    if not isinstance(image, zarr.Array):
        return _Store(attrs, consolidated, {}, None)
    dims: Any = image.attrs.get("_ARRAY_DIMENSIONS")  # of Zarr v2, as xarray writes it
    if isinstance(image.metadata, zarr.core.metadata.ArrayV3Metadata):
        dims = image.metadata.dimension_names
    # A dask chunk inside a shard would decode its neighbours over and over.
    sizes = zip(dims or (), image.shards or image.chunks, strict=False)
    chunks = {str(dim): size for dim, size in sizes}
    chunks |= {dim: -1 for dim in ("month", "band") if dim in chunks}
    if "multiplier" not in group:
        return _Store(attrs, consolidated, chunks, None)
    multiplier = np.asarray(group["multiplier"], np.float64)
    scale = float(cast(float, image.attrs["scale_factor"]))
    return _Store(
        attrs, consolidated, chunks, tuple(float(m * scale) for m in multiplier)
    )


def _decode(cube: xr.Dataset, quantum: tuple[float, ...] | None) -> xr.Dataset:
    """Turn stored codes into physical values, float32, NaN where missing."""
    if "image" not in cube:
        return cube
    image = cube["image"]
    encoding = {k: v for k, v in image.encoding.items() if k != "coordinates"}
    if quantum is not None:
        steps = np.array(quantum, np.float32)[:, None, None]
        codes = image
        image = codes.copy(
            data=codes.data.map_blocks(
                _physical, steps, codes.attrs["_FillValue"], dtype=np.float32
            )
        )
        encoding["quantum"] = quantum
    elif np.issubdtype(image.dtype, np.floating):
        image = image.astype(np.float32)
    internal = ("stored_units", "scale_factor", "_FillValue", "coordinates")
    image.attrs = {k: v for k, v in image.attrs.items() if k not in internal}
    image.encoding = encoding
    image = image.drop_vars("multiplier", errors="ignore")
    cube = cube.drop_vars("multiplier", errors="ignore").assign(image=image)
    cube.attrs.pop("geobiomass_cube", None)
    return cube[["image", *(name for name in cube.data_vars if name != "image")]]


def _physical(
    codes: npt.NDArray[Any], steps: npt.NDArray[np.float32], missing: int
) -> npt.NDArray[np.float32]:
    """(..., band, y, x) stored codes -> physical values, float32."""
    values = codes * steps
    values[codes == missing] = np.nan
    return values


@dataclass(frozen=True)
class _Layout:
    """How a cube lies on disk: a value that two runs can compare."""

    dtype: Dtype
    quantum: tuple[float, ...]  # one for all bands, or one a band; empty for float32
    fingerprint: str

    @property
    def by_band(self) -> bool:
        return len(self.quantum) > 1

    @property
    def scale_factor(self) -> float:
        return min(self.quantum)


def band_quantum(name: str) -> float | None:
    """Give the step that int16 stores a known band with; None for unknown bands.

    Radar backscatter (VV, VH, HH, HV) in steps of 0.01 dB; Sentinel-2 bands
    (B01 to B12, B8A: reflectance x 10^4) and cloud probability (CLP) as whole numbers.
    """
    if re.match(r"(VV|VH|HH|HV)(_|$)", name):
        return 0.01
    if re.fullmatch(r"B\d{1,2}A?|CLP|SCL", name):
        return 1.0
    return None


def write_cube(
    cube: xr.Dataset,
    path: str | Path,
    dtype: Dtype = "int16",
    *,
    quantum: Mapping[str, float] | None = None,
    overwrite: bool = False,
    progress: bool = False,
    workers: int = 2,
) -> None:
    """Write a cube as a Zarr v3 group, a shard at a time, with bounded memory.

    An interrupted call is continued by the same call: shards already on disk are
    not computed again. A finished cube is not overwritten unless asked.

    Parameters
    ----------
    cube : xarray.Dataset
        Usually backed by dask; one shard (a chip, or 256 x 256 pixels of a scene
        with all months and bands) is computed at a time by each worker.
    path : str or Path
        A folder that does not exist yet, or a half-written cube to continue.
    dtype : "int16", "int32" or "float32"
        int16 stores radar in steps of 0.01 dB and Sentinel-2 exactly, in half the
        memory of the others. CF knows one `scale_factor` a variable, so a cube
        that mixes them is stored with 0.01: plain xarray then reads decibels, and
        reflectance in percent, and ``image * multiplier`` (a coordinate on band)
        gives the cube's own units; :func:`open_cube` does so, exactly. int32
        stores every band in steps of 1/128 with one `scale_factor`, so that any
        CF reader gets the cube's own units; float32 keeps every bit.
    quantum : mapping of band to float, optional
        Steps for bands that are neither Sentinel-1 nor Sentinel-2 (int16 only).
    overwrite : bool
        Delete what is at `path` first.
    progress : bool
        Show a progress bar.
    workers : int
        Shards computed at the same time.

    Raises
    ------
    CubeError
        If `cube` is not a cube, if a band has no known step, or if what is at
        `path` is something else than the first part of this cube.
    FileExistsError
        If a finished cube, or anything else, is at `path` and not `overwrite`.
    """
    check_cube(cube)
    path = Path(path)
    layout = _plan_layout(cube, dtype, quantum)
    done = _begin(cube, path, layout, overwrite)
    import zarr

    group = zarr.open_group(path, mode="r+")
    blocks = [block for block in _blocks(cube) if block.key not in done]
    total = len(blocks) + len(done)
    from tqdm.auto import tqdm

    with (
        tqdm(
            total=total,
            initial=len(done),
            unit="chip" if is_chips(cube) else "block",
            desc=f"Writing {path.name}",
            disable=not progress,
        ) as bar,
        Journal(path) as journal,
    ):
        write = partial(_write_block, cube=cube, group=group, layout=layout)
        for block, future in few_at_a_time(blocks, write, workers):
            future.result()
            journal.note(block.key)
            bar.update()
    finish(path)


@dataclass(frozen=True)
class _Block:
    """One shard's place in the cube: slices by dimension."""

    chip: int | None
    rows: slice
    columns: slice

    @property
    def key(self) -> str:
        return f"{self.chip}/{self.rows.start}/{self.columns.start}"

    def of(self, array: xr.DataArray) -> xr.DataArray:
        part = array.isel(y=self.rows, x=self.columns)
        if self.chip is None:
            return part
        return part.isel(chip=slice(self.chip, self.chip + 1))

    def region(self, array: xr.DataArray) -> tuple[slice, ...]:
        place = {"y": self.rows, "x": self.columns}
        if self.chip is not None:
            place["chip"] = slice(self.chip, self.chip + 1)
        return tuple(place.get(str(dim), slice(None)) for dim in array.dims)


def _blocks(cube: xr.Dataset) -> list[_Block]:
    height, width = cube.sizes["y"], cube.sizes["x"]
    if is_chips(cube):
        whole = slice(0, height), slice(0, width)
        return [_Block(chip, *whole) for chip in range(cube.sizes["chip"])]
    rows = [slice(r, min(r + SHARD, height)) for r in range(0, height, SHARD)]
    columns = [slice(c, min(c + SHARD, width)) for c in range(0, width, SHARD)]
    return [_Block(None, row, column) for row, column in product(rows, columns)]


def _write_block(
    block: _Block, *, cube: xr.Dataset, group: Any, layout: _Layout
) -> None:
    names = [name for name in ("image", "agb") if name in cube]
    part = xr.Dataset({name: block.of(cube[name]) for name in names})
    part = part.compute(scheduler="synchronous")
    for name in names:
        values = part[name].values
        if name == "image":
            values = _encode(values, layout, [str(b) for b in part["band"].values])
        group[name][block.region(cube[name])] = values


def _encode(
    values: npt.NDArray[np.floating[Any]], layout: _Layout, bands: list[str]
) -> npt.NDArray[Any]:
    """Round physical values to whole steps; clip what does not fit, with a word."""
    if layout.dtype == "float32":
        return values.astype(np.float32)
    quantum = np.array(layout.quantum, np.float64)
    steps = np.rint(values / quantum[:, None, None])
    limit = np.iinfo(layout.dtype).max
    with np.errstate(invalid="ignore"):
        beyond = np.abs(steps) > limit
    if beyond.any():
        axes = tuple(axis for axis in range(beyond.ndim) if axis != beyond.ndim - 3)
        which = [bands[i] for i in np.flatnonzero(beyond.any(axis=axes))]
        warnings.warn(
            f"{int(beyond.sum())} values of bands {which} do not fit {layout.dtype} "
            f"(largest {np.nanmax(np.abs(values[beyond])):g}) and were clipped; "
            "dtype='float32' keeps them.",
            stacklevel=2,
        )
        steps = np.clip(steps, -limit, limit)
    missing = _MISSING[layout.dtype]
    return np.where(np.isnan(steps), missing, steps).astype(layout.dtype)


def _plan_layout(
    cube: xr.Dataset, dtype: Dtype, quantum: Mapping[str, float] | None
) -> _Layout:
    if dtype not in _MISSING:
        raise CubeError(f"dtype must be one of {sorted(_MISSING)}, got {dtype!r}.")
    bands = [str(name) for name in cube["band"].values]
    steps: tuple[float, ...] = ()
    if dtype == "int32":
        steps = (_INT32_QUANTUM,)
    elif dtype == "int16":
        steps = _band_steps(cube["image"], bands, quantum or {})
        steps = steps[:1] if len(set(steps)) == 1 else steps
    described = {
        "dtype": dtype,
        "quantum": steps,
        "bands": bands,
        "months": cube["month"].values.tolist(),
        "sizes": {str(dim): size for dim, size in cube.sizes.items()},
        "agb": "agb" in cube,
        "places": [
            hashlib.sha256(repr(cube[dim].values.tolist()).encode()).hexdigest()
            for dim in ("chip", "y", "x")
            if dim in cube.coords
        ],
    }
    text = json.dumps(described, sort_keys=True)
    return _Layout(dtype, steps, hashlib.sha256(text.encode()).hexdigest())


def _band_steps(
    image: xr.DataArray, bands: list[str], given: Mapping[str, float]
) -> tuple[float, ...]:
    before = image.encoding.get("quantum")
    known = dict(zip(bands, before, strict=True)) if before else {}
    steps = {b: given.get(b, known.get(b, band_quantum(b))) for b in bands}
    unknown = [band for band, step in steps.items() if step is None]
    if unknown:
        raise CubeError(
            f"Bands {unknown} are neither Sentinel-1 nor Sentinel-2, so the step to "
            f"store them with is unknown; give it, quantum={{{unknown[0]!r}: 0.1}}, "
            "or write with dtype='float32'."
        )
    return tuple(float(cast(float, step)) for step in steps.values())


def _begin(cube: xr.Dataset, path: Path, layout: _Layout, overwrite: bool) -> set[str]:
    """Create the arrays, or recognise a half-written cube; return what is done."""
    if path.exists() and overwrite:
        shutil.rmtree(path)
    if not path.exists():
        Journal(path).remove()
        _create(cube, path, layout)
        return set()
    try:
        unfinished = _look(path).attrs.get(UNFINISHED)
    except (FileNotFoundError, ValueError, KeyError):
        unfinished = None
    if unfinished is None:
        raise FileExistsError(
            f"{path} exists already and is left as it is; choose another path or "
            "overwrite=True (on the command line --overwrite)."
        )
    if unfinished != layout.fingerprint:
        raise CubeError(
            f"{path} is the first part of another cube (other chips, bands, grid or "
            "dtype); finish that one, choose another path, or overwrite=True."
        )
    return Journal(path).done()


def _create(cube: xr.Dataset, path: Path, layout: _Layout) -> None:
    import zarr
    from zarr.codecs import BloscCodec

    # Everything but the pixels is made under another name and moved into place,
    # so that a half-made store is never taken for one to continue.
    making = path.with_name(path.name + ".making")
    if making.exists():
        shutil.rmtree(making)
    making.parent.mkdir(parents=True, exist_ok=True)
    frame = cube.drop_vars(["image", "agb"], errors="ignore")
    if layout.by_band:
        multiplier = np.array(layout.quantum) / layout.scale_factor
        frame = frame.assign_coords(multiplier=("band", multiplier))
    for name in ("chip", "band"):
        if name in frame.coords:  # text of any length: fixed width has no Zarr v3 spec
            frame[name] = frame[name].astype(object)
            frame[name].encoding = {}
    frame.attrs = {**cube.attrs, "geobiomass_cube": SCHEMA_VERSION}
    frame.attrs[UNFINISHED] = layout.fingerprint
    frame.to_zarr(making, mode="w", zarr_format=3, consolidated=False)
    group = zarr.open_group(making, mode="r+")
    shapes = {"image": layout.dtype, "agb": "float32"}
    for name, stored in shapes.items():
        if name not in cube:
            continue
        array = cube[name]
        group.create_array(
            name,
            shape=array.shape,
            dtype=stored,
            chunks=_extent(array, CHUNK, months=1),
            shards=_extent(array, SHARD, months=array.sizes.get("month", 1)),
            compressors=BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),
            fill_value=_MISSING[stored],
            dimension_names=[str(dim) for dim in array.dims],
            attributes=_attributes(array, layout if name == "image" else None),
        )
    making.rename(path)


def _extent(array: xr.DataArray, pixels: int, months: int) -> tuple[int, ...]:
    """Size of a chunk or a shard by dimension; a shard is whole chunks."""

    def length(dim: str) -> int:
        if dim in ("y", "x"):
            chunk = min(CHUNK, array.sizes[dim])
            whole = -(-array.sizes[dim] // chunk) * chunk
            if pixels == CHUNK:
                return chunk
            # A chip is one shard however big; a scene has shards of a fixed size.
            return whole if "chip" in array.dims else min(whole, chunk * 2)
        return {"chip": 1, "month": months}.get(dim, array.sizes[dim])

    return tuple(length(str(dim)) for dim in array.dims)


def _attributes(array: xr.DataArray, layout: _Layout | None) -> dict[str, Any]:
    kept = {k: v for k, v in array.attrs.items() if k not in ("_FillValue",)}
    mapping = array.encoding.get("grid_mapping", "spatial_ref")
    if mapping in array.coords:
        kept["grid_mapping"] = mapping
    if layout is None or layout.dtype == "float32":
        return kept
    kept["_FillValue"] = _MISSING[layout.dtype]
    kept["scale_factor"] = layout.scale_factor
    if layout.by_band:
        kept["coordinates"] = "multiplier"
        kept["stored_units"] = (
            "multiply by the band's 'multiplier' for the cube's units"
        )
    return kept
