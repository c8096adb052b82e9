"""The picture of a survey: a made-up year of images, with gaps."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from geobiomass.sources.stac.survey import survey_archive

AREA = (24.0, 61.8, 24.2, 61.9)
YEAR = 2026
WEST = (24.0, 61.8, 24.14, 61.9)
WHOLE = (23.9, 61.7, 24.3, 62.0)


def items() -> list[dict[str, Any]]:
    """Return items of both sensors, whose files do not exist."""
    random = np.random.default_rng(0)
    made = []
    for number in range(73):
        day = date(YEAR, 1, 1) + timedelta(days=5 * number)
        season = np.cos(2 * np.pi * (day.month - 1) / 12)  # summers are clearer
        cloud = float(np.clip(random.normal(60 + 30 * season, 15), 2, 100))
        if day.month not in (12, 1):  # too dark
            facts = {"eo:cloud_cover": cloud, "s2:processing_baseline": "05.11"}
            made.append(_item("s2", day, WHOLE, ("B04", "SCL"), facts))
        if number % 2 == 0 and day.month not in (4, 5):
            made.append(_radar(day, WHOLE, "ascending"))
        if number % 3 == 0 and day.month > 6:
            made.append(_radar(day, WEST, "descending"))
    return made


def _radar(day: date, footprint: tuple[float, ...], state: str) -> dict[str, Any]:
    platform = "sentinel-1a" if day.month < 7 else "sentinel-1c"
    facts = {"sat:orbit_state": state, "platform": platform}
    return _item(f"s1-{state}", day, footprint, ("vv", "vh"), facts)


def _item(
    kind: str,
    day: date,
    footprint: tuple[float, ...],
    assets: tuple[str, ...],
    facts: dict[str, Any],
) -> dict[str, Any]:
    west, south, east, north = footprint
    ring = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    name = f"{kind}-{day:%Y%m%d}"
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "sentinel-2-l2a" if kind == "s2" else "sentinel-1-rtc",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": list(footprint),
        "properties": {"datetime": f"{day}T10:00:00Z", **facts},
        "links": [],
        "assets": {
            asset: {"href": f"https://example.org/{name}/{asset}.tif"}
            for asset in assets
        },
    }


def draw() -> Figure:
    """Draw the survey of that year."""
    survey = survey_archive(items(), AREA, year=YEAR, headers=False)
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    survey.plot(figure.subplots())
    return figure
