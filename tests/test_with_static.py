"""Static layers from rasters and arrays: reprojected, derived, counted, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from conftest import make_chips, make_scene
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.transform import Affine

import geobiomass as gb
from geobiomass.cube.static_layers import units_of_layers
from geobiomass.sources.rasters.terrain import derive, pixel_metres

TERRAIN = ["elevation", "slope", "aspect_sin", "aspect_cos"]


def write_raster(path: Path, values: Any, transform: Affine, **more: Any) -> Path:
    """Write bands (band, y, x) or one (y, x), in EPSG:3067 unless `more` says other."""
    bands = np.atleast_3d(np.asarray(values, np.float32).T).T
    names, units = more.pop("names", None), more.pop("units", None)
    profile = {"crs": "EPSG:3067", "transform": transform, "driver": "GTiff"} | more
    count, height, width = bands.shape
    size = {"count": count, "height": height, "width": width, "dtype": "float32"}
    with rasterio.open(path, "w", **size, **profile) as file:
        file.write(bands)
        if names is not None:
            file.descriptions = names
        if units is not None:
            file.units = units
    return path


def corner_of(cube: xr.Dataset) -> tuple[float, float]:
    """Return the left and the upper edge of a cube."""
    return float(cube.x[0]) - 5, float(cube.y[0]) + 5


def tilted(cube: xr.Dataset, crs: str, pixel: float) -> tuple[np.ndarray, Affine]:
    """Return a plane that rises 0.1 to the east and 0.2 to the north of the cube."""
    x, y = (cube[dim].values for dim in ("x", "y"))
    turn = Transformer.from_crs("EPSG:3067", crs, always_xy=True)
    left, bottom, right, top = turn.transform_bounds(
        x[0] - 100, y[-1] - 100, x[-1] + 100, y[0] + 100
    )
    width, height = int((right - left) / pixel), int((top - bottom) / pixel)
    transform = Affine(pixel, 0, left, 0, -pixel, top)
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    east, north = turn.transform(*(transform * (columns, rows)), direction="INVERSE")
    return 0.1 * (east - x[0]) + 0.2 * (north - y[-1]) + 100, transform


@pytest.mark.parametrize(
    ("crs", "pixel"), [("EPSG:3067", 20.0), ("EPSG:4326", 2e-4), ("EPSG:3857", 30.0)]
)
def test_slope_and_aspect_of_a_plane(crs: str, pixel: float, tmp_path: Path) -> None:
    cube = make_scene()
    plane, transform = tilted(cube, crs, pixel)
    path = write_raster(tmp_path / "dem.tif", plane, transform, crs=crs)
    made = gb.with_static(cube, dem=path, slope=True, aspect=True)["static"]
    assert made["layer"].values.tolist() == TERRAIN
    slope, sine, cosine = (made.sel(layer=name).values for name in TERRAIN[1:])
    steep = np.hypot(0.1, 0.2)
    # Degrees are shorter to the east at 62 degrees north, and pixels of Web Mercator
    # shorter in both directions, by half.
    np.testing.assert_allclose(slope, np.degrees(np.arctan(steep)), rtol=3e-3)
    # It falls to the south-west; the norths of two grids differ by up to two degrees.
    np.testing.assert_allclose(sine, -0.1 / steep, atol=0.04)
    np.testing.assert_allclose(cosine, -0.2 / steep, atol=0.04)
    east, north = (cube[dim].values for dim in ("x", "y"))
    height = 0.1 * (east - east[0]) + 0.2 * (north[:, None] - north[-1]) + 100
    np.testing.assert_allclose(made[0].values, height, atol=0.2)
    assert [*units_of_layers(made).values()] == ["m", "degree", "1", "1"]


def test_horn_weights_the_eight_neighbours() -> None:
    z = np.random.default_rng(0).normal(0, 20, (9, 8)).astype(np.float32)
    grid = GeoBox((7, 6), Affine(25, 0, 4e5, 0, -25, 6.9e6), "EPSG:3067")
    across, down = pixel_metres(grid)
    assert across == pytest.approx(25, rel=1e-3)
    assert down == pytest.approx(25, rel=1e-3)
    slope, sine, cosine = derive(z, TERRAIN[1:], grid, slice(0, 7))
    a, b, c = z[2, 1:4].astype(float)  # around row 2, column 1 of the window
    d, _, f = z[3, 1:4].astype(float)
    g, h, i = z[4, 1:4].astype(float)
    east = ((c + 2 * f + i) - (a + 2 * d + g)) / (8 * across[2])
    north = ((a + 2 * b + c) - (g + 2 * h + i)) / (8 * down[2])
    steep = np.hypot(east, north)
    assert slope[2, 1] == pytest.approx(np.degrees(np.arctan(steep)), rel=1e-6)
    assert (sine[2, 1], cosine[2, 1]) == pytest.approx((-east / steep, -north / steep))
    turned = GeoBox((7, 6), Affine(25, 0, 4e5, 0, 25, 6.9e6), "EPSG:3067")
    south_up = derive(z, TERRAIN[1:], turned, slice(0, 7))
    np.testing.assert_allclose(south_up[0], slope, rtol=2e-4)
    np.testing.assert_allclose(south_up[2], -cosine, atol=1e-4)


def test_flat_ground_has_no_direction_and_a_gap_takes_its_neighbours(
    tmp_path: Path,
) -> None:
    cube = make_scene()
    left, top = corner_of(cube)
    flat = np.full((60, 60), 50.0)
    flat[21, 30] = -9999.0  # undeclared
    transform = Affine(10, 0, left - 10, 0, -10, top + 10)
    path = write_raster(tmp_path / "dem.tif", flat, transform)
    with pytest.warns(UserWarning, match="missing") as told:
        made = gb.with_static(cube, dem=path, slope=True, aspect=True)["static"]
    words = [str(one.message) for one in told]
    assert any("-9999" in one for one in words)
    assert any("elevation 1, slope 9" in one for one in words)
    assert json.loads(made.attrs["missing_pixels"])["aspect_sin"] == 9
    values = made.values[1:]
    assert np.isnan(values[:, 19:22, 28:31]).all()
    assert np.nan_to_num(values).tolist() == np.zeros(values.shape).tolist()
    assert not np.signbit(values[np.isfinite(values)]).any()


def test_elevation_in_feet_becomes_metres(tmp_path: Path) -> None:
    cube = make_scene()
    plane, transform = tilted(cube, "EPSG:3067", 20.0)
    feet = write_raster(tmp_path / "ft.tif", plane / 0.3048, transform, units=["ft"])
    metres = write_raster(tmp_path / "m.tif", plane, transform, units=["m"])
    one, other = (gb.with_static(cube, dem=p, slope=True) for p in (feet, metres))
    np.testing.assert_allclose(one["static"].values, other["static"].values, rtol=1e-5)
    with pytest.raises(gb.CubeError, match="units of length, got 'kg'"):
        gb.with_static(cube, dem=metres, units={"elevation": "kg"})


def test_an_array_gives_the_layers_of_the_file(tmp_path: Path) -> None:
    cube = make_scene()
    plane, transform = tilted(cube, "EPSG:3067", 20.0)
    rough = plane + np.random.default_rng(1).normal(0, 5, plane.shape)
    path = write_raster(tmp_path / "dem.tif", rough, transform)
    how = {"slope": True, "aspect": True}
    array = xr.open_dataarray(path, engine="rasterio").squeeze("band", drop=True)
    made = gb.with_static(cube, dem=array, **how)["static"]
    of_file = gb.with_static(cube, dem=path, **how)["static"]
    np.testing.assert_allclose(made.values, of_file.values, rtol=1e-5, atol=1e-5)


def test_layers_do_not_depend_on_the_block(tmp_path: Path) -> None:
    cube = make_scene(300, 40)  # two blocks of 256 pixels
    plane, transform = tilted(cube, "EPSG:4326", 2e-4)
    rough = plane + np.random.default_rng(1).normal(0, 5, plane.shape)
    path = write_raster(tmp_path / "dem.tif", rough, transform, crs="EPSG:4326")
    whole = gb.with_static(cube, dem=path, slope=True)["static"]
    south = gb.with_static(cube.isel(y=slice(120, 300)), dem=path, slope=True)["static"]
    np.testing.assert_array_equal(whole.values[:, 120:], south.values)


def test_bands_become_layers_by_their_names(tmp_path: Path) -> None:
    cube = make_scene()
    left, top = corner_of(cube)
    bands = np.random.default_rng(0).normal(0, 1, (3, 40, 56)).astype(np.float32)
    transform = Affine(10, 0, left, 0, -10, top)
    named = write_raster(tmp_path / "n.tif", bands, transform, names=("A0", "A1", "A2"))
    plain = write_raster(tmp_path / "p.tif", bands, transform)
    made = gb.with_static(cube, embeddings=named, soil=plain, units={"soil": "g/kg"})
    names = ["embeddings_A0", "embeddings_A1", "embeddings_A2"]
    assert made["layer"].values.tolist() == [*names, "soil_1", "soil_2", "soil_3"]
    np.testing.assert_array_equal(made["static"].values[:3], bands)
    assert units_of_layers(made["static"])["soil_2"] == "g/kg"
    assert json.loads(made["static"].attrs["sources"])["soil_1"] == "p.tif"
    array = xr.DataArray(
        bands,
        {"feature": ["a", "b", "c"], "y": cube.y, "x": cube.x},
        ("feature", "y", "x"),
    )
    array = array.rio.write_crs("EPSG:3067").chunk(feature=1)
    again = gb.with_static(made, tessera=array, units={"tessera": "1"})
    assert again["layer"].values.tolist()[-3:] == [
        "tessera_a",
        "tessera_b",
        "tessera_c",
    ]
    assert again.sizes["layer"] == 9
    np.testing.assert_array_equal(again["static"].values[6:], bands)  # on the same grid
    np.testing.assert_array_equal(again["static"].values[:3], bands)
    gb.write_cube(again, tmp_path / "c.zarr")
    opened = gb.open_cube(tmp_path / "c.zarr")
    assert units_of_layers(opened["static"]) == units_of_layers(again["static"])
    np.testing.assert_array_equal(opened["static"].values, again["static"].values)


def test_what_a_raster_does_not_cover_is_counted_and_told(tmp_path: Path) -> None:
    cube = make_scene()
    left, top = corner_of(cube)
    part = write_raster(
        tmp_path / "chm.tif", np.ones((40, 28)), Affine(10, 0, left, 0, -10, top)
    )
    with pytest.warns(UserWarning, match="of 2,240 each: canopy_height 1,120"):
        made = gb.with_static(cube, canopy_height=part)
    assert int(made["static"].isnull().sum()) == 1120
    assert units_of_layers(made["static"]) == {"canopy_height": "m"}


def test_what_cannot_be_a_layer_is_refused_in_a_sentence(tmp_path: Path) -> None:
    cube = make_scene()
    left, top = corner_of(cube)
    here = Affine(10, 0, left, 0, -10, top)
    good = write_raster(tmp_path / "good.tif", np.ones((40, 56)), here)
    away = Affine(10, 0, left + 9000, 0, -10, top)
    far = write_raster(tmp_path / "far.tif", np.ones((40, 56)), away)
    bare = write_raster(tmp_path / "bare.tif", np.ones((40, 56)), here, crs=None)
    empty = np.full((40, 56), np.nan)
    gone = write_raster(tmp_path / "gone.tif", empty, here)
    turned = Affine.translation(left, top) * Affine.rotation(20) * Affine.scale(10, -10)
    slanted = write_raster(tmp_path / "slanted.tif", np.ones((90, 90)), turned)
    array = xr.DataArray(np.ones((40, 56)), {"y": cube.y, "x": cube.x}, ("y", "x"))
    once = gb.with_static(cube, canopy_height=good)
    cases: list[tuple[str, xr.Dataset, dict[str, Any]]] = [
        ("'canopy_height'.* must overlap the cube", cube, {"canopy_height": far}),
        ("no georeference", cube, {"canopy_height": bare}),
        ("must have a CRS, got none", cube, {"canopy_height": array}),
        ("none of \\['canopy_height'\\]", cube, {"canopy_height": gone}),
        ("named twice, got \\['canopy_height'\\]", once, {"canopy_height": good}),
        ("Units of the layer 'soil' are unknown", cube, {"soil": good}),
        ("units= must be of the layers", cube, {"dem": good, "units": {"demm": "m"}}),
        ("got a rotated one", cube, {"dem": slanted, "slope": True}),
        ("derived from an elevation model", cube, {"slope": True}),
        ("must be the path of a raster", cube, {"canopy_height": 3}),
        ("by name, got none", cube, {}),
        ("must be True or False", cube, {"dem": good, "slope": "slope.tif"}),
        ("give one of the two", cube, {"dem": good, "elevation": good}),
        ("of a collection of chips", make_chips(2, 16), {"canopy_height": good}),
    ]
    for words, given, arguments in cases:
        with pytest.raises(gb.CubeError, match=words):
            gb.with_static(given, **arguments)


def test_chips_take_arrays_by_their_ids() -> None:
    chips = make_chips(3, 16)
    values = np.random.default_rng(0).normal(0, 1, (3, 16, 16)).astype(np.float32)
    ids = chips["chip"].values
    height = xr.DataArray(
        values, {"chip": ids}, ("chip", "y", "x"), attrs={"units": "m"}
    )
    made = gb.with_static(chips, height=height[::-1])
    assert made["static"].dims == ("chip", "layer", "y", "x")
    np.testing.assert_array_equal(made["static"].values[:, 0], values)
    both = height.expand_dims(layer=["a", "b"])
    more = gb.with_static(made, pair=both)
    assert more["layer"].values.tolist() == ["height", "pair_a", "pair_b"]
    height[1, 3, 4] = np.inf
    with pytest.warns(UserWarning, match=r"inf \(1 pixels\)|height 1"):
        gone = gb.with_static(chips, height=height)["static"]
    assert json.loads(gone.attrs["missing_pixels"]) == {"height": 1}
    with pytest.raises(gb.CubeError, match="must have all chips"):
        gb.with_static(chips, height=height[:2])
    with pytest.raises(gb.CubeError, match="16 x 16 pixels"):
        gb.with_static(chips, height=height[:, :8])


def test_a_command_adds_layers(run: Any, tmp_path: Path) -> None:
    cube = make_scene()
    values, transform = tilted(cube, "EPSG:3067", 10.0)
    dem = write_raster(tmp_path / "dem.tif", values, transform, units="m")
    chm = write_raster(tmp_path / "chm.tif", 0 * values + 7, transform)
    left, top = corner_of(cube)
    image = write_raster(
        *(tmp_path / "S2_2023-06.tif", cube["image"].values[1, 1:]),
        Affine(10, 0, left, 0, -10, top),
        names=["B04", "B08"],
    )
    out = tmp_path / "c.zarr"
    words = ["ingest", "rasters", str(image.parent / "S2_{year}-{month}.tif"), out]
    layers = ["--dem", dem, "--slope", "--static", f"canopy_height={chm}"]
    more = ["--static", f"soil={chm}", "--static-units", "soil=g/kg"]
    code, told, said = run(*words, *layers, *more)
    assert code == 0, said
    assert "static layers: elevation, slope, canopy_height, soil" in told
    static = gb.open_cube(out)["static"]
    units = {"elevation": "m", "slope": "degree", "canopy_height": "m", "soil": "g/kg"}
    assert units_of_layers(static) == units
    slope = np.rad2deg(np.arctan(np.hypot(0.1, 0.2)))
    np.testing.assert_allclose(static.sel(layer="slope"), slope, rtol=1e-3)
    assert (static.sel(layer="soil") == 7).all()
    code, described, _ = run("info", out)
    assert code == 0
    assert "canopy_height" in described
    for wrong, told in (
        (["--slope"], "follow from an elevation model"),
        (["--static", "chm.tif"], "must be a name and what it is"),
        (["--static", f"dem={chm}"], "must name a layer of its own"),
    ):
        code, _, said = run(*words, "--overwrite", *wrong)
        assert code != 0
        assert told in " ".join(said.split())
