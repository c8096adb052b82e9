"""Embeddings: all layouts of one landscape give the same cube, and what is told."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import stac_server
import xarray as xr
import zarr
from sklearn.linear_model import Ridge

import geobiomass as gb
from geobiomass.sources.embeddings.stored_numbers import (
    Quantisation,
    quantisation_of,
    scaled,
    signed_squares,
)
from geobiomass.sources.embeddings.tessera_tiles import tile_names
from geobiomass.sources.embeddings.tiles import with_unit_length
from geobiomass.sources.landscape.embedding_archive import (
    DIMENSIONS,
    LAYOUTS,
    Layout,
    embed,
    write_embeddings,
)

pytest.importorskip("geopandas")

HALF_STEP = {"alphaearth": 1 / 127.5, "geoemb": 1 / 127.5}
YEARS = (2020, 2024)


@pytest.fixture(scope="module")
def scenes() -> dict[int, xr.Dataset]:
    """Two years on one grid, whose pixels of 100 m reach over several tiles."""
    made = {}
    for seed, year in enumerate(YEARS):
        scene = gb.landscape(
            (40, 66), months=2, seed=seed, crs="EPSG:32635", resolution=100
        ).compute()
        scene["image"][:, :, 10:14, 20:30] = np.nan  # water, in all layouts
        made[year] = scene
    return made


@pytest.fixture(scope="module")
def archives(
    scenes: dict[int, xr.Dataset], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("embeddings")
    return {
        layout: write_embeddings(scenes, folder / layout, layout, tile=32)
        for layout in LAYOUTS
    }


@pytest.fixture
def copy(archives: dict[str, str], tmp_path: Path) -> Any:
    """Return a function that copies an archive, to damage it."""

    def copied(layout: Layout) -> Path:
        source = Path(archives[layout])
        below = {"alphaearth": 3, "tessera-npy": 3}.get(layout, 1)
        root = source.parents[below - 1]
        shutil.copytree(root, tmp_path / layout)
        return tmp_path / layout / source.relative_to(root)

    return copied


def vectors(cube: xr.Dataset) -> Any:
    gb.check_cube(cube)
    return cube["image"].values[0]


def inside(scene: xr.Dataset) -> tuple[float, ...]:
    """Return bounds in degrees of the middle of a scene."""
    west, south, east, north = scene.rio.transform_bounds("EPSG:4326")
    return west + 0.02, south + 0.01, east - 0.02, north - 0.01


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_landscapes_vectors(
    layout: Layout, archives: dict[str, str], scenes: dict[int, xr.Dataset]
) -> None:
    for year in YEARS:
        cube = gb.from_embeddings(archives[layout], scenes[year], years=year)
        truth = embed(scenes[year], DIMENSIONS[layout])
        found = vectors(cube)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(truth))
        # TESSERA's step is the scale of a pixel, 1/127 of its largest number.
        tolerance = HALF_STEP.get(layout, 0.5 / 127)
        np.testing.assert_allclose(found, truth, rtol=0, atol=tolerance)
        assert cube.sizes["month"] == 1
        assert cube.attrs["share_without_tile"] == 0
        assert cube.attrs["resampling"] == "none: the grid of the archive"
    assert np.nanmax(np.abs(found - truth)) > 1e-6  # these are quantised numbers


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_process_can_read_a_lazy_cube(
    layout: Layout, archives: dict[str, str], scenes: dict[int, xr.Dataset]
) -> None:
    cube = gb.from_embeddings(archives[layout], scenes[2024], years=2024)
    sent = pickle.loads(pickle.dumps(cube))
    assert sent["image"].chunks is not None  # the vectors are read there
    np.testing.assert_array_equal(vectors(sent), vectors(cube))


def test_layouts_of_one_product_have_the_same_bits(
    archives: dict[str, str], scenes: dict[int, xr.Dataset]
) -> None:
    for one, other in (("alphaearth", "geoemb"), ("tessera-npy", "tessera-zarr")):
        cubes = [
            gb.from_embeddings(archives[layout], scenes[2024], years=2024)
            for layout in (one, other)
        ]
        np.testing.assert_array_equal(*map(vectors, cubes))
        assert list(cubes[0]["band"].values) == list(cubes[1]["band"].values)
        assert cubes[0].attrs["licence"] == cubes[1].attrs["licence"]


def test_an_area_has_the_pixels_of_the_archive(
    archives: dict[str, str], scenes: dict[int, xr.Dataset]
) -> None:
    area = inside(scenes[2020])
    whole = gb.from_embeddings(archives["alphaearth"], scenes[2020], years=2020)
    found = gb.from_embeddings(archives["alphaearth"], area, years=list(YEARS))
    assert list(found) == list(YEARS)
    part = whole["image"].sel(y=found[2020]["y"], x=found[2020]["x"])
    assert part.size < whole["image"].size
    np.testing.assert_array_equal(found[2020]["image"].values, part.values)
    np.testing.assert_array_equal(found[2020]["x"], found[2024]["x"])
    assert found[2024]["y"].values[0] > found[2024]["y"].values[-1]  # north first
    assert str(found[2024].rio.crs) == "EPSG:32635"


def test_a_path_of_a_folder_is_enough(
    archives: dict[str, str], scenes: dict[int, xr.Dataset]
) -> None:
    index = Path(archives["alphaearth"])
    for source in (index.parents[2], index.parent, index.with_suffix(".gpkg")):
        cube = gb.from_embeddings(source, inside(scenes[2020]), years=2020)
        assert cube.sizes["band"] == 64
    text = gb.from_embeddings(
        index.with_suffix(".csv"), inside(scenes[2020]), years=2020
    )
    assert text.attrs["source_fingerprint"] != ""
    np.testing.assert_array_equal(vectors(text), vectors(cube))


def test_coarser_pixels_are_means_of_length_one(
    archives: dict[str, str], scenes: dict[int, xr.Dataset]
) -> None:
    scene = scenes[2020]
    area = tuple(scene.rio.bounds())
    cube = gb.from_embeddings(
        archives["alphaearth"],
        area,
        years=2020,
        resolution=200,
        crs="EPSG:32635",
        bounds_crs="EPSG:32635",
    )
    assert cube.attrs["resampling"].startswith("average")
    fine = vectors(gb.from_embeddings(archives["alphaearth"], scene, years=2020))
    height, width = (size // 2 for size in fine.shape[1:])
    means = fine.reshape(64, height, 2, width, 2).mean(axis=(2, 4))
    expected = with_unit_length(means)
    seen = np.isfinite(expected)
    assert seen.mean() > 0.9
    np.testing.assert_allclose(vectors(cube)[seen], expected[seen], atol=1e-5)
    short = np.sqrt(np.square(means).sum(axis=0))
    assert np.nanmin(short) < 0.95  # so that scaling them matters


def test_another_grid_takes_the_nearest_vector_as_it_is(
    archives: dict[str, str], scenes: dict[int, xr.Dataset]
) -> None:
    area = inside(scenes[2020])
    cube = gb.from_embeddings(
        archives["geoemb"], area, years=2020, crs="EPSG:3067", resolution=100
    )
    assert cube.attrs["resampling"] == "nearest, from EPSG:32635 to EPSG:3067"
    whole = gb.from_embeddings(archives["geoemb"], scenes[2020], years=2020)
    known = {tuple(one) for one in vectors(whole).reshape(64, -1).T.tolist()}
    found = vectors(cube).reshape(64, -1).T
    found = found[np.isfinite(found).all(axis=1)]
    assert len(found) > 500
    assert {tuple(one) for one in found.tolist()} <= known


def test_first_dimensions_only_where_they_are_ordered(
    archives: dict[str, str], scenes: dict[int, xr.Dataset]
) -> None:
    area = inside(scenes[2020])
    whole = gb.from_embeddings(archives["tessera-zarr"], area, years=2020)
    short = gb.from_embeddings(archives["tessera-zarr"], area, years=2020, dimensions=4)
    assert list(short["band"].values) == ["T000", "T001", "T002", "T003"]
    np.testing.assert_array_equal(vectors(short), vectors(whole)[:4])
    with pytest.raises(gb.CubeError, match=r"4, 16, 128 dimensions.*got dimensions=8"):
        gb.from_embeddings(archives["tessera-zarr"], area, years=2020, dimensions=8)
    for layout in ("alphaearth", "geoemb", "tessera-npy"):
        with pytest.raises(gb.CubeError, match=r"dimensions=4 .* not in the order"):
            gb.from_embeddings(archives[layout], area, years=2020, dimensions=4)


@pytest.fixture(scope="module")
def site(
    scenes: dict[int, xr.Dataset], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[stac_server.Site, dict[str, str]]]:
    folder = tmp_path_factory.mktemp("served")
    with stac_server.serve(folder, []) as site:
        yield (
            site,
            {
                layout: write_embeddings(
                    scenes, folder / layout, layout, address=f"{site.url}/{layout}"
                )
                for layout in LAYOUTS
            },
        )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_server_gives_the_same_bits_in_parts(
    layout: Layout,
    site: tuple[stac_server.Site, dict[str, str]],
    archives: dict[str, str],
    scenes: dict[int, xr.Dataset],
) -> None:
    server, addresses = site
    assert addresses[layout].startswith("http://")
    near = gb.from_embeddings(archives[layout], inside(scenes[2024]), years=2024)
    server.forget()
    far = gb.from_embeddings(addresses[layout], inside(scenes[2024]), years=2024)
    np.testing.assert_array_equal(vectors(far), vectors(near))
    endings = {"alphaearth": ".tiff", "tessera-npy": ".npy"}
    statuses = server.statuses(endings.get(layout, "/0/0/0"))
    assert 206 in statuses
    assert addresses[layout] in far.attrs["source"]


def test_attribution_and_year_are_in_maps(
    archives: dict[str, str], scenes: dict[int, xr.Dataset], tmp_path: Path
) -> None:
    cubes = gb.from_embeddings(archives["alphaearth"], scenes[2020], years=list(YEARS))
    before = cubes[2020].assign(agb=scenes[2020]["agb"])
    model = gb.fit(before, "pixels", learner=Ridge(), interval=0.5)
    maps = {}
    for year, cube in cubes.items():
        maps[year] = model.predict_to(tmp_path / f"{year}.zarr", cube, check="off")
        told = gb.provenance(tmp_path / f"{year}.zarr")
        text = str(told)
        assert "produced by Google and Google DeepMind" in text
        assert "CC-BY-4.0" in text
        assert f"{year}-01-01 to {year}-12-31" in text
    change = gb.change(tmp_path / "2020.zarr", tmp_path / "2024.zarr")
    assert change["agb_change"].shape == (40, 66)


def test_a_written_cube_keeps_all_numbers_apart(
    archives: dict[str, str], scenes: dict[int, xr.Dataset], tmp_path: Path
) -> None:
    for layout in ("alphaearth", "tessera-zarr"):
        cube = gb.from_embeddings(archives[layout], scenes[2020], years=2020)
        gb.write_cube(cube, tmp_path / layout)
        back = gb.open_cube(tmp_path / layout)
        step = 1 / 32_767 if layout == "alphaearth" else 127 / 32_767
        np.testing.assert_allclose(vectors(back), vectors(cube), atol=0.51 * step)
        assert back.attrs["attribution"] == cube.attrs["attribution"]
    found = vectors(gb.open_cube(tmp_path / "alphaearth"))
    levels = np.unique(vectors(gb.from_embeddings(
        archives["alphaearth"], scenes[2020], years=2020
    )))  # fmt: skip
    assert np.unique(found).size == levels.size > 100


def test_the_formula_of_alphaearth_is_exact() -> None:
    codes = np.arange(-128, 128, dtype=np.int8).reshape(1, 16, 16)
    exact = [np.sign(int(v)) * (int(v) / 127.5) ** 2 for v in codes.ravel()]
    found = signed_squares(np.concatenate([codes, np.ones_like(codes)]))[0].ravel()
    assert np.isnan(found[0])
    np.testing.assert_array_equal(found[1:], np.array(exact[1:], np.float32))
    pair = np.array([[[5]], [[-128]]], np.int8)
    assert np.isnan(signed_squares(pair)).all()  # no vector is incomplete
    assert np.isnan(signed_squares(0 * pair)).all()  # no vector of length 1 is 0


def test_pixels_without_a_valid_scale_are_missing() -> None:
    scales = np.array([[0.5, np.nan, np.inf, 0.0, -0.1, 1.0, 1.5]], np.float32)
    found = scaled(np.full((2, 1, 7), 3, np.int8), scales)
    np.testing.assert_array_equal(
        found[0, 0], np.array([1.5, *[np.nan] * 4, 3.0, np.nan], np.float32)
    )
    by_band = np.stack([scales, np.full_like(scales, 0.5)])
    missing = np.isnan(scaled(np.full((2, 1, 7), 3, np.int8), by_band))
    np.testing.assert_array_equal(missing[0], missing[1])


def test_quantisations_of_the_convention() -> None:
    linear = {"method": "linear", "scale": {"type": "scalar", "scale": 0.5}}
    found = quantisation_of({"geoemb:quantization": linear}, np.int8, "s")
    values = found.values_of(np.array([[[4]]], np.int8))
    assert values.tolist() == [[[2.0]]]
    assert quantisation_of({}, np.float32, "s") == Quantisation()
    with pytest.raises(gb.CubeError, match="must state geoemb:quantization"):
        quantisation_of({}, np.int8, "s")
    codebook = {"geoemb:quantization": {"method": "product_quantization"}}
    with pytest.raises(gb.CubeError, match="got the method 'product_quantization'"):
        quantisation_of(codebook, np.uint8, "s")


def test_names_of_tiles_of_tessera() -> None:
    assert tile_names((0.12, 52.01, 0.18, 52.09)) == ["grid_0.15_52.05"]
    assert tile_names((-0.05, -0.01, 0.05, 0.05)) == [
        "grid_-0.05_-0.05",
        "grid_0.05_-0.05",
        "grid_-0.05_0.05",
        "grid_0.05_0.05",
    ]
    # Across 180 degrees: west is above east.
    assert tile_names((179.95, 0.0, -179.95, 0.1)) == [
        "grid_179.95_0.05",
        "grid_-179.95_0.05",
    ]
    with pytest.raises(gb.CubeError, match="at most 20,000 tiles"):
        tile_names((0.0, 0.0, 40.0, 40.0))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_year_or_an_area_that_is_not_there_is_told(
    layout: Layout, archives: dict[str, str], scenes: dict[int, xr.Dataset]
) -> None:
    area = inside(scenes[2020])
    with pytest.raises(gb.CubeError, match=r"of 2019, only of 2020, 2024; choose one"):
        gb.from_embeddings(archives[layout], area, years=[2020, 2019])
    with pytest.raises(
        gb.CubeError, match=r"no tile of 2024 in the area \(4\.9958, 49"
    ):
        gb.from_embeddings(archives[layout], (5.0, 50.0, 5.1, 50.1), years=2024)


def test_pixels_without_a_tile_are_told(
    archives: dict[str, str], scenes: dict[int, xr.Dataset]
) -> None:
    west, south, east, north = inside(scenes[2020])
    wider = (west - 0.1, south, east, north)
    with pytest.warns(UserWarning, match=r"no tile of 2020 for \d\d\.\d % of the area"):
        cube = gb.from_embeddings(archives["geoemb"], wider, years=2020)
    share = float(np.isnan(vectors(cube)[0]).mean())
    assert cube.attrs["share_without_tile"] == pytest.approx(share, abs=0.05)
    assert share > 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"years": None}, r"years must be a year or several, .* got None"),
        ({"years": "2023"}, r"years must be .* got '2023'"),
        ({"years": True}, r"years must be .* got True"),
        ({"years": 2020, "area": None}, r"from_embeddings needs an area"),
        ({"years": 2020, "resampling": "mode"}, r"resampling must be one of"),
        ({"years": 2020, "source": "modis"}, r"no embeddings at modis; give alphaear"),
    ],
)
def test_wrong_arguments_are_told(
    arguments: dict[str, Any], message: str, archives: dict[str, str]
) -> None:
    given = {"source": archives["geoemb"], "area": (25.1, 62.17, 25.2, 62.2)}
    with pytest.raises(gb.CubeError, match=message):
        gb.from_embeddings(**(given | arguments))


def test_an_unknown_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(gb.CubeError, match=r"neither aef_index\.parquet"):
        gb.from_embeddings(tmp_path, (25.1, 62.17, 25.2, 62.2), years=2020)
    zarr.open_group(str(tmp_path / "other.zarr"), mode="w")
    with pytest.raises(gb.CubeError, match="attributes lack geoemb:type and"):
        gb.from_embeddings(tmp_path / "other.zarr", (25.1, 62.17, 25.2, 62.2), 2020)


def test_wrong_files_of_alphaearth_are_told(
    copy: Any, scenes: dict[int, xr.Dataset]
) -> None:
    index = copy("alphaearth")
    area = inside(scenes[2020])
    file = sorted(index.parent.glob("2020/*/*.tiff"))[0]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(gb.CubeError, match=rf"{file.name} of 2020 must have .* bytes"):
        gb.from_embeddings(index, area, years=2020)
    file.unlink()
    small = np.zeros((3, 8, 8), np.uint8)
    place = rasterio.transform.from_origin(400_000, 6_900_000, 100, 100)
    with rasterio.open(
        file,
        "w",
        driver="GTiff",
        width=8,
        height=8,
        count=3,
        dtype="uint8",
        crs="EPSG:32635",
        transform=place,
    ) as wrong:
        wrong.write(small)
    message = rf"{file.name} of 2020 must have 64 bands of int8, got 3 bands of uint8"
    with pytest.raises(gb.CubeError, match=message):
        gb.from_embeddings(index, area, years=2020)
    (index.with_suffix(".csv")).write_text("year,path\n2020,a.tiff\n")
    with pytest.raises(gb.CubeError, match="and lacks wgs84_west"):
        gb.from_embeddings(index.with_suffix(".csv"), area, years=2020)


def test_pixels_that_are_damaged_are_told_with_file_and_year(
    copy: Any, scenes: dict[int, xr.Dataset]
) -> None:
    index = copy("alphaearth")
    cube = gb.from_embeddings(index, scenes[2020], years=2020)
    for file in index.parent.glob("2020/*/*.tiff"):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(gb.DamagedError, match=r"\.tiff of 2020 cannot be read at rows"):
        cube.compute()


def test_a_tile_that_is_gone_is_told_with_file_and_year(
    copy: Any, scenes: dict[int, xr.Dataset]
) -> None:
    root = copy("tessera-npy")
    cube = gb.from_embeddings(root, scenes[2020], years=2020)
    for file in root.glob("2020/*/*.npy"):
        file.unlink()
    with pytest.raises(gb.DamagedError, match=r"\.npy of 2020 cannot be read at rows"):
        cube.compute()


def test_wrong_files_of_tessera_are_told(
    copy: Any, scenes: dict[int, xr.Dataset]
) -> None:
    root = copy("tessera-npy")
    area = inside(scenes[2020])
    file = sorted(root.glob("2020/*/grid_*[0-9].npy"))[0]
    name = file.stem
    scales = file.with_name(f"{name}_scales.npy")
    whole, of_scales = file.read_bytes(), scales.read_bytes()

    def told(message: str) -> None:
        with pytest.raises(gb.CubeError, match=message):
            gb.from_embeddings(root, area, years=2020)

    file.write_bytes(whole[:-100])
    told(rf"{name}.npy of 2020 cannot be read: it must have .* it is cut short")
    np.save(file, np.zeros((3, 4, 64), np.int8))
    told(rf"{name}.npy of 2020 must have int8 \(y, x, 128\), got int8 \(3, 4, 64\)")
    file.write_bytes(whole)
    np.save(scales, np.zeros((3, 4), np.float64))
    told(rf"{name}_scales.npy of 2020 must have float32 .* got float64 \(3, 4\)")
    scales.unlink()
    told(rf"{name}.npy of 2020 has no scales, {name}_scales.npy")
    scales.write_bytes(of_scales)
    mask = root.parents[1] / "landmasks" / "v1" / f"{name}.tiff"
    mask.unlink()
    told(rf"{name}.npy of 2020 has no landmask, {name}.tiff")


def test_water_of_a_landmask_is_missing(
    copy: Any, scenes: dict[int, xr.Dataset]
) -> None:
    root = copy("tessera-npy")
    dry = vectors(gb.from_embeddings(root, scenes[2020], years=2020))
    for mask in (root.parents[1] / "landmasks" / "v1").glob("*.tiff"):
        with rasterio.open(mask, "r+") as source:
            land = source.read(1)
            land[:, :5] = 0
            source.write(land, 1)
    wet = vectors(gb.from_embeddings(root, scenes[2020], years=2020))
    assert np.isfinite(dry[:, :, :5]).any()
    assert np.isnan(wet[:, :, :5]).all()  # the western tiles begin with the scene
    seen = np.isfinite(wet)
    np.testing.assert_array_equal(wet[seen], dry[seen])


def test_wrong_stores_are_told(copy: Any, scenes: dict[int, xr.Dataset]) -> None:
    store = copy("tessera-zarr")
    area = inside(scenes[2020])
    cube = gb.from_embeddings(store, area, years=2020)

    def told(message: str, error: type[Exception] = gb.CubeError) -> None:
        with pytest.raises(error, match=message):
            gb.from_embeddings(store, area, years=2020)

    chunk = next((store / "utm35" / "embeddings" / "c").glob("0/0/0/0"))
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(gb.DamagedError, match=r"embeddings of 2020 cannot be read at"):
        cube.compute()
    shutil.rmtree(store / "utm35" / "scales")
    told(r"utm35 has no scales, the array 'scales'")
    group = zarr.open_group(str(store), mode="r+")
    zone = group["utm35"]
    assert isinstance(zone, zarr.Group)
    code = zone.attrs.pop("proj:code")
    zone.create_array("scales", shape=(2, 40, 66), dtype="float32")
    told("must state its place, proj:code")
    zone.attrs["proj:code"] = code
    group.attrs["geoemb:data_type"] = "float32"
    changed = dict(group.attrs["geoemb:quantization"])  # type: ignore[arg-type]
    changed["quantized_dtype"] = "uint8"
    group.attrs["geoemb:quantization"] = changed
    told(r"embeddings of .*utm35 must be uint8, .* got int8")
    group.attrs["geoemb:dimensions"] = 96
    del group.attrs["geoemb:depths"]
    changed["quantized_dtype"] = "int8"
    group.attrs["geoemb:quantization"] = changed
    told(r"must have 96 bands, y and x, got .*'band': 128")
    group.attrs["geoemb:type"] = "chip"
    told("must have one vector a pixel")


def test_an_index_on_a_server_names_no_files_of_this_machine(
    site: tuple[stac_server.Site, dict[str, str]], scenes: dict[int, xr.Dataset]
) -> None:
    server, _ = site
    import pandas as pd

    west, south, east, north = inside(scenes[2020])
    edges = {"wgs84_west": west, "wgs84_south": south}
    edges |= {"wgs84_east": east, "wgs84_north": north}
    row = {"year": 2020, "path": "/etc/hostname", **edges}
    pd.DataFrame([row]).to_csv(server.folder / "bad.csv", index=False)
    with pytest.raises(gb.CubeError, match=r"refers to /etc/hostname, a file"):
        gb.from_embeddings(f"{server.url}/bad.csv", inside(scenes[2020]), years=2020)


def test_the_tiles_are_named_by_year(
    archives: dict[str, str], scenes: dict[int, xr.Dataset]
) -> None:
    cube = gb.from_embeddings(archives["tessera-npy"], scenes[2020], years=2020)
    listed = json.loads(cube.attrs["scenes"])
    assert list(listed) == ["2020-01"]
    names = listed["2020-01"][0]["ids"]
    assert all(name.startswith("grid_25.") for name in names)
    assert len(names) > 1
    assert cube.attrs["step"] == "year"
    assert cube.attrs["product_version"] == "v1"
    assert "/" not in cube.attrs["source"]  # no folder of this machine


def test_the_command_writes_the_cube_and_says_the_attribution(
    archives: dict[str, str],
    scenes: dict[int, xr.Dataset],
    tmp_path: Path,
    run: Callable[..., tuple[int, str, str]],
) -> None:
    area = inside(scenes[2020])
    out = tmp_path / "scene.zarr"
    source = archives["alphaearth"]
    bbox = ["--bbox", *map(str, area)]
    code, told, _ = run("ingest", "embeddings", source, out, "--year", "2024", *bbox)
    assert code == 0
    assert "64 bands" in told
    assert "produced by Google and Google DeepMind" in told
    assert gb.open_cube(out).attrs["time_coverage_start"] == "2024-01-01"
    code, _, error = run("ingest", "embeddings", source, out, "--year", "2019", *bbox)
    assert code != 0
    assert "no embeddings of 2019, only of 2020, 2024" in error
