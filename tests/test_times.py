"""Times of images are taken in every usual form, or refused in one sentence."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import make_scene

import geobiomass as gb
from geobiomass.metadata.times import parse_times
from geobiomass.sources.stac.period import parse_period

JULY = ["2023-07-01T00:00:00+00:00", "2023-07-31T23:59:59+00:00"]
SUMMER = ["2023-07-01T00:00:00+00:00", "2023-08-31T23:59:59+00:00"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2023-07-01", JULY[:1]),
        ("20230701", JULY[:1]),
        ("2023-07-01T12:00:00+02:00", ["2023-07-01T12:00:00+02:00"]),
        (dt.date(2023, 7, 1), JULY[:1]),
        (dt.datetime(2023, 7, 1), JULY[:1]),
        (np.datetime64("2023-07-01"), JULY[:1]),
        (pd.Timestamp("2023-07-01 00:00:00.000000001"), JULY[:1]),
        (pd.Timestamp("2023-07-01", tz="UTC"), JULY[:1]),
        (xr.DataArray(np.datetime64("2023-07-01", "ns")), JULY[:1]),
        ("2023-07", JULY),
        (np.datetime64("2023-07"), JULY),
        (pd.Period("2023-07"), JULY),
        (("2023-07-01", "2023-08-31"), SUMMER),
        (["2023-07", "2023-08"], SUMMER),
        ("2023-07-01/2023-08-31", SUMMER),
        ((dt.date(2023, 7, 1), dt.date(2023, 8, 31)), SUMMER),
        (np.array(["2023-07-01", "2023-08-31"], "datetime64[D]"), SUMMER),
        ((pd.Timestamp(2023, 7, 1), pd.Timestamp(SUMMER[1])), SUMMER),
        ((dt.datetime(2023, 7, 1), np.datetime64("2023-08")), SUMMER),
    ],
)
def test_a_time_is_taken_in_its_usual_forms(given: Any, expected: list[str]) -> None:
    found = parse_times(given)
    assert [one.isoformat() for one in found] == expected
    assert {type(one) for one in found} == {dt.datetime}


@pytest.mark.parametrize(
    "given",
    ["1.7.2023", "07/01/2023", "", "2023-13", "2023-02-30", "2023-07-01/..", 2023,
     20230701, True, None, pd.NaT, np.datetime64("NaT"), np.datetime64("30000-01"),
     float("nan"), b"2023-07-01", {"first": 1}, object(), (), ("2023-07-01", None),
     ["2023-07-01"] * 3],
)  # fmt: skip
def test_what_is_no_time_is_refused_in_one_sentence(given: Any) -> None:
    with pytest.raises(ValueError, match=r"^datetime must be a date, such as .*; got"):
        parse_times(given)
    with pytest.raises(ValueError, match="must not end before it begins"):
        parse_times(("2023-08", "2023-07"))


def test_months_of_a_search_and_of_images_are_taken_or_refused() -> None:
    for months in ("2023-09:2024-08", ("2023-09", "2024-08"),
                   (np.datetime64("2023-09"), pd.Period("2024-08"))):  # fmt: skip
        found = parse_period(months)  # type: ignore[arg-type]
        assert (found.start, found.end) == ("2023-09-01", "2024-08-31")
    assert parse_period(np.datetime64("2023-09")).end == "2023-09-30"  # type: ignore[arg-type]
    for wrong in (dt.date(2023, 9, 1), pd.Timestamp("2023-09-01"), "2023-09-15", 9,
                  (dt.date(2023, 9, 1), dt.date(2024, 8, 31)), None, 2.5):  # fmt: skip
        with pytest.raises(gb.CubeError, match="months must be the first and the last"):
            parse_period(wrong)  # type: ignore[arg-type]
    scene = make_scene(8, 8, months=(7, 8))
    for month in ([dt.date(2023, 7, 1), dt.date(2023, 8, 1)],
                  pd.DatetimeIndex(["2023-07-01", "2023-08-01"])):  # fmt: skip
        made = gb.as_cube(scene, month=month)  # type: ignore[arg-type]
        assert made["month"].values.tolist() == [7, 8]
