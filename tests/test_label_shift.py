"""Labels that may be off by a pixel: in the loss of a network, and by pixel."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import xarray as xr
from conftest import make_scene
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import Ridge

import geobiomass as gb
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.reader import Sample
from geobiomass.learner.features import PixelFeatures
from geobiomass.learner.fitting import Labels, fit_parts, folds_of
from geobiomass.learner.own_estimator import OWN_FOLDS, fit_own
from geobiomass.network import AttentionUNet
from geobiomass.recipes.asked import asked_recipe
from geobiomass.recipes.datasets import make_loaders
from geobiomass.recipes.label_shift import _neighbours, _probabilities, check_layout
from geobiomass.recipes.label_table import make_table
from geobiomass.recipes.objective import loss_of, training_changes
from geobiomass.recipes.recipe import Recipe, find_recipe, recipe_to_dict
from geobiomass.recipes.resume import learnt_from
from geobiomass.tiles import Window
from geobiomass.training.augment import Augmentation
from geobiomass.training.label_matching import match_predictions, with_image_layer

Array = npt.NDArray[Any]
FAST: dict[str, Any] = {"trees": 40, "neighbourhoods": (3,), "progress": False}
TINY: dict[str, Any] = {"encoder": "test_resnet", "decoder_channels": (8,) * 5}
LOSSES = ("chip_rmse", "chip_huber", "huber", "mse")


# --- the loss of a network ---


def reference(
    prediction: Array,
    target: Array,
    seen: Array,
    shift: int,
    weights: Array | None = None,
    ceiling: float = np.inf,
    clip: bool = False,
) -> Array:
    """The definition in loops: matched predictions, (batch, output, y, x)."""
    matched = prediction.copy()
    _, _, height, width = target.shape
    for batch in range(len(target)):
        labels = [
            (int(row), int(column), float(target[batch, 0, row, column]))
            for row, column in np.argwhere(np.isfinite(target[batch, 0]))
            if clip or target[batch, 0, row, column] < ceiling
        ]
        if len(labels) < 5:
            continue
        scores = {}
        for y in range(-shift, shift + 1):
            for x in range(-shift, shift + 1):
                scores[y, x], places = 0.0, {}
                for row, column, label in labels:
                    at = row + y, column + x
                    inside = 0 <= at[0] < height and 0 <= at[1] < width
                    if not inside or not seen[batch, 0, *at]:
                        at = row, column
                    found = float(prediction[batch, 0, *at])
                    if label >= ceiling:  # any prediction above it is right
                        found, label = min(found, ceiling), ceiling
                    own = 1.0
                    if weights is not None:
                        own = float(weights[batch, 0, row, column])
                    scores[y, x] += own * (found - label) ** 2
                    places[row, column] = at
                if scores[y, x] == min(scores.values()):
                    best = places
        for (row, column), at in best.items():
            matched[batch, :, row, column] = prediction[batch, :, *at]
    return matched


def some_batch(seed: int, outputs: int = 1) -> tuple[Array, Array, Array, Array]:
    """Predictions, labels with holes, where an image is, and weights."""
    draw = np.random.default_rng(seed)
    shape = (4, 1, 5, 6)
    prediction = draw.normal(50, 30, (4, outputs, 5, 6)).astype(np.float32)
    target = np.where(draw.random(shape) < 0.4, draw.normal(50, 30, shape), np.nan)
    target[:, 0, 0, 0] = target[:, 0, -1, -1] = 60  # corners
    target[3] = np.nan
    target[3, 0, 1, 1:5] = draw.normal(50, 30, 4)  # too few to be shifted
    seen = draw.random(shape) < 0.7
    weights = np.where(np.isfinite(target), draw.uniform(0.3, 2, shape), np.nan)
    return prediction, target.astype(np.float32), seen, weights.astype(np.float32)


@pytest.mark.parametrize("shift", [1, 2])
@pytest.mark.parametrize("weighed", [False, True])
def test_matched_predictions_are_those_of_their_definition(
    shift: int, weighed: bool
) -> None:
    moved = 0
    for seed in range(10):
        prediction, target, seen, weights = some_batch(seed, outputs=3)
        given = [torch.from_numpy(one) for one in (prediction, target, seen)]
        own = weights if weighed else None
        found = match_predictions(
            *given, shift, weights=None if own is None else torch.from_numpy(own)
        )
        expected = reference(prediction, target, seen, shift, own)
        np.testing.assert_array_equal(found, expected)
        different = (expected != prediction).any(axis=(1, 2, 3))
        assert not different[3]
        moved += int(different.sum())
    assert moved > 20  # of 30 crops with labels enough


@pytest.mark.parametrize("tail", ["drop", "clip"])
def test_labels_at_the_ceiling_are_matched_as_the_loss_takes_them(tail: Any) -> None:
    prediction, target, seen, _ = some_batch(3)
    given = [torch.from_numpy(one) for one in (prediction, target, seen)]
    for ceiling in (40.0, 60.0):
        found = match_predictions(*given, 1, ceiling=ceiling, tail=tail)
        clip = tail == "clip"
        expected = reference(prediction, target, seen, 1, None, ceiling, clip)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("interval", [None, 0.9])
def test_every_loss_takes_matched_predictions(
    loss: Any, interval: float | None
) -> None:
    plain = Recipe(loss=loss, interval=interval, huber_delta=20.0)
    shifted = plain.with_changes(label_shift=1)
    prediction, target, seen, weights = some_batch(1, len(plain.outputs))
    image = seen.astype(np.float32)
    for layers in ([target], [target, weights]):
        known = torch.from_numpy(np.concatenate(layers, axis=1))
        own = weights if len(layers) == 2 else None
        matched = reference(prediction, target, seen, 1, own)
        expected = loss_of(plain)(torch.from_numpy(matched), known)
        both = torch.cat([known, torch.from_numpy(image)], dim=1)
        found = loss_of(shifted)(torch.from_numpy(prediction), both)
        assert float(found) == pytest.approx(float(expected), rel=2e-5)
        assert float(found) != pytest.approx(
            float(loss_of(plain)(torch.from_numpy(prediction), known)), rel=0.01
        )
    # A validation compares labels where they are.
    alone = torch.from_numpy(prediction), torch.from_numpy(target)
    assert torch.equal(loss_of(shifted)(*alone), loss_of(plain)(*alone))


def test_without_a_label_the_loss_has_no_gradient() -> None:
    prediction = torch.ones(1, 1, 3, 3, requires_grad=True)
    target = torch.cat([torch.full((1, 1, 3, 3), torch.nan), torch.ones(1, 1, 3, 3)], 1)
    loss = loss_of(Recipe(label_shift=1))(prediction, target)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert prediction.grad is not None
    assert not prediction.grad.any()


def test_the_layer_of_images_is_what_the_network_sees() -> None:
    image = torch.ones(2, 3, 2, 2, 2)
    image[0, :, :, 0, 0] = torch.nan
    image[1, :2, :, 0, 1] = torch.nan
    present = torch.tensor([[True, True, True], [True, True, False]])

    def keep(inputs: tuple[Any, ...], target: torch.Tensor) -> Any:
        return inputs, target + 1

    labels = torch.zeros(2, 1, 2, 2)
    inputs, target = with_image_layer(keep, (image, present, None), labels)
    assert inputs[0] is image
    assert (target[:, 0] == 1).all()
    # The month that has the pixel's only value is not there.
    assert target[:, 1].tolist() == [[[0, 1], [1, 1]], [[1, 0], [1, 1]]]
    _, target = with_image_layer(keep, (image, None), labels)
    assert target[1, 1].all()


def test_labels_off_by_a_pixel_are_learnt_by_the_loss() -> None:
    """Crops of white noise, and labels that are the values of a pixel beside them."""
    draw = np.random.default_rng(0)
    image = draw.normal(size=(16, 1, 16, 16)).astype(np.float32)
    target = np.full(image.shape, np.nan, np.float32)
    for crop in range(len(image)):
        y, x = [(0, 1), (1, 0), (0, -1), (-1, -1)][crop % 4]
        for row, column in draw.integers(1, 15, size=(12, 2)):
            target[crop, 0, row, column] = 10 * image[crop, 0, row + y, column + x]
    slopes = {}
    for shift in (0, 1):
        line = torch.zeros(2, requires_grad=True)
        loss = loss_of(Recipe(loss="mse", label_shift=shift))
        layers = [target, np.ones_like(target)][: 1 + shift]
        known = torch.from_numpy(np.concatenate(layers, axis=1))
        optimiser = torch.optim.Adam([line], lr=0.5)
        for _ in range(100):
            optimiser.zero_grad()
            found = line[0] * torch.from_numpy(image) + line[1]
            loss(found, known).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        slopes[shift] = float(line[0].detach())
    assert abs(slopes[0]) < 3  # the truth is 10
    assert slopes[1] == pytest.approx(10, abs=1)


# --- a learner by pixel ---


def rough(side: int = 40, count: int = 400, seed: int = 0) -> tuple[xr.Dataset, Array]:
    """A scene with labels that are each of a pixel beside it, and the truth."""
    draw = np.random.default_rng(seed)
    cube = gb.landscape(side, months=1, seed=3).isel(band=[0, 2, 6, 10]).load()
    field = gaussian_filter(draw.normal(size=(side, side)), 0.8, mode="nearest")
    truth = 100 + 50 * field / field.std()
    image = cube["image"].values.copy()
    image[0] = 10 * truth + draw.normal(0, 20, (4, side, side))
    off = np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)])
    labels = np.full((side, side), np.nan, np.float32)
    places = draw.permutation(np.argwhere(np.ones((side - 2, side - 2))) + 1)[:count]
    for row, column in places:
        labels[row, column] = truth[tuple((row, column) + off[draw.integers(8)])]
    cube["image"] = cube["image"].copy(data=image.astype(np.float32))
    return cube.assign(agb=cube["agb"].copy(data=labels)), truth


def test_a_learner_by_pixel_finds_labels_that_are_off() -> None:
    cube, truth = rough()
    errors = {}
    for shift in (0, 1):
        model = gb.fit(cube, "pixels", block=10, label_shift=shift, **FAST)
        found = model.predict(cube, check="off")["agb"].values
        errors[shift] = float(np.sqrt(np.mean((found - truth) ** 2)))
    assert errors[1] < 0.9 * errors[0]


def test_a_learner_by_pixel_sees_the_pixels_around_a_label() -> None:
    draw = np.random.default_rng(4)
    image = draw.normal(50, 9, (2, 3, 20, 22)).astype(np.float32)
    image[:, :, 5:8, 5:9] = np.nan
    image[:, 1, 12:, 3] = np.nan
    image[:, :, 19, 20] = np.nan
    cube = make_scene(20, 22).isel(band=slice(3), month=slice(2))
    cube["image"] = cube["image"].copy(data=image)
    reader = LabelledCube.open(cube).reader
    features = PixelFeatures(reader.bands, reader.calendar, (3,))
    # As maps have them: beyond the edge the scene is reflected.
    wide = torch.from_numpy(reader.read(Sample(Window(-1, -1, 21, 23))))
    with torch.inference_mode():
        maps = features(wide[None], margin=1)[0].numpy()
    samples = [Sample(Window(0, 0, 20, 11)), Sample(Window(0, 11, 20, 22))]
    # Few labels are windows of their own, many are of one map.
    for count in (20, 300):
        labels = np.full(20 * 22, np.nan, np.float32)
        labels[draw.choice(labels.size, count, replace=False)] = 5
        labels = labels.reshape(20, 22)
        labels[0, 0], labels[19, 21], labels[4, 4], labels[6, 6] = 1, 2, 3, 4
        data = LabelledCube.open(cube.assign(agb=cube["agb"].copy(data=labels)))
        table = make_table(data.reader, samples, features, find_recipe("pixels"))
        assert table.unseen > 0
        for shift in (1, 2):
            done: list[int] = []
            every = _neighbours(data.reader, table, features, shift)
            for rows, around, inside in every:
                done += rows.tolist()
                for row, own, there in zip(rows, around, inside, strict=True):
                    offsets = np.ndindex(2 * shift + 1, 2 * shift + 1)
                    for k, offset in enumerate(offsets):
                        y, x = table.pixels[row] + offset - shift
                        expected = 0 <= y < 20 and 0 <= x < 22
                        if expected:
                            np.testing.assert_array_equal(own[k], maps[:, y, x])
                            expected = bool(np.isfinite(image[:, :, y, x]).any())
                        assert there[k] == expected
            assert sorted(done) == list(range(len(table)))


def test_places_are_as_probable_as_their_mixture_says() -> None:
    errors = np.array([[9.0, 1, 4, 2, 3, 5, 0, 7, 8]])
    inside = np.array([[True] * 8 + [False]])
    found = _probabilities(errors, inside, np.array([[6.0]]), 1)[0]
    far = np.array([2, 1, 2, 1, 0, 1, 2, 1, 2]) / 2
    expected = np.exp(-far - errors[0] ** 2 / 12) * inside[0]
    np.testing.assert_allclose(found, expected / expected.sum())
    # Errors of 0 in all: nearness alone, and no division by 0.
    found = _probabilities(np.zeros((1, 9)), inside, np.zeros((1, 1)), 1)[0]
    assert found.argmax() == 4
    assert found.sum() == pytest.approx(1)


def some_labels(own: bool, seed: int = 0) -> Labels:
    draw = np.random.default_rng(seed)
    table = draw.normal(size=(120, 4)).astype(np.float32)
    target = table[:, 0] * 9 + draw.normal(size=120)
    weights = draw.uniform(0.5, 1.5, 120)
    asked = table.copy() if own else None
    return Labels(table, target, weights, np.arange(120) // 6, asked)


def test_errors_are_those_of_the_labels_own_pixels() -> None:
    quantiles = (0.05, 0.95)
    plain = fit_parts(some_labels(False), 20, 0, quantiles)
    same = fit_parts(some_labels(True), 20, 0, quantiles)
    assert plain.held_out is not None
    assert same.held_out is not None
    # In closed form, without refitting; distances are rounded otherwise.
    np.testing.assert_allclose(same.held_out, plain.held_out, atol=1e-6)
    np.testing.assert_allclose(same.ends, plain.ends, atol=1e-6)
    labels = some_labels(False)
    other = labels.table[:, ::-1].copy()
    asked = dataclasses.replace(labels, own=other)
    found = fit_parts(asked, 20, 0, quantiles)
    assert found.held_out is not None
    # What is learnt is the same, and the errors are those of the other features.
    assert found.kernel.alpha.equal(plain.kernel.alpha)
    assert np.corrcoef(found.held_out, labels.target)[0, 1] < 0.4
    assert np.corrcoef(plain.held_out, labels.target)[0, 1] > 0.9
    assert not np.allclose(found.ends, plain.ends)
    _, held_out, _ = fit_own(Ridge(), asked, 0)
    folds = folds_of(labels.groups, 0, OWN_FOLDS)
    for fold in np.unique(folds):
        held = folds == fold
        ridge = Ridge().fit(
            labels.table[~held], labels.target[~held], labels.weights[~held]
        )
        np.testing.assert_allclose(held_out[held], ridge.predict(other[held]))


# --- settings, records, warnings ---


@pytest.mark.parametrize("wrong", [3, -1, True, 1.0, "1"])
def test_a_wrong_shift_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"label_shift must be 0, 1 or 2 pixels, got"):
        gb.fit(xr.Dataset(), "pixels", label_shift=wrong)


def test_a_shift_needs_a_recipe() -> None:
    with pytest.raises(ValueError, match=r"fit\(cube, 'pixels', label_shift="):
        gb.fit(xr.Dataset(), label_shift=1)
    assert asked_recipe(None, None, {"label_shift": 0}) is None
    chosen = asked_recipe(None, None, {"label_shift": 1, "trees": 30})
    assert chosen is not None
    assert (chosen.name, chosen.label_shift) == ("pixels", 1)


def test_no_shift_is_saved_as_before() -> None:
    cube, _ = rough(20, 60)
    data = LabelledCube.open(cube)
    network = AttentionUNet(bands=4, **TINY)
    plain = find_recipe("quick", crop=10, block=10)
    assert "label_shift" not in recipe_to_dict(plain)
    assert recipe_to_dict(plain.with_changes(label_shift=2))["label_shift"] == 2
    before = learnt_from(data, network, plain)
    assert "label_shift" not in before
    shifted = plain.with_changes(label_shift=1)
    assert learnt_from(data, network, shifted) == before | {"label_shift": 1}
    loader = make_loaders(data, plain, 0.0).training
    assert isinstance(training_changes(plain, loader), Augmentation)
    images = torch.ones(1, 1, 4, 10, 10), None, (7,)
    _, target = training_changes(shifted, loader)(images, torch.zeros(1, 1, 10, 10))
    assert target.shape[1] == 2


def test_a_learner_by_pixel_tells_its_shift(tmp_path: Path) -> None:
    cube, _ = rough(24, 80)
    settings = FAST | {"block": 8, "trees": 10, "domain_cells": 0}
    maps = {}
    for name, more in (
        ("plain", {}),
        ("off", {"label_shift": 1}),
        ("zero", {"label_shift": 0}),
    ):
        model = gb.fit(cube, "pixels", **settings, **more)
        model.save(tmp_path / name)
        maps[name] = model.predict(cube, check="off")
    xr.testing.assert_identical(maps["plain"]["agb"], maps["zero"]["agb"])
    assert not maps["plain"]["agb"].equals(maps["off"]["agb"])
    assert "label_shift" not in (tmp_path / "plain" / "config.json").read_text()
    model = gb.load(tmp_path / "off")
    assert model.recipe is not None
    assert model.recipe.label_shift == 1
    known = model.provenance["shift of labels"]
    assert (known["pixels"], known["labels"]) == (1, 80)
    assert 10 < known["moved"] < 80  # all are off, and eight of nine places are others
    card = (tmp_path / "off" / "README.md").read_text()
    assert f"{known['moved']} of 80 match another one better" in card
    lineage = gb.provenance(maps["off"])
    assert "labels off by up to 1 pixels" in str(lineage)
    assert "labels off" not in (tmp_path / "plain" / "README.md").read_text()


@pytest.mark.slow
def test_a_network_trains_with_shifted_and_weighed_labels(tmp_path: Path) -> None:
    cube, _ = rough(64, 300)
    cube = cube.assign(agb_se=abs(cube["agb"]) * 0.1 + 1)
    found = []
    for _ in range(2):
        model = gb.fit(
            cube,
            "quick",
            **TINY,
            **{"label_shift": 1, "label_errors": True, "domain_cells": 0},
            **{"epochs": 1, "crop": 64, "block": 64, "progress": False},
            validation=0,
        )
        found.append(model)
    for one, other in zip(
        *(model.network.state_dict().values() for model in found), strict=True
    ):
        assert torch.equal(one, other)
    model.save(tmp_path / "model")
    assert "shifted together" in (tmp_path / "model" / "README.md").read_text()
    again = gb.load(tmp_path / "model")
    assert again.provenance["shift of labels"] == {"pixels": 1}
    assert again.recipe.label_shift == 1


def test_labels_that_are_a_map_or_too_few_are_told() -> None:
    cube = gb.landscape(32, months=1, seed=3).load()
    data = LabelledCube.open(cube)
    samples = [Sample(Window(0, 0, 32, 16)), Sample(Window(0, 16, 32, 32))]
    with pytest.warns(UserWarning, match=r"8\d % of the labels have a label on all"):
        check_layout(data.reader, samples, 1)
    plus = np.zeros(
        (32, 32), bool
    )  # the five pixels of a footprint, as radius= has them
    plus[[4, 5, 5, 5, 6, 20], [5, 4, 5, 6, 5, 20]] = True
    few = LabelledCube.open(cube.assign(agb=cube["agb"].where(plus)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_layout(data.reader, samples, 0)
        check_layout(few.reader, samples, 1)
        check_layout(few.reader, samples, 1, fewest=5)
    with pytest.warns(
        UserWarning, match=r"shifts 6 labels .* 100 % of the labels are in"
    ):
        check_layout(few.reader, samples, 1, fewest=6)
