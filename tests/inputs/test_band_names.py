"""Which variables of users' data are bands, and what they are called in a cube."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rioxarray  # noqa: F401  (the .rio accessor)
import xarray as xr

import geobiomass as gb

SIZE = 32
Y, X = 6_900_000 - 10.0 * np.arange(SIZE), 500_000 + 10.0 * np.arange(SIZE)
DRAW = np.random.default_rng(0)
TIMES = pd.to_datetime(["2023-06-01", "2023-07-01"])


def dataset(
    names: Iterable[str],
    attrs: dict[str, Any] | None = None,
    coords: dict[str, Any] | None = None,
    **static: Any,
) -> xr.Dataset:
    """Return a variable for each name, as odc-stac does, and static ones."""
    timed = {
        name: (("time", "y", "x"), DRAW.normal(1000, 100, (2, SIZE, SIZE)))
        for name in names
    }
    once = {name: (("y", "x"), values) for name, values in static.items()}
    coords = {"time": TIMES, "y": Y, "x": X, **(coords or {})}
    return xr.Dataset({**timed, **once}, coords, attrs or {}).rio.write_crs(32635)


def target(share: float = 1.0) -> xr.DataArray:
    values = DRAW.uniform(20, 200, (SIZE, SIZE))
    values[DRAW.random((SIZE, SIZE)) > share] = np.nan
    return xr.DataArray(values, {"y": Y, "x": X}, ("y", "x"))


def bands(cube: xr.Dataset) -> list[str]:
    return [str(name) for name in cube["band"].values]


@pytest.mark.parametrize("renamed", ["biomass", "agb", "AGB"])
def test_the_target_and_its_companions_are_never_bands(renamed: str) -> None:
    agb = target()
    data = dataset(
        ["B04", "B08"],
        **{renamed: agb.values},
        biomass_se=DRAW.uniform(2, 20, (SIZE, SIZE)),
        forest_mask=np.ones((SIZE, SIZE)),
        elevation=DRAW.normal(100, 10, (SIZE, SIZE)),
    )
    given = None if renamed == "agb" else data[renamed]
    with pytest.warns(
        UserWarning, match=r"left out of the bands: .*forest_mask"
    ) as told:
        cube = gb.as_cube(data, agb=given)
    assert len(told) == 1
    assert bands(cube) == ["B04", "B08", "elevation"]
    np.testing.assert_array_equal(cube["agb"], agb.astype("float32"))
    assert cube.attrs["bands_of_variables"] == "B04 B08 elevation"
    assert "biomass_se: " in cube.attrs["left_out"]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("copy", "why"),
    [
        (lambda v: v, "a copy of the target"),
        (lambda v: 0.47 * v, "computed from the target"),
        (np.log1p, "computed from the target"),
        (lambda v: 300 - v, "computed from the target"),
        (lambda v: np.where(np.isfinite(v), 7.0, np.nan), "exactly where the target"),
    ],
)
def test_copies_are_known_by_their_values(copy: Any, why: str, lazy: bool) -> None:
    agb = target(0.1)
    data = dataset(["B04"], y2=copy(agb.values), dem=DRAW.normal(0, 9, (SIZE, SIZE)))
    if lazy:
        data, agb = data.chunk(), agb.chunk()
    with pytest.warns(UserWarning, match=f"'y2' .*{why}"):
        cube = gb.as_cube(data, agb=agb)
    assert bands(cube) == ["B04", "dem"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("SCL", {}),
        ("QA60", {}),
        ("qa_pixel", {}),
        ("Fmask", {}),
        ("dataMask", {}),
        ("cloud_mask", {}),
        ("weight", {}),
        ("n_obs", {}),
        ("carbon_density", {}),
        ("h", {"units": "Mg ha-1"}),
        ("h", {"units": "t/ha"}),
        ("h", {"long_name": "Aboveground biomass"}),
        ("h", {"flag_values": [0, 1], "flag_meanings": "clear cloud"}),
    ],
)
def test_what_is_no_image_is_left_out_and_told(name: str, change: Any) -> None:
    data = dataset(["B04", name])
    data[name].attrs.update(change)
    with pytest.warns(
        UserWarning, match=f"1 variable is left out of the bands: '{name}"
    ):
        cube = gb.as_cube(data)
    assert bands(cube) == ["B04"]
    assert cube.attrs["left_out"].startswith(f"{name}: ")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert bands(gb.as_cube(data, bands=["B04", name])) == ["B04", name]


def test_images_are_not_left_out() -> None:
    names = ["B04", "CLP", "NDVI", "B04_std", "VV_asc", "slope", "temperature", "TMEAN"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        cube = gb.as_cube(dataset(names), agb=target(0.1))
    assert bands(cube) == names


def test_boundaries_and_references_are_no_bands() -> None:
    data = dataset(["B04"])
    data["y_bnds"] = (("y", "nv"), np.zeros((SIZE, 2)))
    data["cloud_cover"] = (("time",), [1.0, 2.0])
    data = data.rename(y="lat", x="lon").drop_vars("y_bnds")
    assert bands(gb.as_cube(data)) == ["B04"]


@pytest.mark.parametrize(
    ("names", "attrs", "expected"),
    [
        # Earth Search: several red edges, or both near infrareds, are Sentinel-2's.
        ("blue red rededge1 rededge2 nir", {}, "B02 B04 B05 B06 B08"),
        ("coastal nir nir08 swir16 swir22", {}, "B01 B08 B8A B11 B12"),
        ("red nir swir16", {"constellation": "sentinel-2"}, "B04 B08 B11"),
        ("red nir", {"collection": "sentinel-2-l2a"}, "B04 B08"),
        ("red nir", {"platform": "Sentinel-2B"}, "B04 B08"),
        # Google Earth Engine, the Copernicus Data Space, openEO, DEA, HLS.
        ("B2 B3 B4 B8 B8A B11", {}, "B02 B03 B04 B08 B8A B11"),
        ("B2 B4", {"source": "COPERNICUS/S2_SR_HARMONIZED"}, "B02 B04"),
        ("B02_10m B8A_20m", {}, "B02 B8A"),
        ("b02 b8a", {}, "B02 B8A"),
        ("S2-L2A-B02 S2-L2A-B12", {}, "B02 B12"),
        (
            "nbart_red nbart_nir_1 nbart_swir_2",
            {"sensor": "sentinel-2a"},
            "B04 B08 B11",
        ),
        ("B02 B8A", {"collection": "HLSS30"}, "B02 B8A"),
        # Not certain, or another satellite's: as they are.
        ("red green blue nir", {}, None),
        ("B2 B3 B4 B8", {}, None),
        ("red green blue nir08 swir16 swir22", {}, None),
        ("red nir08", {"collection": "landsat-c2-l2"}, None),
        ("red nir", {"title": "Sentinel-2 and Landsat 8"}, None),
        ("B2 B4 B5", {"platform": "landsat-8"}, None),
        ("vv vh", {}, None),
        ("VV VH", {"constellation": "sentinel-1"}, None),
        ("vv vh", {"sat:orbit_state": "ascending"}, "VV_asc VH_asc"),
        ("VV VH", {"sat:orbit_state": "descending"}, "VV_desc VH_desc"),
        ("HH HV red", {}, None),
    ],
)
def test_names_that_leave_no_doubt(
    names: str, attrs: dict[str, str], expected: str | None
) -> None:
    cube = gb.as_cube(dataset(names.split(), attrs))
    assert bands(cube) == (expected or names).split()
    assert ("renamed_bands" in cube.attrs) == (expected not in (None, names))


def test_passes_in_both_directions_are_not_mixed() -> None:
    both = {"sat:orbit_state": ("time", ["ascending", "descending"])}
    assert bands(gb.as_cube(dataset(["vv"], coords=both))) == ["vv"]
    one = {"sat:orbit_state": ("time", ["ascending", "ascending"])}
    assert bands(gb.as_cube(dataset(["vv"], coords=one))) == ["VV_asc"]


def test_an_array_of_stackstac() -> None:
    array = xr.DataArray(
        DRAW.normal(1000, 100, (2, 3, SIZE, SIZE)),
        {
            "time": TIMES,
            "band": ["red", "nir", "scl"],
            "y": Y,
            "x": X,
            "constellation": "sentinel-2",
        },
        ("time", "band", "y", "x"),
    )
    with pytest.warns(UserWarning, match="'scl'"):
        cube = gb.as_cube(array)
    assert bands(cube) == ["B04", "B08"]
    assert cube.attrs["renamed_bands"] == "red: B04, nir: B08"


def test_names_that_the_user_gives() -> None:
    data = dataset(["red", "nir", "depth"])
    cube = gb.as_cube(data, bands={"red": "B04", "nir": "B08"})
    assert bands(cube) == ["B04", "B08", "depth"]
    assert bands(gb.as_cube(gb.as_cube(data), bands={"red": "B04"})) == [
        *("B04", "nir", "depth")
    ]
    assert bands(gb.as_cube(data, bands=["nir", "red"])) == ["nir", "red"]
    with pytest.raises(gb.CubeError, match=r"\['rot'\]; the data has \['red'"):
        gb.as_cube(data, bands={"rot": "B04"})
    with pytest.raises(gb.CubeError, match=r"write bands=\['red'\]"):
        gb.as_cube(data, bands="red")
    with pytest.raises(gb.CubeError, match="No variable is a band of an image"):
        gb.as_cube(dataset(["mask", "SCL"]))


def test_a_cube_stays_as_it_is() -> None:
    cube = gb.as_cube(dataset(["red", "nir"]))
    cube = cube.assign_coords(band=["rededge1", "rededge2"])
    assert gb.as_cube(cube) is cube


@pytest.fixture(scope="module")
def model() -> gb.BiomassRegressor:
    """Return a model of red, near infrared and a mask, as earlier releases allowed."""
    cube = gb.as_cube(
        dataset(["red", "nir", "forest_mask"], {}), bands=["red", "nir", "forest_mask"]
    )
    cube["agb"] = (("y", "x"), target().values.astype("float32"))
    return gb.fit(
        cube,
        "quick",
        validation=0,
        encoder="test_resnet",
        decoder_channels=(8,) * 5,
        crop=32,
        block=32,
        epochs=1,
        batch_size=1,
        domain_cells=0,
        progress=False,
    )


def test_a_model_reads_the_names_that_it_was_trained_on(
    model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    data = dataset(["red", "nir", "forest_mask"], {"constellation": "sentinel-2"})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.predict(data)
        assert set(model.check(data)["verdict"]) == {"ok"}
    with pytest.raises(
        gb.CubeError,
        match=r"if they are the same.*bands=\{'B04': 'red', 'B08': 'nir'\}",
    ):
        model.predict(dataset(["B04", "B08", "forest_mask"]))


@pytest.mark.parametrize(
    ("there", "wanted", "remedy"),
    [
        ("red nir", "B04 B08", "bands={'red': 'B04', 'nir': 'B08'}"),
        ("B2 B4", "B02", "bands={'B2': 'B02'}"),
        ("vv vh", "VV_asc", "bands={'vv': 'VV_asc'}"),
        ("VV VH", "vv", "bands={'VV': 'vv'}"),
        ("VV_desc", "VV_asc", "assign_coords"),
        ("depth", "B04", "assign_coords"),
    ],
)
def test_the_error_of_a_missing_band_proposes_the_name(
    there: str, wanted: str, remedy: str
) -> None:
    cube = gb.as_cube(dataset(there.split()))
    with pytest.raises(gb.CubeError) as caught:
        gb.cube.select_bands(cube, tuple(wanted.split()))
    assert remedy in str(caught.value)
