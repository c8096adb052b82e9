"""Hectares of regions in totals: their own, off the map, without a value."""

from __future__ import annotations

import warnings
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyproj
import pytest
import rioxarray  # noqa: F401  (the .rio accessor)
import shapely
import xarray as xr
from affine import Affine

import geobiomass as gb
from geobiomass.accounting.error_model import ErrorModel
from geobiomass.statistics.variogram import Variogram

X, Y, SIDE = 500_000.0, 6_800_000.0, 60  # a map of 60 x 60 pixels of 10 m
CRS = "EPSG:32635"


def as_map(values: np.ndarray, crs: str = CRS, **layers: np.ndarray) -> xr.Dataset:
    y, x = Y - 10 * (np.arange(SIDE) + 0.5), X + 10 * (np.arange(SIDE) + 0.5)
    planes = {"agb": values, **layers}
    data = {name: (("y", "x"), plane) for name, plane in planes.items()}
    return xr.Dataset(data, {"y": y, "x": x}).rio.write_crs(crs)


@pytest.fixture(scope="module")
def field() -> np.ndarray:
    return 100 + 20 * np.random.default_rng(0).standard_normal((SIDE, SIDE))


def drawn(values: np.ndarray, n: int = 60, seed: int = 1, wide: int = 1) -> Any:
    """Return plots drawn evenly from the map, or from `wide` times its width."""
    random = np.random.default_rng(seed)
    column, row = random.uniform(0, [wide * SIDE, SIDE], (n, 2)).T
    at = row.astype(int), np.minimum(column.astype(int), SIDE - 1)
    known = np.where(np.isfinite(values), values, 100)[at]
    agb = known + random.normal(0, 10, n)
    return pd.DataFrame({"x": X + 10 * column, "y": Y - 10 * row, "agb": agb})


def even_errors() -> ErrorModel:
    """Return errors without a bias, of 20 Mg/ha, that neighbours do not share."""
    shared = Variogram(1, 0, 10, "exponential")
    return ErrorModel((100.0,), (0.0,), (20.0,), ((0.0,),), shared, 30, 900)


def totals(*given: Any, **settings: Any) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*reach beyond the map")
        return gb.totals(*given, progress=False, **settings)


def geodesic(shape: Any, crs: str = CRS) -> float:
    """Return hectares on the ellipsoid by edges cut to a metre or two."""
    move = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform
    fine = shapely.segmentize(shape, shape.length / 4000)
    degrees = shapely.transform(fine, move, interleaved=False)
    return abs(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(degrees)[0]) / 1e4


def test_a_small_parcel_has_the_area_of_its_outline(field: np.ndarray) -> None:
    """By the centres of pixels 0.3 ha are up to 20 % off, and 40 m2 are nothing."""
    plots, data = drawn(field), as_map(field)
    random = np.random.default_rng(0)
    shapes = {"tiny": shapely.box(X + 101, Y - 106, X + 108, Y - 102)}
    for number in range(8):
        x, y = X + random.uniform(100, 500), Y - random.uniform(100, 500)
        square = shapely.box(x, y, x + 55, y + 55)
        shapes[f"{number}"] = shapely.affinity.rotate(square, random.uniform(0, 90))
    regions = geopandas.GeoDataFrame(
        {"name": list(shapes)}, geometry=list(shapes.values()), crs=CRS
    )
    table = totals(data, regions, plots)
    for name, shape in shapes.items():
        assert table.loc[name, "area"] == pytest.approx(geodesic(shape), rel=1e-5)
        assert table.loc[name, "region_area"] == pytest.approx(
            geodesic(shape), rel=1e-6
        )
    assert table.loc["tiny", "map_mean"] == pytest.approx(field[10, 10])


def test_parts_of_pixels_widen_an_interval_without_plots(field: np.ndarray) -> None:
    model = even_errors()
    box = {"a": shapely.box(X + 100, Y - 200, X + 200, Y - 100).bounds}
    half = {"a": shapely.box(X + 105, Y - 200, X + 106, Y - 100).bounds}
    whole = totals(as_map(field), box, residuals=model).iloc[0]
    assert whole["mean_se"] == pytest.approx(20 / 10, rel=1e-3)  # of 100 pixels
    # Ten parts, a tenth of a pixel each: as an area of one pixel.
    part = totals(as_map(field), half, residuals=model).iloc[0]
    assert part["mean_se"] == pytest.approx(20, rel=1e-3)


def test_what_is_not_mapped_is_counted_and_said(field: np.ndarray) -> None:
    values = field.copy()
    values[:, :15] = np.nan
    region = {"wide": (X, Y - 600, X + 1200, Y)}  # half of it beyond the map
    plots = drawn(values, 120, wide=2)
    table = totals(as_map(values), region, plots)
    row = table.iloc[0]
    whole = geodesic(shapely.box(*region["wide"]))
    assert row["region_area"] == pytest.approx(whole, rel=1e-6)
    assert row["off_map"] == pytest.approx(whole / 2, rel=1e-3)
    assert row["no_value"] == pytest.approx(whole / 8, rel=1e-3)
    assert row["mapped"] == row["area"]
    parts = row["mapped"] + row["no_value"] + row["off_map"]
    assert parts == pytest.approx(row["region_area"], rel=1e-6)
    assert row["unmapped"] == pytest.approx(row["off_map"] + row["no_value"])
    beyond, blank = plots["x"] >= X + 600, plots["x"] < X + 150
    assert row["plots_off_map"] == beyond.sum()
    assert row["plots_on_nodata"] == blank.sum()
    assert row["plots"] == 120 - beyond.sum() - blank.sum()
    assert "the total is of 27.0216 of 72.0576 ha" in row["note"]
    assert row["verdict"] == "doubtful"
    assert np.isfinite(row["total_lower"])
    filled = totals(as_map(values), region, plots, unmapped="mean of its stratum")
    assert filled.iloc[0]["mean"] == pytest.approx(row["mean"])
    assert filled.iloc[0]["area"] == pytest.approx(whole, rel=1e-6)
    share = row["mapped"] / whole
    assert filled.iloc[0]["total"] == pytest.approx(row["total"] / share, rel=1e-5)
    assert filled.iloc[0]["verdict"] == "broken"  # more than half of it is a guess
    none = totals(as_map(values), region, plots, unmapped="refuse")
    assert none[["mean", "total", "carbon", "total_lower"]].isna().all(axis=None)
    assert none.iloc[0]["note"].startswith("refused (unmapped='refuse')")
    assert none.attrs["unmapped"] == "refuse"
    mapped = {"a": (X + 200, Y - 600, X + 600, Y)}
    assert np.isfinite(
        totals(as_map(values), mapped, plots, unmapped="refuse").iloc[0]["total_lower"]
    )


def test_unmapped_hectares_have_the_mean_of_their_stratum(field: np.ndarray) -> None:
    """Half of the tall stratum has no value: its mean, not the region's, fills it."""
    strata = np.ones((SIDE, SIDE))
    strata[:, 30:] = 2
    truth = field + np.where(strata == 2, 200, 0)
    values = truth.copy()
    values[:, 45:] = np.nan
    kinds = as_map(strata).agb
    plots = drawn(truth, 120)
    table = totals(
        as_map(values), None, plots, strata=kinds, unmapped="mean of its stratum"
    )
    assert table.iloc[0]["mean"] == pytest.approx(200, abs=8)
    plain = totals(as_map(values), None, plots, strata=kinds)
    assert plain.iloc[0]["mean"] == pytest.approx(100 + 200 / 3, abs=8)
    terms: Any = {"residuals": even_errors(), "strata": kinds}
    with pytest.raises(ValueError, match="takes the region as one stratum"):
        totals(as_map(values), unmapped="mean of its stratum", **terms)
    with pytest.raises(ValueError, match=r"unmapped must be one of .*'ignore'"):
        totals(as_map(values), None, plots, unmapped="ignore")


def test_regions_that_overlap_say_so_and_parts_of_one_count_once(
    field: np.ndarray,
) -> None:
    shapes = [
        shapely.box(X, Y - 300, X + 300, Y),
        shapely.box(X + 150, Y - 300, X + 450, Y),
        shapely.MultiPolygon(
            [
                shapely.box(X, Y - 600, X + 100, Y - 500),
                shapely.box(X + 400, Y - 600, X + 600, Y - 400),
            ]
        ),
    ]
    names = {"name": ["a", "b", "parts"]}
    regions = geopandas.GeoDataFrame(names, geometry=shapes, crs=CRS)
    table = totals(as_map(field), regions, drawn(field))
    for name, shape in zip(names["name"], shapes, strict=True):
        assert table.loc[name, "area"] == pytest.approx(geodesic(shape), rel=1e-5)
    found = pd.DataFrame(table.attrs["checks"]).set_index(["region", "check"])
    half = geodesic(shapes[0]) / 2
    assert found.loc[("a", "overlap"), "figure"] == pytest.approx(half, rel=1e-4)
    assert "do not add" in found.loc[("b", "overlap"), "words"]
    assert found.loc[("parts", "overlap"), "figure"] == 0


def test_a_region_across_180_degrees_is_whole() -> None:
    """In degrees and in UTM; cut at 180 as RFC 7946 has it."""
    west = shapely.box(179.5, 60.2, 180, 60.8)
    east = shapely.box(-180, 60.2, -179.5, 60.8)
    region = shapely.geometry.mapping(shapely.MultiPolygon([west, east]))
    random = np.random.default_rng(0)
    lon = random.uniform(179.5, 180.5, 40)
    plots = pd.DataFrame({"lon": np.where(lon > 180, lon - 360, lon)})
    plots["lat"] = random.uniform(60.2, 60.8, 40)
    plots["agb"] = random.normal(100, 10, 40)
    y, x = 61 - (np.arange(100) + 0.5) / 100, 179 + (np.arange(200) + 0.5) / 100
    degrees = xr.Dataset({"agb": (("y", "x"), np.full((100, 200), 100.0))})
    degrees = degrees.assign_coords(y=y, x=x).rio.write_crs("EPSG:4326")
    y, x = 6_760_000 - 500.0 * np.arange(180), 620_000 + 500.0 * np.arange(180)
    metres = xr.Dataset({"agb": (("y", "x"), np.full((180, 180), 100.0))})
    metres = metres.assign_coords(y=y, x=x).rio.write_crs("EPSG:32660")
    expected = 2 * geodesic(west, "EPSG:4326")
    for data, near in ((degrees, 1e-5), (metres, 2e-3)):
        # Of the second, edges are straight in UTM between the same corners.
        row = totals(data, region, plots, estimator="plots").iloc[0]
        assert row["region_area"] == pytest.approx(expected, rel=near)
        assert row["area"] == pytest.approx(row["region_area"], rel=1e-5)
        assert row["plots"] + row["plots_off_map"] == pytest.approx(40, abs=1)


def test_a_rotated_map_is_no_more_than_itself() -> None:
    turned = Affine.translation(X, Y) @ Affine.rotation(30) @ Affine.scale(10, -10)
    data = xr.Dataset({"agb": (("y", "x"), np.full((40, 40), 50.0))})
    data = data.rio.write_crs(CRS).rio.write_transform(turned)
    random = np.random.default_rng(0)
    x, y = turned * tuple(random.uniform(0, 40, (2, 30)))
    plots = pd.DataFrame({"x": x, "y": y, "agb": random.normal(50, 9, 30)})
    row = gb.totals(data, None, plots, estimator="plots", progress=False).iloc[0]
    assert row["region_area"] == pytest.approx(16.0, rel=2e-3)
    assert row["off_map"] == 0
    assert row["plots"] == 30


def test_hectares_outside_of_the_area_of_applicability(field: np.ndarray) -> None:
    inside = np.ones((SIDE, SIDE), np.uint8)
    inside[:30] = 0
    data = as_map(field, applicable=inside)
    row = totals(data, None, drawn(field)).iloc[0]
    assert row["not_applicable"] == pytest.approx(row["area"] / 2, rel=1e-4)
    assert row["verdict"] == "ok"  # plots hold for any map
    model = even_errors()
    row = totals(data, residuals=model).iloc[0]
    assert row["verdict"] == "broken"
    assert "50 % of the map is outside of the area of applicability" in row["note"]
    assert np.isnan(row["total_lower"])
    row = totals(data, residuals=model, force=True).iloc[0]
    assert row["verdict"] == "forced"
    assert row["note"].startswith("forced although")
    assert np.isfinite(row["total_lower"])
    assert totals(as_map(field), residuals=model).isna()["not_applicable"].all()
