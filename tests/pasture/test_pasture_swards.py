"""Synthetic photos: their grams follow from the drawn leaves; tables and dates."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import pasture
from pasture.swards import draw_swards, grow, photograph, visit_of

TARGETS = list(pasture.TARGETS)


@pytest.fixture
def visit():
    return visit_of("Tas", 7, 10, "train", 0)


def draw(seed=0):
    return np.random.default_rng(seed)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "photos").iterdir()}


# --- leaves ---


def test_grams_are_areas_times_masses_of_the_leaves(visit):
    sward = grow(visit, (20.0, 8.0, 6.0), draw())
    expected = np.zeros(3)
    for outline, kind, mass in zip(
        sward.outlines, sward.kinds, sward.masses, strict=True
    ):
        x, y = outline.real, outline.imag
        area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
        expected[kind] += area * mass
    grams = sward.grams
    np.testing.assert_allclose([grams[name] for name in TARGETS[:3]], expected)
    assert grams["GDM_g"] == grams["Dry_Green_g"] + grams["Dry_Clover_g"]
    assert grams["Dry_Total_g"] == grams["GDM_g"] + grams["Dry_Dead_g"]


def test_swards_have_about_the_requested_grams(visit):
    asked = (30.0, 12.0, 9.0)
    grown = [list(grow(visit, asked, draw(seed)).grams.values()) for seed in range(30)]
    np.testing.assert_allclose(np.mean(grown, axis=0)[:3], asked, rtol=0.08)
    bare = grow(visit, (0.0, 0.0, 0.0), draw())
    assert set(bare.grams.values()) == {0.0}


def greenness(image: Image.Image) -> float:
    red, green, blue = np.moveaxis(np.asarray(image, np.float64), -1, 0)
    return float((2 * green > 1.05 * (red + blue)).mean())


def test_more_green_leaves_are_more_green_pixels(visit):
    visit = replace(visit, yellowing=0.0, light=np.ones(3))
    cover = [
        np.mean(
            [
                greenness(
                    photograph(
                        grow(visit, (grams, 3.0, 0.0), draw(s)), visit, 64, draw()
                    )
                )
                for s in range(3)
            ]
        )
        for grams in (0.0, 3.0, 10.0, 30.0)
    ]
    assert np.diff(cover).min() > 0.05
    # Hidden leaves have mass too: twenty more grams increase the cover less.
    assert (cover[3] - cover[2]) / 20 < (cover[1] - cover[0]) / 3


def test_dense_swards_are_dark_below_their_top(visit):
    """Compare dark pixels: each layer of leaves takes light from the layers below."""
    visit = replace(visit, light=np.ones(3), cloud=1.0)
    dark = [
        np.mean(np.asarray(photo.convert("L"), float) < 40)
        for grams in (10.0, 80.0)
        for photo in [photograph(grow(visit, (grams, 0, 0), draw()), visit, 96, draw())]
    ]
    assert dark[1] > dark[0] + 0.02


# --- photos and tables ---


def test_the_same_seed_draws_the_same_photos(tmp_path):
    tables = [draw_swards(tmp_path / name, 6, 32, seed=3) for name in "ab"]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    draw_swards(tmp_path / "c", 6, 32, seed=4)
    assert not set(files(tmp_path / "a").values()) & set(files(tmp_path / "c").values())


def test_a_photo_does_not_depend_on_the_number_of_photos(tmp_path):
    few = draw_swards(tmp_path / "few", 3, 32)
    many = draw_swards(tmp_path / "many", 9, 32)
    pd.testing.assert_frame_equal(few, many[:3], check_exact=True)
    assert files(tmp_path / "few").items() <= files(tmp_path / "many").items()
    assert len(set(files(tmp_path / "many").values())) == 9


def test_the_table_is_read_as_the_competitions(tmp_path):
    table = draw_swards(tmp_path, 8, 32)
    long = pd.read_csv(tmp_path / "train.csv")
    assert list(long.columns) == [
        "sample_id",
        "image_path",
        "Sampling_Date",
        "State",
        "Species",
        "Pre_GSHH_NDVI",
        "Height_Ave_cm",
        "target_name",
        "target",
    ]
    assert len(long) == 5 * 8
    photos = pasture.read_photos(tmp_path / "train.csv", tmp_path)
    assert list(photos.index) == [Path(path).stem for path in table["image_path"]]
    np.testing.assert_array_equal(photos[TARGETS], table[TARGETS])
    for given, read in zip(
        table["Sampling_Date"], photos["Sampling_Date"], strict=True
    ):
        assert given == f"{read.year}/{read.month}/{read.day}"
    with Image.open(photos["path"].iloc[0]) as image:
        assert (image.format, image.size) == ("JPEG", (64, 32))
    plain = pasture.read_photos(table, tmp_path)
    np.testing.assert_array_equal(plain[TARGETS], photos[TARGETS])


@pytest.mark.slow
def test_a_test_set_has_other_dates_and_a_separate_ground_truth(tmp_path):
    train = draw_swards(tmp_path, 20, 16)
    test = draw_swards(tmp_path, 20, 16, part="test")
    assert not set(train["Sampling_Date"]) & set(test["Sampling_Date"])
    asked = pd.read_csv(tmp_path / "test.csv")
    assert list(asked.columns) == ["sample_id", "image_path", "target_name"]
    photos = pasture.read_photos(tmp_path / "test.csv", tmp_path)
    truth = pasture.read_photos(tmp_path / "truth.csv", tmp_path)
    assert list(photos.columns) == ["path"]
    assert list(photos.index) == list(truth.index)
    np.testing.assert_array_equal(truth[TARGETS], test[TARGETS])
    # The training photos are still there.
    assert len(pasture.read_photos(tmp_path / "train.csv", tmp_path)) == 20


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The table of about as many photos as the competition has; photos are blank."""
    with pytest.MonkeyPatch.context() as patch:
        blank = Image.new("RGB", (32, 16))
        patch.setattr("pasture.swards.photograph", lambda *_: blank)
        return draw_swards(tmp_path_factory.mktemp("many"), 356, 16)


def test_states_and_dates_are_those_of_the_competition(many):
    shares = many["State"].value_counts(normalize=True)
    expected = {"Tas": 0.39, "Vic": 0.31, "NSW": 0.21, "WA": 0.09}
    for state, share in expected.items():
        assert shares[state] == pytest.approx(share, abs=0.01)
    dates = many.groupby("State")["Sampling_Date"].nunique().to_dict()
    assert dates == {"Tas": 10, "Vic": 11, "NSW": 6, "WA": 3}
    assert many.groupby(["State", "Sampling_Date"]).size().min() >= 2
    days = pd.to_datetime(many["Sampling_Date"], format="%Y/%m/%d")
    assert days.min() >= datetime.datetime(2015, 1, 1)
    assert days.max() < datetime.datetime(2016, 1, 1)


def test_targets_are_spread_as_in_pasture(many):
    # Thirty dates differ by season and chance, so their means differ too.
    np.testing.assert_allclose(
        many[TARGETS].mean(), [26.6, 12.0, 6.7, 33.3, 45.3], rtol=0.25
    )
    assert (many["Dry_Clover_g"] == 0).mean() == pytest.approx(0.38, abs=0.1)
    assert (many[TARGETS].skew() > 0.8).all()
    with_clover = many["Species"].str.endswith("_Clover")
    assert (with_clover == (many["Dry_Clover_g"] > 0)).all()
    assert many["Pre_GSHH_NDVI"].corr(many["GDM_g"]) > 0.5
    assert many["Height_Ave_cm"].corr(many["GDM_g"]) > 0.5


def test_photos_of_a_date_are_correlated(many):
    seasons = many.groupby(["State", "Sampling_Date"])["Dry_Dead_g"].mean()
    within = many.groupby(["State", "Sampling_Date"])["Dry_Dead_g"].var().mean()
    assert seasons.var() > 1.5 * within / (len(many) / len(seasons))


def test_few_photos_have_few_dates(tmp_path):
    few = draw_swards(tmp_path, 12, 16, dates={"Vic": 2, "WA": 1})
    assert set(few["State"]) == {"Vic", "WA"}
    assert few["Sampling_Date"].nunique() == 3
    assert few.groupby("Sampling_Date").size().min() >= 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count of photos must be 1 or more, got 0"),
        ({"height": 8}, "height of photos must be 16 or more, got 8"),
        ({"part": "validation"}, "one of train, test, got 'validation'"),
        ({"dates": {"Qld": 3}}, "some of Tas, Vic, NSW, WA, got {'Qld': 3}"),
        ({"dates": {"Tas": 0}}, "from 1 to 52 .* got {'Tas': 0}"),
        ({"dates": {}}, "got none"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        draw_swards(tmp_path / "none", **settings)
    assert not (tmp_path / "none").exists()
