"""Error metrics of a map by bin, with bootstrap intervals over chips or blocks."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.cube.quantity import AGB, Quantity
from geobiomass.cube.units import conversion
from geobiomass.data.reader import Reader
from geobiomass.statistics.confidence import check_confidence
from geobiomass.tiles import EVALUATION_BLOCK, Sample, blocks, parts_of

BIOMASS_BINS = (0.0, 50.0, 100.0, 150.0, 200.0, 300.0, 400.0, float("inf"))
"""Edges of the bins of biomass, Mg/ha."""

# By units: bins of about as many pixels each, up to what is found on land.
_BINS = {
    "m": (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, float("inf")),
    "%": (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, float("inf")),
}


def bins_for(units: str) -> tuple[float, ...]:
    """Return the edges of bins of a target: biomass, a height, a share of the ground.

    A target in other units has the numbers of :data:`BIOMASS_BINS`.
    """
    for known, edges in _BINS.items():
        factor = conversion(known, units)
        if factor is not None:
            return tuple(float(f"{factor * edge:.6g}") for edge in edges)
    return BIOMASS_BINS


BY = ("biomass", "predicted", "months")
"""The bins that a table of metrics can have."""

BOOTSTRAP = 1000  # samples, by default
CONFIDENCE = 0.95  # of intervals, by default
ESTIMATED = ("average_rmse", "pixel_rmse", "mae", "bias", "r2")
"""Metrics that have an interval."""

# Sums by group and bin: pixels, error, |error|, error^2, observed, observed^2, parts,
# RMSEs of parts, pixels with an interval, pixels that it covers, its widths.
_SUMS = 11
_WEIGHED = 2  # more where labels have errors: weights, squared errors of labels
LABEL_ERROR, WITHOUT_LABEL_ERROR = "label_error", "rmse_without_label_error"
MOST_UNITS = 2**15  # with 8 bins 23 MB; of more groups, neighbours are merged
_AT_ONCE = 2**22  # weights of the bootstrap that are in memory at once: 32 MB

Numbers = npt.NDArray[np.float64]


class Bins:
    """The rows of a table of metrics: "all", and one for each bin.

    Parameters
    ----------
    by : "biomass", "predicted" or "months"
        Bins of observed biomass, of predicted biomass, or of the number of months in
        which the pixel has any value.
    months : int
        Months of the cube, for bins by months.
    target : Quantity
        What is predicted: its units decide on the edges.

    Raises
    ------
    ValueError
        If `by` is none of these.
    """

    def __init__(
        self, by: str = "biomass", months: int = 12, target: Quantity = AGB
    ) -> None:
        if by not in BY:
            raise ValueError(f"by must be one of {BY}, got {by!r}.")
        self.by, self.target = by, target
        self.edges = bins_for(target.units)
        if by == "months":
            self._tops = [months // 3, 2 * months // 3, months - 1, months]
            spans = [(low + 1, high) for low, high in pairwise([0, *self._tops])]
            self._spans = [span for span in reversed(spans) if span[0] <= span[1]]
            names = [
                str(low) if low == high else f"{low}-{high}"
                for low, high in self._spans
            ]
        else:
            names = [
                f"{low:g}-{high:g}" if np.isfinite(high) else f"{low:g} and more"
                for low, high in pairwise(self.edges)
            ]
        self.names = ["all", *names]

    def of(
        self, predicted: Numbers, observed: Numbers, months: npt.NDArray[Any] | None
    ) -> npt.NDArray[np.intp]:
        """Return the row of each pixel, from 1; 0 for none."""
        if self.by == "months":
            if months is None:
                raise ValueError("by='months' needs the months of each pixel.")
            rows = np.zeros(np.shape(months), np.intp)
            for row, (low, high) in enumerate(self._spans, 1):
                rows[(months >= low) & (months <= high)] = row
            return rows
        values = observed if self.by == "biomass" else predicted
        return np.digitize(values, self.edges[1:-1]) + 1


class Tally:
    """Sums of errors by bin, added part by part.

    A part is a chip, or 256 x 256 pixels of a scene; average RMSE is the average over
    parts. Parts of one unit, an exchangeable group, are resampled together; by
    default each part is a separate unit. Memory: 704 bytes for each unit (832 where
    labels have errors), of 32,768 units at most. Where there are more, two successive
    units are merged, then four.

    Parameters
    ----------
    bins : Bins, optional
        Rows of the table; by default bins of observed biomass.
    errors : bool
        Whether parts come with the standard errors and weights of their labels.
    """

    def __init__(self, bins: Bins | None = None, errors: bool = False) -> None:
        self.bins = Bins() if bins is None else bins
        self.names = self.bins.names
        self._units: dict[Any, int] = {}
        columns = _SUMS + _WEIGHED * errors
        self._sums = np.zeros((8, len(self.names), columns))
        self._used = 0
        self._together = 1  # units in a row of the sums
        self._in_last = 1

    @property
    def count(self) -> int:
        """Pixels compared so far."""
        return int(self._sums[: self._used, 0, 0].sum())

    def add(
        self,
        predicted: npt.NDArray[Any],
        observed: npt.NDArray[Any],
        *,
        unit: Any = None,
        months: npt.NDArray[Any] | None = None,
        interval: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None,
        errors: npt.NDArray[Any] | None = None,
        weights: npt.NDArray[Any] | None = None,
    ) -> None:
        """Add one chip, or one part of a scene; pixels with NaN are ignored.

        Parameters
        ----------
        predicted, observed : numpy.ndarray
            (y, x) float64, Mg/ha.
        unit : optional
            The unit (exchangeable group) of the part, any hashable value.
        months : numpy.ndarray, optional
            (y, x): number of months that have any value.
        interval : tuple of numpy.ndarray, optional
            (y, x) lower and upper ends, Mg/ha.
        errors, weights : numpy.ndarray, optional
            (y, x) standard errors of the labels, Mg/ha, and their weights; both, or
            none, as the tally was made for.
        """
        valid = np.isfinite(predicted) & np.isfinite(observed)
        if not valid.any():
            return
        y, error = observed[valid], (predicted - observed)[valid]
        seen = None if months is None else months[valid]
        which = self.bins.of(predicted[valid], y, seen)
        values = np.stack([np.ones_like(y), error, np.abs(error), error**2, y, y**2])
        ends = _covered(y, interval, valid)
        added = [*values, *ends]
        columns = [0, 1, 2, 3, 4, 5, 8, 9, 10]
        if errors is not None and weights is not None:
            weight, squares = weights[valid], errors[valid] ** 2
            added = [added[0], *(each * weight for each in added[1:])]
            added += [weight, weight * squares]
            columns += [_SUMS, _SUMS + 1]
        sums = np.zeros((len(self.names), self._sums.shape[-1]))
        count = len(self.names)
        for column, each in zip(columns, added, strict=True):
            sums[:, column] = np.bincount(which, each, count)
            sums[0, column] = each.sum()
        known = sums[:, 0] > 0
        total = sums[:, 0 if weights is None else _SUMS]
        sums[known, 6] = 1
        sums[known, 7] = np.sqrt(sums[known, 3] / total[known])
        row = self._row(unit)  # may replace the array of sums by a larger one
        self._sums[row] += sums

    def _row(self, unit: Any) -> int:
        """Return the row of a unit's sums; add one for a new unit."""
        if unit is not None and unit in self._units:
            return self._units[unit]
        if self._in_last == self._together:
            self._open_row()
        self._in_last += 1
        if unit is not None:
            self._units[unit] = self._used - 1
        return self._used - 1

    def _open_row(self) -> None:
        if self._used == MOST_UNITS:
            self._sums = self._sums[0::2] + self._sums[1::2]
            self._units = {unit: row // 2 for unit, row in self._units.items()}
            self._used //= 2
            self._together *= 2
        if self._used == len(self._sums):
            self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)])
        self._used += 1
        self._in_last = 0

    def table(
        self, confidence: float = CONFIDENCE, bootstrap: int = 0, seed: int = 0
    ) -> pd.DataFrame:
        """Return the metrics, one row for each bin.

        Columns as in ``BiomassRegressor.evaluate``.

        Parameters
        ----------
        confidence : float
            Confidence of the intervals, above 0 and below 1.
        bootstrap : int
            Bootstrap samples of units; 0 for no intervals.
        seed : int
            Seed of the samples.

        Raises
        ------
        ValueError
            If a number is out of range.
        """
        check_confidence(confidence)
        if bootstrap < 0:
            raise ValueError(
                f"bootstrap must be a number of samples, 0 or more, got {bootstrap}."
            )
        units = self._sums[: self._used]
        total = units.sum(0)
        pixels, error, _, _, observed = total.T[:5]
        metrics, n = _metrics(total), _weight_of(total)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = observed / n
            columns: dict[str, Any] = {"pixels": pixels.astype(int)}
            columns |= {name: metrics[name] for name in ESTIMATED}
            columns |= {"observed": mean, "predicted": mean + error / n}
        with_interval = total[0, 8] > 0
        if with_interval:
            columns |= {name: metrics[name] for name in ("coverage", "width")}
        names = [*ESTIMATED, *(["coverage"] if with_interval else [])]
        if LABEL_ERROR in metrics:
            own = (LABEL_ERROR, WITHOUT_LABEL_ERROR)
            columns |= {name: metrics[name] for name in own}
            names.append(WITHOUT_LABEL_ERROR)
        if bootstrap:
            columns |= _intervals(units, names, confidence, bootstrap, seed)
        target = self.bins.target
        # Bins "by biomass" are of the target, whatever it is.
        other = self.bins.by == "biomass" and not target.is_biomass
        rows_are = target.short if other else self.bins.by
        table = pd.DataFrame(columns, pd.Index(self.names, name=rows_are))
        if self.bins.by != "months":
            # Within a bin of biomass there is little variance left to explain.
            for name in ("r2", "r2_lower", "r2_upper"):
                if name in table:
                    table.loc[self.names[1:], name] = np.nan
        if self.bins.by == "biomass":
            # Labels of a bin of labels have errors in common: they made the bin.
            for name in (LABEL_ERROR, WITHOUT_LABEL_ERROR):
                for end in ("", "_lower", "_upper"):
                    if name + end in table:
                        table.loc[self.names[1:], name + end] = np.nan
        table.attrs = {"target": target.name, "units": target.units}
        return table


def add_parts(
    tally: Tally,
    predicted: Numbers,
    observed: Numbers,
    interval: tuple[Numbers, Numbers] | None = None,
    months: npt.NDArray[Any] | None = None,
    unit: Any = None,
    errors: npt.NDArray[Any] | None = None,
) -> None:
    """Add a chip, or a block of a scene, in parts of 256 x 256 pixels.

    Parameters
    ----------
    tally : Tally
        The sums to add to.
    predicted, observed, interval, months, errors
        (y, x), as in :meth:`Tally.add`.
    unit : optional
        The unit of all parts, as in :meth:`Tally.add`.
    """
    height, width = observed.shape
    for part in blocks(height, width, EVALUATION_BLOCK):
        here = part.rows, part.columns
        tally.add(
            predicted[here],
            observed[here],
            unit=unit,
            months=None if months is None else months[here],
            interval=interval and (interval[0][here], interval[1][here]),
            errors=None if errors is None else errors[here],
        )


def interval_of(
    layers: Mapping[str, Any], name: str = AGB.name
) -> tuple[Any, Any] | None:
    """Return the lower and upper ends from a map's layers; None where it has none."""
    lower, upper = f"{name}_lower", f"{name}_upper"
    if lower not in layers or upper not in layers:
        return None
    return layers[lower], layers[upper]


def months_seen(reader: Reader, sample: Sample) -> npt.NDArray[np.int64]:
    """Count the months in which a pixel has a value in any band, (y, x)."""
    total = np.zeros((sample.window.height, sample.window.width), np.int64)
    for part in parts_of(sample, EVALUATION_BLOCK):  # one month stack in memory
        seen = np.isfinite(reader.read(part)).any(1)
        total[part.window.within(sample.window)] = seen.sum(0)
    return total


def _covered(
    observed: Numbers, interval: tuple[Any, Any] | None, valid: npt.NDArray[np.bool_]
) -> Numbers:
    """Return, by pixel, whether there is an interval, whether it covers, its width."""
    if interval is None:
        return np.zeros((3, observed.size))
    lower, upper = (end[valid] for end in interval)
    known = np.isfinite(lower) & np.isfinite(upper)
    inside = known & (lower <= observed) & (observed <= upper)
    return np.stack([known, inside, np.where(known, upper - lower, 0.0)]).astype(float)


def _metrics(sums: Numbers) -> dict[str, Numbers]:
    """Return the metrics of sums (..., sum)."""
    _, error, absolute, squared, total, squares, parts, roots, known, inside, width = (
        np.moveaxis(sums[..., :_SUMS], -1, 0)
    )
    n = _weight_of(sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        more: dict[str, Numbers] = {}
        if sums.shape[-1] > _SUMS:
            labels = sums[..., _SUMS + 1] / n
            rest = np.maximum(squared / n - labels, 0)
            more = {LABEL_ERROR: np.sqrt(labels), WITHOUT_LABEL_ERROR: np.sqrt(rest)}
        return more | {
            "average_rmse": roots / parts,
            "pixel_rmse": np.sqrt(squared / n),
            "mae": absolute / n,
            "bias": error / n,
            "r2": 1 - squared / (squares - total**2 / n),
            "coverage": inside / known,
            "width": width / known,
        }


def _weight_of(sums: Numbers) -> Numbers:
    """Return the weight of the pixels of sums (..., sum): by default their number."""
    return np.asarray(sums[..., 0 if sums.shape[-1] == _SUMS else _SUMS])


def _intervals(
    units: Numbers, names: list[str], confidence: float, bootstrap: int, seed: int
) -> dict[str, Numbers]:
    """Return percentile intervals over units, drawn with replacement.

    The cluster bootstrap of Davison and Hinkley (1997, section 3.8): errors of pixels
    within a unit are correlated, so whole units are drawn. A sample says how many
    times each unit is drawn; its sums are those numbers times the units' sums.
    """
    count, rows, _ = units.shape
    draw = np.random.default_rng(seed)
    # One product each: a wider one may round in another order.
    parts = [units[..., :_SUMS], units[..., _SUMS:]]
    flat = [part.reshape(count, -1) for part in parts if part.size]
    even = np.full(count, 1 / count) if count else np.empty(0)
    step = max(1, _AT_ONCE // max(1, count))
    found: dict[str, list[Numbers]] = {name: [] for name in names}
    for start in range(0, bootstrap, step) if count > 1 else ():
        size = min(step, bootstrap - start)
        weights = draw.multinomial(count, even, size=size).astype(np.float64)
        drawn = [(weights @ part).reshape(size, rows, -1) for part in flat]
        metrics = _metrics(np.concatenate(drawn, axis=-1))
        for name in names:
            found[name].append(metrics[name])
    # A single unit does not show how units differ.
    several = (units[:, :, 0] > 0).sum(0) > 1
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    columns = {}
    for name in names:
        both = np.full((2, rows), np.nan)
        for row in np.flatnonzero(several):
            values = np.concatenate([part[:, row] for part in found[name]])
            values = values[np.isfinite(values)]
            if values.size:
                both[:, row] = np.quantile(values, ends)
        columns[f"{name}_lower"], columns[f"{name}_upper"] = both
    return columns
