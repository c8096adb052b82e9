"""STAC items of maps, validated by pystac against the published schemas."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import xarray as xr
from affine import Affine
from conftest import make_chips, make_scene
from rasterio.crs import CRS
from stac_schemas import published_schemas
from test_maps import BANDS, small_network
from test_provenance import TILING, dated
from test_saving import loaders_of

import geobiomass as gb
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.metadata import footprint, stac_item
from geobiomass.metadata.footprint import facts_of_map
from geobiomass.models.training_record import describe_training

pystac = pytest.importorskip("pystac")
validation = pytest.importorskip("pystac.validation.stac_validator")
pytest.importorskip("jsonschema")

IN_2023 = (datetime(2023, 6, 1), datetime(2023, 8, 31))
LINKED = {
    "2023-06": [{"collection": "S2", "at": "https://example.org/items", "ids": ["a"]}]
}


Validate = Callable[[dict[str, Any]], list[str]]

# Tests that use `validate`: pip takes long to download the published schemas.
needs_schemas = pytest.mark.slow


@pytest.fixture(scope="module")
def validate(tmp_path_factory: pytest.TempPathFactory) -> Validate:
    """Validate against core and extensions: gives the schemas that were used."""
    schemas = published_schemas(tmp_path_factory.mktemp("schemas"))

    def run(content: dict[str, Any]) -> list[str]:
        checker = validation.JsonSchemaSTACValidator()
        checker.schema_cache.update(schemas)
        item = pystac.Item.from_dict(copy.deepcopy(content), migrate=False)
        found: list[str] = item.validate(validator=checker)
        return found

    return run


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a saved model, a GeoTIFF and a Zarr map by it."""
    folder = tmp_path_factory.mktemp("made")
    chips = make_chips()
    model = gb.BiomassRegressor(small_network(), BANDS, months=3)
    model.recipe = gb.Recipe(name="quick", crop=32, month_term=False)
    model.provenance = describe_training(
        LabelledCube.open(chips), model.network, *loaders_of(chips)
    )
    model.save(folder / "model")
    scene = dated(make_scene())
    scene.attrs["scenes"] = json.dumps(LINKED)
    notes = {"contact": "maps@example.org", "licence": "CC-BY-4.0"}
    for name in ("map.tif", "map.zarr"):
        model.predict_to(folder / name, scene, **TILING, notes=notes)
    return folder


@pytest.fixture
def item(made: Path, tmp_path: Path) -> dict[str, Any]:
    path = made / "whole.json"
    gb.write_stac_item(made / "map.tif", path, model=made / "model", id="whole")
    return read(path)


@needs_schemas
@pytest.mark.parametrize("name", ["map.tif", "map.zarr"])
@pytest.mark.parametrize("model", [True, False])
def test_an_item_is_valid_by_core_and_each_extension(
    validate: Validate, made: Path, name: str, model: bool
) -> None:
    path = made / f"{name}-{model}.json"
    folder = made / "model" if model else None
    gb.write_stac_item(made / name, path, model=folder)
    content = read(path)
    expected = {stac_item.PROJECTION, stac_item.RASTER, stac_item.PROCESSING}
    expected |= {stac_item.FILE} if name == "map.tif" else set()
    expected |= {stac_item.MODEL} if model else set()
    core, *others = validate(content)
    assert core.endswith("v1.1.0/item-spec/json-schema/item.json")
    assert set(others) == expected == set(content["stac_extensions"])


@needs_schemas
@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (("properties", "proj:transform"), [1.0, 2.0]),
        (("properties", "proj:code"), 3067),
        (("properties", "processing:software"), {"torch": 2}),
        (("properties", "mlm:tasks"), ["guessing"]),
        (("properties", "mlm:input", 0, "input", "data_type"), "float33"),
        (("properties", "mlm:output"), [{"name": "agb"}]),
        (("properties", "mlm:name"), "a/b"),
        (("assets", "model", "mlm:artifact_type"), None),
        (("assets", "model", "raster:bands"), []),
        (("assets", "map", "raster:bands", 0, "nodata"), "none"),
        (("assets", "map", "file:checksum"), "No"),
        (("assets", "map", "bands", 0, "data_type"), "float33"),
        (("properties", "datetime"), "yesterday"),
        (("geometry", "type"), "Polygons"),
        (("stac_extensions",), []),
    ],
)
def test_a_broken_field_is_found(
    validate: Validate, item: dict[str, Any], place: tuple[Any, ...], wrong: Any
) -> None:
    validate(item)
    inner: Any = item
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = wrong
    if place == ("stac_extensions",):
        assert len(validate(item)) == 1  # nothing but the core is looked at
        return
    with pytest.raises((pystac.STACValidationError, pystac.STACTypeError, ValueError)):
        validate(item)


def test_grid_values_and_times_are_the_maps(made: Path, item: dict[str, Any]) -> None:
    properties = item["properties"]
    asset = item["assets"]["map"]
    with rasterio.open(made / "map.tif") as source:
        values = source.read(1)
        assert properties["proj:shape"] == list(source.shape)
        assert properties["proj:transform"] == list(source.transform)[:6]
        assert properties["proj:code"] == "EPSG:3067"
        assert properties["proj:bbox"] == list(source.bounds)
    (band,) = asset["bands"]
    assert band["statistics"]["mean"] == pytest.approx(np.nanmean(values))
    assert band["statistics"]["maximum"] == pytest.approx(np.nanmax(values))
    facts = {key: band[key] for key in ("name", "unit", "nodata", "data_type")}
    assert facts == {
        "name": "agb", "unit": "Mg/ha", "nodata": "nan", "data_type": "float32",
    }  # fmt: skip
    assert asset["raster:bands"][0]["spatial_resolution"] == 10
    assert asset["roles"] == ["data"]
    assert properties["datetime"] is None
    assert properties["start_datetime"] == "2023-06-01T00:00:00Z"
    assert properties["end_datetime"] == "2023-08-31T23:59:59Z"
    content = (made / "map.tif").read_bytes()
    assert asset["file:size"] == len(content)
    assert asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
    known = gb.provenance(made / "map.tif").to_dict()
    assert properties["geobiomass:provenance"] == known
    assert properties["license"] == "CC-BY-4.0"
    assert properties["providers"][0]["name"] == "maps@example.org"
    assert [x["href"] for x in item["links"]] == ["https://example.org/items/a"]
    assert item["links"][0]["rel"] == "derived_from"


def test_pystac_reads_the_model_and_rasterio_opens_the_map(
    made: Path, tmp_path: Path
) -> None:
    path = gb.write_stac_item(made / "map.tif", model=made / "model")
    assert path == made / "map.json"
    found = pystac.Item.from_file(path)
    mlm = found.ext.mlm
    assert [str(task) for task in mlm.tasks] == ["regression"]
    assert mlm.architecture == "AttentionUNet test_resnet"
    (taken,) = mlm.input
    assert taken.bands == list(BANDS)
    assert taken.input.shape == [-1, -1, 3, 32, 32]
    assert taken.input.dim_order == ["batch", "time", "bands", "height", "width"]
    loaded = gb.load(found.assets["model"].get_absolute_href())
    scaling = found.properties["mlm:input"][0]["value_scaling"]
    assert [x["mean"] for x in scaling] == loaded.network.shift.tolist()
    assert mlm.total_parameters == sum(x.numel() for x in loaded.network.parameters())
    assert mlm.pretrained is False
    assert found.ext.proj.epsg == 3067
    href = found.assets["map"].href
    assert href == "./map.tif"
    # Moved as a whole it still fits together: nothing names a place on the machine.
    assert str(made) not in path.read_text()
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("map.tif", "map.json"):
        (moved / name).write_bytes((made / name).read_bytes())
    asset = pystac.Item.from_file(moved / "map.json").assets["map"]
    with rasterio.open(asset.get_absolute_href()) as source:
        assert source.shape == (40, 56)


def test_zarr_assets_are_opened_from_the_item(made: Path) -> None:
    path = gb.write_stac_item(made / "map.zarr", made / "zarr.json")
    asset = pystac.Item.from_file(path).assets["map"]
    assert asset.media_type == "application/vnd.zarr; version=3"
    opened = xr.open_zarr(asset.get_absolute_href())
    mean = asset.extra_fields["bands"][0]["statistics"]["mean"]
    assert mean == pytest.approx(float(opened.agb.mean()))


def test_the_outline_is_that_of_the_pixels_with_values(tmp_path: Path) -> None:
    from pyproj import Transformer

    scene = make_scene(64, 80)
    scene["image"][:, :, :, :32] = np.nan
    model = gb.BiomassRegressor(small_network(), BANDS, months=3)
    for name in ("map.tif", "map.zarr"):
        path = model.predict_to(tmp_path / name, scene, **TILING)
        facts = facts_of_map(path)
        assert facts.valid == (0, 32, 64, 80)
        ring = np.array(facts.geometry["coordinates"][0])
        back = Transformer.from_crs("OGC:CRS84", 3067, always_xy=True)
        x, y = back.transform(*ring.T)
        assert (x.min(), x.max()) == pytest.approx((400_320, 400_800), abs=0.1)
        assert (y.min(), y.max()) == pytest.approx((6_899_360, 6_900_000), abs=0.1)
        # Counterclockwise, closed, as GeoJSON wants it; points on all four sides.
        assert (ring[0] == ring[-1]).all()
        turned = ring[:-1, 0] * ring[1:, 1] - ring[1:, 0] * ring[:-1, 1]
        assert turned.sum() > 0
        assert len(ring) == 81
        np.testing.assert_allclose(facts.bbox[:2], ring.min(0))
        np.testing.assert_allclose(facts.bbox[2:], ring.max(0))


@needs_schemas
def test_an_outline_across_180_degrees_is_cut_there(
    validate: Validate, tmp_path: Path
) -> None:
    scene = make_scene(32, 64).drop_vars("spatial_ref")
    scene = scene.assign_coords(y=np.linspace(10, 9, 32), x=np.linspace(179, 181.1, 64))
    place = scene.rio.write_crs("EPSG:4326").rio.write_coordinate_system()
    model = gb.BiomassRegressor(small_network(), BANDS, months=3)
    path = model.predict_to(tmp_path / "map.tif", place, **TILING)
    content = read(gb.write_stac_item(path, datetime=IN_2023))
    validate(content)
    assert content["geometry"]["type"] == "MultiPolygon"
    west, _, east, _ = content["bbox"]
    assert west > 178
    assert -180 < east < -178
    assert "spatial_resolution" not in content["assets"]["map"]["raster:bands"][0]


def test_a_map_of_the_whole_world_is_not_cut() -> None:
    world = Affine(0.5, 0, -180, 0, -0.5, 90)
    seen = np.ones((1, 1), bool)
    facts = footprint._facts(CRS.from_epsg(4326), world, (360, 720), seen, [])
    assert facts.geometry["type"] == "Polygon"
    assert facts.bbox == [-180, -90, 180, 90]


@needs_schemas
def test_predict_to_and_the_command_write_it(
    validate: Validate, made: Path, tmp_path: Path, run: Any
) -> None:
    model, scene = gb.load(made / "model"), dated(make_scene())
    path = tmp_path / "map.zarr"
    model.predict_to(path, scene, **TILING, stac_item=made / "model")
    assert stac_item.MODEL in validate(read(tmp_path / "map.json"))
    gb.write_cube(scene, tmp_path / "scene.zarr", progress=False)
    words = ["predict", made / "model", tmp_path / "scene.zarr", tmp_path / "m.tif"]
    words += ["--tile", 32, "--overlap", 16, "--stac-item"]
    code, _, error = run(*words, "--contact", "maps@example.org")
    assert (code, error) == (0, error)
    content = read(tmp_path / "m.json")
    assert stac_item.MODEL in validate(content)
    known = content["properties"]["geobiomass:provenance"]
    assert known["notes"] == {"contact": "maps@example.org"}
    ensemble = [*words[:3], tmp_path / "both.tif", *words[4:]]
    code, _, _ = run(*ensemble, "--ensemble", made / "model")
    assert code == 0
    assert stac_item.MODEL not in validate(read(tmp_path / "both.json"))


@needs_schemas
def test_an_item_of_an_ensemble(validate: Validate, made: Path, tmp_path: Path) -> None:
    one = gb.load(made / "model")
    both = gb.Ensemble([one, one], spread=True)
    both.save(tmp_path / "both")
    path = both.predict_to(
        tmp_path / "map.tif", dated(make_scene()), **TILING, stac_item=tmp_path / "both"
    )
    content = read(path.with_suffix(".json"))
    validate(content)
    properties = content["properties"]
    assert properties["mlm:architecture"].startswith("mean of 2: AttentionUNet")
    assert [x["name"] for x in properties["mlm:output"]] == ["agb", "agb_spread"]
    assert [x["name"] for x in content["assets"]["map"]["bands"]] == [
        *("agb", "agb_spread")
    ]


@needs_schemas
def test_address_time_collection_and_name_can_be_given(
    validate: Validate, made: Path, tmp_path: Path
) -> None:
    extent = pystac.Extent(
        pystac.SpatialExtent([[-180, -90, 180, 90]]),
        pystac.TemporalExtent([[IN_2023[0], None]]),
    )
    collection = pystac.Collection("maps", "Maps", extent)
    collection.set_self_href("https://example.org/maps/collection.json")
    path = gb.write_stac_item(
        made / "map.tif",
        tmp_path / "item.json",
        model="https://example.org/model/",
        href="https://example.org/map.tif",
        collection=collection,
        datetime=datetime(2023, 7, 1, tzinfo=UTC),
        id="wood-2023",
    )
    content = read(path)
    assert stac_item.MODEL in validate(content)
    assert content["id"] == "wood-2023"
    assert content["collection"] == "maps"
    assert content["properties"]["datetime"] == "2023-07-01T00:00:00Z"
    assert content["assets"]["map"]["href"] == "https://example.org/map.tif"
    assert content["assets"]["model"]["href"] == "https://example.org/model/"
    # Again, for a newer one of the same name; but never over something else.
    summer = ("2023-07-01", "2023-08-31")
    gb.write_stac_item(made / "map.tif", path, id="wood-2023", datetime=summer)
    found = read(path)["properties"]
    assert found["start_datetime"] == "2023-07-01T00:00:00Z"
    assert found["end_datetime"] == "2023-08-31T23:59:59Z"
    for text in ("{}", "[]", "no JSON", json.dumps({"type": "Feature", "id": "x"})):
        path.write_text(text)
        with pytest.raises(FileExistsError, match="is not the STAC item 'wood-2023'"):
            gb.write_stac_item(made / "map.tif", path, id="wood-2023")
        assert path.read_text() == text


def test_another_model_is_refused(made: Path, tmp_path: Path) -> None:
    other = gb.load(made / "model")
    with torch.no_grad():
        other.network.head.weight.mul_(0.5)
    other.save(tmp_path / "other")
    with pytest.raises(ValueError, match="model must be the one that made the map"):
        gb.write_stac_item(
            made / "map.tif", tmp_path / "x.json", model=tmp_path / "other"
        )
    assert not (tmp_path / "x.json").exists()


def test_what_cannot_have_an_item_is_refused_before_it_is_mapped(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = gb.load(made / "model")
    path = tmp_path / "map.tif"
    with pytest.raises(ValueError, match="years of the map's input are not known"):
        model.predict_to(path, make_scene(), **TILING, stac_item=True)
    bare = dated(make_scene().drop_vars("spatial_ref"))
    with pytest.raises(ValueError, match="scene with a reference system"):
        model.predict_to(path, bare, **TILING, stac_item=True)
    with pytest.raises(ValueError, match="Chips have no georeference"):
        model.predict_to(
            tmp_path / "m.zarr", dated(make_chips()), **TILING, stac_item=True
        )
    with pytest.raises(ValueError, match="needs a map on a disk"):
        model.predict_to(
            "memory://map.zarr", dated(make_scene()), **TILING, stac_item=True
        )
    with pytest.raises(FileNotFoundError):
        gb.write_stac_item(path, datetime=IN_2023)
    monkeypatch.setitem(__import__("sys").modules, "pystac", None)
    with pytest.raises(ModuleNotFoundError, match=r"geobiomass\[stac\]"):
        model.predict_to(path, dated(make_scene()), **TILING, stac_item=True)
    assert not list(tmp_path.iterdir())
