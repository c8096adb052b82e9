"""Fingerprints of a cube's data and labels: whether two trainings saw the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import xarray as xr

from geobiomass.cube import DamagedError
from geobiomass.data.reader import Reader, Sample
from geobiomass.tiles import EVALUATION_BLOCK, blocks

_SAMPLES = 64  # chips or blocks of which the labels are read


def data_fingerprint(cube: xr.Dataset, bands: Sequence[str]) -> str:
    """Return the fingerprint of a cube that is not open yet.

    Parameters
    ----------
    cube : xarray.Dataset
        With ``agb``.
    bands : sequence of str
        Those that are used, in their order.

    Returns
    -------
    str
        As :func:`hash_data` returns it.
    """
    return hash_data(cube, Reader(cube, bands))


def hash_data(cube: xr.Dataset, reader: Reader) -> str:
    """Return a fingerprint of the data of a training: pixels, labels, names.

    Of images on disk the statistics of the bands and the form of the arrays are
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
    digest = hashlib.sha256(f"{reader.identity()} {list(reader.bands)}".encode())
    _add_labels(digest, cube, reader)
    return digest.hexdigest()


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
    digest = hashlib.sha256(f"{list(reader.bands)}".encode())
    _add_labels(digest, cube, reader)
    return digest.hexdigest()


def _add_labels(digest: hashlib._Hash, cube: xr.Dataset, reader: Reader) -> None:
    for name in ("month", "chip", "y", "x"):
        if name in cube.coords:
            digest.update(f"{name} {cube[name].values.tolist()}".encode())
    for sample in _spread_out(reader):
        try:
            digest.update(np.nan_to_num(reader.labels(sample), nan=-1.0).tobytes())
        except DamagedError:
            digest.update(b"damaged")


def _spread_out(reader: Reader) -> list[Sample]:
    """Return up to 64 chips, or blocks of a scene, from all over it."""
    windows = blocks(reader.height, reader.width, EVALUATION_BLOCK)
    samples = [Sample(window) for window in windows]
    if reader.chips:
        samples = [Sample(reader.whole, chip) for chip in range(reader.count)]
    chosen = np.linspace(0, len(samples) - 1, min(_SAMPLES, len(samples)))
    return [samples[int(index)] for index in chosen]
