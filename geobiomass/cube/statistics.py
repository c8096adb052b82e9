"""Statistics of a cube's bands, from one pass over its values.

Values are counted in a histogram. Minimum, maximum, mean, standard deviation and every
percentile follow from it exactly, and do not depend on the order of the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.cube.cluster_watch import computed, keeper_of
from geobiomass.cube.convert import as_cube
from geobiomass.cube.schema import CubeError
from geobiomass.cube.selection import Selection
from geobiomass.cube.static_layers import STATIC, layers_of
from geobiomass.training.setting_names import explain_arguments

PERCENTILES = (0.1, 1, 2, 5, 10, 25, 50, 75, 90, 95, 98, 99, 99.9)
_BINS = 2**16  # one for each value of 16 bits
_SIGN = np.uint32(2**31)
_EXACT = 2**32  # values of which the sum of squares of 16 bits fits into 64 bits


class BandTally:
    """A histogram of the values of each band, with exact sums.

    Each code of 16 bits has a bin. Floating-point values are counted by their leading
    16 bits, which keep their order; their percentiles are right to within 0.8 %, all
    else is exact up to the rounding of float64.

    Parameters
    ----------
    bands : sequence of str
        Names of the bands.
    steps : numpy.ndarray, optional
        Physical value of one code, one for all or by band; None: values are
        physical.
    missing : int, optional
        The code of missing values.
    """

    def __init__(
        self,
        bands: Sequence[str],
        steps: npt.NDArray[np.float32] | None = None,
        missing: int | None = None,
    ) -> None:
        self.bands = tuple(bands)
        self.missing = missing
        self.histogram = np.zeros((len(self.bands), _BINS), np.int64)
        self.seen = 0  # values of a band, missing ones too
        self._steps: npt.NDArray[np.float64] | None = None
        if steps is not None:
            by_band = np.broadcast_to(np.ravel(steps), len(self.bands))
            # By the shortest decimal: 0.01, not 0.009999999776 as float32 stores it.
            self._steps = np.array([float(str(step)) for step in by_band])
        self._extremes = [(math.inf, -math.inf)] * len(self.bands)
        self._sums = [(Fraction(0), Fraction(0))] * len(self.bands)

    def __len__(self) -> int:
        """Return the number of bands."""
        return len(self.bands)

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count a block, (..., band, y, x): int16 codes, or float32 with NaN."""
        self.seen += values.size // len(self.bands)
        for band in range(len(self.bands)):
            flat = values[..., band, :, :].reshape(-1)
            if self._steps is None:
                self._add_floats(band, flat)
            else:
                self._add_codes(band, flat)

    def _add_codes(self, band: int, codes: npt.NDArray[np.int16]) -> None:
        counts = np.bincount(codes.view(np.uint16), minlength=_BINS)
        if self.missing is not None:
            counts[np.int16(self.missing).view(np.uint16)] = 0
        # As unsigned numbers the negative codes come last.
        self.histogram[band] += np.roll(counts, _BINS // 2)

    def _add_floats(self, band: int, values: npt.NDArray[np.float32]) -> None:
        values = values[np.isfinite(values)].astype(np.float32)
        if values.size == 0:
            return
        self.histogram[band] += np.bincount(_keys(values), minlength=_BINS)
        low, high = self._extremes[band]
        self._extremes[band] = (
            min(low, float(values.min())),
            max(high, float(values.max())),
        )
        exact = values.astype(np.float64)
        total, squares = self._sums[band]
        self._sums[band] = (
            total + Fraction(float(exact.sum())),
            squares + Fraction(float((exact * exact).sum())),
        )

    def merge(self, other: BandTally) -> None:
        """Add the counts of another tally of the same bands."""
        self.seen += other.seen
        self.histogram += other.histogram
        self._extremes = [
            (min(a, c), max(b, d))
            for (a, b), (c, d) in zip(self._extremes, other._extremes, strict=True)
        ]
        self._sums = [
            (a + c, b + d)
            for (a, b), (c, d) in zip(self._sums, other._sums, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        """Return all but the histogram as JSON values, which restore it exactly."""
        return {
            "seen": self.seen,
            "extremes": [
                [low, high] if low <= high else None for low, high in self._extremes
            ],
            "sums": [[str(a), str(b)] for a, b in self._sums],
        }

    def restore(
        self, histogram: npt.NDArray[np.int64], state: Mapping[str, Any]
    ) -> None:
        """Continue from the histogram and state of a tally of the same bands."""
        self.histogram = histogram.astype(np.int64)
        self.seen = int(state["seen"])
        self._extremes = [
            (math.inf, -math.inf) if pair is None else (pair[0], pair[1])
            for pair in state["extremes"]
        ]
        self._sums = [(Fraction(a), Fraction(b)) for a, b in state["sums"]]

    def table(self) -> pd.DataFrame:
        """Return the statistics, one row per band.

        Returns
        -------
        pandas.DataFrame
            Columns count (of values), missing (share of all pixels), minimum, maximum,
            mean, sd (of the population) and p0.1 to p99.9: the smallest value that is
            not below that percentage of the values. NaN for a band without any value.
        """
        rows = [self._row(band) for band in range(len(self.bands))]
        return pd.DataFrame(rows, index=pd.Index(self.bands, name="band"))

    def below(self, percentile: float) -> tuple[float, float]:
        """Return mean and sd of the first band's values up to a percentile.

        To within 0.4 % for floating-point values.

        Raises
        ------
        CubeError
            If there is no value.
        """
        counts = self.histogram[0]
        used = np.flatnonzero(counts)
        if used.size == 0:
            raise CubeError(f"{self.bands[0]!r} has no value: every one is NaN.")
        reached = np.cumsum(counts[used])
        last = np.searchsorted(reached, percentile / 100 * reached[-1])
        used = used[: last + 1]
        values, weights = self._values(0, used), counts[used]
        mean = float(np.average(values, weights=weights))
        return mean, math.sqrt(np.average((values - mean) ** 2, weights=weights))

    def _row(self, band: int) -> dict[str, float]:
        counts = self.histogram[band]
        count = int(counts.sum())
        names = [f"p{percentile:g}" for percentile in PERCENTILES]
        missing = 1 - count / self.seen if self.seen else math.nan
        row: dict[str, float] = {"count": count, "missing": missing}
        if count == 0:
            names = ["minimum", "maximum", "mean", "sd", *names]
            return row | dict.fromkeys(names, math.nan)
        used = np.flatnonzero(counts)
        values = self._values(band, used)
        low, high, total, squares = self._moments(band, used, values)
        variance = squares / count - (total / count) ** 2
        reached = np.cumsum(counts[used])
        wanted = [math.ceil(Fraction(str(p)) * count / 100) for p in PERCENTILES]
        at = np.searchsorted(reached, wanted)
        return row | {
            "minimum": low,
            "maximum": high,
            "mean": float(total / count),
            "sd": math.sqrt(max(float(variance), 0.0)),
            **dict(zip(names, values[at].tolist(), strict=True)),
        }

    def _values(
        self, band: int, bins: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        if self._steps is None:
            low, high = self._extremes[band]
            return np.asarray(_of_keys(bins).clip(low, high))
        return np.asarray((bins - _BINS // 2) * self._steps[band])

    def _moments(
        self,
        band: int,
        used: npt.NDArray[np.int64],
        values: npt.NDArray[np.float64],
    ) -> tuple[float, float, Fraction, Fraction]:
        """Return minimum, maximum, sum and sum of squares."""
        if self._steps is None:
            return *self._extremes[band], *self._sums[band]
        step = Fraction(str(self._steps[band]))
        codes, counts = used - _BINS // 2, self.histogram[band, used]
        if int(counts.sum()) >= _EXACT:
            codes, counts = codes.astype(object), counts.astype(object)
        total, squares = int((codes * counts).sum()), int((codes**2 * counts).sum())
        low, high = float(values[0]), float(values[-1])
        return low, high, total * step, squares * step**2


def _keys(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Return the leading 16 bits of float32, changed to sort as the values do."""
    bits = values.view(np.uint32)
    # The order of negative floats is reversed; their sign bit would sort them last.
    sortable = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    return np.asarray(sortable >> np.uint32(16))


def _of_keys(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the middle of the float32 values that share a key."""
    sortable = (keys.astype(np.uint32) << np.uint32(16)) | np.uint32(2**15)
    bits = np.where(sortable & _SIGN, sortable & ~_SIGN, ~sortable)
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


@explain_arguments
def band_statistics(
    cube: xr.Dataset | xr.DataArray, *, progress: bool = False
) -> pd.DataFrame:
    """Compute statistics of each band of a cube.

    A cube from :func:`open_cube` (or a selection of its bands) contains
    statistics, stored when it was written. Any other cube is read once, completely.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene or chips.
    progress : bool
        Show a progress bar while values are read.

    Returns
    -------
    pandas.DataFrame
        One row per band: ``count``, ``missing`` (share), ``minimum``, ``maximum``,
        ``mean``, ``sd`` and percentiles ``p0.1`` to ``p99.9``, in the cube's units.

    Raises
    ------
    CubeError
        If `cube` is not a cube, or a part of it cannot be read.
    """
    cube = as_cube(cube)
    image = cube["image"]
    bands = [str(name) for name in image["band"].values]
    found = Selection.of(image.data)
    if found is not None and found.whole and found.stored.statistics is not None:
        table = found.stored.statistics.iloc[found.positions[-3]]
        return table.set_axis(pd.Index(bands, name="band"))
    return _count(image, bands, progress).table()


@explain_arguments
def layer_statistics(cube: xr.Dataset, *, progress: bool = False) -> pd.DataFrame:
    """Compute statistics of each static layer of a cube.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene or chips with ``static``.
    progress : bool
        Show a progress bar while values are read.

    Returns
    -------
    pandas.DataFrame
        One row per layer, as :func:`band_statistics` has them, in the layers' units.
        Stored statistics are used where the cube was opened from disk.

    Raises
    ------
    CubeError
        If `cube` is not a cube or has no static layers.
    """
    cube = as_cube(cube)
    if STATIC not in cube:
        raise CubeError(
            "Statistics of static layers need a cube with 'static', got none; add "
            "layers with gb.with_static(cube, ...)."
        )
    static, names = cube[STATIC], list(layers_of(cube))
    index = pd.Index(names, name="layer")
    found = Selection.of(static.data)
    if found is not None and found.whole and found.stored.statistics is not None:
        return found.stored.statistics.iloc[found.positions[-3]].set_axis(index)
    return _count(static, names, progress).table().set_axis(index)


def _count(image: xr.DataArray, bands: list[str], progress: bool) -> BandTally:
    from tqdm.auto import tqdm

    tally = BandTally(bands)
    if image.chunks is None:
        tally.add(image.values)
        return tally
    import dask

    whole = {dim: -1 for dim in ("month", "band", "layer") if dim in image.dims}
    blocks = image.chunk(whole).data.to_delayed().ravel()
    keeper = keeper_of(image)
    for block in tqdm(blocks, desc="Counting values", disable=not progress):
        if keeper is not None:
            tally.add(computed(block, "values were being counted", keeper))
            continue
        (values,) = dask.compute(block, scheduler="threads")  # type: ignore[attr-defined, no-untyped-call]
        tally.add(values)
    return tally
