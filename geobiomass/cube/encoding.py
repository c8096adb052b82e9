"""The encoding of a cube on disk: types, steps, and the sizes of chunks and shards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.losses import Losses
from geobiomass.cube.missing_values import clean
from geobiomass.cube.plain_attributes import without_storage
from geobiomass.cube.schema import CubeError
from geobiomass.cube.static_layers import STATIC, layers_of
from geobiomass.cube.statistics import BandTally
from geobiomass.cube.storage_steps import band_quantum as band_quantum
from geobiomass.cube.storage_steps import chosen_steps
from geobiomass.training.files import sha256_of

SHARD = 256  # pixels: a shard is a chip, or a block of a scene as big as one
# Chosen by benchmarks/store.py. A random crop of 128 pixels touches at most 160 x 192
# pixels, less than twice what it needs; months are in one chunk, as they are read.
ROWS, COLUMNS, MONTHS = 32, 64, 12
SOURCE = (
    "source_fingerprint"  # an attribute: which files and settings pixels follow from
)
LABEL_CHUNK = SHARD  # pixels: labels are small, and one chunk is faster than four

Dtype = Literal["int16", "int32", "float32"]
MISSING: dict[str, int | float] = {
    "int16": -(2**15),
    "int32": -(2**31),
    "float32": float("nan"),
}
# A power of two, so that int32 codes decode exactly: whole reflectances up to
# 131,071 and decibels to within 1/256 dB share one CF scale_factor.
_INT32_QUANTUM = 1 / 128


@dataclass(frozen=True)
class Encoding:
    """The encoding of a cube: type, steps, and a fingerprint to compare two runs."""

    dtype: Dtype
    quantum: tuple[float, ...]  # one for all bands, or one per band; empty for float32
    fingerprint: str

    @property
    def by_band(self) -> bool:
        """Whether bands differ in their step."""
        return len(self.quantum) > 1

    @property
    def scale_factor(self) -> float:
        """The smallest step, the one that CF stores; other steps are multiples."""
        return min(self.quantum)

    @property
    def steps(self) -> npt.NDArray[np.float32] | None:
        """Physical value of a code, (band or 1, 1, 1); None for float32."""
        if not self.quantum:
            return None
        return np.array(self.quantum, np.float32)[:, None, None]

    def tally(self, bands: Sequence[str]) -> BandTally:
        """Return an empty tally for codes of this encoding."""
        if self.dtype != "int16":
            return BandTally(bands)
        return BandTally(bands, self.steps, int(MISSING["int16"]))

    def physical(self, codes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the physical values of codes."""
        values = (codes * self.quantum[0]).astype(np.float32)
        values[codes == MISSING[self.dtype]] = np.nan
        return values


def plan_encoding(
    cube: xr.Dataset, dtype: Dtype, quantum: Mapping[str, float] | None
) -> Encoding:
    """Choose the encoding of a cube's values.

    Raises
    ------
    CubeError
        If the type is unknown, or a band's step.
    """
    if dtype not in MISSING:
        raise CubeError(f"dtype must be one of {sorted(MISSING)}, got {dtype!r}.")
    bands = [str(name) for name in cube["band"].values]
    steps: tuple[float, ...] = ()
    if dtype == "int32":
        steps = (_INT32_QUANTUM,)
    elif dtype == "int16":
        steps = chosen_steps(cube["image"], bands, quantum or {})
        steps = steps[:1] if len(set(steps)) == 1 else steps
    return Encoding(dtype, steps, fingerprint_of(cube, dtype, steps))


def fingerprint_of(cube: xr.Dataset, dtype: str, steps: Sequence[float]) -> str:
    """Return the hash of all facts of a cube except its pixels."""
    described = {
        "dtype": dtype,
        "quantum": tuple(steps),
        "bands": [str(name) for name in cube["band"].values],
        "months": cube["month"].values.tolist(),
        "sizes": {str(dim): size for dim, size in cube.sizes.items()},
        "agb": "agb" in cube,
        "places": [
            sha256_of(repr(cube[dim].values.tolist()))
            for dim in ("chip", "y", "x")
            if dim in cube.coords
        ],
    }
    if STATIC in cube:
        described[STATIC] = list(layers_of(cube))
    # Pixels of a lazy cube are not known yet, but its source may have a fingerprint.
    if (source := cube.attrs.get(SOURCE)) is not None:
        described["source"] = str(source)
    return sha256_of(json.dumps(described, sort_keys=True))


def encode(
    values: npt.NDArray[np.floating[Any]],
    encoding: Encoding,
    bands: Sequence[str],
    losses: Losses | None = None,
) -> npt.NDArray[Any]:
    """Round physical values to codes; those that no measurement has become missing.

    Values that do not fit are clipped, and counted in `losses`. Works band by band, so
    that intermediate values stay in the processor's cache.
    """
    losses = Losses(bands) if losses is None else losses
    values, found = clean(values, bands, whole=False)
    losses.add_missing(found)
    if encoding.dtype == "float32":
        return values.astype(np.float32)
    codes = np.empty(values.shape, encoding.dtype)
    exact = np.float32 if encoding.dtype == "int16" else np.float64
    quantum = np.broadcast_to(np.array(encoding.quantum, exact), len(bands))
    limit, missing = np.iinfo(encoding.dtype).max, MISSING[encoding.dtype]
    for index in np.ndindex(values.shape[:-2]):
        steps = np.rint(values[index] / quantum[index[-1]])
        gone = np.isnan(steps)
        if (np.abs(steps, where=~gone, out=np.zeros_like(steps)) > limit).any():
            too_far = np.abs(steps) > limit
            worst = float(np.abs(values[index][too_far]).max())
            losses.add_clipped(index[-1], int(too_far.sum()), worst)
            steps = steps.clip(-limit, limit)
        steps[gone] = missing
        codes[index] = steps
    return codes


def extents(array: xr.DataArray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the sizes of a chunk and of a shard, which contains whole chunks."""
    deep = "band" in array.dims or "layer" in array.dims
    side = {"y": ROWS, "x": COLUMNS} if deep else {"y": LABEL_CHUNK, "x": LABEL_CHUNK}
    chunk, shard = [], []
    for dim, size in array.sizes.items():
        length, whole = size, size
        if dim == "chip":
            length = whole = 1
        elif dim == "month":
            parts = -(-size // MONTHS)
            length = -(-size // parts)
            whole = parts * length
        elif dim in side:
            length = min(side[str(dim)], size)
            # A chip is one shard however big; a scene has shards of a fixed size.
            reach = size if "chip" in array.dims else min(size, SHARD)
            whole = -(-reach // length) * length
        chunk.append(length)
        shard.append(whole)
    return tuple(chunk), tuple(shard)


def attributes(array: xr.DataArray, encoding: Encoding | None) -> dict[str, Any]:
    """Return a variable's attributes on disk, also for CF readers."""
    kept = {k: v for k, v in array.attrs.items() if k not in ("_FillValue",)}
    mapping = array.encoding.get("grid_mapping", "spatial_ref")
    if mapping in array.coords:
        kept["grid_mapping"] = mapping
    if encoding is None or encoding.dtype == "float32":
        return kept
    kept["_FillValue"] = MISSING[encoding.dtype]
    kept["scale_factor"] = encoding.scale_factor
    if encoding.by_band:
        kept["coordinates"] = "multiplier"
        kept["stored_units"] = (
            "multiply by the band's 'multiplier' for the cube's units"
        )
    return kept


def with_text_of_any_length(frame: xr.Dataset) -> xr.Dataset:
    """Convert coordinates of text to the text type that Zarr v3 specifies.

    For chips' ids, names of bands and regions: Zarr v3 does not specify numpy's text
    of fixed width.
    """
    text = {
        name: values.astype(object).drop_encoding()
        for name, values in frame.coords.items()
        if values.dtype.kind == "U" or name in ("chip", "band", "layer")
    }
    frame = frame.assign_coords(text)
    for variable in frame.variables.values():
        # Compressors and chunks are those of the file that was read: Zarr v2, netCDF.
        variable.encoding = without_storage(variable).encoding
    return frame
