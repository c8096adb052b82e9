"""The years that maps and plots are of, where they say so."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.maps.origin import PROVENANCE
from geobiomass.tables import TableError, match_column, read_dates

Numbers = npt.NDArray[np.float64]

_COLUMNS = ("year", "date", "measured", "measurement_date", "inventory_year", "invyr")
_SPAN = ("time_coverage_start", "time_coverage_end")
_YEAR = re.compile(r"(1[89]|2[01])\d\d")


def measured_years(table: pd.DataFrame, rows: npt.NDArray[np.int64]) -> Numbers:
    """Return the year of each plot, with fractions if it has a date; NaN if unknown.

    Parameters
    ----------
    table : pandas.DataFrame
        Plots; a column year, date, measured, measurement_date, inventory_year or INVYR
        has their time. One that cannot be read is as if it were not there.
    rows : numpy.ndarray
        (plot,) their rows.
    """
    unknown = np.full(rows.size, np.nan)
    try:
        column: Any = match_column(table, _COLUMNS)
        if column is None:
            return unknown
        given = table[column].iloc[rows]
        numbers = pd.to_numeric(given, errors="coerce").to_numpy(np.float64)
        if pd.api.types.is_numeric_dtype(given) or np.isfinite(numbers).all():
            plain = (numbers >= 1800) & (numbers < 2200)
            if plain.any():  # a year without a date: its middle
                return np.where(plain, np.floor(numbers) + 0.5, np.nan)
        dates = pd.DatetimeIndex(pd.to_datetime(read_dates(given, str(column))))
    except (TableError, TypeError, ValueError):
        return unknown
    return np.asarray(dates.year + (dates.day_of_year - 0.5) / 365.25, np.float64)


def map_year(source: Any, layer: xr.DataArray) -> float | None:
    """Return the middle of the time that a map is of, in years; None if unknown.

    It is in the attributes ``time_coverage_start`` and ``time_coverage_end``, in the
    provenance that a map of geobiomass has, or in an attribute or coordinate ``year``.
    """
    places = [source.attrs] if isinstance(source, xr.Dataset) else []
    for attrs in (*places, layer.attrs):
        for facts in (attrs, _input(attrs.get(PROVENANCE))):
            ends = [_year(facts.get(name)) for name in _SPAN]
            known = [end for end in ends if end is not None]
            if known:
                return float(np.mean(known))
        if (year := _year(attrs.get("year"))) is not None:
            return year
    if "year" in layer.coords and layer["year"].size == 1:
        return _year(layer["year"].values.item())
    return None


def _input(provenance: Any) -> Mapping[str, Any]:
    try:
        found = json.loads(provenance)["input"]
    except (TypeError, ValueError, KeyError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _year(given: Any) -> float | None:
    """Return the year of a date or a number, with its month."""
    text = str(given)
    if given is None or not (found := _YEAR.match(text)):
        return None
    month = re.match(r"\d{4}-(\d\d)", text)
    return int(found[0]) + ((int(month[1]) - 0.5) / 12 if month else 0.5)
