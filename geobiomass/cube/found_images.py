"""What an archive had for a cube: the attribute `survey`, as a table of months."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import xarray as xr

from geobiomass.outside_text import one_line
from geobiomass.summary import Table, bytes_in_words
from geobiomass.training.json_files import JsonError, finite_number, parse_json

SURVEY = "survey"
"""Attribute of a cube, JSON: images of an archive by sensor and month, and bytes."""


def image_facts(cube: xr.Dataset) -> dict[str, str | Table]:
    """Return what a cube says of the images it was made of; empty if it says nothing.

    An attribute that is no survey is left out: any program may have written it.
    """
    text = cube.attrs.get(SURVEY)
    if not isinstance(text, str):
        return {}
    try:
        survey = parse_json(text, f"The attribute {SURVEY}", dict)
    except JsonError:
        return {}
    facts: dict[str, str | Table] = {}
    table = images_table(survey)
    if table is not None:
        facts["images"] = table
    if finite_number(survey.get("bytes")):
        whole, guessed = survey["bytes"], survey.get("estimated_bytes")
        note = " (estimate)" if guessed else ""
        facts["bytes in the archive"] = f"{bytes_in_words(whole)}{note}"
    return facts


def images_table(survey: Mapping[str, Any]) -> Table | None:
    """Return dates, and shares that are seen, by sensor and month; None without them.

    Parameters
    ----------
    survey : mapping
        As `ArchiveSurvey.to_dict` returns it.
    """
    months, sensors = survey.get("months"), survey.get("sensors")
    if not isinstance(months, list) or not isinstance(sensors, Mapping):
        return None
    rows: dict[str, list[Any]] = {}
    clear_known = False
    for sensor, by_month in sensors.items():
        if not isinstance(by_month, Mapping):
            return None
        of_months = [by_month.get(str(month)) for month in months]
        known = [one if isinstance(one, Mapping) else {} for one in of_months]
        name = one_line(sensor)
        rows[f"{name}, dates"] = [_number(one, "dates", 1, 0) for one in known]
        rows[f"{name}, % covered"] = [_number(one, "covered", 100, 0) for one in known]
        clear = [_number(one, "clear", 100, math.nan) for one in known]
        if any(map(math.isfinite, clear)):
            rows[f"{name}, % clear"] = clear
            clear_known = True
    if not rows:
        return None
    columns = [one_line(str(month)) for month in months]
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=object)
    frame.index.name = "by month"
    return Table(frame, "clear: of whole scenes" if clear_known else "")


def _number(found: Mapping[str, Any], name: str, factor: int, missing: float) -> float:
    """Return a number of a survey, rounded; `missing` where it has none."""
    value: Any = found.get(name)
    return round(factor * value) if finite_number(value) else missing
