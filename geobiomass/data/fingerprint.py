"""Fingerprints of a cube's data and labels: whether two trainings saw the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import xarray as xr

from geobiomass.cube import DamagedError
from geobiomass.data.reader import Reader, Sample
from geobiomass.tiles import EVALUATION_BLOCK, blocks
from geobiomass.training.files import sha256_of

_SAMPLES = 64  # chips or blocks of which the labels are read


def data_fingerprint(
    cube: xr.Dataset, bands: Sequence[str], layers: Sequence[str] = ()
) -> str:
    """Return the fingerprint of a cube that is not open yet.

    Parameters
    ----------
    cube : xarray.Dataset
        With ``agb``.
    bands : sequence of str
        Those that are used, in their order.
    layers : sequence of str
        Static layers that are used, in their order.

    Returns
    -------
    str
        As :func:`hash_data` returns it.
    """
    return hash_data(cube, Reader(cube, bands, layers))


def hash_data(cube: xr.Dataset, reader: Reader) -> str:
    """Return a fingerprint of the data of a training: pixels, labels, names.

    For images on disk the statistics of the bands and the form of the arrays are
    hashed, not each pixel; of images that dask has yet to compute only the shape. Of
    the labels up to 64 chips, or blocks of a scene, from all over the cube are read.

    Parameters
    ----------
    cube : xarray.Dataset
        With ``agb``.
    reader : Reader
        Over the cube, with the bands that are used, in their order.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    head = f"{reader.identity()} {list(reader.bands)}"
    return sha256_of(chain([head], _labels_of(cube, reader)))


def hash_labels(cube: xr.Dataset, reader: Reader) -> str:
    """Return a fingerprint of names and labels, without the images.

    It is the same for a cube on disk, one of dask and one in memory.

    Parameters
    ----------
    cube, reader
        As :func:`hash_data` takes them.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    return sha256_of(chain([f"{list(reader.bands)}"], _labels_of(cube, reader)))


def hash_values(*values: Any) -> str:
    """Return the SHA-256 digest of plain values, as Python writes them."""
    return sha256_of(repr(values))


def _labels_of(cube: xr.Dataset, reader: Reader) -> Iterator[str | bytes]:
    """Yield the names of a cube and some of its labels, to be hashed."""
    for name in ("month", "chip", "y", "x"):
        if name in cube.coords:
            yield f"{name} {cube[name].values.tolist()}"
    for sample in _spread_out(reader):
        try:
            yield np.nan_to_num(reader.labels(sample), nan=-1.0).tobytes()
            if reader.has_errors:
                yield np.nan_to_num(reader.errors(sample), nan=-1.0).tobytes()
        except DamagedError:
            yield b"damaged"


def _spread_out(reader: Reader) -> list[Sample]:
    """Return up to 64 chips, or blocks of a scene, from all over it."""
    windows = blocks(reader.height, reader.width, EVALUATION_BLOCK)
    samples = [Sample(window) for window in windows]
    if reader.chips:
        samples = [Sample(reader.whole, chip) for chip in range(reader.count)]
    chosen = np.linspace(0, len(samples) - 1, min(_SAMPLES, len(samples)))
    return [samples[int(index)] for index in chosen]
