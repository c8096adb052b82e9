"""What is read of a cube without Zarr, xarray or dask is what they read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import make_chips, make_scene

import geobiomass as gb
from geobiomass.cube.first_look import FirstLook, check_quickly, look
from geobiomass.cube.grid_summary import grid_facts
from geobiomass.cube.without_dask import open_lazily

BANDS = ("VV_asc", "B04", "B08")


@pytest.fixture
def cube(tmp_path: Path) -> Path:
    gb.write_cube(make_scene(), tmp_path / "cube.zarr")
    return tmp_path / "cube.zarr"


def test_a_look_tells_bands_and_labels(cube: Path, tmp_path: Path) -> None:
    assert look(cube) == FirstLook(BANDS, True)
    gb.write_cube(make_chips(2).drop_vars("agb"), tmp_path / "chips.zarr")
    assert look(tmp_path / "chips.zarr") == FirstLook(BANDS, False)
    with pytest.raises(gb.CubeError, match=r"no 'agb'.*only \['image'\]"):
        check_quickly(tmp_path / "chips.zarr", labels=True)
    check_quickly(tmp_path / "chips.zarr", bands=("B08",))


def test_errors_are_those_of_the_whole_way(cube: Path) -> None:
    from geobiomass.cube import select_bands

    with pytest.raises(gb.CubeError) as quick:
        check_quickly(cube, bands=("B02", "B04"))
    with pytest.raises(gb.CubeError) as whole:
        select_bands(gb.open_cube(cube), ("B02", "B04"))
    assert str(quick.value) == str(whole.value)


@pytest.mark.parametrize("change", ["bit", "seal", "unfinished", "other variable"])
def test_what_is_not_plain_takes_more_than_a_look(cube: Path, change: str) -> None:
    root = cube / "zarr.json"
    if change == "bit":  # of a name: the labels would seem to be missing
        root.write_text(root.read_text().replace('"agb"', '"agc"'))
    if change == "seal":
        (cube / "checksums" / "zarr.json").unlink()
    if change == "unfinished":
        content = json.loads(root.read_text())
        content["attributes"]["geobiomass_unfinished"] = "write"
        root.write_text(json.dumps(content))
    if change == "other variable":
        scene = make_scene()
        gb.write_cube(scene.assign(age=scene["agb"]), cube, overwrite=True)
        assert "age" in xr.open_zarr(cube)
    assert look(cube) is None
    check_quickly(cube, labels=True, bands=("none",))


def test_other_stores_take_more_than_a_look(tmp_path: Path) -> None:
    scene = make_scene().assign_coords(band=np.array(BANDS, object))
    scene.to_zarr(tmp_path / "v2.zarr", zarr_format=2)
    scene.to_zarr(tmp_path / "v3.zarr", zarr_format=3, consolidated=False)
    assert look(tmp_path / "v2.zarr") is None
    assert look(tmp_path / "v3.zarr") is None
    assert look("s3://bucket/cube.zarr") is None
    with pytest.raises(FileNotFoundError, match="nothing at"):
        look(tmp_path / "none.zarr")


def test_opened_without_dask_is_opened_by_xarray(tmp_path: Path) -> None:
    data = make_scene().assign_coords(
        band=np.array(BANDS, object),
        time=("time", np.array(["2020-06-01", "2020-07-01"], "M8[ns]")),
        half=("half", np.array([0.5, 1.5], np.float32)),
    )
    data = data.assign(extra=(("time", "half"), np.zeros((2, 2))))
    data.to_zarr(tmp_path / "plain.zarr", zarr_format=2)
    gb.write_cube(make_chips(2), tmp_path / "chips.zarr")
    for name in ("plain.zarr", "chips.zarr"):
        ours = open_lazily(str(tmp_path / name), decode_coords="all")
        usual = xr.open_dataset(
            tmp_path / name, engine="zarr", chunks=None, decode_coords="all"
        )
        xr.testing.assert_identical(ours, usual)
        assert list(ours.variables) == list(usual.variables)
        for dim, index in usual.indexes.items():
            assert ours.indexes[dim].dtype == index.dtype
            assert ours[dim].dtype == usual[dim].dtype
            assert ours[dim].encoding.keys() == usual[dim].encoding.keys()


@pytest.mark.parametrize("code", [3067, 32635, 2193, 2263, 4326])
def test_the_unit_of_a_crs_is_that_of_pyproj(code: int) -> None:
    from pyproj import CRS

    scene = make_scene().rio.write_crs(f"EPSG:{code}")
    if code == 4326:
        scene = scene.assign_coords(x=scene["x"] * 1e-6, y=scene["y"] * 1e-6)
    facts = grid_facts(scene)
    crs = CRS.from_epsg(code)
    assert facts["reference system"] == f"EPSG:{code}"
    if code != 4326:
        unit = crs.axis_info[0].unit_conversion_factor
        area = 400 * 560 * unit**2 / 10_000
        assert facts["area"] == f"{area:,.4g} ha"
