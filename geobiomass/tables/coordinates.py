"""Columns of coordinates by their usual names, and their numbers."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.tables.columns import TableError, plain_name
from geobiomass.tables.numbers import as_numbers, plain_text, possible_decimals

Numbers = npt.NDArray[np.float64]

# In order of preference, as `plain_name` writes them. lowestmode: GEDI; decimal...:
# Darwin Core (GBIF); the rest: field sheets, GPS units, spreadsheets, ArcGIS.
_LONGITUDE = (
    "lon", "longitude", "long", "lng", "lonlowestmode", "longitudelowestmode",
    "decimallongitude", "decimallong", "decimallon", "longdecimal", "longitud",
    "londd", "longdd", "longitudedd", "xlon", "xlong", "xlongitude", "gpslon",
    "gpslong", "gpslongitude", "plotlon", "plotlong", "plotlongitude", "sitelon",
    "londeg", "londegrees", "longitudedeg", "longitudedegrees", "longitudedecimal",
    "xwgs84", "lonwgs84", "longwgs84", "longitudewgs84", "wgs84lon", "wgs84x",
    "langengrad", "longitudine", "x4326", "lonbin0",
)  # fmt: skip
_LATITUDE = (
    "lat", "latitude", "latlowestmode", "latitudelowestmode", "decimallatitude",
    "decimallat", "latdecimal", "latitud", "latdd", "latitudedd", "ylat", "ylatitude",
    "gpslat", "gpslatitude", "plotlat", "plotlatitude", "sitelat", "latdeg",
    "latdegrees", "latitudedeg", "latitudedegrees", "latitudedecimal", "ywgs84",
    "latwgs84", "latitudewgs84", "wgs84lat", "wgs84y", "breitengrad", "latitudine",
    "y4326", "latbin0",
)  # fmt: skip
_X = (
    "x", "easting", "eastings", "east", "xcoord", "xcoordinate", "coordx", "xm",
    "utmx", "xutm", "utme", "utmeast", "utmeasting", "eastingm", "pointx", "este",
    "rechtswert", "xcenter", "xcentre", "centroidx",
)  # fmt: skip
_Y = (
    "y", "northing", "northings", "north", "ycoord", "ycoordinate", "coordy", "ym",
    "utmy", "yutm", "utmn", "utmnorth", "utmnorthing", "northingm", "pointy", "norte",
    "hochwert", "ycenter", "ycentre", "centroidy",
)  # fmt: skip
_SHAPES = ("geometry", "wkt", "geom", "thegeom", "wktgeom", "wkbgeometry", "shape")

# 25.1 E, E 25.1, 25°06'12.5"E, with any of the signs for minutes and seconds.
_ANGLE = re.compile(
    r"(?P<a>[NSEWnsew])?\s*(?P<d>[+-]?\d+(?:[.,]\d+)?)\s*[\u00b0\u00bad]?\s*"
    r"(?:(?P<m>\d+(?:[.,]\d+)?)\s*['\u2032\u2019m]\s*)?"
    r"(?:(?P<s>\d+(?:[.,]\d+)?)\s*(?:\"|\u2033|\u201d|''|s)\s*)?(?P<b>[NSEWnsew])?"
)


@dataclass(frozen=True)
class Coordinates:
    """Coordinates of the rows of a table.

    Parameters
    ----------
    x, y : numpy.ndarray
        (row,) float64, NaN where missing or unreadable.
    geographic : bool
        Whether they are longitude and latitude, by the names of their columns.
    names : tuple of str
        The two columns.
    unreadable : int
        Entries that are no coordinates, of rows that have one.
    example : str
        The first of them, empty if there is none.
    """

    x: Numbers
    y: Numbers
    geographic: bool
    names: tuple[str, str]
    unreadable: int
    example: str


def read_coordinates(table: pd.DataFrame, projected: bool = False) -> Coordinates:
    """Read longitude and latitude, or x and y, of a table by their usual names.

    Parameters
    ----------
    table : pandas.DataFrame
        A table without geometries.
    projected : bool
        Prefer x and y, easting and northing, where the table has both.

    Raises
    ------
    TableError
        If there are no such columns, or longitude and latitude are exchanged, or hold
        metres.
    """
    pairs = _pairs(table)
    if not pairs:
        known = list(map(str, table.columns))
        raise TableError(
            "must have columns of coordinates, lon and lat, or x and y, got "
            f"{known}; rename yours"
        )
    chosen = next((pair for pair in pairs if pair[2] != projected), pairs[0])
    x_name, y_name, geographic = chosen
    x, wrong_x = numbers_or_missing(table[x_name], angles=geographic)
    y, wrong_y = numbers_or_missing(table[y_name], angles=geographic)
    names = (str(x_name), str(y_name))
    wrong = wrong_x | wrong_y
    if geographic and not projected:
        x, y, beyond = _checked_degrees(x, y, names)
        wrong |= beyond
    first = np.flatnonzero(wrong)[:1]
    example = "".join(
        f"{table[x_name].iloc[i]}, {table[y_name].iloc[i]} in row {table.index[i]}"
        for i in first
    )
    return Coordinates(x, y, geographic, names, int(wrong.sum()), example)


def has_geographic(table: pd.DataFrame) -> bool:
    """Return whether a table has columns of longitude and latitude."""
    return any(geographic for _, _, geographic in _pairs(table))


def shape_column(table: pd.DataFrame) -> Hashable | None:
    """Return the column of geometries as text (WKT) or bytes (WKB), None without."""
    by_name = {plain_name(column): column for column in table.columns}
    return next((by_name[name] for name in _SHAPES if name in by_name), None)


def _pairs(table: pd.DataFrame) -> list[tuple[Any, Any, bool]]:
    by_name: dict[str, Hashable] = {}
    for column in table.columns:
        by_name.setdefault(plain_name(column), column)
    pairs = []
    for across, down, geographic in ((_LONGITUDE, _LATITUDE, True), (_X, _Y, False)):
        x = [by_name[name] for name in across if name in by_name]
        y = [by_name[name] for name in down if name in by_name]
        if x and y:
            pairs.append((x[0], y[0], geographic))
    return pairs


def numbers_or_missing(
    values: pd.Series, angles: bool = False
) -> tuple[Numbers, npt.NDArray[np.bool_]]:
    """Return a column's numbers, NaN where there are none, and the unreadable ones.

    Text is read in the form (decimal point or comma) that fits most entries; with
    `angles`, also as degrees with minutes, seconds and the letters N, E, S and W.
    """
    if pd.api.types.is_numeric_dtype(values.dtype):
        return values.to_numpy(np.float64, na_value=np.nan), np.zeros(len(values), bool)
    text = plain_text(values)
    forms = possible_decimals(text) or [".", ","]
    found = max((as_numbers(text, form) for form in forms), key=lambda one: one.count())
    out = found.to_numpy(np.float64, na_value=np.nan).copy()
    if angles:
        for row in np.flatnonzero(np.isnan(out) & text.notna().to_numpy()):
            out[row] = _angle(text.iloc[row])
    return out, np.isnan(out) & text.notna().to_numpy()


def _angle(text: str) -> float:
    match = _ANGLE.fullmatch(text.strip())
    if not match or not (match["a"] or match["b"]) or (match["a"] and match["b"]):
        return np.nan
    parts = [float((match[part] or "0").replace(",", ".")) for part in "dms"]
    if parts[0] < 0 or parts[1] >= 60 or parts[2] >= 60:
        return np.nan
    degrees = parts[0] + parts[1] / 60 + parts[2] / 3600
    return -degrees if (match["a"] or match["b"]).upper() in "SW" else degrees


def _checked_degrees(
    x: Numbers, y: Numbers, names: tuple[str, str]
) -> tuple[Numbers, Numbers, npt.NDArray[np.bool_]]:
    """Return longitude and latitude, NaN for rows that are beyond degrees."""
    known = np.isfinite(x) & np.isfinite(y)
    high = known & (np.abs(y) > 90)
    beyond = high | (known & (np.abs(x) > 360))
    if beyond.sum() * 2 > known.sum():
        worst = int(np.flatnonzero(beyond)[0])
        got = f"{x[worst]:g} and {y[worst]:g}"
        if (np.abs(x[high]) <= 90).all() and (np.abs(y[known]) <= 360).all():
            raise TableError(
                f"has longitude and latitude exchanged: its columns {names[0]!r} and "
                f"{names[1]!r} hold {got}, and no latitude is above 90 degrees; rename "
                "them"
            )
        raise TableError(
            f"must have degrees in {names[0]!r} and {names[1]!r}, got {got}; for "
            "metres name the reference system, crs='EPSG:...'"
        )
    x = np.where(x > 180, x - 360, x)  # 0 to 360 degrees, as climate data have them
    return np.where(beyond, np.nan, x), np.where(beyond, np.nan, y), beyond
