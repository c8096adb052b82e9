"""Time axes of users' arrays: every calendar, text, zones, periods."""

import datetime as dt
import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import geobiomass as gb

Y = 6_900_000 - 10 * np.arange(8) - 5.0
X = 500_000 + 10 * np.arange(8) + 5.0


def image(time: Any, name: str = "time") -> xr.DataArray:
    return xr.DataArray(
        np.full((len(time), 1, 8, 8), 1000.0, np.float32),
        {name: time, "band": ["B04"], "y": Y, "x": X},
        (name, "band", "y", "x"),
    )


@dataclass(frozen=True, order=True)
class Day:
    """A date of a calendar that numpy does not have, such as 30 February."""

    year: int
    month: int
    day: int


@pytest.mark.parametrize(
    "time",
    [
        pd.date_range("2023-06-01", periods=3, freq="MS"),
        pd.date_range("2023-06-01", periods=3, freq="MS", tz="Europe/Helsinki"),
        pd.date_range("2023-06-01", periods=3, freq="MS", tz="America/Lima"),
        pd.period_range("2023-06", periods=3, freq="M"),
        [dt.date(2023, 6, 1), dt.date(2023, 7, 1), dt.date(2023, 8, 1)],
        [dt.datetime(2023, 6, 1), dt.datetime(2023, 7, 1), dt.datetime(2023, 8, 1)],
        ["2023-06-01", "2023-07-01", "2023-08-01"],
        ["05/06/2023", "12/07/2023", "28/08/2023"],
        ["2023-06", "2023-07", "2023-08"],
        [b"2023-06-01", b"2023-07-01", b"2023-08-01"],
        np.array(["2023-06-01", "2023-07-01", "2023-08-01"], object),
        np.array(["2023-06-01", "2023-07-01", "2023-08-01"], "datetime64[s]"),
        [Day(2023, 6, 30), Day(2023, 7, 31), Day(2023, 8, 30)],
        [20230601, 20230701, 20230801],
        [20230601.0, 20230701.0, 20230801.0],
        [2023152, 2023182, 2023213],
        [6, 7, 8],
        [6.0, 7.0, 8.0],
        ["06", "07", "08"],
        ["Jun", "Jul", "Aug"],
        ["June", "July", "August"],
    ],
)
@pytest.mark.parametrize("name", ["time", "month"])
def test_every_time_axis_gives_its_months(time: Any, name: str) -> None:
    cube = gb.as_cube(image(time, name))
    assert cube["month"].values.tolist() == [6, 7, 8]
    assert cube["month"].dtype == np.int64


@pytest.mark.skipif(
    importlib.util.find_spec("cftime") is None, reason="cftime is not installed"
)
@pytest.mark.parametrize("calendar", ["noleap", "360_day", "julian", "standard"])
def test_every_calendar_of_cftime(calendar: str) -> None:
    time = xr.date_range(
        "2023-06-01", periods=3, freq="MS", calendar=calendar, use_cftime=True
    )
    assert gb.as_cube(image(time))["month"].values.tolist() == [6, 7, 8]


def test_a_february_of_thirty_days() -> None:
    cube = gb.as_cube(image([Day(2023, 1, 30), Day(2023, 2, 30)]))
    assert cube["month"].values.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ([2021, 2022], "holds years, 2021, 2022"),
        ([152, 182], "152, 182, which are neither months"),
        ([0, 1], "neither months, 1 to 12"),
        ([6.5, 7.5], "neither months"),
        (["05/06/2023", "12/07/2023"], "could begin with the day or the month"),
        (["wet", "dry"], "must hold dates or calendar months"),
        (pd.to_datetime(["2022-07-01", None]), "1 of 2 steps .* have no date"),
        ([6.0, np.nan], "1 of 2 steps .* have no date"),
        (np.array(["2023-06-01", None], object), "1 of 2 steps .* have no date"),
        (["2023-06-01", "2023-06-20"], "one image per month, got 2 dates in 2023-06"),
        ([Day(2023, 6, 1), Day(2023, 6, 30)], "one image per month, got 2 dates"),
        ([np.timedelta64(1, "D"), np.timedelta64(2, "D")], "dates or calendar months"),
    ],
)
def test_time_axes_that_are_none_are_refused_with_the_remedy(
    time: Any, said: str
) -> None:
    with pytest.raises(gb.CubeError, match=said):
        gb.as_cube(image(time))


def test_the_same_month_of_two_years_stays() -> None:
    cube = gb.as_cube(image(["2022-07-01", "2023-07-01"]))
    assert cube["month"].values.tolist() == [7, 7]
