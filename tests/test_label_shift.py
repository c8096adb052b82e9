"""Labels that may be off by a pixel: in the loss of a network, and by pixel."""

from __future__ import annotations

import json
import warnings
from functools import partial
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
from geobiomass.data.labelled_cube import LabelledCube, LabelledSamples
from geobiomass.data.reader import Reader, Sample
from geobiomass.data.splits import samples_of
from geobiomass.learner.features import PixelFeatures
from geobiomass.learner.fitting import Labels, fit_parts
from geobiomass.learner.own_estimator import fit_own
from geobiomass.network import AttentionUNet
from geobiomass.recipes.asked import asked_recipe
from geobiomass.recipes.datasets import make_loaders
from geobiomass.recipes.label_shift import _neighbours
from geobiomass.recipes.label_table import LabelTable, make_table
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
