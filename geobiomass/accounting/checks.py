"""Checks of a table of totals: each assumption with a figure and a verdict.

A check that is broken withholds the interval of its row. What the figures are compared
with has its reason beside it, in the modules of the families: `area_checks`,
`sample_checks` (plots) and `error_checks` (residuals).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import xarray as xr

from geobiomass.accounting.area_checks import area_checks, refused
from geobiomass.accounting.check import (
    BROKEN,
    DOUBTFUL,
    FORCED,
    NO_ESTIMATE,
    NO_INTERVAL,
    OK,
    Check,
)
from geobiomass.accounting.error_checks import error_checks
from geobiomass.accounting.error_model import ErrorModel
from geobiomass.accounting.ground_plots import GroundPlots
from geobiomass.accounting.region_sums import PlotValues, RegionSum
from geobiomass.accounting.sample_checks import Sample, sample_checks
from geobiomass.accounting.small_area_checks import (
    joined,
    model_checks,
    region_checks,
)
from geobiomass.accounting.small_areas import SmallAreaTotals
from geobiomass.accounting.years import map_year
from geobiomass.cube.areas import pixel_size

UNMAPPED = ("exclude", "mean of its stratum", "refuse")

CHANGE = "part_of_change"
"""Attribute of a layer that is a part of a change, not biomass."""

_WITHHELD = ("_se", "_lower", "_upper")  # ends of columns
_ESTIMATES = ("mean", "total", "carbon")


def check_unmapped(unmapped: str, residuals: Any, strata: Any) -> None:
    """Check the rule for hectares without a value.

    Raises
    ------
    ValueError
        If it is unknown, or needs what residuals do not have.
    """
    if unmapped not in UNMAPPED:
        raise ValueError(f"unmapped must be one of {UNMAPPED}, got {unmapped!r}.")
    if unmapped == UNMAPPED[1] and residuals is not None and strata is not None:
        raise ValueError(
            f"unmapped={unmapped!r} with residuals= takes the region as one stratum; "
            "leave strata= out, or give plots=."
        )


@dataclass
class Checker:
    """The checks of a table, row by row.

    Parameters
    ----------
    source : xarray.Dataset or xarray.DataArray
        The map.
    layer : xarray.DataArray
        (y, x), its layer in Mg/ha.
    ground, at : GroundPlots, PlotValues
        Plots, if there are any, and the map's values there.
    model : ErrorModel, optional
        The errors of the map, without plots.
    hectares : dict, optional
        Hectares by stratum that the user gave.
    unmapped : str
        Rule for hectares without a value.
    force : bool
        Keep intervals where a check is broken.
    small : SmallAreaTotals, optional
        The model of all regions, if rows are by it.
    """

    source: Any
    layer: xr.DataArray
    ground: GroundPlots | None
    at: PlotValues
    model: ErrorModel | None
    hectares: dict[str, float] | None
    unmapped: str
    force: bool
    small: SmallAreaTotals | None = None

    def __post_init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self._pixel = pixel_size(self.layer)
        self._year = map_year(self.source, self.layer)
        self._change = bool(self.layer.attrs.get(CHANGE))
        self._samples: dict[int, Sample] = {}

    def judge(self, one: RegionSum, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row with its counts, verdict and note, and keep its checks."""
        sample = self._sample(one)
        row = dict(row)
        reason = row.pop(NO_INTERVAL, "")
        # A region without plots rests on the map's errors elsewhere, as with residuals.
        bare = self.small is not None and sample is not None and sample.n == 0
        by_model = self.model is not None or bare
        checks = area_checks(one, self.unmapped, by_model, self.hectares)
        estimated = math.isfinite(row["mean"])
        if sample is not None and self.small is not None:
            if estimated:
                checks += region_checks(self.small, one, sample) + self._of_all
        elif sample is not None:
            checks += sample_checks(sample, row["method"], row, reason)
        elif self.model is not None and estimated:
            checks += error_checks(one, self.model, self._pixel)
        if self._change:
            checks = [check for check in checks if check.of_change]
        for check in checks:
            label = {"region": one.name, "method": row["method"]}
            self.found.append({**label, **check.to_dict()})
        row = row | _counts(one, sample, self.model)
        return _with_verdict(
            row, checks, self.force, refused(one, self.unmapped), reason
        )

    def _sample(self, one: RegionSum) -> Sample | None:
        if self.ground is None:
            return None
        if id(one) not in self._samples:  # rows of several methods share it
            self._samples = {id(one): self._sample_in(one, self.ground)}
        return self._samples[id(one)]

    def _sample_in(self, one: RegionSum, ground: GroundPlots) -> Sample:
        return Sample.of(one, ground, self.at, self.hectares, self._pixel, self._year)

    @cached_property
    def _of_all(self) -> list[Check]:
        """The checks of the model of small areas, and of the plots of all regions."""
        assert self.small is not None  # whose rows ask for it
        ground = self.small.ground
        samples = [self._sample_in(one, ground) for one in self.small.regions]
        return model_checks(self.small, joined(samples))


def _counts(
    one: RegionSum, sample: Sample | None, model: ErrorModel | None
) -> dict[str, Any]:
    """Return the columns of hectares and of plots that do not count."""
    known = model is not None and model.held_out is not None
    row: dict[str, Any] = {
        "region_area": one.own.hectares,
        "mapped": one.mapped,
        "off_map": one.own.off,
        "no_value": one.without_value,
        "not_applicable": one.inapplicable,
        "beyond_held_out": one.extrapolated if known else math.nan,
    }
    names = ("off_map", "on_nodata", "without_value", "repeated")
    if sample is None:
        return row | {f"plots_{name}": 0 for name in names}
    counts = (sample.off_map, sample.on_nodata, sample.silent, sample.repeated)
    return row | {
        f"plots_{name}": count for name, count in zip(names, counts, strict=True)
    }


def _with_verdict(
    row: dict[str, Any],
    checks: Iterable[Check],
    force: bool,
    refusal: str,
    reason: str,
) -> dict[str, Any]:
    """Return a row with verdict and note; without an interval where it is broken."""
    checks = list(checks)
    broken = [check.words for check in checks if check.verdict == BROKEN]
    doubtful = [check.words for check in checks if check.verdict == DOUBTFUL]
    estimated = math.isfinite(row["mean"])
    notes = [row["note"]] if row["note"] else []
    verdict: str = BROKEN if broken else DOUBTFUL if doubtful else OK
    if not estimated:  # the note has the reason, which a check may repeat
        verdict = NO_ESTIMATE
        broken = [each for each in broken if not any(map(each.startswith, notes))]
        notes += broken
    elif broken:
        # What the rule of intervals refuses cannot be forced.
        verdict = FORCED if force and math.isfinite(row["mean_lower"]) else BROKEN
        words = "forced although" if force else "no interval:"
        told = [each for each in broken if each not in row["note"]]
        if told:
            notes.insert(0, f"{words} {'; '.join(told)}")
    notes += [words for words in doubtful if words not in row["note"]]
    # The standard error of a sample that is only too small for an interval stays.
    if set(broken) - {reason} and not force:
        row = row | dict.fromkeys(_intervals(row), math.nan) | {"interval": "none"}
    if refusal:
        parts = [name for name in row if name.split("_")[0] in _ESTIMATES]
        row = row | dict.fromkeys(parts, math.nan) | {"interval": "none"}
        verdict, notes = NO_ESTIMATE, [refusal]
    del row["note"]  # the last column
    return row | {"verdict": verdict, "note": "; ".join(notes)}


def _intervals(row: dict[str, Any]) -> list[str]:
    return [
        name
        for name in row
        if name.split("_")[0] in _ESTIMATES and name.endswith(_WITHHELD)
    ]
