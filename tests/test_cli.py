"""The command line: the whole way, and one sentence with exit code 2 for bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rioxarray
import torch
import xarray as xr
from biomassters_files import write_chip
from conftest import make_chips, make_scene
from rasterio.warp import transform_geom
from shapely import box

import geobiomass as gb
from geobiomass import cli
from geobiomass.network import AttentionUNet

QUICK = [
    *("--recipe", "quick", "--epochs", "2"),
    *("--set", "crop=32", "--set", "batch_size=4", "--set", "progress=false"),
    *("--set", "decoder_channels=[16,16,16,16,16]"),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*trained the model")  # no part was held out
def test_the_whole_way(run, tmp_path: Path) -> None:
    store, model = tmp_path / "scene.zarr", tmp_path / "model"
    scene = make_scene(96, 80)
    gb.write_cube(scene, store)
    code, out, err = run("train", store, model, *QUICK)
    assert code == 0, err
    assert "2 epochs" in out
    code, out, err = run("predict", model, store, tmp_path / "map.tif")
    assert code == 0, err
    expected = gb.load(model).predict(gb.open_cube(store)).agb
    raster = rioxarray.open_rasterio(tmp_path / "map.tif")
    np.testing.assert_array_equal(raster[0], expected)
    assert raster.rio.crs == scene.rio.crs
    code, out, err = run("evaluate", model, store, "--csv", tmp_path / "m.csv")
    assert code == 0, err
    table = pd.read_csv(tmp_path / "m.csv", index_col=0)
    assert table.loc["all", "pixels"] == 96 * 80
    assert "average_rmse" in out
    # Again: the finished training is read, the finished map is left as it is.
    before = (tmp_path / "map.tif").stat().st_mtime_ns
    assert run("train", store, model, *QUICK)[0] == 0
    assert run("predict", model, store, tmp_path / "map.tif")[0] == 0
    assert (tmp_path / "map.tif").stat().st_mtime_ns == before
    code, _, err = run("predict", model, store, tmp_path / "map.tif", "--flips")
    assert (code, "overwrite" in err) == (2, True)
    code, _, err = run(
        *("predict", model, store, tmp_path / "map.tif", "--flips", "--overwrite")
    )
    assert code == 0, err


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """Two small models, not trained."""
    folders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        network = AttentionUNet(3, "test_resnet", (16, 16, 16, 16, 16))
        model = gb.BiomassRegressor(network, ("VV_asc", "B04", "B08"), 3)
        folders.append(tmp_path / f"model{seed}")
        model.save(folders[-1])
    return folders


@pytest.mark.slow
def test_predict_takes_all_that_python_takes(
    run, tmp_path: Path, models: list[Path]
) -> None:
    store, out = tmp_path / "scene.zarr", tmp_path / "map.zarr"
    scene = make_scene(600, 300)
    gb.write_cube(scene, store)
    corners = scene.isel(y=slice(100, 130), x=slice(20, 90)).rio.bounds()
    region = {"type": "Polygon", "coordinates": [list(box(*corners).exterior.coords)]}
    region = transform_geom(scene.rio.crs, "EPSG:4326", region)
    (tmp_path / "park.geojson").write_text(json.dumps(region))
    code, _, err = run(
        *("predict", models[0], store, out, "--ensemble", models[1]),
        *("--tile", 64, "--overlap", 32, "--block", 128, "--turns"),
        *("--blend", "crop", "--precision", "bf16", "--overviews"),
        *("--region", tmp_path / "park.geojson"),
    )
    assert code == 0, err
    found = xr.open_zarr(out)
    both = gb.Ensemble([gb.load(folder) for folder in models])
    expected = both.predict(
        gb.open_cube(store),
        *(64, 32),
        turns=True,
        blend="crop",
        precision="bf16",
        region=region,
    )
    np.testing.assert_array_equal(found.agb, expected.agb)
    assert np.isfinite(found.agb.values).sum() == 30 * 70
    assert xr.open_zarr(out, group="overviews/2").agb.shape == (300, 150)
    code, said, err = run("info", out)
    assert code == 0, err
    assert "tile 64, overlap 32, blend crop, " in said
    assert "turns yes, precision bf16" in said
    assert "overviews" in said


def test_plan_says_what_a_map_takes(run, tmp_path: Path, models: list[Path]) -> None:
    store = tmp_path / "scene.zarr"
    gb.write_cube(make_scene(100, 90), store)
    tiling = ("--tile", 32, "--overlap", 0, "--block", 64)
    code, out, err = run("plan", store, "--model", models[0], "--workers", 2, *tiling)
    assert code == 0, err
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["tiles"].startswith("12 of 32 pixels")
    assert lines["blocks"] == "4 of 64 pixels"
    assert "2 machines like this one" in lines["takes"]
    code, out, err = run("plan", store, "--recipe", "quick", *tiling)
    assert code == 0, err
    assert "12 of 32 pixels" in out
    code, _, err = run("plan", store, "--workers", 0)
    assert (code, "workers must be at least 1" in err) == (2, True)
    assert not list(tmp_path.glob("*.unfinished*"))


@pytest.mark.slow
def test_ingest_goes_on_where_it_was_interrupted(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geobiomass.sources.biomassters import from_folder as biomassters

    root, store = tmp_path / "root", tmp_path / "chips.zarr"
    for name in ("aaaa0001", "aaaa0002", "aaaa0003", "aaaa0004"):
        write_chip(root, name)
    reads: list[str] = []
    read = biomassters._read_image

    def interrupted(plan) -> np.ndarray:
        if len(reads) == 2:
            raise KeyboardInterrupt
        reads.append(plan.chip)
        return read(plan)

    monkeypatch.setattr(biomassters, "_read_image", interrupted)
    code, _, err = run("ingest", "biomassters", root, store)
    assert code == 130
    assert "the same command continues" in err
    assert "Writing chips.zarr" in err  # the progress bar

    def counted(plan) -> np.ndarray:
        reads.append(plan.chip)
        return read(plan)

    reads.clear()
    monkeypatch.setattr(biomassters, "_read_image", counted)
    code, out, err = run("ingest", "biomassters", root, store)
    assert code == 0, err
    assert "4 chips" in out
    assert 2 <= len(reads) <= 3
    expected = gb.from_biomassters(root).load()
    xr.testing.assert_allclose(gb.open_cube(store).load(), expected, atol=0.00502)


@pytest.mark.slow
def test_info_says_what_is_there(run, tmp_path: Path) -> None:
    scene, chips = make_scene(), make_chips(3)
    gb.write_cube(scene, tmp_path / "scene.zarr")
    gb.write_cube(chips, tmp_path / "chips.zarr")
    code, out, err = run("info", tmp_path / "scene.zarr")
    assert code == 0, err
    for text in ("scene", "40 x 56 pixels", "VV_asc B04 B08", "6 7 8", "EPSG:3067"):
        assert text in out
    assert " 75 " in out or " 75\n" in out  # percent of B08 that June has
    code, out, err = run("info", tmp_path / "chips.zarr")
    assert code == 0, err
    assert "3 chips of 32 x 32 pixels" in out
    assert run("train", tmp_path / "chips.zarr", tmp_path / "model", *QUICK)[0] == 0
    code, out, err = run("info", tmp_path / "model")
    assert "BiomassRegressor" in out
    assert "resnet10t" in out
    for name in ("map.zarr", "map.tif"):
        path = tmp_path / name
        assert run("predict", tmp_path / "model", tmp_path / "scene.zarr", path)[0] == 0
        code, out, err = run("info", path)
        assert code == 0, err
        assert "agb, Mg/ha" in out
        assert "EPSG:3067" in out


def bad_commands(folder: Path) -> dict[str, tuple[list[object], str]]:
    scene = make_scene(48, 48)
    gb.write_cube(scene, folder / "scene.zarr")
    gb.write_cube(scene.drop_vars("agb"), folder / "unlabelled.zarr")
    gb.write_cube(scene.assign(agb=scene["agb"] * np.nan), folder / "empty.zarr")
    gb.write_cube(scene.isel(band=[0]), folder / "radar.zarr")
    months = scene.assign_coords(band=scene["band"].astype(object), month=[0, 7, 8])
    months.to_zarr(folder / "months.zarr", zarr_format=3, consolidated=False)
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("no cube")
    (folder / "chips").mkdir()
    gb.fit(scene, "quick", epochs=1, crop=32, progress=False, validation=0).save(
        folder / "model"
    )
    (folder / "part").mkdir()
    config = (folder / "model" / "config.json").read_text()
    (folder / "part" / "config.json").write_text(config)
    model, out = folder / "model", folder / "out"
    return {
        "no chips": (["ingest", "biomassters", folder / "chips", out], "chips"),
        "no folder": (["ingest", "biomassters", folder / "gone", out], "gone"),
        "lacks a band": (
            ["predict", model, folder / "radar.zarr", folder / "m.tif"],
            "Bands ['B04', 'B08'] are needed",
        ),
        "no target": (["train", folder / "unlabelled.zarr", out], "has no 'agb'"),
        "target is NaN": (["train", folder / "empty.zarr", out], "every value is NaN"),
        "months": (["train", folder / "months.zarr", out], "got [0, 7, 8]"),
        "no cube": (["train", folder / "notes", out], "is not a Zarr group"),
        "nothing there": (["info", folder / "gone.zarr"], "nothing at"),
        "model incomplete": (
            ["predict", folder / "part", folder / "scene.zarr", folder / "m.tif"],
            "weights.safetensors is missing",
        ),
        "no model": (
            ["predict", folder / "notes", folder / "scene.zarr", folder / "m.tif"],
            "config.json is missing",
        ),
        "unknown recipe": (
            ["train", folder / "scene.zarr", out, "--recipe", "best"],
            "recipe must be one of",
        ),
        "unknown setting": (
            ["train", folder / "scene.zarr", out, "--set", "epoch=1"],
            "did you mean",
        ),
        "no value": (["train", folder / "scene.zarr", out, "--set", "x"], "name=value"),
        "map's ending": (
            ["predict", model, folder / "scene.zarr", folder / "m.png"],
            "must end in",
        ),
    }


@pytest.mark.slow
def test_bad_input_is_one_sentence_and_exit_code_2(run, tmp_path: Path) -> None:
    for name, (words, said) in bad_commands(tmp_path).items():
        code, out, err = run(*words)
        assert code == 2, name
        assert said in err, (name, err)
        assert err.startswith("geobiomass: "), name
        assert "Traceback" not in out + err, name
        assert err.count("\n") == 1, (name, err)
        assert not (tmp_path / "out").exists(), name


@pytest.mark.parametrize(
    "words",
    [
        ["info"],
        ["ingest", "biomassters"],
        ["train"],
        ["predict"],
        ["evaluate"],
        ["demo"],
    ],
)
def test_help_shows_an_example(run, words: list[str]) -> None:
    code, out, _ = run(*words, "--help")
    assert code == 0
    assert f"geobiomass {' '.join(words)}" in " ".join(out.split())
    assert "Example" in out


def test_a_failing_program_is_not_hidden(
    run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scene: xr.Dataset
) -> None:
    # Bad input is a sentence; a mistake of ours is a traceback.
    monkeypatch.setattr("geobiomass.info.describe", lambda path: {}["oops"])
    monkeypatch.setattr(sys, "argv", ["geobiomass", "info", str(tmp_path)])
    with pytest.raises(KeyError):
        cli.main()
