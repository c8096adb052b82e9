import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from pasture_files import SMALL, draw_photos, one_thread
from safetensors.torch import load_file

import pasture
from geobiomass.training.estimator import ModelError
from pasture.adaptation import pseudo_labels
from pasture.network import PastureNetwork
from pasture.regressor import PastureRegressor

TARGETS = list(pasture.TARGETS)


@pytest.fixture(autouse=True)
def _threads():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    return pasture.read_photos(draw_photos(folder, 18), folder)


@pytest.fixture(scope="module")
def train(photos):
    return photos.iloc[:12]


@pytest.fixture(scope="module")
def test(photos):
    """Test photos without grams, with the names of some training photos."""
    return photos.iloc[12:][["path"]].set_axis(photos.index[:6])


@pytest.fixture(scope="module")
def model(train):
    folds = (train["Sampling_Date"].dt.day > 5).astype(int)
    with one_thread():
        return pasture.fit(train, stream="both", folds=folds, **SMALL)


@pytest.fixture(scope="module")
def adapted(model, train, test):
    with one_thread():
        return pasture.adapt(model, train, test, epochs=5, last=2)


def test_pseudo_labels_are_predictions_with_less_clover():
    grams = pd.DataFrame(
        [[10, 0.19, 5, 15, 15.19], [0.2, 3, 0.24, 0.44, 3.44]],
        index=["a", "b"],
        columns=TARGETS,
        dtype=float,
    )
    labels = pseudo_labels(grams)
    np.testing.assert_allclose(
        labels, [[10, 0, 4, 14, 14], [0.2, 3, 0, 0.2, 3.2]], atol=1e-12
    )
    assert (labels["Dry_Total_g"] == labels["GDM_g"] + labels["Dry_Dead_g"]).all()
    other = pseudo_labels(grams, clover=1, threshold=0)
    np.testing.assert_allclose(other, grams, atol=1e-12)


class Recorder(PastureRegressor):
    """A regressor that records the arguments of `fit`."""

    recorded: tuple = ()

    def fit(self, photos, validation=None):
        state = {k: v.clone() for k, v in self.network.state_dict().items()}
        Recorder.recorded = (photos, validation, self.recipe, state)
        return super().fit(photos, validation)


def test_training_continues_from_the_best_single_fold(model, train, test, monkeypatch):
    monkeypatch.setattr("pasture.adaptation.PastureRegressor", Recorder)
    monkeypatch.setattr("pasture.adaptation._best", lambda m: m.best_member("single"))
    before = {k: v.clone() for k, v in model.members[0].network.state_dict().items()}
    pasture.adapt(model, train, test, learning_rate=1e-4)
    photos, validation, recipe, state = Recorder.recorded
    best = model.best_member("single")
    for name, value in best.network.state_dict().items():
        assert value.equal(state[name]), name
    assert validation == 0
    assert (recipe.training.epochs, recipe.training.keep_last) == (12, 4)
    assert (recipe.training.keep, recipe.training.learning_rate) == ("average", 1e-4)
    labels = pseudo_labels(model.predict(test))
    np.testing.assert_array_equal(photos["path"], [*train["path"], *test["path"]])
    np.testing.assert_array_equal(photos[TARGETS].iloc[:12], train[TARGETS])
    np.testing.assert_array_equal(photos[TARGETS].iloc[12:], labels)
    # The original model is unchanged.
    for name, value in model.members[0].network.state_dict().items():
        assert value.equal(before[name]), name


@pytest.mark.slow
def test_the_last_epochs_are_averaged(model, train, test, tmp_path):
    adapted = pasture.adapt(model, train, test, epochs=5, last=2, folder=tmp_path)
    files = sorted(tmp_path.glob("epoch-*.safetensors"))
    assert [file.name for file in files] == [
        "epoch-0004.safetensors",
        "epoch-0005.safetensors",
    ]
    weights = [load_file(file) for file in files]
    for name, value in adapted.second.network.state_dict().items():
        mean = torch.stack([w[name].double() for w in weights]).mean(0)
        torch.testing.assert_close(value.double(), mean, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_predictions_are_blended_and_cut(adapted, model, test):
    first, second = model.predict(test), adapted.second.predict(test)
    assert not np.allclose(first, second, rtol=0.05)
    for blend in (None, 0.0, 0.5, 1.0):
        share = 0.8 if blend is None else blend
        expected = (1 - share) * first + share * second
        parts = TARGETS[:3]
        expected = expected[parts].where(expected[parts] >= 0.2, 0.0)
        grams = adapted.predict(test, blend=blend)
        np.testing.assert_allclose(grams[parts], expected, rtol=1e-9)
        assert (grams["GDM_g"] == grams["Dry_Green_g"] + grams["Dry_Clover_g"]).all()
        assert (grams["Dry_Total_g"] == grams["GDM_g"] + grams["Dry_Dead_g"]).all()


def test_a_report_compares_predictions_before_and_after(adapted, model, test):
    before, after = model.predict(test), adapted.predict(test)
    report = adapted.report()
    assert list(report.index) == TARGETS
    distance = (after - before).abs()
    np.testing.assert_allclose(report["before"], before.mean())
    np.testing.assert_allclose(report["after"], after.mean())
    np.testing.assert_allclose(report["moved"], distance.mean())
    np.testing.assert_allclose(report["moved most"], distance.max())
    assert report["photo"].tolist() == distance.idxmax().tolist()
    assert report["now 0"].tolist() == ((after == 0) & (before > 0)).sum().tolist()


@pytest.mark.slow
def test_an_adapted_model_is_saved_and_loaded(adapted, test, tmp_path):
    adapted.save(tmp_path / "model")
    loaded = pasture.load(tmp_path / "model")
    assert isinstance(loaded, pasture.AdaptedModel)
    grams = loaded.predict(test)
    pd.testing.assert_frame_equal(grams, adapted.predict(test), check_exact=True)
    pd.testing.assert_frame_equal(loaded.report(), adapted.report())
    adapted.save(tmp_path / "model")  # replaces it
    (tmp_path / "model" / "member-1" / "member-3" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"member-3.config\.json is missing"):
        pasture.load(tmp_path / "model")


@pytest.mark.slow
def test_a_single_regressor_is_adapted_too(model, train, test, tmp_path):
    one = model.streams["dual"][0]
    adapted = pasture.adapt(one, train, test, epochs=1, last=1)
    assert adapted.second.recipe.stream == "dual"
    adapted.save(tmp_path / "model")
    assert isinstance(pasture.load(tmp_path / "model").first, PastureRegressor)
    other = pasture.adapt(model, train, test, epochs=1, last=1, start=one)
    assert other.second.recipe.stream == "dual"


class Interrupted(PastureNetwork):
    """A network that is interrupted (Ctrl-C) in the third epoch of three batches."""

    steps = 0

    def forward(self, image):
        Interrupted.steps += self.training
        if Interrupted.steps == 8:
            raise KeyboardInterrupt
        return super().forward(image)


@pytest.mark.slow  # law 7 is quick for a fit
def test_an_interrupted_adaptation_resumes(model, train, test, tmp_path, monkeypatch):
    whole = pasture.adapt(model, train, test, epochs=4, last=2)
    folder = tmp_path / "run"
    settings = {"epochs": 4, "last": 2, "folder": folder}

    def interrupted(network, _memo):
        other = Interrupted(**network.settings)
        other.load_state_dict(network.state_dict())
        return other

    with monkeypatch.context() as patch:
        patch.setattr(PastureNetwork, "__deepcopy__", interrupted, raising=False)
        with pytest.raises(KeyboardInterrupt):
            pasture.adapt(model, train, test, **settings)
    assert (folder / "last.ckpt").is_file()
    resumed = pasture.adapt(model, train, test, **settings)
    for name, value in whole.second.network.state_dict().items():
        assert value.equal(resumed.second.network.state_dict()[name]), name
    pd.testing.assert_frame_equal(resumed.moved, whole.moved, check_exact=True)
    # The folder is not resumed with another model's predictions.
    other = model.streams["dual"][0]
    with pytest.raises(ValueError, match="adapts another model or to other photos"):
        pasture.adapt(other, train, test, **settings)
    with pytest.raises(ValueError, match="adapts another model or to other photos"):
        pasture.adapt(model, train, test.iloc[:5], **settings)
    # Its first predictions are damaged: a digit, and so that they are no numbers.
    (table,) = folder.glob("*.csv")
    text = table.read_text()
    digit = text[:-2] + str(9 - int(text[-2])) + "\n"
    for damaged in (digit, text.replace(".", "x", 1)):
        table.write_text(damaged)
        with pytest.raises(ValueError, match=r"csv, the first predictions, is damaged"):
            pasture.adapt(model, train, test, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clover": -0.1}, "clover of adapt must be a number of 0 or more, got -0.1"),
        ({"threshold": np.nan}, "threshold of adapt must be .* got nan"),
        ({"blend": 1.2}, "share from 0 to 1, got 1.2"),
        ({"last": 13}, "last of adapt must be from 1 to epochs=12, got 13"),
        ({"last": 0}, "last of adapt must be from 1"),
        ({"epoch": 3}, "'epoch' is not a setting of a recipe; did you mean epochs"),
    ],
)
def test_numbers_out_of_range_are_refused(model, train, test, settings, message):
    with pytest.raises(ValueError, match=message):
        pasture.adapt(model, train, test, **settings)


def test_photos_that_cannot_be_adapted_to_are_refused(model, train, test, tmp_path):
    both = pd.concat([test, train[["path"]].iloc[3:4]])
    with pytest.raises(ValueError, match=r"got 1 that are: train/ID3\.png;"):
        pasture.adapt(model, train, both)
    gone = test.assign(path=str(tmp_path / "nowhere.png")).iloc[:1]
    with pytest.raises(pasture.PhotoError, match=r"missing: .*nowhere\.png"):
        pasture.adapt(model, train, gone)
    with pytest.raises(pasture.PhotoError, match="no GDM_g"):
        pasture.adapt(model, train.drop(columns="GDM_g"), test)
    with pytest.raises(pasture.PhotoError, match="got 0 rows"):
        pasture.adapt(model, train, test.iloc[:0])


def test_only_the_five_targets_are_adapted(train, test):
    settings = SMALL | {"epochs": 1, "targets": ("GDM_g",)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = pasture.fit(train, validation=0, **settings)
    with pytest.raises(ValueError, match="got one that predicts GDM_g"):
        pasture.adapt(one, train, test)
