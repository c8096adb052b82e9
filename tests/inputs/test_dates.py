"""Dates are decided by column, never row by row."""

import datetime as dt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from raster_files import write_tif

import geobiomass as gb
from geobiomass.tables import TableError, read_dates

TRUTH = ["2023-06-05", "2023-07-12", "2023-08-28"]


@pytest.mark.parametrize(
    "column",
    [
        TRUTH,
        ["05/06/2023", "12/07/2023", "28/08/2023"],
        ["5/6/2023", "12/7/2023", "28/8/2023"],
        ["06/05/2023", "07/12/2023", "08/28/2023"],
        ["05.06.2023", "12.07.2023", "28.08.2023"],
        ["05-06-2023", "12-07-2023", "28-08-2023"],
        ["05/06/23", "12/07/23", "28/08/23"],
        ["23/06/05", "23/07/12", "23/08/28"],
        ["2023/6/5", "2023/7/12", "2023/8/28"],
        ["5 Jun 2023", "12 July 2023", "28-Aug-2023"],
        ["Jun 5, 2023", "July 12, 2023", "August 28th, 2023"],
        ["Mon, 5 Jun 2023", "Wed, 12 Jul 2023", "Mon, 28 Aug 2023"],
        ["2023-156", "2023-193", "2023-240"],
        ["2023-06-05T23:30:00Z", "2023-07-12T10:00:00+02:00", "2023-08-28 10:00"],
        ["05/06/2023 14:30", "12/07/2023 08:00", "28/08/2023 00:00:01"],
        ["20230605", "20230712", "20230828"],
        [20230605, 20230712, 20230828],
        [20230605.0, 20230712.0, 20230828.0],
        [2023156, 2023193, 2023240],
        [dt.date(2023, 6, 5), dt.date(2023, 7, 12), dt.date(2023, 8, 28)],
        [np.datetime64(day) for day in TRUTH],
        pd.to_datetime(TRUTH),
        pd.to_datetime(TRUTH).tz_localize("Europe/Helsinki"),
        pd.PeriodIndex(TRUTH, freq="D"),
        pd.Series(TRUTH, dtype="string"),
        pd.Categorical(TRUTH),
        [SimpleNamespace(year=y, month=m, day=d) for y, m, d in
         ((2023, 6, 5), (2023, 7, 12), (2023, 8, 28))],
    ],
)  # fmt: skip
def test_every_form_of_dates_gives_the_same_days(column: Any) -> None:
    found = read_dates(column)
    assert found.dt.strftime("%Y-%m-%d").tolist() == TRUTH
    assert found.dtype == "datetime64[s]"
    assert found.attrs["unreadable"] == 0


def test_an_ambiguous_column_is_asked_about() -> None:
    either = ["05/06/2023", "12/07/2023", "08/08/2023"]
    with pytest.raises(TableError, match="could begin with the day or the month"):
        read_dates(either)
    assert read_dates(either, dayfirst=True).dt.month.tolist() == [6, 7, 8]
    assert read_dates(either, dayfirst=False).dt.month.tolist() == [5, 12, 8]
    # Points are of countries that begin with the day.
    points = [date.replace("/", ".") for date in either]
    assert read_dates(points).dt.month.tolist() == [6, 7, 8]
    # The same in both orders.
    assert read_dates(["05/05/2023"]).dt.month.tolist() == [5]


def test_orders_that_differ_by_row_are_an_error() -> None:
    with pytest.raises(TableError, match="mixes orders"):
        read_dates(["13/05/2023", "05/13/2023"])
    with pytest.raises(TableError, match=r"mixes orders: '05/13/2023'"):
        read_dates(["13/05/2023", "14/05/2023", "05/13/2023"])
    # As a spreadsheet leaves them, when it turned a part into dates.
    with pytest.warns(UserWarning, match="mixes two forms of dates: 1 entries"):
        found = read_dates(["2023-06-05", "28/08/2023"])
    assert found.dt.month.tolist() == [6, 8]


def test_unreadable_dates_are_counted_and_told() -> None:
    with pytest.warns(UserWarning, match=r"2 of 3 entries of 'day' are no dates"):
        found = read_dates(["31/02/2023", "13/07/2023", "soon", None], "day")
    assert found.isna().tolist() == [True, False, True, True]
    assert found.attrs["unreadable"] == 2


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ([45082, 45119], "day numbers of a spreadsheet.*1899-12-30"),
        ([2022, 2023], "these are years"),
        ([1685923200], "seconds since 1970.*unit='s'"),
        (["soon"], "must hold dates such as 2023-06-05, got 'soon'"),
        ([True], "truth values"),
    ],
)
def test_what_is_no_date_is_refused_with_the_remedy(column: Any, said: str) -> None:
    with pytest.raises(TableError, match=said):
        read_dates(column)


def test_a_table_of_rasters_has_its_dates_by_column(tmp_path: Path) -> None:
    for number in range(3):
        image = np.full((1, 16, 16), 100, np.float32)
        write_tif(tmp_path / f"{number}.tif", image, names=("B04",))
    rows = "file;date\n0.tif;05/06/2023\n1.tif;12/07/2023\n2.tif;28/08/2023\n"
    (tmp_path / "files.csv").write_text(rows)
    assert gb.from_rasters(tmp_path / "files.csv").month.values.tolist() == [6, 7, 8]
    table = pd.DataFrame({"path": [str(tmp_path / "0.tif")], "date": ["05/06/2023"]})
    with pytest.raises(gb.CubeError, match="could begin with the day or the month"):
        gb.from_rasters(table)
    with pytest.raises(gb.CubeError, match=r"'45082' is not a date; these are day num"):
        gb.from_rasters(table.assign(date=[45082]))
