"""A flipped bit in a model, a GeoTIFF map or a validation's record is noticed."""

from __future__ import annotations

import json
import random
import shutil
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import rioxarray
import torch
import xarray as xr
from earlier_models import without_checksums
from rasterio.shutil import copy

import geobiomass as gb
import pasture
from geobiomass.maps.geotiff import write_geotiff
from geobiomass.maps.raster_checksums import RasterChecksums
from geobiomass.maps.reading import open_map
from geobiomass.metadata.record import folder_fingerprint
from geobiomass.network import AttentionUNet
from geobiomass.validation.folder import read_record, write_record
from pasture.network import PastureNetwork

BANDS = ("B02", "B03", "B04")


def regressor(seed: int) -> gb.BiomassRegressor:
    torch.manual_seed(seed)
    network = AttentionUNet(3, "test_resnet", (8, 8, 8, 8, 8)).eval()
    return gb.BiomassRegressor(network, BANDS, months=2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "both"
    gb.Ensemble([regressor(1), regressor(2)]).save(folder)
    return folder


def flipped(path: Path, at: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def weights_of(model: Any) -> list[bytes]:
    return [
        v.numpy().tobytes()
        for m in model.models
        for v in m.network.state_dict().values()
    ]


def outcome(ask: Callable[[], Any]) -> tuple[Any, str]:
    """Return the answer, or the words of the error of what is damaged."""
    try:
        return ask(), ""
    except (gb.ModelError, gb.DamagedError) as error:
        return None, str(error)


# --- models ---


@pytest.mark.slow
def test_a_flipped_bit_of_a_model_is_noticed_or_harmless(
    saved: Path, tmp_path: Path
) -> None:
    expected, chance = weights_of(gb.load(saved)), random.Random(0)
    names = [str(p.relative_to(saved)) for p in sorted(saved.rglob("*")) if p.is_file()]
    assert len(names) == 10
    for name in names:
        for _ in range(2):
            shutil.rmtree(tmp_path / "copy", ignore_errors=True)
            file = shutil.copytree(saved, tmp_path / "copy") / name
            flipped(file, chance.randrange(file.stat().st_size), chance.randrange(8))
            if name.endswith("README.md"):
                # A person may edit it; a damaged list is noticed, or not used.
                found, error = outcome(lambda: weights_of(gb.load(tmp_path / "copy")))
                assert found == expected or "README.md" in error
                continue
            for ask in (gb.load, gb.describe):
                with pytest.raises(gb.ModelError, match="is damaged") as caught:
                    ask(tmp_path / "copy")
                assert str(file) in str(caught.value)


@pytest.mark.slow
def test_the_readme_may_be_rewritten_and_other_files_not_swapped(
    saved: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved, tmp_path / "copy")
    card = folder / "README.md"
    card.write_text("# My forest\n\n" + card.read_text().partition("\n## ")[2])
    assert gb.describe(folder)["checksums"] == "9 files are as they were saved"
    one, two = (folder / f"member-{n}" / "weights.safetensors" for n in (1, 2))
    content = one.read_bytes()
    shutil.copy(two, one)
    with pytest.raises(gb.ModelError, match=r"member-1.weights\.safetensors is dam"):
        gb.load(folder)
    one.write_bytes(content)
    shutil.copy(one, folder / "member-1" / "domain.safetensors")
    with pytest.raises(gb.ModelError, match=r"domain\.safetensors .* another model"):
        gb.load(folder)
    (folder / "member-1" / "domain.safetensors").unlink()
    # Deleted, emptied or cut: it is told, and config.json has the checksums too.
    text = card.read_text()
    for left in (None, "", text[:-150]):
        card.unlink(missing_ok=True)
        if left is not None:
            card.write_text(left)
        said = r"copy.README\.md is gone" if left is None else "has not all checksums"
        with pytest.warns(UserWarning, match=said):
            assert weights_of(gb.load(folder)) == weights_of(gb.load(saved))
        for name in ("config.json", "member-1/config.json"):
            content = (folder / name).read_bytes()
            for at in range(3, len(content), len(content) // 7):
                flipped(folder / name, at, 1)
                with pytest.raises(gb.ModelError, match=r"config\.json is damaged"):
                    gb.load(folder)
                (folder / name).write_bytes(content)
    card.write_text(text)
    card.write_text(text.replace(text[-90:-80], "0123456789"))
    with pytest.raises(gb.ModelError, match=r"copy.README\.md is damaged"):
        gb.load(folder)
    (folder / "member-1" / "README.md").unlink()
    (folder / "member-1" / "history.csv").unlink()
    card.write_text(text)
    with pytest.raises(gb.ModelError, match=r"member-1.history\.csv is missing"):
        gb.load(folder)
    shutil.copy(saved / "member-1" / "history.csv", folder / "member-1")
    # As folders of earlier releases.
    without_checksums(folder)
    assert weights_of(gb.load(folder)) == weights_of(gb.load(saved))


def test_settings_ask_for_no_weights_and_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **named: object) -> None:
        raise AssertionError("a loaded model asks the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    regressor(1).save(tmp_path / "model")
    before = folder_fingerprint(tmp_path / "model")
    without_checksums(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())

    def write(**network: Any) -> None:
        settings = config["settings"]
        changed = settings | {"network": settings["network"] | network}
        file.write_text(json.dumps(config | {"settings": changed}))

    for asked in (True, "/etc/passwd", str(tmp_path / "no.pth")):
        write(pretrained=asked)
        gb.load(tmp_path / "model")
        assert folder_fingerprint(tmp_path / "model") == before
    wrong: list[dict[str, Any]] = [
        {"decoder_channels": [10**9] * 5},
        {"decoder_channels": [50_000] * 5},  # 400 GB
        {"bands": 10**9},
        {"levels": 10**9},
        {"encoder": ["x"]},
        {"encoder": "hf-hub:timm/resnet18.a1_in1k"},
    ]
    for network in wrong:
        write(**network)
        with pytest.raises(gb.ModelError, match="is damaged"):
            gb.load(tmp_path / "model")
    settings = config["settings"]
    texts = [
        "[" * 100_000,
        json.dumps([config]),
        json.dumps(config | {"settings": settings | {"network": [1]}}),
        json.dumps(config | {"settings": settings | {"bands": {"B02": 1}}}),
        json.dumps(config | {"settings": settings | {"recipe": [1]}}),
        json.dumps(config | {"settings": settings | {"calibration": 5}}),
        json.dumps(config | {"provenance": [1]}),
    ]
    for text in texts:
        file.write_text(text)
        with pytest.raises(gb.ModelError, match=r"config\.json is damaged"):
            gb.load(tmp_path / "model")


def test_a_model_of_pasture_is_checked_as_well(tmp_path: Path) -> None:
    network = PastureNetwork("test_resnet", scale=1.0)
    model = pasture.PastureRegressor(network, "quick")
    model.fitted = True
    held = pd.DataFrame({"Dry_Green_g": [1.5, 2.25]}, pd.Index(["a", "b"]))
    model.held_out = held.rename_axis("photo")
    model.save(tmp_path / "model")
    for name in ("config.json", "weights.safetensors", "held_out.csv"):
        file = tmp_path / "model" / name
        before = file.read_bytes()
        flipped(file, len(before) // 2, 1)
        with pytest.raises(gb.ModelError, match=f"{name} is damaged"):
            pasture.load(tmp_path / "model")
        file.write_bytes(before)
    without_checksums(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    config["settings"]["network"]["pretrained"] = str(tmp_path / "none")
    file.write_text(json.dumps(config))
    loaded = pasture.load(tmp_path / "model")
    pd.testing.assert_frame_equal(loaded.held_out, model.held_out)
    config["settings"]["network"]["targets"] = 10**9
    file.write_text(json.dumps(config))
    with pytest.raises(gb.ModelError, match="targets must be a whole number from 1"):
        pasture.load(tmp_path / "model")


# --- GeoTIFF maps ---


@pytest.fixture(scope="module")
def raster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = np.random.default_rng(0).normal(100, 20, (600, 530)).astype(np.float32)
    values[:90, :200] = np.nan
    axes = {"y": 7e6 - 10 * (np.arange(600) + 0.5), "x": 4e5 + 10 * np.arange(530.0)}
    attrs = {"units": "Mg/ha", "long_name": "biomass"}
    layers = {"agb": (("y", "x"), values, attrs), "agb_lower": (("y", "x"), values / 2)}
    scene = xr.Dataset(layers, axes).rio.write_crs("EPSG:3067")
    path = tmp_path_factory.mktemp("maps") / "map.tif"
    write_geotiff(scene, path, ["agb", "agb_lower"], "a hash")
    return path


def values_of(path: Path) -> dict[str, Any]:
    found = open_map(str(path))
    facts = {
        name: (layer.values.tobytes(), layer.attrs) for name, layer in found.items()
    }
    return facts | {"x": found["x"].values.tolist(), "crs": found.rio.crs.to_wkt()}


def test_a_flipped_bit_of_a_geotiff_is_noticed_or_harmless(
    raster: Path, tmp_path: Path
) -> None:
    expected, chance = values_of(raster), random.Random(1)
    size, noticed = raster.stat().st_size, 0
    header = [chance.randrange(6000) for _ in range(12)]
    for at in [*header, *(chance.randrange(size) for _ in range(12))]:
        copied = Path(shutil.copy(raster, tmp_path / "copy.tif"))  # as `cp` does
        flipped(copied, at, chance.randrange(8))
        found, error = outcome(lambda copied=copied: values_of(copied))
        assert found == expected or str(copied) in error, at
        assert "Read failed" not in error
        _, shown = outcome(lambda copied=copied: gb.describe(copied))
        noticed += bool(error or shown)
    assert noticed >= 8


def test_the_damaged_block_is_named_and_overviews_have_checksums(
    raster: Path, tmp_path: Path
) -> None:
    with rasterio.open(raster) as source:
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert source.overviews(1) == [2]
        where = int(source.tags(1, ns="TIFF").get("BLOCK_OFFSET_1_1", 0))
        where = where or int(source.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    copied = Path(shutil.copy(raster, tmp_path / "copy.tif"))
    flipped(copied, where + 60, 3)
    layer = open_map(str(copied))["agb"]
    assert layer.isel(y=slice(0, 500), x=slice(0, 500)).notnull().any()
    with pytest.raises(gb.DamagedError, match=r"rows 512 to 599, columns 512 to 529"):
        layer.isel(y=slice(590, 599), x=slice(520, 525)).values  # noqa: B018
    with rasterio.open(raster, overview_level=0) as source:
        small = source.read(1)
    checks = RasterChecksums.of(raster)
    assert checks is not None
    checks.check(1, small, 0, 0, level=1)
    small[5, 200] += 1
    with pytest.raises(gb.DamagedError, match=r"of the overview 2 in block 0\.0"):
        checks.check(1, small, 0, 0, level=1)


def test_what_others_make_of_a_map_has_no_false_alarm(
    raster: Path, tmp_path: Path
) -> None:
    made = {
        name: tmp_path / f"{name}.tif" for name in ("part", "plain", "again", "set")
    }
    opened = rioxarray.open_rasterio(raster)
    opened.isel(x=slice(100, 400), y=slice(50, 90)).rio.to_raster(made["part"])
    copy(raster, made["plain"], driver="GTiff")
    copy(raster, made["again"], driver="COG")
    shutil.copy(raster, made["set"])
    # Tiles that grow: GDAL then takes its mark of a COG away.
    powers = np.random.default_rng(2).uniform(-30, 30, (600, 530))
    values = (10.0**powers).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(made["set"], "r+", IGNORE_COG_LAYOUT_BREAK="YES") as target:
            target.write(values, 1)
    for path in made.values():
        assert open_map(str(path))["agb"].values.shape
    assert values_of(made["again"]) == values_of(raster)
    np.testing.assert_array_equal(open_map(str(made["set"]))["agb"], values)


def test_files_that_are_no_raster_are_named(tmp_path: Path) -> None:
    (tmp_path / "map.tif").write_bytes(b"no raster" * 9)
    asked: list[Callable[[Path], Any]] = [gb.describe, lambda p: open_map(str(p))]
    for ask in asked:
        with pytest.raises(gb.DamagedError, match=r"map\.tif cannot be read \(.*not"):
            ask(tmp_path / "map.tif")


# --- validations ---


def test_a_record_of_a_validation_has_a_checksum(tmp_path: Path) -> None:
    facts = {"cube": None, "pixel": 10.0, "folds": {"a": 1}, "settings": {}}
    write_record(tmp_path, facts | {"errors": {"all": {"bias": 1.25}}})
    file = tmp_path / "validation.json"
    assert read_record(tmp_path)["pixel"] == 10.0
    text = file.read_text()
    file.write_text(text.replace("1.25", "9.25"))
    with pytest.raises(ValueError, match=r"validation\.json: .*are damaged .*checksum"):
        read_record(tmp_path)
    # One of an earlier release has none, and stays as it is if nothing has changed.
    plain = {k: v for k, v in json.loads(text).items() if k != "crc32c"}
    file.write_text(json.dumps(plain))
    write_record(tmp_path, facts | {"errors": {"all": {"bias": 1.25}}})
    assert json.loads(file.read_text()) == plain
