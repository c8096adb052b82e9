import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from pasture_files import SMALL, draw_photos, one_thread
from safetensors.torch import load_file

import pasture
from geobiomass.training.estimator import ModelError, NotFittedError
from pasture.network import PastureNetwork
from pasture.recipes import find_recipe
from pasture.regressor import PastureRegressor

TARGETS = list(pasture.TARGETS)

pytestmark = pytest.mark.usefixtures("compiled_folds")


@pytest.fixture(autouse=True)
def _threads():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    return pasture.read_photos(draw_photos(folder), folder)


@pytest.fixture(scope="module")
def folds(photos):
    """Two folds, of two dates each."""
    day = photos["Sampling_Date"].dt.day
    return (day > 5).astype(int).rename("fold")


@pytest.fixture(scope="module")
def both(photos, folds):
    with one_thread():
        return pasture.fit(photos, stream="both", folds=folds, **SMALL)


# --- folds ---


def test_each_fold_is_held_out_from_one_member_of_each_stream(both, photos, folds):
    assert {name: len(found) for name, found in both.streams.items()} == {
        "single": 2,
        "dual": 2,
    }
    for members in both.streams.values():
        for fold, member in enumerate(members):
            assert set(member.held_out.index) == set(photos.index[folds == fold])
            measured = member.held_out[[f"measured_{name}" for name in TARGETS]]
            known = photos.loc[member.held_out.index, TARGETS]
            np.testing.assert_array_equal(measured, known)
            np.testing.assert_array_equal(
                member.held_out[TARGETS], member.predict(photos[folds == fold])
            )


def test_nothing_is_learnt_from_photos_that_validate(photos, folds):
    training, held = photos[folds == 0], photos[folds == 1]
    other = held.assign(**{name: 2 * held[name].iloc[::-1].values for name in TARGETS})
    settings = SMALL | {"epochs": 1}  # of several the best would be chosen
    first, second = (
        pasture.fit(training, validation=each, **settings) for each in (held, other)
    )
    assert first.network.settings == second.network.settings
    weights = second.network.state_dict()
    for name, value in first.network.state_dict().items():
        assert value.equal(weights[name]), name


def test_scores_are_those_of_the_photos_held_out(both, photos):
    scores = both.scores
    assert list(scores.index) == [
        "single, fold 1",
        "single, fold 2",
        "single, all",
        "dual, fold 1",
        "dual, fold 2",
        "dual, all",
        "single and dual",
    ]
    assert scores["photos"].tolist() == [6, 6, 12, 6, 6, 12, 12]
    member = both.streams["dual"][1]
    own = pasture.score(member.held_out[TARGETS], photos)["r2"]
    assert scores.loc["dual, fold 2", "weighted R2"] == own["weighted R2"]
    assert scores.loc["dual, fold 2", "mean R2"] == own["mean R2"]
    blend = pasture.score(both.held_out[TARGETS], photos)["r2"]["weighted R2"]
    assert scores.loc["single and dual", "weighted R2"] == pytest.approx(blend)


def test_members_and_streams_are_averaged_and_blended(both, photos):
    means = {
        stream: np.mean([m.predict(photos).to_numpy() for m in members], axis=0)
        for stream, members in both.streams.items()
    }
    for blend in (0.5, 0.0, 0.3, 1.0):
        expected = blend * means["single"] + (1 - blend) * means["dual"]
        found = both.predict(photos, blend=None if blend == 0.5 else blend)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        assert (found["GDM_g"] == found["Dry_Green_g"] + found["Dry_Clover_g"]).all()
        assert (found["Dry_Total_g"] == found["GDM_g"] + found["Dry_Dead_g"]).all()
    assert not np.allclose(means["single"], means["dual"])
    with pytest.raises(ValueError, match=r"share from 0 to 1, got 1\.5"):
        both.predict(photos, blend=1.5)
    with pytest.raises(ValueError, match=r"model of one part.* got 0\.5; an ensemble"):
        both.members[0].predict(photos, blend=0.5)


def test_members_run_in_parallel_on_several_devices(both, photos, monkeypatch):
    alone = both.predict(photos)
    two = [torch.device("cpu"), torch.device("cpu")]
    monkeypatch.setattr(PastureRegressor, "devices", lambda self: two)
    pd.testing.assert_frame_equal(both.predict(photos), alone, check_exact=True)


@pytest.mark.slow
def test_without_mirror_images_the_photo_alone_counts(both, photos):
    member = both.members[0]
    assert not np.allclose(member.predict(photos), member.predict(photos, flips=False))
    flipped = both.evaluate(photos)
    pd.testing.assert_frame_equal(flipped, pasture.score(both.predict(photos), photos))
    assert not flipped.equals(both.evaluate(photos, flips=False))


def test_the_best_member_is_that_with_the_highest_score(both):
    scores = both.scores["weighted R2"]
    singles = [scores[f"single, fold {number}"] for number in (1, 2)]
    best = both.streams["single"][int(np.argmax(singles))]
    assert both.best_member("single") is best
    assert both.best_member() in both.members


@pytest.mark.slow
def test_an_ensemble_is_saved_and_loaded(both, photos, tmp_path):
    both.save(tmp_path / "model")
    loaded = pasture.load(tmp_path / "model")
    assert isinstance(loaded, pasture.PastureEnsemble)
    pd.testing.assert_frame_equal(
        loaded.predict(photos), both.predict(photos), check_exact=True
    )
    pd.testing.assert_frame_equal(loaded.scores, both.scores, check_exact=True)
    both.save(tmp_path / "model")  # replaces it
    (tmp_path / "model" / "member-2" / "weights.safetensors").unlink()
    with pytest.raises(ModelError, match=r"member-2.*is missing"):
        pasture.load(tmp_path / "model")


@pytest.mark.slow
def test_both_streams_without_folds(photos):
    model = pasture.fit(photos, stream="both", validation=0, **SMALL | {"epochs": 1})
    assert [member.recipe.stream for member in model.members] == ["single", "dual"]
    assert model.scores.empty
    assert model.held_out.empty
    assert model.best_member("dual") is model.members[1]
    with pytest.raises(NotFittedError, match=r"got 2 without any, .* none is best"):
        model.best_member()


@pytest.mark.slow
def test_folds_by_number_are_balanced_folds(photos):
    model = pasture.fit(photos, folds=3, **SMALL | {"epochs": 1})
    folds = pasture.balanced_folds(photos, 3, progress=False)
    held = [set(member.held_out.index) for member in model.members]
    assert held == [set(photos.index[folds == fold]) for fold in range(3)]


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda f: f.where(f.index != "train/ID0.png", 1), {}, "in folds 0, 1"),
        (lambda f: f.iloc[1:], {}, "folds"),
        (lambda f: f * 0, {}, "folds"),
        (lambda f: f, {"validation": 0.2}, "validation must be left out"),
        (
            lambda f: None,
            {"groups": pd.Series(dtype=str)},
            "groups of fit must be left out",
        ),
        (lambda f: f, {"stream": "triple"}, '"single" or "dual"'),
        (lambda f: f, {"width": 72}, "multiples of 16 and 16"),
        (lambda f: f, {"stream": "both", "width": 80}, "multiples of 16 and 32"),
    ],
)
def test_folds_that_cannot_be_used_are_refused_before_training(
    photos, folds, tmp_path, change, settings, message
):
    settings = SMALL | {"folder": tmp_path / "run"} | settings
    with pytest.raises(ValueError, match=message):
        pasture.fit(photos, folds=change(folds), **settings)
    assert not (tmp_path / "run").exists()


# --- checkpoints of each fold ---


@pytest.mark.slow
def test_the_best_by_loss_and_by_score_are_averaged(photos, folds, tmp_path):
    settings = SMALL | {"epochs": 8, "learning_rate": 3e-3, "folder": tmp_path}
    model = pasture.fit(photos, folds=folds, **settings)
    for number, member in enumerate(model.members, 1):
        history = member.history
        loss = history["validation_loss"].sort_values().index[:3]
        scores = history["validation_weighted_r2"]
        score = scores.sort_values(ascending=False).index[:3]
        kept = {f"epoch-{epoch + 1:04d}.safetensors" for epoch in [*loss, *score]}
        folder = tmp_path / f"fold-{number}"
        files = {file.name for file in folder.glob("*.safetensors")}
        assert files == kept
        weights = [load_file(folder / name) for name in sorted(kept)]
        for name, value in member.network.state_dict().items():
            mean = torch.stack([w[name].double() for w in weights]).mean(0)
            torch.testing.assert_close(value.double(), mean, rtol=1e-6, atol=1e-7)


class Interrupted(PastureNetwork):
    """A network that is interrupted (Ctrl-C) in step 11, counted over all members."""

    steps = 0

    def forward(self, image):
        Interrupted.steps += self.training
        if Interrupted.steps == 11:
            raise KeyboardInterrupt
        return super().forward(image)


@pytest.mark.slow  # three fits; one of one fold is quick
def test_folds_resume_by_fold_and_epoch(photos, folds, tmp_path, monkeypatch):
    settings = SMALL | {"stream": "both", "batch_size": 2}  # three steps an epoch
    whole = pasture.fit(photos, folds=folds, **settings, folder=tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("pasture.fitting.PastureNetwork", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            pasture.fit(photos, folds=folds, **settings, folder=tmp_path / "run")
    # The second fold is interrupted in its first epoch.
    done = tmp_path / "run" / "single"
    assert len(list(done.glob("*/last.ckpt"))) == 1
    before = (done / "fold-1" / "last.ckpt").stat().st_mtime_ns
    resumed = pasture.fit(photos, folds=folds, **settings, folder=tmp_path / "run")
    assert (done / "fold-1" / "last.ckpt").stat().st_mtime_ns == before
    for one, other in zip(whole.members, resumed.members, strict=True):
        weights = other.network.state_dict()
        for name, value in one.network.state_dict().items():
            assert value.equal(weights[name]), name
    pd.testing.assert_frame_equal(whole.scores, resumed.scores, check_exact=True)


BOTH = "photos was '.* photos, .* and is .*; validation photos was '.* photos, "


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda p: p.assign(GDM_g=p["GDM_g"] + 1), BOTH),
        (lambda p: p.rename(index=str.upper), BOTH),
        ({"flips": False}, "flips was True and is False"),
        ({"freeze": 0.5}, r"freeze was 0\.0 and is 0\.5"),
    ],
)
def test_another_training_is_not_continued(photos, folds, tmp_path, change, named):
    settings = SMALL | {"epochs": 1, "folder": tmp_path}
    parts = photos[folds == 1], photos[folds == 0]
    pasture.fit(parts[0], validation=parts[1], **settings)
    if callable(change):
        parts = tuple(change(part) for part in parts)
        change = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random layers are frozen
        with pytest.raises(ValueError, match=named):
            pasture.fit(parts[0], validation=parts[1], **settings | change)


# --- the user's own targets ---


@pytest.mark.slow
def test_a_model_is_trained_on_other_targets(tmp_path):
    drawn = draw_photos(tmp_path)
    mine = drawn[["image_path"]].assign(
        fresh_kg=drawn["Dry_Total_g"] / 100, height_cm=drawn["GDM_g"]
    )
    names = ("fresh_kg", "height_cm")
    photos = pasture.read_photos(mine, tmp_path, names)
    for stream in ("single", "dual"):
        with pytest.warns(UserWarning, match="each is its own group"):
            model = pasture.fit(photos, stream=stream, targets=names, **SMALL)
        grams = model.predict(photos[["path"]])
        assert list(grams) == list(names)
        assert list(model.evaluate(photos).index[:2]) == list(names)
        model.save(tmp_path / stream)
        again = pasture.load(tmp_path / stream)
        pd.testing.assert_frame_equal(again.predict(photos), grams, check_exact=True)
    recipe = find_recipe("quick", targets=list(names))
    assert recipe.targets == names
    with pytest.raises(ValueError, match="each once"):
        find_recipe("quick", targets=("a", "a"))
    with pytest.raises(pasture.PhotoError, match="no fresh_kg"):
        pasture.fit(photos.drop(columns="fresh_kg"), targets=names, **SMALL)


def test_attention_across_halves_is_a_setting(photos):
    model = pasture.fit(photos, stream="dual", fusion="attention", **SMALL)
    assert model.network.settings["fusion"] == "attention"
    assert any("attention" in name for name, _ in model.network.named_parameters())


# --- kinds of models ---


def test_load_names_a_folder_of_another_kind_of_model(both, tmp_path):
    both.save(tmp_path / "model")
    with pytest.raises(ModelError, match="must hold a PastureRegressor"):
        PastureRegressor.load(tmp_path / "model")
    text = (tmp_path / "model" / "config.json").read_text()
    other = text.replace("PastureEnsemble", "BiomassRegressor")
    (tmp_path / "model" / "config.json").write_text(other)
    with pytest.raises(ModelError, match="a model of pasture, got a BiomassRegressor"):
        pasture.load(tmp_path / "model")


def test_members_must_agree(both):
    with pytest.raises(ValueError, match="one or more with the same targets, got 0"):
        pasture.PastureEnsemble([])
    with pytest.raises(ValueError, match="share from 0 to 1, got -1"):
        pasture.PastureEnsemble(both.members, blend=-1)
    torch.manual_seed(0)
    recipe = find_recipe("quick", **{k: v for k, v in SMALL.items() if k != "recipe"})
    fresh = PastureRegressor(PastureNetwork("test_vit"), recipe)
    with pytest.raises(NotFittedError, match="not fitted"):
        pasture.PastureEnsemble([*both.members, fresh])
