"""A column with the UTM zone of each plot, compared with the one CRS of a table."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from geobiomass.cube import CubeError
from geobiomass.tables.columns import plain_name

_SURE = {"utmzone", "zoneutm", "zonautm", "utm", "huso", "fusoutm", "fuso"}
_PERHAPS = {"zone", "zona"}  # also of forests and climates
_ZONE = re.compile(r"\s*(?:utm\s*)?(\d{1,2})(?:\.0)?\s*([C-HJ-NP-X]?)\s*", re.I)


def check_zones(table: pd.DataFrame, system: Any, name: str) -> None:
    """Check that plots in metres are in the UTM zone that their CRS has.

    Parameters
    ----------
    table : pandas.DataFrame
        Plots with columns of coordinates.
    system : odc.geo.crs.CRS
        The CRS of these columns; others than UTM are not compared.
    name : str
        Name of the table, for the message.

    Raises
    ------
    CubeError
        If rows are in another zone; it counts them.
    """
    zone = system.proj.utm_zone  # "35N"
    if zone is None:
        return
    for column in table.columns:
        sure = plain_name(column) in _SURE
        if not sure and plain_name(column) not in _PERHAPS:
            continue
        texts = [str(value) for value in table[column] if pd.notna(value)]
        found = [_ZONE.fullmatch(text) for text in texts]
        if not texts or not all(one and 1 <= int(one[1]) <= 60 for one in found):
            continue
        numbers = pd.Series([int(one[1]) for one in found if one])
        others = numbers[numbers != int(zone[:-1])]
        lettered = all(one and one[2] for one in found)
        if others.empty or not (sure or lettered or len(others) < len(numbers)):
            continue
        counts = ", ".join(f"{n}: {k} rows" for n, k in others.value_counts().items())
        raise CubeError(
            f"{len(others)} of {len(numbers)} rows of {name} are in other UTM zones "
            f"by the column {str(column)!r} ({counts}), and crs= is of zone {zone}: "
            "bring all to one zone, such as geopandas.GeoDataFrame(part, "
            "geometry=geopandas.points_from_xy(part.x, part.y), crs=...).to_crs(...) "
            "of each zone's rows."
        )
