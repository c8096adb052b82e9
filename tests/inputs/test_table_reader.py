"""Tables as users bring them: one reader, columns by name, numbers by column."""

import gzip
import importlib.util
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from geobiomass.tables import TableError, find_column, read_numbers, read_table
from geobiomass.tables.coordinates import read_coordinates
from geobiomass.training.packages import MissingPackageError

ROWS = "lon,lat,agb\n25.125,60.25,100.5\n25.5,60.75,1200\n"


def written(
    folder: Path, text: str, encoding: str = "utf-8", name: str = "a.csv"
) -> Any:
    path = folder / name
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return read_table(path)


@pytest.mark.parametrize(
    ("text", "encoding", "name"),
    [
        (ROWS, "utf-8", "a.csv"),
        (ROWS, "utf-8-sig", "a.csv"),
        (ROWS, "utf-16", "a.csv"),
        (ROWS, "utf-16-le", "a.csv"),
        (ROWS, "utf-8", "a.csv.gz"),
        (ROWS, "utf-8", "A.CSV"),
        (ROWS.replace(",", ";"), "utf-8", "a.csv"),
        (ROWS.replace(",", "\t"), "utf-8", "a.tsv"),
        (ROWS.replace(",", "|"), "utf-8", "a.txt"),
        (ROWS.replace(",", " "), "utf-8", "a.txt"),
        (ROWS.replace(",", " , "), "utf-8", "a.csv"),
        (ROWS.replace("\n", "\r\n"), "utf-8", "a.csv"),
        ("sep=;\n" + ROWS.replace(",", ";"), "utf-8", "a.csv"),
        (ROWS.replace("\n", ",\n"), "utf-8", "a.csv"),  # a delimiter too many
        (ROWS.replace(",", ";").replace(".", ","), "utf-8", "a.csv"),
        (ROWS.replace(",", ";").replace("1200", "1.200,0"), "latin-1", "b.csv"),
        (ROWS.replace("1200", '"1,200"'), "utf-8", "c.csv"),
        (ROWS.replace("1200", "1 200"), "utf-8", "d.csv"),
        (ROWS.replace("1200", "1'200"), "utf-8", "e.csv"),
        (ROWS.replace("1200", "1\u00a0200"), "utf-8", "f.csv"),
    ],
)
def test_every_form_of_text_gives_the_same_table(
    tmp_path: Path, text: str, encoding: str, name: str
) -> None:
    if name == "b.csv":  # one column with points, one with commas and thousands
        text = text.replace("100.5", "100,5")
    found = written(tmp_path, text, encoding, name)
    assert list(found) == ["lon", "lat", "agb"]
    assert found["lon"].tolist() == [25.125, 25.5]
    assert found["lat"].tolist() == [60.25, 60.75]
    assert found["agb"].tolist() == [100.5, 1200.0]


def test_letters_beyond_ascii_are_read(tmp_path: Path) -> None:
    for encoding in ("utf-8", "latin-1", "utf-16", "cp1252"):
        found = written(tmp_path, "Ort,agb\nMäntylä,5\n", encoding)
        assert found["Ort"].tolist() == ["Mäntylä"]


def test_an_archive_with_one_table_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/plots.csv", ROWS)
    assert read_table(tmp_path / "a.zip")["agb"].tolist() == [100.5, 1200]
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a.csv", ROWS)
        archive.writestr("b.csv", ROWS)
    with pytest.raises(
        TableError, match=r"must hold one table, got \['a.csv', 'b.csv'"
    ):
        read_table(tmp_path / "b.zip")


def test_separators_are_decided_by_column_and_then_by_the_table(tmp_path: Path) -> None:
    # Alone, 1.234 could be 1234; the other column has decimal commas.
    with pytest.warns(
        UserWarning, match=r"agb \(1.234 is 1234\) are read as thousands"
    ):
        found = written(tmp_path, "lon;agb\n25,1;1.234\n25,2;2.500\n")
    assert found["agb"].tolist() == [1234, 2500]
    # Another row decides: three digits do not follow.
    found = written(tmp_path, "plot;agb\na;1.234\nb;2.5\n")
    assert found["agb"].tolist() == [1.234, 2.5]
    # 0.123 cannot be thousands.
    assert written(tmp_path, "p;agb\na;0.123\n")["agb"].tolist() == [0.123]
    # Between commas a point is one of decimals, and no false alarm.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = written(tmp_path, "p,agb\na,1.234\nb,2.345\n")
    assert found["agb"].tolist() == [1.234, 2.345]


def test_what_no_row_decides_is_asked(tmp_path: Path) -> None:
    found = written(tmp_path, "p;agb\na;1.234\nb;2.345\n")
    assert found["agb"].tolist() == ["1.234", "2.345"]
    with pytest.raises(
        TableError, match=r"'1.234', whose separator could be of decima"
    ):
        read_numbers(found["agb"])
    assert read_numbers(found["agb"], decimal=",").tolist() == [1234, 2345]
    with pytest.raises(TableError, match=r"mixes decimal points and decimal commas"):
        read_numbers(pd.Series(["1.5", "2,5"], name="agb"))
    with pytest.raises(
        TableError, match=r"must hold 3 cells|must have 3 cells .*got 5"
    ):
        written(tmp_path, "lon,lat,agb\n25,1,60,2,100\n")


def test_missing_numbers_are_missing_and_words_are_refused() -> None:
    words = ["5", "", "n.d.", "-", "NA", "n/a", None, "--", "6,5"]
    assert read_numbers(pd.Series(words)).dropna().tolist() == [5, 6.5]
    assert read_numbers(pd.Series(["1\u2212", None, "3"][1:])).dropna().tolist() == [3]
    assert read_numbers(pd.Series(["\u22123.5"])).tolist() == [-3.5]
    with pytest.raises(TableError, match="must hold numbers, got 'about 5' in row 1"):
        read_numbers(pd.Series(["5", "about 5"], name="agb"))


def test_identifiers_stay_as_written(tmp_path: Path) -> None:
    found = written(
        tmp_path,
        "plot,plot_id,shot_number,year\n007,1e5,19640002900123457,2020\n"
        "010,2e5,19640002900123458,2021\n",
    )
    assert found["plot"].tolist() == ["007", "010"]
    assert found["plot_id"].tolist() == ["1e5", "2e5"]
    assert found["shot_number"].tolist() == [19640002900123457, 19640002900123458]
    assert found["year"].tolist() == [2020, 2021]
    # A gap would make them float64, which loses the last digits.
    gap = written(tmp_path, "shot_number,agb\n19640002900123457,1\n,2\n")
    assert gap["shot_number"].dropna().tolist() == [19640002900123457]
    large = written(tmp_path, "shot_number,agb\n18446744073709551615,1\n5,2\n")
    assert int(large["shot_number"][0]) == 18446744073709551615


def test_columns_are_found_by_their_usual_names() -> None:
    table = pd.DataFrame(columns=["Prüf-Datum", "LON ", "Biomass (t/ha)", "Agb"])
    assert find_column(table, ["date", "pruf datum"], "the date") == "Prüf-Datum"
    assert find_column(table, ["agb"], "biomass") == "Agb"
    with pytest.raises(TableError, match=r"needs a column with the place.*'lan'.*near"):
        find_column(table, ["lan"], "the place")
    twice = pd.DataFrame(columns=["Lon", "LON"])
    with pytest.raises(TableError, match="several columns that could be 'lon'"):
        find_column(twice, ["lon"], "longitude")


@pytest.mark.parametrize(
    ("x", "y", "geographic"),
    [
        ("lon", "lat", True), ("Longitude", "Latitude", True), ("Long", "Lat", True),
        ("X_WGS84", "Y_WGS84", True), ("lon_lowestmode", "lat_lowestmode", True),
        ("decimalLongitude", "decimalLatitude", True), ("LNG", "LAT", True),
        ("GPS Longitude", "GPS Latitude", True), ("lon (deg)", "lat (deg)", True),
        ("x", "y", False), ("Easting", "Northing", False), ("UTM_X", "UTM_Y", False),
        ("POINT_X", "POINT_Y", False), ("X-coord", "Y-coord", False),
    ],
)  # fmt: skip
def test_coordinates_by_their_usual_names(x: str, y: str, geographic: bool) -> None:
    found = read_coordinates(pd.DataFrame({y: [60.5], x: ["25,5"]}))
    assert (found.x[0], found.y[0], found.geographic) == (25.5, 60.5, geographic)


def test_degrees_as_people_write_them() -> None:
    texts = ["25.5E", "W 25.5", "25°30'00\"E", "25° 30\u2032 W", "385.5", "abc"]
    table = pd.DataFrame({"lon": texts, "lat": ["60.5N", "60.5 S", *["60.5"] * 4]})
    found = read_coordinates(table)
    np.testing.assert_allclose(found.x, [25.5, -25.5, 25.5, -25.5, np.nan, np.nan])
    np.testing.assert_allclose(found.y[:2], [60.5, -60.5])
    assert found.unreadable == 2
    assert "row 4" in found.example
    wrapped = read_coordinates(pd.DataFrame({"lon": [334.5], "lat": [60.0]}))
    assert wrapped.x[0] == -25.5


def test_exchanged_degrees_and_metres_are_told() -> None:
    with pytest.raises(TableError, match="longitude and latitude exchanged"):
        read_coordinates(pd.DataFrame({"lon": [-33.5], "lat": [151.2]}))
    with pytest.raises(TableError, match=r"must have degrees .* crs='EPSG"):
        read_coordinates(pd.DataFrame({"lon": [500_000.0], "lat": [6_900_000.0]}))
    both = pd.DataFrame({"lon": [25.0], "lat": [60.0], "x": [5e5], "y": [6.9e6]})
    assert read_coordinates(both).x[0] == 25
    assert read_coordinates(both, projected=True).x[0] == 5e5


def test_files_that_are_no_tables_are_errors(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="there is no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(TableError, match="is empty"):
        written(tmp_path, " \n")
    (tmp_path / "a.zip").write_bytes(b"PK nothing")
    with pytest.raises(TableError, match="cannot be read"):
        read_table(tmp_path / "a.zip")
    (tmp_path / "a.csv.gz").write_bytes(b"\x1f\x8b nothing")
    with pytest.raises(TableError, match="cannot be read"):
        read_table(tmp_path / "a.csv.gz")
    with pytest.raises(TableError, match=r"save it as \.xlsx or CSV"):
        written(tmp_path, ROWS, name="old.xls")


@pytest.mark.parametrize(
    ("name", "package"), [("a.xlsx", "openpyxl"), ("a.parquet", "pyarrow")]
)
def test_excel_and_parquet_are_an_extra(
    tmp_path: Path, name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"{package}.*geobiomass\[tables\]"):
        read_table(tmp_path / name)


HAS_EXCEL = importlib.util.find_spec("openpyxl") is not None
HAS_PARQUET = importlib.util.find_spec("pyarrow") is not None


@pytest.mark.skipif(not HAS_EXCEL, reason="openpyxl is not installed")
def test_excel_sheets(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "plot": ["007", "008"],
            "agb": ["1,5", "2,5"],
            "n": [1, 2],
            "date": pd.to_datetime(["2023-06-05", "2023-07-12"]),
        }
    )
    table.to_excel(tmp_path / "a.xlsx", sheet_name="plots", index=False)
    found = read_table(tmp_path / "a.xlsx")
    assert found["plot"].tolist() == ["007", "008"]
    assert found["agb"].tolist() == [1.5, 2.5]
    assert found["n"].tolist() == [1, 2]
    assert found["date"].dt.month.tolist() == [6, 7]
    with pd.ExcelWriter(tmp_path / "b.xlsx") as writer:
        table.to_excel(writer, sheet_name="one", index=False)
        table[:1].to_excel(writer, sheet_name="two", index=False)
    with pytest.raises(TableError, match=r"several sheets, \['one', 'two'\]"):
        read_table(tmp_path / "b.xlsx")
    assert len(read_table(tmp_path / "b.xlsx", sheet="two")) == 1
    assert len(read_table(f"{tmp_path / 'b.xlsx'}|one")) == 2


@pytest.mark.skipif(not HAS_PARQUET, reason="pyarrow is not installed")
def test_parquet_and_geoparquet(tmp_path: Path) -> None:
    import geopandas

    table = pd.DataFrame({"lon": [25.0], "lat": [60.0], "agb": [5.0], "plot": ["007"]})
    table.to_parquet(tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet")["plot"].tolist() == ["007"]
    points = geopandas.points_from_xy(table["lon"], table["lat"], crs=4326)
    geopandas.GeoDataFrame(table, geometry=points).to_parquet(tmp_path / "b.parquet")
    assert read_table(tmp_path / "b.parquet").crs.to_epsg() == 4326
