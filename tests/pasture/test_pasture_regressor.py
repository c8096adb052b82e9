import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pasture_files import draw_photos, one_thread
from PIL import Image

import pasture
from geobiomass.training.estimator import Regressor, read_config
from geobiomass.training.metrics import weighted_r2
from pasture.network import PastureNetwork
from pasture.recipes import PastureRecipe, find_recipe
from pasture.regressor import PastureRegressor
from pasture.sums import WEIGHTS, reconcile

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from contract import RegressorContract

SMALL = {
    "backbone": "test_vit",
    "height": 32,
    "width": 64,
    "epochs": 2,
    "accelerator": "cpu",
    "progress": False,
}
TARGETS = list(pasture.TARGETS)


def make_model(stream: str = "dual", **settings) -> PastureRegressor:
    recipe = find_recipe("quick", **(SMALL | settings), stream=stream)
    torch.manual_seed(0)
    return PastureRegressor(PastureNetwork(recipe.backbone, stream, freeze=0.5), recipe)


@pytest.fixture(autouse=True)
def _threads():
    with one_thread():
        yield


@pytest.fixture
def photos(tmp_path):
    return pasture.read_photos(draw_photos(tmp_path), tmp_path)


class TestContract(RegressorContract):
    files = (
        "config.json",
        "weights.safetensors",
        "history.csv",
        "README.md",
        "held_out.csv",
    )
    predict_elsewhere = """
import pandas as pd, pasture
photos = pd.read_csv(data_file)
print(pasture.load(folder).predict(photos).to_numpy().tobytes().hex())
"""

    @pytest.fixture
    def make(self):
        return make_model

    @pytest.fixture
    def fit(self):
        return lambda model, photos: model.fit(photos)

    @pytest.fixture
    def data(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("photos")  # the contract's own is for models
        return pasture.read_photos(draw_photos(folder), folder)

    def predict(self, model, data):
        return model.predict(data).to_numpy()

    def write_data(self, data, path):
        data.to_csv(path, index=False)

    def same_data(self, one, other):
        return one.equals(other)


# --- training ---


def test_training_goes_through_the_shared_trainer_and_learns(photos, tmp_path):
    model = pasture.fit(
        photos,
        "quick",
        validation=0.25,
        **SMALL | {"epochs": 15, "learning_rate": 2e-3},
        batch_size=3,
        flips=False,
        jitter=False,
        folder=tmp_path / "run",
        keep_last=2,
    )
    assert isinstance(model, Regressor)
    assert list(model.history) == [
        "epoch",
        "train_loss",
        "validation_loss",
        "validation_weighted_r2",
        "learning_rate",
        "seconds",
    ]
    assert (tmp_path / "run" / "last.ckpt").is_file()
    assert len(list((tmp_path / "run").glob("epoch-*.safetensors"))) >= 2
    losses = model.history["train_loss"]
    assert losses.iloc[0] > 1  # at first it is worse than the mean of all photos
    assert losses.iloc[-1] < losses.iloc[0] / 4
    grams = model.predict(photos)
    assert weighted_r2(grams.to_numpy(), photos[TARGETS].to_numpy(), WEIGHTS) > 0.5


class Interrupted(PastureNetwork):
    """A network that is interrupted (Ctrl-C) in the second of three epochs."""

    batches = 0

    def forward(self, image):
        self.batches += self.training
        if self.batches == 5:
            raise KeyboardInterrupt
        return super().forward(image)


def test_an_interrupted_training_resumes_to_the_bit(photos, tmp_path):
    settings = {"epochs": 3, "batch_size": 4}
    whole = make_model(**settings).fit(photos, validation=0)
    broken = make_model(**settings, folder=tmp_path)
    torch.manual_seed(0)
    broken.network = Interrupted("test_vit", "dual", freeze=0.5)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(photos, validation=0)
    assert broken.interrupted == "interrupted at epoch 1 of 3"
    assert (tmp_path / "last.ckpt").is_file()
    resumed = make_model(**settings, folder=tmp_path).fit(photos, validation=0)
    weights = resumed.network.state_dict()
    for name, value in whole.network.state_dict().items():
        assert value.equal(weights[name]), name
    assert resumed.history["train_loss"].equals(whole.history["train_loss"])


def test_frozen_tensors_stay_and_others_are_trained(photos):
    model = make_model()
    before = {name: v.clone() for name, v in model.network.named_parameters()}
    model.fit(photos)
    for name, value in model.network.named_parameters():
        assert value.equal(before[name]) != value.requires_grad, name
    frozen = [v for v in model.network.backbone.parameters() if not v.requires_grad]
    assert len(frozen) == len(list(model.network.backbone.parameters())) // 2


@pytest.mark.slow
def test_frozen_random_layers_are_warned_of(photos):
    with pytest.warns(UserWarning, match="first 80% of test_vit stay .* random"):
        model = pasture.fit(photos, "seed", **SMALL)
    assert model.recipe.training.learning_rate == 2e-4
    assert model.recipe.stream == "single"


# --- validation ---


class Seen(PastureNetwork):
    """A network that records the photos it sees, by their mean colour."""

    def forward(self, image):
        kept = self.__dict__.setdefault("seen", {True: set(), False: set()})
        kept[self.training] |= {float(p.float().mean()) for p in image}
        return super().forward(image)


def photos_seen(photos: pd.DataFrame, **options) -> tuple[set[int], set[int]]:
    """Return the numbers of the photos trained on and validated on."""
    model = make_model(epochs=1, flips=False, jitter=False, height=64, width=128)
    model.network = Seen("test_vit", "dual")
    model.fit(photos, **options)
    numbers = {}
    for number, path in enumerate(photos["path"]):
        pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
        numbers[float(pixels.float().mean())] = number
    assert len(numbers) == len(photos)
    seen = model.network.seen
    return tuple({numbers[mean] for mean in seen[kind]} for kind in (True, False))


@pytest.mark.parametrize(("fraction", "dates"), [(None, 1), (0.5, 2), (0.99, 3)])
def test_whole_dates_are_held_out(photos, fraction, dates):
    trained, held = photos_seen(photos, validation=fraction)
    assert trained | held == set(range(12))
    days = photos["Sampling_Date"].to_numpy()
    assert not set(days[list(trained)]) & set(days[list(held)])
    assert len(set(days[list(held)])) == dates


def test_photos_are_held_out_if_there_are_no_dates(photos):
    undated = photos.drop(columns="Sampling_Date")
    with pytest.warns(UserWarning, match="dates of the 12 photos.*its own group"):
        trained, held = photos_seen(undated, validation=0.25)
    assert len(held) == 3
    assert trained == set(range(12)) - held


def test_photos_to_validate_on_can_be_given(photos):
    model = make_model(epochs=1).fit(photos.iloc[:8], validation=photos.iloc[8:])
    assert np.isfinite(model.history["validation_loss"]).all()
    model = make_model(epochs=1).fit(photos, validation=0)
    assert model.history["validation_loss"].isna().all()


@pytest.mark.parametrize(
    ("change", "validation", "message"),
    [
        (lambda p: p, slice(3, 5), r"got 2 that are: train/ID3\.png, train/ID4\.png;"),
        (lambda p: p, 1.0, "validation must be from 0 to below 1, got 1.0"),
        (
            lambda p: p.assign(Sampling_Date="2015/9/4"),
            None,
            "dates must be 2 .* got 1",
        ),
        (lambda p: p.iloc[:1].drop(columns="Sampling_Date"), None, "photos must be 2"),
        (lambda p: p.drop(columns="GDM_g"), None, "got 12 rows and no GDM_g"),
        (lambda p: p.iloc[:0], None, "got 0 rows"),
        (lambda p: p.assign(GDM_g=-1.0), None, r"ID0\.png GDM_g \(-1\)"),
        (lambda p: p.assign(path="/nowhere.png"), None, "listed twice"),
        (lambda p: p.assign(path=p["path"] + "x"), None, r"missing: .*ID0\.pngx, "),
    ],
)
def test_photos_that_cannot_be_trained_on_are_refused(
    photos, change, validation, message
):
    if isinstance(validation, slice):
        validation = photos.iloc[validation]
    model = make_model()
    with pytest.raises(ValueError, match=message):
        model.fit(change(photos), validation)
    assert not model.fitted


# --- prediction ---


@pytest.fixture
def fitted(photos):
    return make_model().fit(photos)


def test_predictions_are_grams_on_the_photos_index(fitted, photos):
    grams = fitted.predict(photos.rename(index=str.upper)[["path"]])
    assert list(grams.columns) == TARGETS
    assert list(grams.index) == [name.upper() for name in photos.index]
    assert bool((grams >= 0).all(axis=None))


@pytest.mark.parametrize("stream", ["single", "dual"])
def test_sums_are_exact(photos, stream):
    grams = make_model(stream, epochs=1).fit(photos, validation=0).predict(photos)
    assert (grams["GDM_g"] == grams["Dry_Green_g"] + grams["Dry_Clover_g"]).all()
    assert (grams["Dry_Total_g"] == grams["GDM_g"] + grams["Dry_Dead_g"]).all()


@pytest.mark.parametrize("stream", ["single", "dual"])
@pytest.mark.slow
def test_a_photo_and_its_mirror_image_are_averaged(photos, tmp_path, stream):
    model = make_model(stream, height=64, width=128).fit(photos)
    mirrored = photos.iloc[:3].copy()
    for number, path in enumerate(mirrored["path"]):
        mirrored.iloc[number, 0] = str(tmp_path / f"mirrored{number}.png")
        image = Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image.save(mirrored.iloc[number, 0])
    expected = []
    for path in photos["path"].iloc[:3]:
        pixels = np.array(Image.open(path)).transpose(2, 0, 1)
        both = torch.from_numpy(np.stack([pixels, pixels[:, :, ::-1]]))
        with torch.inference_mode():
            expected.append(model.network(both).numpy())
    assert not np.allclose(*np.stack(expected, axis=1), rtol=1e-6)
    mean = np.stack(expected).astype(float).mean(axis=1)
    if stream == "single":
        mean = reconcile(mean)
    for listed in (photos.iloc[:3], mirrored):
        np.testing.assert_allclose(model.predict(listed), mean, rtol=1e-5)


def test_a_prediction_does_not_depend_on_the_other_photos(fitted, photos):
    every = fitted.predict(photos)
    few = photos.iloc[[7, 2]]
    pd.testing.assert_frame_equal(
        fitted.predict(few), every.loc[few.index], check_exact=True
    )


def test_prediction_needs_readable_photos(fitted, photos):
    with pytest.raises(pasture.PhotoError, match="got 12 rows and no path"):
        fitted.predict(photos.drop(columns="path"))
    Path(photos["path"].iloc[4]).write_text("no picture")
    with pytest.raises(pasture.PhotoError, match=r"ID4\.png cannot be read"):
        fitted.predict(photos)


# --- models and recipes ---


def test_a_model_describes_itself(photos, tmp_path):
    model = make_model(folder=tmp_path / "run")
    assert repr(model) == "PastureRegressor(test_vit, dual, 32 x 64, not fitted)"
    model.fit(photos).save(tmp_path / "model")
    settings = read_config(tmp_path / "model")["settings"]
    assert settings["targets"] == TARGETS
    assert settings["units"] == "g"
    assert str(tmp_path) not in json.dumps(settings)
    assert repr(pasture.load(tmp_path / "model")).endswith("2 epochs)")


@pytest.mark.parametrize(
    ("targets", "width", "message"),
    [
        (3, 64, r"as many as the recipe's \(.*\), 5, got 3"),
        (5, 72, "multiples of 16 and 16 .* 32 x 72"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(targets, width, message):
    recipe = find_recipe("quick", **(SMALL | {"width": width}))
    with pytest.raises(ValueError, match=message):
        PastureRegressor(PastureNetwork("test_vit", targets=targets), recipe)


def test_another_recipe_is_used(photos):
    mine = PastureRecipe("mine", "test_vit", "dual", 32, 64, freeze=0.0)
    settings = {"epochs": 1, "accelerator": "cpu", "progress": False}
    model = pasture.fit(
        photos, mine.with_changes(**settings), monitor="validation_loss"
    )
    assert (model.recipe.name, model.recipe.stream) == ("mine", "dual")


# --- imports ---

IMPORTS = """
import sys
import pasture
heavy = {"torch", "pandas", "lightning", "timm", "torchvision", "rasterio", "pystac"}
print(sorted(heavy & set(sys.modules)))
from pasture import cli
print(sorted(heavy & set(sys.modules)))
"""
ALL_NAMES = """
import sys
import pasture
for name in pasture.__all__:
    getattr(pasture, name)
print(sorted({"rasterio", "pystac", "timm"} & set(sys.modules)))
ours = {name for name in sys.modules if name.startswith("geobiomass.")}
shared = (
    *("geobiomass.training", "geobiomass.tables", "geobiomass.outside_text"),
    "geobiomass.network",  # weights in files, and saved settings
)
print(sorted(name for name in ours if not name.startswith(shared)))
print(sorted(pasture.__all__))
"""


def lines_of(script):
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return result.stdout.splitlines()


def test_imports_are_light():
    assert lines_of(IMPORTS) == ["[]", "[]"]


@pytest.mark.slow
def test_imports_are_of_shared_rooms_only():
    assert lines_of(ALL_NAMES) == ["[]", "[]", str(sorted(pasture.__all__))]
    assert {"read_photos", "fit", "load", "PastureRegressor"} <= set(pasture.__all__)
