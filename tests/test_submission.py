"""Competition files: a GeoTIFF a chip, resumable; nothing else is overwritten."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from biomassters_files import MONTHS, cut_to, read_tiff, write_chip, write_tiff
from conftest import make_chips, make_scene
from test_maps import BANDS, NETWORK, Counting, small_network

import geobiomass as gb
from geobiomass.network import AttentionUNet


def model_of(network: torch.nn.Module = NETWORK) -> gb.BiomassRegressor:
    model = gb.BiomassRegressor(NETWORK, BANDS, months=3)
    model.network = network
    return model


def counting(limit: int | None = None) -> Counting:
    """The small network, counting; interrupted after some chips."""

    def forward(image: torch.Tensor) -> torch.Tensor:
        if limit is not None and network.calls > limit:
            raise KeyboardInterrupt
        return NETWORK(image)

    network = Counting(forward)
    network.calendar = None
    network.state_dict = NETWORK.state_dict  # type: ignore[method-assign]
    return network


def submit(model: gb.BiomassRegressor, folder: Path, cube, **settings) -> Path:
    return model.predict_chips_to(folder, cube, progress=False, **settings)


def test_files_hold_the_map_and_no_biomass_below_zero(tmp_path: Path) -> None:
    chips, model = make_chips(4), model_of()
    chips["image"][1, :, :, :5] = np.nan  # nothing observed
    low = small_network()
    low.set_statistics([-10, 2000, 2000], [5, 900, 900], [0.0], [40.0])
    model = gb.BiomassRegressor(low, BANDS, 3)
    folder = submit(model, tmp_path / "out", chips, flips=True)
    assert folder == tmp_path / "out"
    expected = model.predict(chips, flips=True).agb.values
    assert (expected < 0).any()
    assert np.isnan(expected[1, :5]).all()
    assert sorted(file.name for file in folder.iterdir()) == [
        f"chip{i:03d}_agbm.tif" for i in range(4)
    ]
    for index in range(4):
        found = read_tiff(folder / f"chip{index:03d}_agbm.tif")
        assert found.dtype == np.float32
        assert found.shape == (1, 32, 32)
        np.testing.assert_array_equal(found[0], np.nan_to_num(expected[index]).clip(0))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_files_have_no_place_as_the_competitions(tmp_path: Path) -> None:
    import rasterio

    folder = submit(model_of(), tmp_path / "out", make_chips(1))
    with rasterio.open(folder / "chip000_agbm.tif") as source:
        assert source.crs is None
        assert source.transform.is_identity
        assert (source.count, source.dtypes, source.nodata) == (1, ("float32",), None)


@pytest.mark.slow
def test_from_the_competitions_files_and_back(tmp_path: Path, run) -> None:
    torch.manual_seed(0)
    bands = gb.from_biomassters
    root = tmp_path / "root"
    for name in ("aaaa0001", "aaaa0002"):
        write_chip(root, name, split="test", optical=MONTHS[3:], label=False)
    cube = bands(root, "test")
    network = AttentionUNet(15, "test_resnet", (16, 16, 16, 16, 16)).eval()
    model = gb.BiomassRegressor(network)
    model.save(tmp_path / "model")
    gb.write_cube(cube, tmp_path / "chips.zarr", dtype="float32")
    words = ("predict", tmp_path / "model", tmp_path / "chips.zarr", tmp_path / "out")
    code, out, err = run(*words, "--format", "biomassters", "--turns")
    assert code == 0, err
    assert "done" in out
    # Read as labels are.
    shutil.copytree(tmp_path / "out", root / "test_agbm")
    back = bands(root, "test")
    expected = model.predict(cube, turns=True).agb.values.clip(0)
    np.testing.assert_array_equal(back.agb, expected)
    # Straight from the competition's files too.
    submit(model, tmp_path / "lazy", cube, turns=True)
    for name in ("aaaa0001", "aaaa0002"):
        np.testing.assert_array_equal(
            read_tiff(tmp_path / "lazy" / f"{name}_agbm.tif"),
            read_tiff(tmp_path / "out" / f"{name}_agbm.tif"),
        )


def test_interrupted_it_goes_on(tmp_path: Path) -> None:
    chips, folder = make_chips(8), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        submit(model_of(counting(3)), folder, chips)
    there = len(list(folder.glob("*_agbm.tif")))
    assert 0 < there < 8
    network = counting()
    submit(model_of(network), folder, chips)
    assert network.calls == 8 - there
    whole = submit(model_of(), tmp_path / "whole", chips)
    for file in whole.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()
    assert len(list(folder.iterdir())) == 8
    again = counting()
    submit(model_of(again), folder, chips)
    assert again.calls == 0


@pytest.mark.parametrize("damage", ["cut", "changed", "deleted"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: str) -> None:
    chips = make_chips(3)
    folder = submit(model_of(), tmp_path / "out", chips)
    file = folder / "chip001_agbm.tif"
    before = file.read_bytes()
    if damage == "cut":
        file.write_bytes(before[: len(before) // 2])
    elif damage == "changed":
        values = bytearray(before)
        values[len(before) // 2] ^= 64
        file.write_bytes(bytes(values))
    else:
        file.unlink()
    network = counting()
    submit(model_of(network), folder, chips)
    assert network.calls == 1
    assert file.read_bytes() == before


@pytest.mark.slow
def test_a_damaged_chip_is_named_and_the_rest_written(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("aaaa0001", "aaaa0002", "aaaa0003"):
        write_chip(root, name, split="test", label=False)
    cube = gb.from_biomassters(root, "test")
    network = AttentionUNet(15, "test_resnet", (16, 16, 16, 16, 16)).eval()
    model, folder = gb.BiomassRegressor(network), tmp_path / "out"
    image = root / "test_features" / "aaaa0002_S2_04.tif"
    with cut_to(image, 900), pytest.raises(gb.IncompleteMapError, match="aaaa0002"):
        submit(model, folder, cube)
    names = ["aaaa0001_agbm.tif", "aaaa0003_agbm.tif"]
    assert sorted(file.name for file in folder.iterdir()) == names
    submit(model, folder, cube)
    assert len(list(folder.iterdir())) == 3


def stranger(folder: Path) -> None:
    (folder / "thesis.txt").write_text("ten years of work")


def label(folder: Path) -> None:
    write_tiff(folder / "chip000_agbm.tif", np.ones((1, 32, 32), np.float32))


def other_chip(folder: Path) -> None:
    write_tiff(folder / "aaaa0001_agbm.tif", np.ones((1, 32, 32), np.float32))


@pytest.mark.parametrize(
    ("put", "said"),
    [(stranger, "thesis.txt"), (label, "no map of a chip"), (other_chip, "aaaa0001")],
)
def test_nothing_else_is_overwritten(
    tmp_path: Path, put: Callable[[Path], None], said: str
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    put(folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(FileExistsError, match=said):
        submit(model_of(), folder, make_chips(2))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    with pytest.raises(FileExistsError, match=said):
        submit(model_of(), folder, make_chips(2), overwrite=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_files_by_another_model_or_settings_are_refused(tmp_path: Path, run) -> None:
    chips = make_chips(2)
    folder = submit(model_of(), tmp_path / "out", chips)
    with pytest.raises(FileExistsError, match="--overwrite"):
        submit(model_of(), folder, chips, flips=True)
    with pytest.raises(FileExistsError, match="--overwrite"):
        submit(model_of(), folder, chips.assign(image=chips["image"] + 1))
    before = read_tiff(folder / "chip000_agbm.tif")
    submit(model_of(), folder, chips, flips=True, overwrite=True)
    assert (read_tiff(folder / "chip000_agbm.tif") != before).any()


def test_scenes_and_what_is_of_scenes_are_refused(tmp_path: Path, run) -> None:
    with pytest.raises(gb.CubeError, match="takes chips, got a scene"):
        submit(model_of(), tmp_path / "out", make_scene())
    with pytest.raises(ValueError, match="does not exist"):
        submit(model_of(), tmp_path / "gone" / "out", make_chips(1))
    model_of().save(tmp_path / "model")
    gb.write_cube(make_chips(1), tmp_path / "chips.zarr")
    words = ("predict", tmp_path / "model", tmp_path / "chips.zarr", tmp_path / "out")
    code, _, err = run(*words, "--format", "biomassters", "--overviews")
    assert (code, "maps of scenes" in err) == (2, True)
    assert not (tmp_path / "out").exists()
