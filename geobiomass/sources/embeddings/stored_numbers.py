"""Embeddings from the whole numbers that archives store them as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from geobiomass.cube import CubeError
from geobiomass.sources.rasters.reproject import Pixels

NODATA = -128
"""The stored number of AlphaEarth's missing pixels, in all bands."""

_CODES = np.arange(-128, 128, dtype=np.float64)
# Computed in float64 and rounded once, so that no arithmetic of float32 adds errors.
_SIGNED_SQUARES = (np.sign(_CODES) * (_CODES / 127.5) ** 2).astype(np.float32)
_SIGNED_SQUARES[0] = np.nan
# Other spellings of the method, and the formula as stores of AlphaEarth state it.
_SQUARES = ("signed_square", "(x/127.5)**2*sign(x)", "sign(x)*(x/127.5)**2")
_MOST_SCALE = 1.0  # of TESSERA: its readme calls larger scales invalid


def signed_squares(stored: npt.NDArray[Any]) -> Pixels:
    """Return the values of AlphaEarth's numbers: sign(v) (v / 127.5)^2, NaN at -128.

    Parameters
    ----------
    stored : numpy.ndarray
        (band, y, x) int8.

    Returns
    -------
    numpy.ndarray
        (band, y, x) float32, from -0.9922 to 0.9922. A pixel with -128 in any band is
        missing in all of them, and so is one with 0 in all bands: no vector of length 1
        has it, and what was never written may read so.
    """
    values = _SIGNED_SQUARES[stored.astype(np.int16) - NODATA]
    values[:, ~stored.any(axis=0)] = np.nan
    return without_parts(values)


def scaled(
    stored: npt.NDArray[Any], scales: npt.NDArray[Any], most: float | None = _MOST_SCALE
) -> Pixels:
    """Return stored numbers x the scale of their pixel, NaN where there is no scale.

    Parameters
    ----------
    stored : numpy.ndarray
        (band, y, x) int8.
    scales : numpy.ndarray
        (y, x), or (band, y, x) for a scale a band.
    most : float, optional
        The largest scale that is valid.

    Returns
    -------
    numpy.ndarray
        (band, y, x) float32. A pixel is missing if its scale is not finite, is not
        above 0 (what was never written reads as 0), or is above `most`.
    """
    scales = np.asarray(scales, np.float32)
    if scales.ndim == 2:
        scales = scales[None]
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(scales) & (scales > 0)
        if most is not None:
            valid &= scales <= most
    factors = np.where(valid, scales, np.float32(np.nan))
    return without_parts(stored.astype(np.float32) * factors)


def without_parts(values: Pixels) -> Pixels:
    """Return vectors of which none is incomplete: missing in all bands, or in none."""
    gone = ~np.isfinite(values).all(axis=0)
    if gone.any():
        values[:, gone] = np.nan
    return values


@dataclass(frozen=True)
class Quantisation:
    """How a store of the geo-embeddings convention stores its values.

    Parameters
    ----------
    kind : "none", "linear", "by pixel" or "signed square"
        The formula.
    scale, offset : float
        value = stored x scale + offset, where it is linear.
    array : str
        Name of the array with the scale of each pixel, where it is by pixel.
    nodata : float, optional
        The stored number of missing pixels, or the scale of missing pixels.
    """

    kind: Literal["none", "linear", "by pixel", "signed square"] = "none"
    scale: float = 1.0
    offset: float = 0.0
    array: str = ""
    nodata: float | None = None

    def values_of(
        self,
        stored: npt.NDArray[Any],
        scales: npt.NDArray[Any] | None = None,
        most: float | None = None,
    ) -> Pixels:
        """Return values, (band, y, x) float32, NaN where missing."""
        if self.kind == "signed square":
            return signed_squares(stored)
        if self.kind == "by pixel" and scales is not None:
            if self.nodata is not None and np.isfinite(self.nodata):
                scales = np.where(scales == self.nodata, np.nan, scales)
            return scaled(stored, scales, most)
        values = (stored * np.float64(self.scale) + self.offset).astype(np.float32)
        if self.nodata is not None:
            values[stored == self.nodata] = np.nan
        return without_parts(values)


def quantisation_of(attrs: Mapping[str, Any], dtype: Any, name: str) -> Quantisation:
    """Return how a store stores its values, from ``geoemb:quantization``.

    Parameters
    ----------
    attrs : mapping
        Attributes of the store.
    dtype : numpy.dtype
        Of the array of embeddings.
    name : str
        The store, for messages.

    Raises
    ------
    CubeError
        If whole numbers have no method, or one that is unknown.
    """
    stated = attrs.get("geoemb:quantization")
    if not isinstance(stated, Mapping):
        if np.dtype(dtype).kind == "f":
            return Quantisation()
        raise CubeError(
            f"{name} must state geoemb:quantization, as its embeddings are {dtype}: "
            "without it their values are unknown; ask who published it."
        )
    method = str(stated.get("method", ""))
    formula = str(stated.get("formula", "")).replace(" ", "")
    nodata = stated.get("nodata")
    if method in _SQUARES or formula in _SQUARES:
        if np.dtype(dtype) != np.int8 or nodata not in (None, NODATA):
            raise CubeError(
                f"{name} must have int8 with nodata {NODATA} for the method {method!r},"
                f" got {dtype} with nodata {nodata!r}; ask who published it."
            )
        return Quantisation("signed square")
    scale = stated.get("scale")
    if isinstance(scale, Mapping) and scale.get("type") == "array":
        return Quantisation(
            "by pixel",
            array=str(scale.get("array_name", "scales")),
            nodata=_number(scale.get("nodata")),
        )
    if isinstance(scale, Mapping) and scale.get("type") == "scalar":
        return Quantisation(
            "linear",
            float(scale["scale"]),
            float(scale.get("offset", 0.0)),
            nodata=_number(nodata),
        )
    raise CubeError(
        f"{name} must have values that are linear, have a scale a pixel, or are signed "
        f"squares, got the method {method!r} in geoemb:quantization; decode it with "
        "its own tool and open the result with gb.as_cube."
    )


def _number(stated: Any) -> float | None:
    """Return a number of JSON, which writes infinity as text: "+inf"."""
    return None if stated is None else float(stated)
