"""Provenance in Zarr, GeoTIFF and lazy maps, after kills and moves."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray
import torch
import xarray as xr
from conftest import make_chips, make_scene
from stac_server import BOUNDS, PERIOD, images
from test_maps import BANDS, NETWORK, Failing, small_network
from test_saving import loaders_of

import geobiomass as gb
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.maps.origin import PROVENANCE, with_software_of
from geobiomass.metadata import record
from geobiomass.metadata.provenance import Provenance
from geobiomass.metadata.record import weights_fingerprint
from geobiomass.models.training_record import describe_training
from geobiomass.sources.landscape.archive import write_archive

TILING: dict[str, Any] = {"tile": 32, "overlap": 16, "block": 32, "progress": False}
SCENES = {"2023-06": [{"collection": "S2", "baseline": "05.10", "ids": ["a", "b"]}]}


def lines_of(found: object) -> dict[str, str]:
    """Return the printed texts by their headings, which two blanks end."""
    pairs = [line.split("  ", 1) for line in str(found).splitlines()]
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def dated(scene: xr.Dataset) -> xr.Dataset:
    return scene.assign_attrs(
        title="a wood",
        source="drawn",
        time_coverage_start="2023-06-01",
        time_coverage_end="2023-08-31",
        scenes=json.dumps(SCENES),
    )


@pytest.fixture(scope="module")
def model() -> gb.BiomassRegressor:
    """A model that says where its weights come from."""
    chips = make_chips()
    chips.attrs["title"] = "six chips"
    made = gb.BiomassRegressor(small_network(), BANDS, months=3)
    made.recipe = gb.Recipe(name="quick", crop=32, month_term=False)
    made.provenance = describe_training(
        LabelledCube.open(chips), made.network, *loaders_of(chips)
    )
    return made


@pytest.fixture(scope="module")
def geotiff(model: gb.BiomassRegressor, tmp_path_factory: Any) -> Path:
    path = tmp_path_factory.mktemp("made") / "map.tif"
    notes = {"contact": "maps@example.org", "licence": "CC-BY-4.0"}
    model.predict_to(path, dated(make_scene()), **TILING, notes=notes)
    return path


def test_a_map_says_model_data_input_settings_and_software(
    geotiff: Path, model: gb.BiomassRegressor
) -> None:
    found = gb.provenance(geotiff)
    assert list(found) == [
        *("format", "model", "input", "settings", "region", "check"),
        *("software", "notes"),
    ]
    known = found["model"]
    assert known["fingerprint"] == weights_fingerprint(model.network)
    assert known["bands"] == list(BANDS)
    assert known["outputs"] == ["agb"]
    assert known["network"]["encoder"] == "test_resnet"
    weights = sum(each.numel() for each in model.network.parameters())
    assert known["parameters"] == weights
    assert known["training"] == model.provenance["data"]
    assert known["training"]["title"] == "six chips"
    assert known["errors"] == model.provenance["validation"]["all"]
    assert known["calibration"] is None
    assert known["recipe"]["name"] == "quick"
    assert found["input"]["title"] == "a wood"
    assert found["input"]["months"] == [6, 7, 8]
    assert found["input"]["scenes"] == SCENES
    assert len(found["input"]["fingerprint"]) == 64
    assert found["settings"]["tile"] == 32
    assert found["settings"]["precision"] == "float32"
    assert found["region"] == "whole"
    assert found["notes"]["licence"] == "CC-BY-4.0"
    (software,) = found["software"]
    assert software["packages"]["torch"] == torch.__version__.split("+")[0]
    assert software["packages"]["geobiomass"] == gb.__version__
    json.dumps(found.to_dict(), allow_nan=False)
    found.to_dict()["model"]["bands"].clear()
    assert found["model"]["bands"] == list(BANDS)


def test_it_prints_as_a_table(geotiff: Path, model: gb.BiomassRegressor) -> None:
    facts = lines_of(gb.provenance(geotiff))
    errors = model.provenance["validation"]["all"]
    assert facts["held-out error"].startswith(
        f"average RMSE {errors['average_rmse']:.1f}"
    )
    assert facts["trained on"].startswith("six chips: 4 chips")
    assert facts["input"].startswith("a wood; fingerprint ")
    assert facts["period"] == "2023-06-01 to 2023-08-31"
    assert "tile 32, overlap 16, blend smooth" in facts["settings"]
    assert facts["notes"] == "contact: maps@example.org; licence: CC-BY-4.0"
    html = gb.provenance(geotiff)._repr_html_()
    assert "held-out error" in html
    assert "S2, baseline 05.10" in html


def test_zarr_geotiff_lazy_map_and_rioxarray_say_the_same(
    geotiff: Path, model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    scene = dated(make_scene())
    path = model.predict_to(tmp_path / "map.zarr", scene, **TILING)
    whole = gb.provenance(geotiff).to_dict()
    for found in (path, str(path), xr.open_zarr(path)):
        assert gb.provenance(found).to_dict() == whole | {"notes": {}}
    assert gb.provenance(rioxarray.open_rasterio(geotiff)).to_dict() == whole
    lazy = model.predict(scene, tile=32, overlap=16, block=32)
    plain = gb.provenance(lazy).to_dict()
    assert plain["input"].pop("fingerprint") is None  # nothing was read for it
    whole["input"].pop("fingerprint")
    assert plain == whole | {"notes": {}}
    # Text, so that the map can go on to files that hold nothing else.
    lazy.to_netcdf(tmp_path / "map.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "map.nc", engine="h5netcdf") as back:
        assert gb.provenance(back).to_dict() == gb.provenance(lazy).to_dict()


def test_rasterio_and_gdal_read_the_tag_of_the_finished_cog(geotiff: Path) -> None:
    with rasterio.open(geotiff) as source:
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        note = json.loads(source.tags()["geobiomass_provenance"])
    assert note == gb.provenance(geotiff).to_dict()
    if not (program := shutil.which("gdalinfo")):
        pytest.skip("gdalinfo is not installed; rasterio's GDAL has read the tag")
    said = subprocess.run(
        [program, "-json", geotiff], capture_output=True, check=True, text=True
    ).stdout
    assert json.loads(json.loads(said)["metadata"][""][PROVENANCE]) == note


@pytest.mark.slow
def test_neither_time_nor_place_is_noted(
    model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        cube = tmp_path / name / "scene.zarr"
        gb.write_cube(dated(make_scene()), cube, progress=False)
        scene = gb.open_cube(cube)
        model.predict_to(tmp_path / name / "map.tif", scene, **TILING)
        model.predict_to(tmp_path / name / "map.zarr", scene, **TILING)
    one, other = (tmp_path / name / "map.tif" for name in ("here", "there"))
    assert one.read_bytes() == other.read_bytes()
    with rasterio.open(one) as source:  # not its bytes: a short name may be in pixels
        tags = json.dumps([source.tags(), *(source.tags(i) for i in source.indexes)])
    for said in ((tmp_path / "here" / "map.zarr" / "zarr.json").read_text(), tags):
        assert str(tmp_path) not in said
        assert not re.search(rf"\b{re.escape(os.uname().nodename)}\b", said)
    moved = other.rename(tmp_path / "moved.tif")
    shutil.rmtree(tmp_path / "there")
    assert gb.provenance(moved) == gb.provenance(one)


def test_a_map_can_be_made_again_from_what_it_says(
    geotiff: Path, model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    known = gb.provenance(geotiff)
    model.save(tmp_path / "model")
    again = tmp_path / "again.tif"
    gb.load(tmp_path / "model").predict_to(
        again,
        dated(make_scene()),
        **known["settings"],
        notes=known["notes"],
        progress=False,
    )
    assert gb.provenance(again) == known
    with rasterio.open(again) as one, rasterio.open(geotiff) as other:
        np.testing.assert_array_equal(one.read(), other.read())


@pytest.mark.parametrize("suffix", ["zarr", "tif"])
def test_a_map_that_other_software_goes_on_with_names_both(
    tmp_path: Path,
    suffix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene, path = dated(make_scene(128, 96)), tmp_path / f"map.{suffix}"
    model = gb.BiomassRegressor(NETWORK, BANDS, months=3)
    model.network = Failing(3)
    with contextlib.suppress(KeyboardInterrupt):
        model.predict_to(path, scene, **TILING)
    begun = gb.provenance(path)  # of what is unfinished too
    assert len(begun["software"]) == 1
    other = begun["software"][0] | {"python": "3.99.0"}
    monkeypatch.setattr(record, "software", lambda: other)
    model.network = Failing(10**9)
    model.predict_to(path, scene, **TILING)
    found = gb.provenance(path)
    assert found["software"] == [*begun["software"], other]
    assert "Python 3.99.0" in str(found)
    assert found["input"] == begun["input"]
    # Called once more, the finished map is left as it is.
    monkeypatch.setattr(record, "software", lambda: other | {"python": "4.0"})
    model.predict_to(path, scene, **TILING)
    assert gb.provenance(path) == found


def test_the_same_software_is_noted_once() -> None:
    note = json.dumps({"software": [{"python": "3.11"}], "notes": {}})
    assert with_software_of(note, note) is note


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "hand"])
def test_an_ensemble_names_its_members(
    tmp_path: Path, model: gb.BiomassRegressor, kind: str
) -> None:
    second = gb.BiomassRegressor(small_network(), BANDS, months=3)
    with torch.no_grad():
        second.network.head.weight.mul_(0.5)
    both: Any = gb.Ensemble([model, second])
    if kind == "folder":
        both.save(tmp_path / "both")
        both = gb.load(tmp_path / "both")
    found = gb.provenance(both.predict(dated(make_scene()), tile=32, overlap=16))
    known = found["model"]
    assert known["class"] == "Ensemble"
    prints = [weights_fingerprint(each.network) for each in (model, second)]
    assert [each["fingerprint"] for each in known["members"]] == prints
    assert known["fingerprint"] == weights_fingerprint(both.network)
    assert known["members"][0]["training"]["title"] == "six chips"
    assert known["members"][1]["training"] is None
    text = str(found)
    assert "mean of 2" in text
    assert "trained on: not recorded" in text


def test_a_network_that_somebody_brought_says_so() -> None:
    model = gb.BiomassRegressor(NETWORK, BANDS, months=3)
    model.network = Failing(10**9)
    found = gb.provenance(model.predict(make_scene()))
    assert found["model"]["network"] == {"class": "Failing"}
    facts = lines_of(found)
    assert facts["trained on"] == "not recorded"
    assert facts["held-out error"] == "not measured"
    assert facts["input"].startswith("untitled; ")


def test_calibration_and_applicability_are_noted() -> None:
    model = gb.BiomassRegressor(small_network(), BANDS, months=3)
    unknown = lines_of(gb.provenance(model.predict(make_scene())))
    assert (unknown["calibration"], unknown["applicability"]) == ("none", "none")
    model.calibrate(make_scene(), 0.5, unit=16).learn_applicability(make_chips())
    found = gb.provenance(model.predict(make_scene()))
    assert model.calibration is not None
    assert model.domain is not None
    assert found["model"]["calibration"] == model.calibration.to_dict()
    assert found["model"]["applicability"] == model.domain.to_dict()
    facts = lines_of(found)
    assert facts["calibration"] == str(model.calibration)
    assert f"{model.domain.cells:,} cells of 16 pixels from 6" in facts["applicability"]


def test_of_long_tables_there_is_a_fingerprint() -> None:
    table = np.zeros((500, 8))
    short = record.compact({"level": 0.9, "widths": [1.0, np.nan], "table": table})
    assert short["widths"] == [1.0, None]
    assert short["table"]["items"] == 500
    table[499, 7] = 1
    other = record.compact({"table": table})["table"]
    assert other["sha256"] != short["table"]["sha256"]


def test_the_region_is_noted(tmp_path: Path) -> None:
    model = gb.BiomassRegressor(NETWORK, BANDS, months=3)
    region = (400_000, 6_899_800, 400_300, 6_900_000)
    path = model.predict_to(
        tmp_path / "map.zarr", make_scene(), **TILING, region=region
    )
    (shape,) = gb.provenance(path)["region"]
    assert shape["coordinates"][0][0] == [400_000.0, 6_899_800.0]


def test_of_very_many_scenes_a_map_counts_them() -> None:
    names = [f"scene-{number}" for number in range(record.MOST_SCENES + 1)]
    cube = dated(make_scene())
    cube.attrs["scenes"] = json.dumps(
        {"2023-06": [{"baseline": "05.10", "ids": names}]}
    )
    model = gb.BiomassRegressor(NETWORK, BANDS, months=3)
    found = gb.provenance(model.predict(cube))
    (group,) = found["input"]["scenes"]["2023-06"]
    assert group["count"] == len(names)
    assert group["baseline"] == "05.10"
    assert len(json.dumps(found.to_dict())) < 5_000
    assert str(len(names)) in str(found)


@pytest.mark.slow
def test_a_cube_from_an_archive_names_its_scenes_on_disk_and_in_its_map(
    tmp_path: Path,
) -> None:
    pytest.importorskip("odc.stac")
    scene = gb.landscape((40, 48), months=2, seed=4, crs="EPSG:32635").compute()
    items = write_archive(scene, tmp_path / "archive", 2024)
    months = "2024-07:2024-08"
    cube = gb.from_stac(
        items, like=scene, months=months, bands=("VV_asc", "B04", "B08")
    )
    gb.write_cube(cube, tmp_path / "s.zarr")
    model = gb.BiomassRegressor(NETWORK, BANDS, months=2)
    path = model.predict_to(
        tmp_path / "map.tif", gb.open_cube(tmp_path / "s.zarr"), **TILING
    )
    found = gb.provenance(path)["input"]
    optical, radar = found["scenes"]["2024-07"]
    assert optical == {
        "collection": "Planetary Computer: sentinel-2-l2a",
        "baseline": "05.10",
        "offset": 1000,
        "ids": ["sentinel-2-l2a-20240706-l2a", "sentinel-2-l2a-20240721-l2a"],
    }
    assert "sentinel-1-rtc-20240710-ascending" in radar["ids"]
    assert found["time_coverage_end"] == "2024-08-31"
    assert str(tmp_path) not in json.dumps(gb.provenance(path).to_dict())


def test_items_of_an_archive_are_named_with_their_address(tmp_path: Path) -> None:
    pytest.importorskip("odc.stac")
    import pystac

    drawn = images()
    found = []
    for image in drawn:
        item = pystac.Item.from_dict(image.item("https://data.example.org"))
        item.set_self_href(f"https://api.example.org/items/{image.name}?token=secret")
        found.append(item)
    cube = gb.from_stac(found, BOUNDS, 20, months=PERIOD)
    scenes = json.loads(cube.attrs["scenes"])
    assert list(scenes) == ["2021-12", "2022-02", "2022-03"]
    assert scenes["2022-03"] == [
        {
            "collection": "Planetary Computer: sentinel-1-rtc",
            "at": "https://api.example.org/items",
            "ids": ["s1-mar-01-asc"],
        }
    ]
    assert "secret" not in cube.attrs["scenes"]


def test_a_cube_of_files_names_them_within_their_folder(tmp_path: Path) -> None:
    grid = {"driver": "GTiff", "height": 8, "width": 8, "count": 1, "dtype": "float32"}
    place = rasterio.transform.from_origin(0, 80, 10, 10)
    for name in ("06/B04", "07/B04", "07/B08"):
        path = tmp_path / "2023" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(path, "w", crs="EPSG:3067", transform=place, **grid) as file:
            file.write(np.ones((1, 8, 8), np.float32))
    cube = gb.from_rasters(str(tmp_path / "{year}" / "{month}" / "{band}.tif"))
    assert json.loads(cube.attrs["scenes"]) == {
        "2023-06": [{"ids": ["06/B04.tif"]}],
        "2023-07": [{"ids": ["07/B04.tif", "07/B08.tif"]}],
    }
    assert cube.attrs["time_coverage_start"] == "2023-06-01"
    assert cube.attrs["time_coverage_end"] == "2023-07-31"
    gb.write_cube(cube, tmp_path / "cube.zarr", quantum={"B04": 1, "B08": 1})
    assert gb.open_cube(tmp_path / "cube.zarr").attrs == cube.attrs


def test_what_says_nothing_is_refused(tmp_path: Path, geotiff: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing at .*absent\.tif"):
        gb.provenance(tmp_path / "absent.tif")
    with pytest.raises(ValueError, match="attribute or tag 'geobiomass_provenance'"):
        gb.provenance(make_scene())
    with pytest.raises(ValueError, match=r"must end in \.zarr"):
        gb.provenance(tmp_path / "map.png")
    model = gb.BiomassRegressor(NETWORK, BANDS, months=3)
    with pytest.raises(ValueError, match=r"notes must be texts by name.*'year': 2024"):
        model.predict_to(
            tmp_path / "map.tif",
            make_scene(),
            notes={"year": 2024},  # type: ignore[dict-item]
        )
    assert not list(tmp_path.iterdir())


def test_a_map_of_an_earlier_version_says_what_it_knows() -> None:
    made_with = {"model": "a" * 64, "bands": ["B04"], "input": "b" * 64, "grid": "c"}
    old = xr.Dataset(attrs={"made_with": made_with | {"tile": 256}})
    found = gb.provenance(old)
    assert isinstance(found, Provenance)
    assert found["model"]["fingerprint"] == "a" * 64
    facts = lines_of(found)
    assert facts["settings"] == "tile 256"
    assert facts["software"] == "not recorded"


def test_info_shows_it(geotiff: Path, run: Any) -> None:
    code, said, _ = run("info", geotiff)
    assert code == 0
    assert lines_of(said)["trained on"].startswith("six chips: 4 chips")
    code, said, _ = run("info", geotiff, "--json")
    assert json.loads(said)["provenance"] == gb.provenance(geotiff).to_dict()
    facts = gb.describe(geotiff)
    assert "average RMSE" in facts["held-out error"]
    assert "bands" not in facts
