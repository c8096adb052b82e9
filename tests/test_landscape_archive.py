"""A landscape written as an archive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr

import geobiomass as gb
from geobiomass.sources.landscape.archive import (
    OFFSET,
    SCENE_CLASSES,
    write_archive,
)


@pytest.fixture(scope="module")
def scene() -> xr.Dataset:
    scene = gb.landscape((90, 111), months=3, seed=4).compute()
    dark = scene["image"].copy()
    dark[1, 4:] = np.nan  # July without Sentinel-2
    dark[2, 2:4] = np.nan  # August without a descending pass
    return scene.assign(image=dark)


@pytest.fixture(scope="module")
def items(
    scene: xr.Dataset, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("archive")
    path = write_archive(scene, folder, 2024, dates=2)
    found: list[dict[str, Any]] = json.loads(path.read_text())["features"]
    return found


def read(item: dict[str, Any], asset: str) -> Any:
    with rasterio.open(item["assets"][asset]["href"]) as source:
        return source.read(1), source.transform, source.crs


def test_months_passes_and_gaps_are_those_of_the_scene(items) -> None:
    names = sorted(item["id"] for item in items)
    assert names == [
        "sentinel-1-rtc-20240610-ascending",
        "sentinel-1-rtc-20240612-descending",
        "sentinel-1-rtc-20240710-ascending",
        "sentinel-1-rtc-20240712-descending",
        "sentinel-1-rtc-20240810-ascending",
        "sentinel-2-l2a-20240606-l2a",
        "sentinel-2-l2a-20240621-l2a",
        "sentinel-2-l2a-20240806-l2a",
        "sentinel-2-l2a-20240821-l2a",
    ]


def test_values_are_the_scenes_with_clouds_and_offset(
    scene: xr.Dataset, items: list[dict[str, Any]]
) -> None:
    for item in items:
        month = int(item["properties"]["datetime"][5:7])
        truth = scene["image"].sel(month=month)
        if "vv" in item["assets"]:
            power, transform, crs = read(item, "vv")
            orbit = item["properties"]["sat:orbit_state"]
            band = "VV_asc" if orbit == "ascending" else "VV_desc"
            found = 10 * np.log10(power)
            np.testing.assert_allclose(found, truth.sel(band=band), atol=1e-4)
        else:
            counts, transform, crs = read(item, "B04")
            classes, coarse, _ = read(item, "SCL")
            assert classes.shape == (45, 56)
            assert coarse.a == 2 * transform.a
            classes = np.kron(classes, np.ones((2, 2)))[:90, :111]
            clear = classes == SCENE_CLASSES["vegetation"]
            assert 0.4 < clear.mean() < 0.8
            expected = truth.sel(band="B04").values[clear]
            found = counts[clear].astype(float) - OFFSET
            np.testing.assert_allclose(found, expected, rtol=0.06, atol=1)
            cloudy = (classes == SCENE_CLASSES["cloud"]) & (counts > 0)
            assert np.median(counts[cloudy]) > 5000
        assert transform == scene.rio.transform()
        assert crs == scene.rio.crs


def test_years_turn_in_january(tmp_path: Path) -> None:
    scene = gb.landscape(32, months=9, seed=1).isel(month=[0, 1])
    assert scene["month"].values.tolist() == [12, 1]
    path = write_archive(scene, tmp_path, 2022, dates=1, address="http://here:80/")
    found = json.loads(path.read_text())["features"]
    dates = {item["properties"]["datetime"][:7] for item in found}
    assert dates == {"2022-12", "2023-01"}
    asset = next(iter(found[0]["assets"].values()))
    assert asset["href"].startswith("http://here:80/sentinel-")


def test_invalid_arguments_are_errors(tmp_path: Path) -> None:
    scene = gb.landscape(32, months=1)
    with pytest.raises(ValueError, match="dates must be 1 to 5, got 6"):
        write_archive(scene, tmp_path, dates=6)
    with pytest.raises(gb.CubeError, match=r"must have a CRS .*, got none"):
        write_archive(scene.drop_vars("spatial_ref"), tmp_path)


@pytest.mark.slow
def test_a_cube_comes_back_from_the_archive(tmp_path: Path) -> None:
    pytest.importorskip("odc.stac")
    scene = gb.landscape((96, 120), months=4, seed=4, crs="EPSG:32635").compute()
    path = write_archive(scene, tmp_path / "archive", 2024)
    # Moved, with addresses relative to the folder, like a download.
    moved = path.parent.rename(tmp_path / "moved")
    text = (moved / "items.json").read_text().replace(f"{path.parent}/", "./")
    (moved / "items.json").write_text(text)
    cube = gb.from_stac(moved / "items.json", like=scene, months="2024-05:2024-08")
    found, truth = cube["image"].compute(), scene["image"]
    for band in ("VV_asc", "VH_asc", "VV_desc", "VH_desc"):
        np.testing.assert_allclose(
            found.sel(band=band), truth.sel(band=band), atol=1e-3
        )
    for band in ("B02", "B8A", "B12"):
        values, expected = found.sel(band=band).values, truth.sel(band=band).values
        there = np.isfinite(values)
        assert 0.5 < there.mean() < 1
        assert not np.isfinite(values[~np.isfinite(expected)]).any()
        np.testing.assert_allclose(values[there], expected[there], rtol=0.06, atol=2)
