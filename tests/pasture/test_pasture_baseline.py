"""Colour indices against values computed by hand, and the ridge regression on them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.model_selection import GroupKFold

import pasture
from geobiomass.training.metrics import weighted_r2
from pasture.baseline import (
    ColourIndexRidge,
    colour_indices,
    cross_validate,
    index_photos,
    otsu,
)
from pasture.swards import draw_swards

TARGETS = list(pasture.TARGETS)
WEIGHTS = [0.1, 0.1, 0.1, 0.2, 0.5]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swards")
    draw_swards(folder, 64, 128)  # JPEG blurs the colours of smaller photos
    return pasture.read_photos(folder / "train.csv", folder)


@pytest.fixture(scope="module")
def indices(photos):
    return index_photos(photos)


def folds_of(photos, count=4):
    folds = pd.Series(0, photos.index)
    split = GroupKFold(count).split(photos, groups=photos["Sampling_Date"])
    for fold, (_, held) in enumerate(split):
        folds.iloc[held] = fold
    return folds


# --- indices ---


def flat(colour, height=4):
    return np.full((height, 2 * height, 3), colour, np.uint8)


def test_indices_of_one_colour_are_those_by_hand():
    found = colour_indices(flat((60, 120, 20)))
    # r, g, b = 0.3, 0.6, 0.1
    expected = {
        "ExG": 0.8,
        "ExR": 1.4 * 0.3 - 0.6,
        "ExGR": 0.8 - (1.4 * 0.3 - 0.6),
        "NGRDI": 60 / 180,
        "GLI": 160 / 320,
        "VARI": 60 / 160,
        "saturation": 100 / 120,
        "brightness": 120 / 255,
    }
    for name, value in expected.items():
        for part in ("mean", "p10", "p50", "p90"):
            assert found[f"{name}_{part}"] == pytest.approx(value, abs=1e-12), name
    # 60 degrees x (2 + (20 - 60) / (120 - 20)) = 96 degrees
    assert (found["green_hue"], found["straw_hue"]) == (1, 0)
    assert (found["cover"], found["cover_ExGR"]) == (0, 1)


def test_straw_and_leaves_differ_in_hue():
    # 60 x (150 - 100) / (200 - 100) = 30 degrees
    found = colour_indices(flat((200, 150, 100)))
    assert (found["green_hue"], found["straw_hue"]) == (0, 1)


@pytest.mark.parametrize("colour", [(0, 0, 0), (90, 90, 90), (255, 255, 255)])
def test_grey_has_neither_greenness_nor_hue(colour):
    found = colour_indices(flat(colour))
    for name in ("ExG", "NGRDI", "GLI", "VARI", "saturation"):
        assert found[f"{name}_mean"] == pytest.approx(0, abs=1e-12)
    assert (found["green_hue"], found["straw_hue"], found["cover"]) == (0, 0, 0)


def test_vari_is_bounded_where_its_divisor_vanishes():
    found = colour_indices(np.concatenate([flat((100, 50, 150)), flat((10, 60, 69))]))
    # 0 where G + R = B, and 50 / 1 is clipped to 1.
    assert (found["VARI_p10"], found["VARI_p90"]) == (0, 1)


def test_cover_is_the_share_of_green():
    pixels = flat((120, 90, 70), height=20)
    pixels[:5] = (60, 140, 40)
    found = colour_indices(pixels)
    assert found["cover"] == pytest.approx(0.25)
    assert found["cover_ExGR"] == pytest.approx(0.25)


def test_otsu_separates_two_clusters_as_brute_force_does():
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(0, 1, 700), random.normal(6, 1, 300)])
    threshold = otsu(values)

    def within(edge):
        return sum(
            part.var() * part.size
            for part in (values[values <= edge], values[values > edge])
        )

    best = min(
        within(edge) for edge in np.linspace(values.min(), values.max(), 400)[1:-1]
    )
    assert within(threshold) == pytest.approx(best, rel=0.02)


def test_files_images_and_arrays_have_the_same_indices(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    expected = colour_indices(pixels)
    for photo in (tmp_path / "photo.png", str(tmp_path / "photo.png")):
        pd.testing.assert_series_equal(colour_indices(photo), expected)
    image = Image.fromarray(pixels).convert("RGBA")
    pd.testing.assert_series_equal(colour_indices(image), expected)


def test_large_photos_are_reduced_first():
    image = Image.fromarray(flat((60, 120, 20), height=1000))
    small = colour_indices(flat((60, 120, 20)))
    pd.testing.assert_series_equal(colour_indices(image), small)


@pytest.mark.slow
def test_anything_but_a_photo_is_refused(tmp_path, photos):
    with pytest.raises(ValueError, match=r"\(y, x, 3\) uint8, got \(4, 4\) float64"):
        colour_indices(np.zeros((4, 4)))
    with pytest.raises(pasture.PhotoError, match="cannot be read"):
        colour_indices(tmp_path / "none.jpg")
    with pytest.raises(pasture.PhotoError, match="got 64 rows and State"):
        index_photos(photos[["State"]])


# --- the ridge ---


def test_the_ridge_beats_the_mean_of_other_dates(photos, indices):
    folds = folds_of(photos)
    ridge = cross_validate(photos, folds, indices=indices)
    mean = photos[TARGETS].copy()
    for fold in folds.unique():
        mean[folds == fold] = photos.loc[folds != fold, TARGETS].mean().to_numpy()
    scores = [weighted_r2(found, photos[TARGETS], WEIGHTS) for found in (mean, ridge)]
    assert scores[1] > scores[0] + 0.1


def test_predictions_are_grams_that_add_up(photos, indices):
    grams = ColourIndexRidge().fit(photos, indices).predict(photos, indices)
    assert list(grams.columns) == TARGETS
    assert grams.index.equals(photos.index)
    assert bool((grams >= 0).all(axis=None))
    assert bool((grams == 0).any(axis=None))  # a linear model predicts below 0
    assert (grams["GDM_g"] == grams["Dry_Green_g"] + grams["Dry_Clover_g"]).all()
    assert (grams["Dry_Total_g"] == grams["GDM_g"] + grams["Dry_Dead_g"]).all()


def test_photos_are_read_if_their_indices_are_not_given(photos, indices):
    few = photos.iloc[:10]
    model = ColourIndexRidge([1.0]).fit(few)
    known = ColourIndexRidge([1.0]).fit(few, indices)
    rest = photos.iloc[10:14]
    pd.testing.assert_frame_equal(
        model.predict(rest[["path"]]), known.predict(rest, indices)
    )


def test_a_fold_is_predicted_by_a_model_not_trained_on_it(photos, indices):
    folds = folds_of(photos)
    before = cross_validate(photos, folds, indices=indices)
    assert before.index.equals(photos.index)
    changed = photos.copy()
    changed.loc[folds == 2, TARGETS] *= 10
    after = cross_validate(changed, folds, indices=indices)
    held = folds == 2
    pd.testing.assert_frame_equal(before[held], after[held], check_exact=True)
    assert not np.allclose(before[~held], after[~held])


def test_folds_and_photos_that_do_not_fit_are_refused(photos, indices):
    folds = folds_of(photos)
    with pytest.raises(ValueError, match="got 4 folds and 3 of 64 photos in none"):
        cross_validate(photos, folds.iloc[3:], indices=indices)
    with pytest.raises(ValueError, match="got 1 folds"):
        cross_validate(photos, folds * 0, indices=indices)
    with pytest.raises(pasture.PhotoError, match="got no Dry_Dead_g"):
        ColourIndexRidge().fit(photos.drop(columns="Dry_Dead_g"), indices)
    with pytest.raises(RuntimeError, match=r"must be fitted .*; call fit first"):
        ColourIndexRidge().predict(photos)
