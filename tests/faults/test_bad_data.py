"""Data that nothing can be learnt from is refused, or counted and told."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import make_chips, make_scene
from PIL import Image

import geobiomass as gb
import pasture
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.reader import Sample
from geobiomass.recipes.scaling import Statistics, measure_statistics
from geobiomass.training import RegressionTask
from pasture.photo_files import PhotoError

BANDS = ("B02", "B03", "B04")
SMALL = {"backbone": "test_vit", "height": 32, "width": 64, "epochs": 1}
SMALL |= {"accelerator": "cpu", "progress": False, "stream": "single", "validation": 0}
NAN = np.float32(np.nan)


assert RegressionTask  # imported here, which takes seconds, and not in a test


def scene() -> xr.Dataset:
    return make_scene(32, 32, bands=BANDS).copy(deep=True)


def measured(cube: xr.Dataset) -> Statistics:
    """Measure training data as `gb.fit` does, before it trains."""
    reader = LabelledCube.open(cube).reader
    chips = range(reader.count) if reader.chips else [None]
    return measure_statistics(reader, [Sample(reader.whole, chip) for chip in chips])


def stored(cube: xr.Dataset, folder: Path) -> xr.Dataset:
    gb.write_cube(cube, folder / "cube.zarr", dtype="float32", progress=False)
    return gb.open_cube(folder / "cube.zarr")


@pytest.mark.filterwarnings("ignore:one chip, or a scene too small")
def test_images_without_a_value_are_refused(tmp_path: Path) -> None:
    empty, one_value = scene(), scene()
    empty["image"][:] = NAN
    one_value["image"][:] = 7
    chips = make_chips(3).copy(deep=True)
    chips["image"][:] = NAN
    said = "Images to train on must have values, got none, or one value only"
    for cube in (empty, one_value, chips, stored(empty, tmp_path)):
        with pytest.raises(gb.CubeError, match=said):
            measured(cube)
    options = {"encoder": "test_resnet", "pretrained": False, "epochs": 1}
    with pytest.raises(gb.CubeError, match=said):  # by the user's call
        gb.fit(empty, "quick", **options, progress=False)


def test_labels_of_one_value_are_refused() -> None:
    equal, single, none = scene(), scene(), scene()
    equal["agb"][:] = 100
    single["agb"][:] = NAN
    single["agb"][10, 10] = 50
    none["agb"][:] = NAN
    with pytest.raises(gb.CubeError, match="got 1,024 labels, all of 100: a model"):
        measured(equal)
    with pytest.raises(gb.CubeError, match="got 1 label, of 50: a model would"):
        measured(single)
    with pytest.raises(gb.CubeError, match=r"has no value|no label"):
        measured(none)
    single["agb"][11, 10] = 60
    with pytest.warns(UserWarning, match="2 labelled pixels train the model"):
        assert measured(single).target_range == (50, 60)


def test_labels_without_an_image_are_refused(tmp_path: Path) -> None:
    apart = scene()
    apart["image"][:, :, :16] = NAN
    apart["agb"][16:] = NAN
    for cube in (apart, stored(apart, tmp_path)):
        with pytest.raises(gb.CubeError, match="got 512 of which none is: every month"):
            measured(cube)
    apart["image"][1, 2, 3, 4] = 900  # one value is enough
    assert measured(apart).target_range[1] > 0


def test_infinity_and_absurd_values_are_counted_and_told(tmp_path: Path) -> None:
    bad = scene()
    sound = measured(bad)
    bad["agb"][:3, :3] = np.inf
    bad["image"][0, 1, 5, 5] = 1e30
    with pytest.warns(UserWarning, match="no measurement has") as told:
        found = measured(bad)
    words = " ".join(str(one.message) for one in told)
    assert "agb: inf (9 pixels)" in words
    assert "B03 1e+30 (1 pixels)" in words
    assert np.isfinite([*found.scale, found.target_scale]).all()
    np.testing.assert_allclose(found.scale, sound.scale, rtol=0.02)
    with pytest.warns(UserWarning, match="no measurement has"):
        kept = stored(bad, tmp_path)
    assert "1e+30" in str(kept["image"].attrs["taken_as_missing"])
    assert int(kept["agb"].isnull().sum()) == 9


def test_a_missing_month_is_missing(tmp_path: Path) -> None:
    cube = scene()
    whole = measured(cube)
    cube["image"][1] = NAN
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # months without images are usual
        found = measured(cube)
    assert np.isfinite(found.scale).all()
    assert found.scale != whole.scale
    assert "100" in str(gb.describe(cube))  # the table of missing values by month


@pytest.mark.filterwarnings("ignore:one chip, or a scene too small")
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
def test_scenes_of_a_pixel_or_a_line(size: tuple[int, int]) -> None:
    cube = make_scene(64, 64, bands=BANDS).isel(y=slice(size[0]), x=slice(size[1]))
    options = {"encoder": "test_resnet", "pretrained": False, "epochs": 1}
    with pytest.raises(ValueError, match=r"must have at least 32 pixels.* side of 1"):
        gb.fit(cube, "quick", **options, progress=False)


# --- pasture ---


def test_photos_that_teach_nothing_are_refused(tmp_path: Path) -> None:
    draw, targets = np.random.default_rng(0), list(pasture.TARGETS)
    for number in range(3):
        pixels = draw.integers(0, 255, (32, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"ID{number}.png")
    table = pd.DataFrame({"image_path": [f"ID{number}.png" for number in range(3)]})
    grams = draw.uniform(1, 50, (3, 3))
    parts = dict(zip(targets[:3], grams.T, strict=True))
    table = table.assign(**parts)
    table[targets[3]] = table[targets[0]] + table[targets[2]]
    table[targets[4]] = table[targets[3]] + table[targets[1]]
    table.to_csv(tmp_path / "train.csv", index=False)
    photos = pasture.read_photos(tmp_path / "train.csv", root=tmp_path)
    equal = photos.assign(**dict.fromkeys(targets, 5.0))
    with pytest.raises(PhotoError, match="got 3 photos with the same"):
        pasture.fit(equal, "quick", **SMALL)
    with pytest.raises(PhotoError, match="must differ, got 1 photos that are all"):
        pasture.fit(photos.iloc[:1], "quick", **SMALL)
    for number in (1, 2):
        shutil.copy(tmp_path / "ID0.png", tmp_path / f"ID{number}.png")
    with pytest.raises(PhotoError, match="must differ, got 3 photos that are all"):
        pasture.fit(photos, "quick", **SMALL)
    missing = photos.astype(dict.fromkeys(targets, float))
    missing.iloc[0, missing.columns.get_loc(targets[0])] = np.nan
    with pytest.raises(PhotoError, match=r"unknown|missing|empty|no number"):
        pasture.fit(missing, "quick", **SMALL)
