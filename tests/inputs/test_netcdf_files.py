"""Cubes and maps are written to netCDF and Zarr v2, and read again as the same."""

from __future__ import annotations

import datetime
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from affine import Affine
from conftest import make_chips, make_scene
from test_same_map import BANDS, ByPixel
from variants import variants

import geobiomass as gb
from geobiomass.cube.grid import Grid
from geobiomass.cube.plain_attributes import mapping_in, plain_attributes
from geobiomass.cube.publishing import consolidate
from geobiomass.models.regressor import BiomassRegressor

pytest.importorskip("h5netcdf", reason="netCDF 4 is written by h5netcdf")
ENGINES = ("h5netcdf", "scipy")  # netCDF 4, and 3 as xarray writes it without others
OLDER = {"bands": ["B04"], "columns": ["count", "mean"], "values": [[4, 2.5]]}


@pytest.fixture(scope="module")
def model() -> BiomassRegressor:
    return BiomassRegressor(ByPixel(), bands=BANDS, months=3)  # type: ignore[arg-type]


def again(data: xr.Dataset, path: Path, how: str) -> xr.Dataset:
    """Return data, written to a file and opened as a user opens it."""
    if how == "zarr 2":
        data.to_zarr(path, zarr_format=2)
        return xr.open_zarr(path)
    data.to_netcdf(path, engine=how)  # type: ignore[call-overload]
    return xr.open_dataset(path, engine=how, chunks={})  # type: ignore[arg-type]


def assert_same_place(found: Any, expected: Any) -> None:
    assert Grid.of(found).same_as(Grid.of(expected))
    assert found.rio.crs == expected.rio.crs
    assert found.rio.transform() == expected.rio.transform(recalc=True)


@variants("how", [*ENGINES, "zarr 2"], quick=1)
def test_a_cube_written_to_another_format_is_the_same_cube(
    tmp_path: Path, model: Any, how: str
) -> None:
    scene = make_scene(40, 30)
    gb.write_cube(scene, tmp_path / "cube.zarr")
    ours = gb.open_cube(tmp_path / "cube.zarr")
    ways = {"ours": ours}
    if how != "zarr 2":  # of what plain xarray opens, xarray keeps Zarr 3's codecs
        plain = xr.open_zarr(tmp_path / "cube.zarr")
        ways |= {"plain": plain, "all": plain.set_coords("spatial_ref")}
    expected = model.predict(ours).agb.load()
    for name, data in ways.items():
        found = gb.as_cube(again(data, tmp_path / f"{name}.{how[-1]}", how))
        # Plain xarray multiplies codes as float64, which may differ in the last bit.
        most = 0 if name == "ours" else 2e-7
        np.testing.assert_allclose(found.image, ours.image, rtol=most)
        np.testing.assert_array_equal(found.agb, ours.agb)
        assert found.band.values.tolist() == list(BANDS)
        assert found.month.values.tolist() == scene.month.values.tolist()
        assert found.agb.attrs["units"] == "Mg/ha"
        assert_same_place(found, ours)
        xr.testing.assert_allclose(model.predict(found).agb, expected, rtol=5 * most)
    gb.write_cube(make_chips(2), tmp_path / "chips.zarr")
    chips = gb.open_cube(tmp_path / "chips.zarr")
    found = gb.as_cube(again(chips, tmp_path / "chips.x", how))
    xr.testing.assert_equal(found[["image", "agb"]].load(), chips.load())


@pytest.mark.parametrize("how", ENGINES)
@pytest.mark.slow
def test_a_map_written_to_netcdf_has_the_same_totals(
    tmp_path: Path, model: Any, how: str
) -> None:
    scene = make_scene(40, 30)
    path = tmp_path / "map.zarr"
    model.predict_to(path, scene, progress=False)
    plain = xr.open_zarr(path)
    whole = xr.open_zarr(path, decode_coords="all")
    residuals = gb.residuals(whole, scene).assign(unit=np.arange(1200) % 20)
    ways = {"plain": plain, "all": whole, "predicted": model.predict(scene)}
    for name, data in ways.items():
        found = again(data, tmp_path / f"{name}.nc", how)
        np.testing.assert_array_equal(found.agb, whole.agb)
        assert found.agb.attrs["units"] == "Mg/ha"
        provenance = gb.provenance(found)
        assert provenance["model"] == gb.provenance(whole)["model"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            sums = [
                gb.totals(m, residuals=residuals, progress=False)
                for m in (found, whole)
            ]
        assert sums[0]["total"].iloc[0] == sums[1]["total"].iloc[0]
        assert sums[0]["area"].iloc[0] == pytest.approx(12, rel=1e-3)
        assert_same_place(xr.decode_cf(found, decode_coords="all").agb, whole.agb)


def test_what_is_stored_is_text_numbers_and_lists_of_one_kind(tmp_path: Path) -> None:
    @dataclass
    class Spec:
        epsg: int

    scene = make_scene(24, 24)
    scene.attrs = {
        "spec": Spec(3067),
        "none": None,
        "days": [datetime.date(2023, 6, 5)],
    }
    scene["image"].attrs = {"matrix": Affine.identity(), "ok": True, "mixed": [1, "a"]}
    scene["y"].attrs["nested"] = [[1, 2], [3, 4]]
    gb.write_cube(scene, tmp_path / "cube.zarr")
    root = zarr.open_group(tmp_path / "cube.zarr", mode="r")
    stored = dict(root.attrs)
    assert stored["spec"] == '{"epsg": 3067}'
    assert stored["days"] == ["2023-06-05"]
    assert "none" not in stored
    assert root["image"].attrs["ok"] == 1
    assert root["image"].attrs["matrix"] == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert root["image"].attrs["mixed"] == '[1, "a"]'
    assert root["y"].attrs["nested"] == "[[1, 2], [3, 4]]"
    assert plain_attributes({"big": 2**70})["big"] == str(2**70)
    table = gb.band_statistics(gb.open_cube(tmp_path / "cube.zarr"))
    assert mapping_in(stored["band_statistics"])["bands"] == list(BANDS)  # type: ignore[index]
    # A store of an earlier version has a mapping there, with the same meaning.
    writable = zarr.open_group(tmp_path / "cube.zarr", mode="r+")
    writable.attrs["band_statistics"] = mapping_in(stored["band_statistics"])
    shutil.rmtree(tmp_path / "cube.zarr" / "checksums")  # older stores have none
    consolidate(writable)
    older = gb.band_statistics(gb.open_cube(tmp_path / "cube.zarr"))
    assert older.equals(table)
