"""Plots and footprints: what is left out is counted and told, never in silence."""

import warnings
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from pyproj import Transformer
from shapely.geometry import Point, Polygon

import geobiomass as gb

UTM = "EPSG:32635"
N = 64
Y = 6_900_000 - 10 * np.arange(N) - 5.0
X = 500_000 + 10 * np.arange(N) + 5.0
AT = [5, 20, 40]


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    import rioxarray  # noqa: F401  (the .rio accessor)

    image = xr.DataArray(
        np.full((1, 1, N, N), 1000.0, np.float32),
        {"month": [6], "band": ["B04"], "y": Y, "x": X},
        ("month", "band", "y", "x"),
    )
    return gb.as_cube(image.rio.write_crs(UTM))


@pytest.fixture(scope="module")
def plots() -> pd.DataFrame:
    lon, lat = Transformer.from_crs(UTM, 4326, always_xy=True).transform(X[AT], Y[AT])
    return pd.DataFrame({"lon": lon, "lat": lat, "agb": [100.0, 110.0, 120.0]})


def labels(cube: xr.Dataset) -> dict[int, float]:
    agb = cube["agb"].values
    return {int(r): float(agb[r, c]) for r, c in np.argwhere(np.isfinite(agb))}


def commas(values: Any) -> list[str]:
    return [f"{value:.7f}".replace(".", ",") for value in values]


def test_a_european_spreadsheet_gives_the_same_labels(
    cube: xr.Dataset, plots: pd.DataFrame, tmp_path: Path
) -> None:
    path = tmp_path / "plots.csv"
    path.write_bytes(
        plots.apply(commas)
        .rename(columns={"lon": "Länge X_WGS84"[6:], "lat": "Y_WGS84", "agb": "AGB"})
        .to_csv(sep=";", index=False)
        .encode("utf-16")
    )
    found = gb.with_labels(cube, path)
    assert labels(found) == {5: 100, 20: 110, 40: 120}
    assert found["agb"].attrs["plots"] == 3
    # The same as a table of text in memory.
    assert labels(gb.with_labels(cube, plots.apply(commas))) == labels(found)


def test_rows_that_are_left_out_are_counted_and_told(
    cube: xr.Dataset, plots: pd.DataFrame, tmp_path: Path
) -> None:
    more = pd.concat([plots] * 3, ignore_index=True).astype(object)
    more.loc[3, "lon"] = "see map"
    more.loc[4, "lat"] = None
    more.loc[5, "agb"] = "n.d."
    more.loc[6, "agb"] = -5
    more.loc[7, "lat"] = 91
    more.to_csv(tmp_path / "plots.csv", index=False)
    for table in (more, tmp_path / "plots.csv"):
        with pytest.warns(UserWarning, match="9 rows") as told:
            found = gb.with_labels(cube, table)
        assert len(told) == 1
        text = str(told[0].message)
        assert "2 have unreadable coordinates and are left out, such as see map" in text
        assert "1 have no location" in text
        assert "1 have no value in 'agb'" in text
        assert "1 labels are below 0, such as -5" in text
        counts = {k: v for k, v in found["agb"].attrs.items() if k.startswith("plots")}
        assert counts == {
            "plots": 4,
            "plots_outside": 0,
            "plots_of_unreadable_location": 2,
            "plots_without_location": 1,
            "plots_without_value": 1,
            "plots_below_minimum": 1,
        }
        assert labels(found) == {5: 100, 20: 110, 40: 120}


def test_a_good_table_is_read_without_a_word(
    cube: xr.Dataset, plots: pd.DataFrame
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = gb.with_labels(cube, plots)
    assert found["agb"].attrs["plots"] == 3


def test_exchanged_degrees_are_named(cube: xr.Dataset, plots: pd.DataFrame) -> None:
    turned = plots.rename(columns={"lon": "lat", "lat": "lon"})
    with pytest.raises(
        gb.CubeError, match=r"With x and y exchanged, 3 would be within"
    ):
        gb.with_labels(cube, turned)
    points = geopandas.points_from_xy(plots["lat"], plots["lon"], crs=4326)
    with pytest.raises(
        gb.CubeError, match=r"With x and y exchanged, 3 would be within"
    ):
        gb.with_labels(cube, geopandas.GeoDataFrame(plots[["agb"]], geometry=points))


def test_a_crs_chooses_between_degrees_and_metres(
    cube: xr.Dataset, plots: pd.DataFrame
) -> None:
    both = plots.assign(easting=X[AT], northing=Y[AT])
    assert labels(gb.with_labels(cube, both)) == {5: 100, 20: 110, 40: 120}
    metres = both.assign(lon=0.0, lat=0.0)
    assert labels(gb.with_labels(cube, metres, crs=UTM)) == {5: 100, 20: 110, 40: 120}
    with pytest.raises(gb.CubeError, match=r"must have a CRS, got none; add it, crs="):
        gb.with_labels(cube, metres.drop(columns=["lon", "lat"]))


def test_well_known_text_is_a_geometry(cube: xr.Dataset, plots: pd.DataFrame) -> None:
    texts = [
        f"POINT ({a} {b})" for a, b in zip(plots["lon"], plots["lat"], strict=True)
    ]
    table = pd.DataFrame({"wkt": texts, "agb": plots["agb"]})
    found = gb.with_labels(cube, table, crs="EPSG:4326")
    assert labels(found) == {5: 100, 20: 110, 40: 120}
    with pytest.raises(gb.CubeError, match="must have a CRS"):
        gb.with_labels(cube, table)


def test_invalid_null_and_empty_geometries_are_told(cube: xr.Dataset) -> None:
    corners = [(0, 0), (320, -320), (320, 0), (0, -320), (0, 0)]
    bow = Polygon([(500_000 + x, 6_900_000 + y) for x, y in corners])
    table = geopandas.GeoDataFrame(
        {"agb": [5.0, 6.0, 7.0]}, geometry=[bow, None, Point()], crs=UTM
    )
    with pytest.warns(UserWarning, match=r"1 polygons cross themselves.*2 have no loc"):
        found = gb.with_labels(cube, table)
    assert found["agb"].attrs["plots_without_location"] == 2
    assert found["agb"].attrs["labelled_pixels"] == 512  # half of 32 x 32


def test_column_and_observed_are_one_argument(
    cube: xr.Dataset, plots: pd.DataFrame
) -> None:
    other = plots.rename(columns={"agb": "biomass"})
    for given in ({"column": "biomass"}, {"observed": "biomass"}):
        assert labels(gb.with_labels(cube, other, **given)) == {
            5: 100,
            20: 110,
            40: 120,
        }
    with pytest.raises(gb.CubeError, match=r"no column 'agb'.*name one, column="):
        gb.with_labels(cube, other)
    grid = xr.DataArray(
        np.full((N, N), 100.0, np.float32), {"y": Y, "x": X}, ("y", "x"), "agb"
    ).rio.write_crs(UTM)
    with pytest.raises(gb.CubeError, match=r"no column 'agb'.*name one, observed="):
        gb.totals(grid, None, other, progress=False)
    settings: dict[str, Any] = {"estimator": "difference", "progress": False}
    named = [
        gb.totals(grid, None, other, **given, **settings)
        for given in ({"column": "biomass"}, {"observed": "biomass"})
    ]
    pd.testing.assert_frame_equal(*named)
    assert named[0]["mean"].item() == pytest.approx(110)
    with pytest.raises(gb.CubeError, match="column and observed are one argument"):
        gb.totals(grid, None, other, column="b", observed="biomass", progress=False)


def test_plots_of_totals_are_counted_too(plots: pd.DataFrame, tmp_path: Path) -> None:
    grid = xr.DataArray(
        np.full((N, N), 100.0, np.float32), {"y": Y, "x": X}, ("y", "x"), "agb"
    ).rio.write_crs(UTM)
    more = pd.concat([plots, plots.assign(agb=np.nan)[:1]])
    more.to_csv(tmp_path / "plots.txt", sep=";", decimal=",", index=False)
    with pytest.warns(UserWarning, match="1 have no value in 'agb'"):
        found = gb.totals(
            grid, None, tmp_path / "plots.txt", estimator="difference", progress=False
        )
    assert found["mean"].item() == pytest.approx(110)
    assert found.attrs["left_out"] == {"plots_without_value": 1, "plots_outside": 0}


# --- footprints of GEDI ---


def shots(**columns: Any) -> pd.DataFrame:
    at = [5, 10, 15, 20, 25, 30]
    lon, lat = Transformer.from_crs(UTM, 4326, always_xy=True).transform(X[at], Y[at])
    return pd.DataFrame(
        {
            "shot_number": 19640002900123456 + np.arange(6),
            "lat_lowestmode": lat,
            "lon_lowestmode": lon,
            "agbd": [80.0, 95.0, 3210.0, 12.0, -9999.0, 120.0],
            **columns,
        }
    )


RELEASE_2 = {
    "l4_quality_flag": [1, 1, 0, 0, 0, 1],
    "l2_quality_flag": [1, 1, 0, 1, 0, 1],
    "degrade_flag": [0, 0, 1, 0, 1, 30],
    "sensitivity": [0.97, 0.98, 0.62, 0.91, 0.2, 0.97],
}
RELEASE_3 = {
    "l4a_quality_flag_rel3": [1, 1, 0, 0, 0, 1],
    "l2a_quality_flag_rel3": [1, 1, 0, 1, 0, 1],
    "l2_algrunflag": [1] * 6,
    "degrade_include_flag": [1, 1, 1, 1, 0, 0],
    "degrade_flag": [3, 0, 1, 0, 1, 55],  # 3 is admitted by degrade_include_flag
    "elev_highestreturn_outlier_flag": [0] * 6,
    "sensitivity": [0.6, 0.98, 0.62, 0.91, 0.2, 0.97],  # over water, 0.5 is good
}


@pytest.mark.parametrize("flags", [RELEASE_2, RELEASE_3])
def test_shots_that_fail_their_flags_are_left_out(
    cube: xr.Dataset, flags: dict[str, Any], tmp_path: Path
) -> None:
    table = shots(**flags)
    table.to_csv(tmp_path / "gedi.csv", index=False)
    for given in (table, tmp_path / "gedi.csv"):
        with pytest.warns(UserWarning, match="4 footprints of GEDI fail .* are left o"):
            found = gb.with_labels(cube, given, column="agbd")
        assert labels(found) == {5: 80, 10: 95}
        assert found["agb"].attrs["plots_of_low_quality"] == 4
    with pytest.warns(UserWarning, match="and are kept, as quality='keep' says"):
        kept = gb.with_labels(cube, table, column="agbd", quality="keep")
    assert set(labels(kept)) == {5, 10, 15, 20, 30}
    with pytest.raises(gb.CubeError, match="quality must be 'good' or 'keep'"):
        gb.with_labels(cube, table, column="agbd", quality="best")  # type: ignore[arg-type]


@pytest.mark.parametrize("flag", list(RELEASE_2))
def test_each_flag_alone_counts_and_absent_ones_are_told(
    cube: xr.Dataset, flag: str
) -> None:
    table = shots(**{flag: RELEASE_2[flag]}).assign(agbd=50.0)
    good = {
        "degrade_flag": [0],
        "sensitivity": [0, 1, 5],
        "l2_quality_flag": [0, 1, 3, 5],
    }
    with pytest.warns(UserWarning, match="come without .* not checked") as told:
        found = gb.with_labels(cube, table, column="agbd")
    absent = str(told[0].message)
    assert ("l4_quality_flag" in absent.split("come without")[1]) == (
        flag in ("degrade_flag", "sensitivity")
    )
    rows = {"degrade_flag": [0, 1, 3]}.get(flag, good.get(flag, [0, 1, 5]))
    assert set(labels(found)) == {5 + 5 * row for row in rows}


def test_a_missing_flag_is_not_taken_for_good(cube: xr.Dataset) -> None:
    flags = {**RELEASE_2, "l4_quality_flag": [1, np.nan, 0, 0, 0, 1]}
    with pytest.warns(UserWarning, match="5 footprints of GEDI fail"):
        found = gb.with_labels(cube, shots(**flags), column="agbd")
    assert labels(found) == {5: 80}
    with pytest.warns(UserWarning, match="without l4_quality_flag and degrade_flag"):
        gb.with_labels(cube, shots().assign(agbd=5.0), column="agbd")


def test_plots_with_a_quality_of_their_own_are_not_gedi(
    cube: xr.Dataset, plots: pd.DataFrame
) -> None:
    own = plots.assign(quality_flag=0, sensitivity=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert len(labels(gb.with_labels(cube, own))) == 3


def test_flags_of_text_and_truth_are_read(cube: xr.Dataset) -> None:
    flags = {
        "l4_quality_flag": np.array(RELEASE_2["l4_quality_flag"], bool),
        "degrade_flag": [str(value) for value in RELEASE_2["degrade_flag"]],
    }
    with pytest.warns(UserWarning, match="4 footprints of GEDI fail"):
        assert set(labels(gb.with_labels(cube, shots(**flags), column="agbd"))) == {
            5,
            10,
        }


def test_a_granule_is_refused_with_the_remedy(cube: xr.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "GEDI04_A_2020.h5"
    path.write_bytes(b"\x89HDF\r\n")
    with pytest.raises(
        gb.CubeError, match=r"granules of GEDI.*gb.labels.read_gedi\(path, cube\)"
    ):
        gb.with_labels(cube, path, column="agbd")
