"""Embeddings of a landscape, and the whole numbers that archives store them as."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import xarray as xr

Vectors = npt.NDArray[np.float32]

_SEED = 2026  # of the projection, the same for all landscapes


def embed(scene: xr.Dataset, dimensions: int) -> Vectors:
    """Return a vector of length 1 for each pixel of a landscape.

    A fixed random projection of the yearly means of its bands, whose direction depends
    on the ground alone: no model and no training.

    Parameters
    ----------
    scene : xarray.Dataset
        A scene of :func:`geobiomass.landscape`.
    dimensions : int
        Length of a vector.

    Returns
    -------
    numpy.ndarray
        (dimension, y, x) float32; NaN where no band has a value in any month.
    """
    image = scene["image"].compute()
    names = [str(name) for name in image["band"].values if name != "CLP"]
    values = image.sel(band=names).values.astype(np.float64)
    there = np.isfinite(values)
    count = there.sum(axis=0)
    mean = np.where(there, values, 0.0).sum(axis=0) / np.maximum(count, 1)
    # About 0 and about as wide in all bands; a band without a value counts as usual.
    radar = np.array([name.startswith("V") for name in names])[:, None, None]
    usual = np.where(radar, (mean + 14) / 5, (mean - 1200) / 1000)
    usual[count == 0] = 0.0
    random = np.random.default_rng([_SEED, dimensions])
    weights = random.standard_normal((dimensions, len(names) + 1))
    weights /= math.sqrt(len(names))
    inputs = np.concatenate([usual, np.ones((1, *usual.shape[1:]))])
    raised = np.tanh(np.tensordot(weights, inputs, axes=1))
    vectors = raised / np.sqrt(np.square(raised).sum(axis=0))
    vectors[:, (count == 0).all(axis=0)] = np.nan
    return np.asarray(vectors, np.float32)


def squares_of(vectors: Vectors) -> npt.NDArray[np.int8]:
    """Return AlphaEarth's numbers: sign(x) 127.5 sqrt(abs(x)), -128 where missing."""
    values = np.sign(vectors) * 127.5 * np.sqrt(np.abs(vectors))
    stored = np.clip(np.rint(values), -127, 127)
    return np.where(np.isnan(stored), -128, stored).astype(np.int8)


def scales_of(vectors: Vectors) -> tuple[npt.NDArray[np.int8], Vectors]:
    """Return TESSERA's numbers, (band, y, x), and their scales, (y, x)."""
    scales = (np.abs(vectors).max(axis=0) / 127).astype(np.float32)
    stored = np.rint(vectors / scales)
    return np.nan_to_num(stored).astype(np.int8), scales
