"""Sampling dates of photos: found under any usual name of their column."""

from __future__ import annotations

import warnings

import pandas as pd

from geobiomass.tables import TableError, read_dates
from geobiomass.tables.columns import plain_name

from .inspection import listed
from .photo_files import PhotoError

__all__ = ["DATE", "DATE_NAMES", "days_of", "warn_of_single_groups", "with_dates"]

DATE = "Sampling_Date"
"""The column that folds and validation group photos by."""

# Usual names of the column, without capital letters, accents and signs.
_NAMES = """
samplingdate sampledate samplingday samplingtime samplingdatetime sampled sampledon
sampledat datesampled dateofsampling date dates datetime dateandtime datetaken
dateofphoto photodate photodatetime phototaken phototime picturedate imagedate
capturedate captured capturedon capturedat datecaptured captureddate capturetime
acquisitiondate acquired acquiredon dateacquired shootingdate shotdate takenon
datetimeoriginal exifdate harvestdate dateharvested harvested cutdate cuttingdate
datecut dateofcut dateofcutting clipdate clippingdate dateclipped surveydate
visitdate dateofvisit collectiondate datecollected collected measurementdate
datemeasured measured fielddate fieldworkdate
datum aufnahmedatum probedatum probenahmedatum probenahme erntedatum schnittdatum
beprobungsdatum messdatum fotodatum opnamedatum
dateprelevement datedeprelevement datedecoupe datephoto dateprisedevue datemesure
fecha fechademuestreo fechamuestreo fechacorte fechafoto datacoleta datadacoleta
datadacolheita datafoto datacampionamento provdatum provtagningsdatum dato
provedato hostedato 采样日期 日期 拍摄日期 採樣日期 撮影日 日付
"""
DATE_NAMES = frozenset(_NAMES.split())
# Names that are used for other things too: taken only where every cell is a date.
_PERHAPS = (
    "day",
    "data",
    "tag",
    "jour",
    "dia",
    "timestamp",
    "time",
    "taken",
    "created",
)


def with_dates(photos: pd.DataFrame) -> pd.DataFrame:
    """Return photos with a column ``Sampling_Date`` of days, if they have dates.

    A column of another usual name (Date, sampled, capture_date, Datum) is kept, and its
    days are added under this name; so are three columns Year, Month and Day.

    Raises
    ------
    PhotoError
        A cell of the column is no day, or several columns have different days.

    Warns
    -----
    UserWarning
        Dates may begin with the day or the month.
    """
    if DATE in photos:
        return photos.assign(**{DATE: days_of(photos[DATE], DATE)})
    named = [name for name in photos if plain_name(name) in DATE_NAMES]
    found = {name: days_of(photos[name], str(name)) for name in named}
    found = {name: days for name, days in found.items() if days.notna().any()}
    if not found:
        found = _perhaps(photos)
    days = list(found.values())
    if any(not days[0].equals(other) for other in days[1:]):
        raise PhotoError(
            f"the sampling date of photos must be in one column, got "
            f"{', '.join(map(str, found))}, which differ; rename the right one to "
            f"{DATE}"
        )
    return photos.assign(**{DATE: days[0]}) if days else photos


def _perhaps(photos: pd.DataFrame) -> dict[object, pd.Series]:
    """Return the days of columns that may be dates, or of year, month and day."""
    plain = {plain_name(name): name for name in photos}
    parts = [plain.get(name) for name in ("year", "month", "day")]
    if all(part is not None for part in parts):
        table = photos[parts].set_axis(["year", "month", "day"], axis=1)
        days = pd.to_datetime(table, errors="coerce")
        return {"Year, Month, Day": days} if days.notna().all() else {}
    found: dict[object, pd.Series] = {}
    for name in photos:
        numeric = pd.api.types.is_numeric_dtype(photos[name])
        if plain_name(name) not in _PERHAPS or numeric:
            continue
        try:
            days = days_of(photos[name], str(name))
        except PhotoError:  # a column of something else, as its name allows
            continue
        if days.notna().all():
            found[name] = days
    return found


def days_of(values: pd.Series, name: str) -> pd.Series:
    """Read days; the order of day and month is decided for the whole column.

    Raises
    ------
    PhotoError
        A cell is no day, or the days could be in several orders; the message names a
        cell and the remedy.
    """
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        try:
            dates = read_dates(values, name)
        except TableError as error:
            raise PhotoError(str(error)) from error
    if dates.attrs["unreadable"]:
        wrong = values[dates.isna() & values.notna()]
        raise PhotoError(
            f"{name} of photos must be a day such as 2015/9/4, 4.9.2015 or 4 Sep 2015, "
            f"got {listed(wrong)}; fix these dates, or empty their cells"
        )
    for note in noted:
        warnings.warn(str(note.message), note.category, stacklevel=4)
    days: pd.Series = dates.dt.normalize()
    days.attrs = {}
    return days


def warn_of_single_groups(photos: pd.DataFrame, stacklevel: int = 2) -> None:
    """Warn if photos have no dates, so that each of several is a group of its own.

    Parameters
    ----------
    photos
        As `with_dates` returns them.
    stacklevel
        As for `warnings.warn`, counted from the caller.
    """
    count = len(photos)
    if count < 2 or DATE in photos:
        return
    warnings.warn(
        f"no column has the sampling dates of the {count} photos, and each is its own "
        "group: photos of one day may be both in training and held out, so that scores "
        f"are too high; add a column {DATE} (or Date, sampled, capture_date, ...), or "
        "pass groups=",
        stacklevel=stacklevel + 1,
    )
