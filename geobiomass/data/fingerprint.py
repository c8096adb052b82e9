"""Fingerprints of a cube's data and labels: whether two trainings saw the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import xarray as xr

from geobiomass.cube import DamagedError
from geobiomass.data.reader import Reader, Sample
from geobiomass.tiles import EVALUATION_BLOCK, blocks

_SAMPLES = 64  # of the labels, for the fingerprint


def data_fingerprint(cube: xr.Dataset, bands: Sequence[str]) -> str:
    """Give 64 letters that stand for what was trained on: pixels, labels, names.

    Of images on disk what the cube knows of itself is hashed, not each pixel: the
    statistics of its bands, the form of its arrays; of images that dask has yet to
    compute only the shape. Of the labels up to 64 chips, or blocks of a scene, from
    all over the cube are read.

    Parameters
    ----------
    cube : xarray.Dataset
        With ``agb``.
    bands : sequence of str
        Those that are used, in their order.
    """
    reader = Reader(cube, bands)
    digest = hashlib.sha256(f"{reader.identity()} {list(bands)}".encode())
    _add_labels(digest, cube, reader)
    return digest.hexdigest()


def labels_fingerprint(cube: xr.Dataset, bands: Sequence[str]) -> str:
    """Give 64 letters that stand for names and labels, wherever the cube lies.

    The same for a cube on disk, one of dask and one in memory; images do not count.

    Parameters
    ----------
    cube, bands
        As :func:`data_fingerprint` takes them.
    """
    digest = hashlib.sha256(f"{list(bands)}".encode())
    _add_labels(digest, cube, Reader(cube, bands))
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
    """Give up to 64 chips, or blocks of a scene, from all over it."""
    windows = blocks(reader.height, reader.width, EVALUATION_BLOCK)
    samples = [Sample(window) for window in windows]
    if reader.chips:
        samples = [Sample(reader.whole, chip) for chip in range(reader.count)]
    chosen = np.linspace(0, len(samples) - 1, min(_SAMPLES, len(samples)))
    return [samples[int(index)] for index in chosen]
