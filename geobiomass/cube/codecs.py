"""Decoding of a cube's variables: fast codecs, and codes to physical values."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.threads import silence_warning

Codes = npt.NDArray[Any]
Pixels = npt.NDArray[np.float32]

# Opening with other codecs may be nested, in one thread.
_OPENING = threading.RLock()

# Whether arrays were opened with zarrs, here and in the process that forked this one.
_used, _lost = False, False


def _forked() -> None:
    """Do without zarrs in a forked process: its threads are those of the parent.

    What is decoded or written with it would be waited for forever.
    """
    global _OPENING, _lost
    _OPENING, _lost = threading.RLock(), _lost or _used


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@contextmanager
def quick_codecs() -> Iterator[None]:
    """Open arrays with the zarrs codecs inside the block, where they are installed."""
    import zarr

    global _used
    if _lost or importlib.util.find_spec("zarrs") is None:
        yield
        return
    setting = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}
    # zarrs falls back to Zarr's own codecs, with the same values.
    silence_warning(UserWarning, "Array is unsupported by Zarrs")
    # zarrs opens a store of obstore a second time, with separate connections.
    silence_warning(Warning, "Successfully reconstructed a store")
    # Zarr's settings belong to the whole process: one thread at a time.
    _used = True
    with _OPENING, zarr.config.set(setting):
        yield


@contextmanager
def whole_files() -> Iterator[None]:
    """Open arrays with Zarr's own codecs inside the block, whatever is configured.

    They replace a file as a whole, by a renaming. zarrs writes in place: a process that
    is killed leaves half a file. For all that is small or must never be half written.
    """
    import zarr

    setting = {"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}
    with _OPENING, zarr.config.set(setting):
        yield


def decode(
    codes: Codes, steps: Pixels | None, missing: int | None, out: Pixels
) -> None:
    """Convert codes to physical values, NaN where missing.

    Parameters
    ----------
    codes : numpy.ndarray
        (..., band, y, x).
    steps : numpy.ndarray or None
        Physical value of one code, one for all or (band, 1, 1).
    missing : int or None
        The code of missing values.
    out : numpy.ndarray
        Array to fill, of the shape of `codes`, float32.
    """
    # First in separate memory, which stays in the processor's cache: the rows of a
    # window are short. 16 bits are exact in float32, wider codes need float64.
    exact = codes.dtype.itemsize <= 2
    values: Codes = codes.astype(np.float32 if exact or steps is None else np.float64)
    if steps is not None:
        np.multiply(values, steps, out=values)
    if missing is not None and (gone := codes == missing).any():
        np.copyto(values, np.nan, where=gone)
    out[...] = values
