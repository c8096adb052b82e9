"""What an archive has, before a pixel is read: `geobiomass.survey_archive`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geobiomass.cube import CubeError
from geobiomass.cube.found_images import images_table
from geobiomass.sources.grid import WGS84
from geobiomass.sources.stac.access import signer
from geobiomass.sources.stac.archives import Archive
from geobiomass.sources.stac.area import grid_of
from geobiomass.sources.stac.found_scenes import FoundScenes, find_scenes
from geobiomass.sources.stac.period import asked_period
from geobiomass.sources.stac.select_scenes import check_bands, default_bands
from geobiomass.sources.stac.survey_rows import SENSORS, survey_rows
from geobiomass.summary import Summary, Table, bytes_in_words
from geobiomass.training.packages import need
from geobiomass.training.setting_names import explain_arguments

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from odc.geo.geobox import GeoBox

_RATE = 10e6  # bytes a second: the rate that a survey shows the time at
_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}
_WHOLE = 0.995  # share of the area that counts as all of it


@explain_arguments
@dataclass(frozen=True)
class ArchiveSurvey:
    """What an archive has for an area and months: prints as a table, also in Jupyter.

    Parameters
    ----------
    table : pandas.DataFrame
        A row for each month and sensor that has an item in any month. Columns:
        ``items``; ``dates``, passes of a satellite; ``covered``, the share of the area
        with an image (0 to 1); ``clear``, the mean clear share of what Sentinel-2
        covers, from the cloud cover of whole scenes (NaN where it is not stated);
        ``clear_dates``, how often a place is expected to be seen clear; ``archive``;
        ``platforms``, as items name them; ``bytes``.
    sizes : pandas.DataFrame
        ``files``, ``bytes`` and whether they are an ``estimate``, by what the bytes
        rest on.
    left_out : mapping of str to int
        Items that are not used, by reason.
    place : mapping of str to str
        Source, size and months in words.
    """

    table: pd.DataFrame
    sizes: pd.DataFrame
    left_out: Mapping[str, int] = field(default_factory=dict)
    place: Mapping[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes of the files' blocks that the area touches, each once."""
        return int(self.sizes["bytes"].sum())

    @property
    def estimated_bytes(self) -> int:
        """Bytes of these that are an estimate, not read from a header."""
        return int(self.sizes.loc[self.sizes["estimate"], "bytes"].sum())

    @property
    def gaps(self) -> pd.DataFrame:
        """Months and sensors without an item, or with one for a part of the area."""
        return self.table.loc[self.table["covered"] < _WHOLE, ["items", "covered"]]

    def seconds(self, rate: float | str) -> float:
        """Return the seconds that fetching the bytes takes at a rate.

        Parameters
        ----------
        rate : float or str
            Bytes a second, such as 20e6, or text: ``"20 MB/s"``, ``"100 Mbit/s"``.

        Raises
        ------
        CubeError
            If it is no rate.
        """
        return self.bytes / bytes_a_second(rate)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw months by sensor: the share of the area that is seen, and the dates.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; by default a new figure.

        Returns
        -------
        matplotlib.axes.Axes
            A row a sensor and pass, a column a month. Colour: the share of the area
            with an image, for Sentinel-2 times its clear share. Numbers: dates.
        """
        from geobiomass.sources.stac.survey_picture import draw_survey

        return draw_survey(self.table, ax)

    def to_dict(self) -> dict[str, Any]:
        """Return the survey as JSON values, as a cube carries it."""
        sensors: dict[str, dict[str, Any]] = {}
        for row in self.table.reset_index().to_dict("records"):
            if row["items"]:
                facts = {name: _plain(row[name]) for name in _CARRIED}
                sensors.setdefault(row["sensor"], {})[row["month"]] = facts
        return {
            "months": list(dict.fromkeys(self.table.index.get_level_values("month"))),
            "sensors": sensors,
            "bytes": self.bytes,
            "estimated_bytes": self.estimated_bytes,
            "sizes": {
                str(basis): [int(row["files"]), int(row["bytes"])]
                for basis, row in self.sizes.iterrows()
            },
        }

    def to_json(self) -> str:
        """Return the survey as JSON text."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    def summary(self, rate: float | str = _RATE) -> Summary:
        """Return the facts of the survey, as it prints them.

        Parameters
        ----------
        rate : float or str
            Bytes a second that the time is stated at, as of `seconds`.
        """
        facts: dict[str, str | Table] = {"what": "survey of an archive", **self.place}
        images = images_table(self.to_dict())
        if images is not None:
            facts["images"] = images
        facts["archive"] = _archives(self.table)
        known = set(self.table.index.get_level_values("sensor"))
        if absent := [sensor for sensor in SENSORS if sensor not in known]:
            facts["no item in any month"] = ", ".join(absent)
        facts["gaps"] = _gaps_in_words(self.gaps)
        if self.left_out:
            reasons = (f"{n} {why}" for why, n in self.left_out.items())
            facts["left out"] = ", ".join(reasons)
        facts["to fetch"] = self._fetched_in_words(rate)
        return Summary(facts)

    def _fetched_in_words(self, rate: float | str) -> str:
        stated = f"{bytes_in_words(bytes_a_second(rate))}/s"
        seconds = _duration(self.seconds(rate))
        parts = [
            f"{bytes_in_words(row['bytes'])} of {row['files']:,} files "
            f"({'estimate: ' if row['estimate'] else ''}{row['meaning']})"
            for _, row in self.sizes.iterrows()
        ]
        return (
            f"{bytes_in_words(self.bytes)}, each block of a file once; at {stated} "
            f"{seconds}; {'; '.join(parts)}"
        )

    def __str__(self) -> str:
        """Return the survey as text."""
        return str(self.summary())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return HTML for Jupyter."""
        return self.summary().to_html()


_CARRIED = ("items", "dates", "covered", "clear", "clear_dates", "archive", "platforms")


@explain_arguments
def survey_archive(
    items: Any,
    area: Any = None,
    months: str | Sequence[str] | Sequence[int] | int | None = None,
    year: int | None = None,
    *,
    resolution: float = 10.0,
    crs: Any = "utm",
    bounds_crs: Any = WGS84,
    like: Any = None,
    archive: str | Archive | None = None,
    bands: Sequence[str] | None = None,
    max_cloud: float = 100.0,
    offset: int | None = None,
    sign: Callable[[str], str] | bool | None = None,
    headers: bool = True,
) -> ArchiveSurvey:
    """Return what an archive has for an area, by month and sensor; no pixel is read.

    Images are searched and selected as :func:`geobiomass.from_stac` does with the same
    arguments, and counted: dates, the share of the area they cover, their clear share,
    gaps, and bytes to fetch.

    Parameters
    ----------
    items : optional
        The name of an archive, the address of a STAC API or of a catalogue, a search
        of pystac-client, or items.
    area : optional
        West, south, east, north in `bounds_crs`; a vector file of any kind, a
        geopandas object, GeoJSON or shapely, whose bounding box is used.
    months : str, pair of str, or numbers
        First and last month, ``"2023-09:2024-08"``; or with `year` consecutive numbers
        from 1 to 12, ``range(4, 11)``.
    year : int, optional
        Year of `months` that are numbers; without `months` the whole year.
    resolution, crs, bounds_crs, like : optional
        The grid of the cube: a coarser one than 10 m needs fewer bytes, of overviews.
    archive : str or Archive, optional
        Archive that defines the names of assets and collections.
    bands : sequence of str, optional
        Bands of the cube, by default those of BioMassters that the sensors have.
    max_cloud : float
        Scenes whose ``eo:cloud_cover`` in percent is above this are left out.
    offset : int, optional
        Number added to the digital numbers of Sentinel-2, for items that do not state
        it: 0 or 1000.
    sign : callable or bool, optional
        Function that signs the addresses of headers.
    headers : bool
        Whether the header of one image of each collection and band may be read, a few
        dozen kB, where items state neither ``file:size`` nor ``proj:shape``.

    Returns
    -------
    ArchiveSurvey
        ``.table .gaps .bytes .estimated_bytes .sizes .seconds(rate) .plot()``.

    Raises
    ------
    CubeError
        If the period, the area or a setting is invalid, the archive cannot be reached,
        it needs a key that is lacking, or no item can be used.
    DamagedError
        If a header cannot be read; it names item, asset and address.

    Notes
    -----
    The clear share is of whole scenes (``eo:cloud_cover``): a small area may be clear
    in a cloudy scene. Bytes are those of all images; `from_stac` leaves out bands of
    scenes that are wholly cloudy in a block, and reads a block of a file again for
    each chunk of the cube that touches it.

    Examples
    --------
    >>> survey = gb.survey_archive(  # doctest: +SKIP
    ...     "earth-search", "farm.gpkg", months=range(4, 11), year=2023
    ... )
    >>> survey.bytes, survey.seconds("20 MB/s")  # doctest: +SKIP
    """
    need("gb.survey_archive", "stac", "odc.stac", "pystac_client")
    check_bands(bands)
    grid = grid_of(area, resolution, crs, bounds_crs, like)
    period = asked_period(months, year)
    found = find_scenes(items, archive, grid, period, offset, max_cloud)
    wanted = tuple(bands) if bands is not None else default_bands(found.scenes)
    signed = signer(sign, found.scenes)
    return survey_of(found, wanted, grid, signed, headers)


def survey_of(
    found: FoundScenes,
    bands: Sequence[str],
    grid: GeoBox,
    sign: Callable[[str], str] | None = None,
    headers: bool = False,
) -> ArchiveSurvey:
    """Return the survey of images that were found; without headers nothing is read."""
    table, sizes = survey_rows(found, bands, grid, sign, headers)
    left_out = {why: count for why, count in found.left_out.items() if count}
    scenes = found.scenes
    place = {
        "source": ", ".join(sorted({f"{s.archive}: {s.collection}" for s in scenes})),
        "size": f"{grid.shape[0]} x {grid.shape[1]} pixels in {grid.crs}",
        "months": f"{found.period.start[:7]} to {found.period.end[:7]}",
        "bands": " ".join(bands),
    }
    return ArchiveSurvey(table, sizes, left_out, place)


def bytes_a_second(rate: float | str) -> float:
    """Return a rate in bytes a second.

    Raises
    ------
    CubeError
        If it is no rate.
    """
    value: Any = rate
    if isinstance(rate, str):
        match = re.fullmatch(
            r"\s*(\d+(?:\.\d+)?)\s*([kKMmGg]?)(B|bit|b)(?:/s|ps)\s*", rate
        )
        if match:
            size = 1.0 if match[3] == "B" else 1 / 8
            value = float(match[1]) * _UNITS[match[2].lower()] * size
    if (
        isinstance(value, bool | str)
        or not isinstance(value, int | float | np.number)
        or not (np.isfinite(value) and value > 0)
    ):
        raise CubeError(
            "rate must be bytes a second above 0, such as 20e6, or text such as "
            f"'20 MB/s' or '100 Mbit/s', got {rate!r}."
        )
    return float(value)


def _plain(value: Any) -> Any:
    """Return a cell as a JSON value, None where it is missing."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return None
    return int(value) if float(value).is_integer() else float(value)


def _archives(table: pd.DataFrame) -> str:
    """Return which archive each sensor comes from, with its months if it changes."""
    parts = []
    with_items = table[table["items"] > 0]
    for sensor, rows in with_items.groupby("sensor", sort=False):
        by_archive = rows.reset_index().groupby("archive", sort=False)["month"]
        names = [
            str(name) if len(by_archive) == 1 else f"{name} ({', '.join(months)})"
            for name, months in by_archive
        ]
        parts.append(f"{sensor}: {', '.join(names)}")
    return "; ".join(parts)


def _gaps_in_words(gaps: pd.DataFrame) -> str:
    parts = []
    for sensor, rows in gaps.groupby("sensor", sort=False):
        months = [
            f"{month}" + (f" ({100 * covered:.0f} % of the area)" if covered else "")
            for month, covered in zip(
                rows.index.get_level_values("month"), rows["covered"], strict=True
            )
        ]
        parts.append(f"{sensor}: {', '.join(months)}")
    return "; ".join(parts) or "none"


def _duration(seconds: float) -> str:
    """Return seconds in words."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
