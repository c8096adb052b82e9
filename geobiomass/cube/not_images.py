"""Variables of users' data that are not images: the target, its error, masks, flags."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import xarray as xr

_TARGET = re.compile(
    r"(?<![a-z])(agbd?|agbm|agc|above[-_ ]?ground[-_ ]?(bio)?mass|biomass|carbon)"
    r"(?![a-z])",
    re.IGNORECASE,
)
_FLAGS = re.compile(
    r"^(scl|clm|fmask|bqa|qa\d*|quality.*|flags?|data_?mask|mask|valid|weights?|"
    r"classification|land_?cover|n_?obs|count|observations)$"
    r"|(^|[-_ ])(qa|scl|mask|flags?|weights?|quality|nobs|count)([-_ ]|$)",
    re.IGNORECASE,
)
_ERROR = re.compile(
    r"[-_ ](se|sd|std|stderr|err|error|unc|uncertainty|var|variance|lower|upper|ci|"
    r"rmse)$",
    re.IGNORECASE,
)
_DENSITY = re.compile(
    r"^(mg|t|tonnes?|tons?|kg|g)\s*(/|per|\s|\*)?\s*(ha|m\s*(\^|\*\*)?2)"
    r"\s*((\^|\*\*)?\s*-\s*[12])?$",
    re.IGNORECASE,
)
_SPARSE = 0.2  # share of labelled pixels; above it images may have the same outline
_AT_MOST = 256  # pixels: side of the window that is compared where values are computed
_FEWEST = 10  # pixels to compare

Found = Mapping[str, str]


def not_images(
    variables: Mapping[str, xr.DataArray],
    target: xr.DataArray | None,
    kept: Collection[str] = (),
) -> Found:
    """Return the variables that are no bands of an image, with the reason.

    Parameters
    ----------
    variables : mapping
        By name; all on the grid.
    target : xarray.DataArray, optional
        The target of a training, which other variables may be copies of.
    kept : collection of str
        Names that are bands in any case: those that a model was trained on.
    """
    timed = any(_has_time(variable) for variable in variables.values())
    known = _Target.of(target)
    found = {
        name: reason
        for name, variable in variables.items()
        if name not in kept
        and (
            reason := _reason(name, variable, known, timed and not _has_time(variable))
        )
    }
    # The error of a variable that is left out is left out with it.
    for name in variables:
        root = _ERROR.sub("", name)
        if name not in kept and name not in found and root != name and root in found:
            found[name] = f"error of {root}"
    return found


def _has_time(variable: xr.DataArray) -> bool:
    return variable.ndim > 2


def _reason(
    name: str, variable: xr.DataArray, target: _Target | None, once: bool
) -> str | None:
    words = [str(variable.attrs.get(k, "")) for k in ("standard_name", "long_name")]
    if variable.dtype.kind not in "iuf":
        return f"{variable.dtype} values"
    if {"flag_values", "flag_meanings", "flag_masks"} & variable.attrs.keys():
        return "flags or classes"
    if _FLAGS.search(name):
        return "flags, classes or weights, by its name"
    if _TARGET.search(name) or any("biomass" in word.lower() for word in words):
        return "a target, by its name"
    if _DENSITY.match(str(variable.attrs.get("units", "")).strip()):
        return f"a target, by its units {variable.attrs['units']}"
    if once and _ERROR.search(name):
        return "an error or a bound, by its name"
    return None if target is None else target.relation(variable)


def flagged_bands(names: Collection[str], kept: Collection[str] = ()) -> Found:
    """Return the bands of an array that are no images by their names."""
    found = {}
    for name in names:
        if name in kept:
            continue
        if _FLAGS.search(name):
            found[name] = "flags, classes or weights, by its name"
        elif _TARGET.search(name):
            found[name] = "a target, by its name"
    return found


class _Target:
    """Values of the target in a window, to recognise its copies."""

    def __init__(self, target: xr.DataArray) -> None:
        self.dims = target.dims
        self.sizes = dict(target.sizes)
        self.window = {dim: _middle(size) for dim, size in target.sizes.items()}
        if target.chunks is None:
            self.window = {}
        self.values = self._read(target)

    @classmethod
    def of(cls, target: xr.DataArray | None) -> _Target | None:
        return None if target is None or target.dtype.kind not in "iuf" else cls(target)

    def _read(self, variable: xr.DataArray) -> npt.NDArray[np.float64]:
        values = variable.isel(self.window).transpose(*self.dims).values
        return np.asarray(values.astype(np.float64).ravel())

    def relation(self, variable: xr.DataArray) -> str | None:
        """Return how a variable is bound to the target, if it is."""
        if set(variable.dims) != set(self.dims) or dict(variable.sizes) != self.sizes:
            return None
        values, target = self._read(variable), self.values
        here, there = np.isfinite(values), np.isfinite(target)
        both = here & there
        if both.sum() < _FEWEST:
            return None
        if np.array_equal(values[both], target[both]):
            return "a copy of the target, by its values"
        if _in_the_same_order(values[both], target[both]):
            return "computed from the target, by its values"
        if np.array_equal(here, there) and there.mean() < _SPARSE:
            return "has values exactly where the target has some"
        return None


def _middle(size: int) -> slice:
    start = max(0, (size - _AT_MOST) // 2)
    return slice(start, start + _AT_MOST)


def _in_the_same_order(
    values: npt.NDArray[np.float64], target: npt.NDArray[np.float64]
) -> bool:
    """Return whether one is a rising or falling function of the other."""
    a, b = _ranks(values), _ranks(target)
    if min(a.std(), b.std()) == 0:
        return False
    return bool(abs(np.corrcoef(a, b)[0, 1]) > 0.9999)


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return ranks of at most 10,000 of the values; equal values have one rank."""
    chosen = values[:: max(1, values.size // 10_000)]
    return np.unique(chosen, return_inverse=True)[1].astype(np.float64)
