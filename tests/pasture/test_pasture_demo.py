import numpy as np
import pandas as pd
import pytest
from pasture_files import one_thread
from PIL import Image

import pasture
from pasture import demo
from pasture.baseline import cross_validate
from pasture.swards import draw_swards

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TARGETS = list(pasture.TARGETS)
SMALL = {"count": 24, "tested": 8, "epochs": 2, "height": 64, "width": 64}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    with one_thread():
        demo.run(folder, **SMALL, progress=False)
    return folder


def test_every_step_of_the_recipe_has_its_row_and_gain(out):
    table = pd.read_csv(out / "scores.csv", index_col=0)
    assert list(table.index) == [
        "predicting the mean",
        "ridge of colour indices",
        "single stream, best epoch",
        "with checkpoints averaged",
        "with mirror image",
        "dual stream instead",
        "single and dual blended",
        "with adaptation to these photos",
    ]
    score = table["weighted R2"]
    assert table["gain"].isna().tolist() == [True] * 3 + [False] * 5
    mirrored, dual, blended = table.index[4:7]
    assert table["gain"][dual] == pytest.approx(score[dual] - score[mirrored])
    assert table["gain"][blended] == pytest.approx(score[blended] - score[mirrored])
    assert score.nunique() == len(score)


def test_the_written_predictions_are_those_that_were_scored(out):
    test = pasture.read_photos(out / "photos" / "test.csv", out / "photos")
    truth = pasture.read_photos(out / "photos" / "truth.csv", out / "photos")
    assert list(test) == ["path"]
    model = pasture.load(out / "model")
    assert isinstance(model, pasture.AdaptedModel)
    grams = model.predict(test)
    table = pd.read_csv(out / "scores.csv", index_col=0)["weighted R2"]
    scored = pasture.score(grams, truth)["r2"]["weighted R2"]
    assert scored == pytest.approx(table.iloc[-1])
    before = pasture.score(model.first.predict(test), truth)["r2"]["weighted R2"]
    assert before == pytest.approx(table.iloc[-2])
    written = pd.read_csv(out / "submission.csv").set_index("sample_id")["target"]
    assert len(written) == 5 * len(test)
    name = test.index[0]
    assert written[f"{name}__GDM_g"] == pytest.approx(grams.loc[name, "GDM_g"])
    # No training date is also a test date.
    train = pasture.read_photos(out / "photos" / "train.csv", out / "photos")
    assert not set(train["Sampling_Date"]) & set(truth["Sampling_Date"])


def test_figures_are_not_blank(out):
    for name in ("scatter.png", "photos.png"):
        pixels = np.asarray(Image.open(out / name).convert("RGB")).reshape(-1, 3)
        assert len(np.unique(pixels, axis=0)) > 50
        assert 0.05 < (pixels.min(1) < 250).mean() < 0.95


def test_the_same_call_resumes(out):
    before = {
        path: path.stat().st_mtime_ns for path in out.glob("checkpoints/**/last.ckpt")
    }
    assert len(before) == 7
    with one_thread():
        table = demo.run(out, **SMALL, progress=False)
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before
    written = pd.read_csv(out / "scores.csv", index_col=0)
    pd.testing.assert_frame_equal(table, written, check_names=False)


@pytest.mark.timeout(1500)
def test_a_small_network_beats_colours_under_grouped_validation(tmp_path):
    """Compare them on half of the demonstration's photos, no date in two folds."""
    draw_swards(tmp_path, 120, seed=1)
    photos = pasture.read_photos(tmp_path / "train.csv", tmp_path)
    folds = pasture.balanced_folds(photos, 2, virtual={}, progress=False)
    days = photos["Sampling_Date"].groupby(folds).unique()
    assert not set(days[0]) & set(days[1])
    model = pasture.fit(photos, "quick", folds=folds, epochs=10, progress=False)
    assert set(model.held_out.index) == set(photos.index)
    scores = {
        "mean": photos[TARGETS].groupby(folds).transform("mean"),
        "colours": cross_validate(photos, folds),
        "network": model.held_out[TARGETS],
    }
    r2 = {
        name: pasture.score(grams, photos)["r2"]["weighted R2"]
        for name, grams in scores.items()
    }
    assert r2["network"] > r2["colours"] > r2["mean"]
