"""A network that learns images before labels: what it is shown, told and resumed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import geobiomass as gb
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.network.reconstruction import HIDDEN_PIXELS, hide
from geobiomass.recipes.datasets import make_loaders
from geobiomass.recipes.recipe import find_recipe
from geobiomass.recipes.self_supervised import START

TINY: dict[str, Any] = {
    "encoder": "test_resnet",
    "decoder_channels": (8, 8, 8, 8, 8),
    "progress": False,
    "crop": 32,
    "block": 32,
    "keep": "last",
    "domain_cells": 0,
}


@pytest.fixture(scope="module")
def scene() -> xr.Dataset:
    """Return a scene with labels in its upper half."""
    scene = gb.landscape((96, 96), months=2, seed=4, version=1).compute()
    drawn = np.random.default_rng(0).random(scene["agb"].shape) < 0.02
    drawn[48:] = False
    return scene.assign(agb=scene["agb"].where(drawn))


def fit(scene: xr.Dataset, **settings: Any) -> gb.BiomassRegressor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return gb.fit(scene, "quick", **TINY | settings)


@pytest.fixture(scope="module")
def whole(scene: xr.Dataset) -> gb.BiomassRegressor:
    return fit(scene, epochs=2, self_supervised=2)


def test_hidden_pixels_are_gone_and_their_means_are_asked_for() -> None:
    torch.manual_seed(0)
    image = torch.randn(512, 3, 4, 8, 8)
    image[1, 0] = torch.nan  # a month without a value
    image[2, :, 1] = torch.nan  # a band without
    image[3, 0, 2, 5, 5] = torch.nan
    shift, scale = torch.arange(4.0), torch.tensor([1.0, 2.0, 4.0, 8.0])
    known = torch.tensor([True, True, True, False])
    hidden, target = hide(image, shift, scale, known)
    gone = hidden.isnan() & ~image.isnan()
    pixels = target[:, 0].isfinite()
    assert float(pixels.float().mean()) == pytest.approx(HIDDEN_PIXELS, abs=0.03)
    # What is asked for is seen in no month and band, what is not hidden is unchanged.
    everywhere = hidden.isnan().all(dim=2).all(dim=1)
    assert everywhere[pixels].all()
    assert hidden[~gone].nan_to_num().equal(image[~gone].nan_to_num())
    expected = ((image - shift[:, None, None]) / scale[:, None, None]).nanmean(1)
    there = target.isfinite()
    np.testing.assert_allclose(target[there], expected[there], rtol=1e-5, atol=1e-6)
    assert not there[:, 3].any()
    assert not there[2, 1].any()
    # Months are hidden as a whole, and each sample keeps one that had values.
    kept = hidden.isfinite().flatten(2).any(2)
    assert kept.any(1).all()
    assert not kept[1, 0]
    share = float((~kept[4:]).float().mean())
    # 0.3, but where all three are drawn the first one stays; 3 standard deviations.
    assert share == pytest.approx(0.3 - 0.3**3 / 3, abs=0.035)
    # Values that stand where data is missing have no effect: missing means missing.
    empty = torch.full_like(image[:1], torch.nan)
    hidden, target = hide(empty, shift, scale, known)
    assert hidden.isnan().all()
    assert target.isnan().all()


def test_images_without_labels_are_learnt_but_none_that_is_held_out(
    scene: xr.Dataset,
) -> None:
    data = LabelledCube.open(scene)
    recipe = find_recipe("quick", **TINY, self_supervised=1, validation_fraction=0.3)
    loaders = make_loaders(data, recipe)
    assert loaders.images is not None
    assert loaders.validation is not None
    learnt = {sample.window for sample in loaders.images.samples}
    trained = {sample.window for sample in loaders.training.samples}
    held = {sample.window for sample in loaders.validation.samples}
    assert trained < learnt
    assert not learnt & held
    assert len(learnt | held) == 9  # all blocks, those of the lower half without labels
    assert make_loaders(data, find_recipe("quick", **TINY)).images is None
    (fold, *_) = gb.make_folds(scene, 2, block=32)
    loaders = make_loaders(data, recipe, fold)
    assert loaders.images is not None
    assert set(loaders.images.samples) == set(loaders.training.samples)


@pytest.mark.slow
def test_the_start_is_told_planned_and_changes_the_weights(
    scene: xr.Dataset, whole: gb.BiomassRegressor, tmp_path: Path
) -> None:
    words = whole.provenance["self-supervised"]
    assert words.startswith("2 epochs on the images of 8 blocks, without labels: mean")
    first, last = (
        float(words.split(name)[1].split()[0]) for name in (" from ", " to ")
    )
    assert 0 < last < first
    assert "test_resnet self-supervised, 15 bands" in repr(whole)
    whole.save(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"Self-supervised start: {words}." in card
    assert gb.load(tmp_path / "model").provenance["self-supervised"] == words
    plans: list[Any] = []
    without = fit(scene, epochs=1, announce=plans.append)
    fit(scene, epochs=1, self_supervised=3, crops=9, announce=plans.append)
    assert [stage.name for stage in plans[0].stages] == ["long"]
    start, main = plans[1].stages
    assert (start.name, start.epochs, start.samples) == ("self-supervised", 3, 9)
    assert main.epochs == 1
    assert "self-supervised" not in without.provenance
    own, other = (model.network.state_dict() for model in (whole, without))
    assert own.keys() == other.keys()  # the head of the reconstruction is not kept
    assert not own["decoder.blocks.0.conv1.0.weight"].equal(
        other["decoder.blocks.0.conv1.0.weight"]
    )


@pytest.mark.parametrize("stage", [START, ""])
@pytest.mark.slow
def test_interrupted_at_the_start_or_later_it_ends_with_the_same_bits(
    scene: xr.Dataset,
    whole: gb.BiomassRegressor,
    stage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from geobiomass.training.task import RegressionTask

    step = RegressionTask.training_step
    seen = []

    def stop(task: Any, batch: Any, number: int) -> Any:
        starts = type(task.network).__name__ == "Reconstruction"
        if starts == (stage == START):
            seen.append(number)
            if len(seen) == 2:
                raise KeyboardInterrupt
        return step(task, batch, number)

    settings = {"self_supervised": 2, "epochs": 2}
    with monkeypatch.context() as patch:
        patch.setattr(RegressionTask, "training_step", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(scene, folder=tmp_path, **settings)
    assert (tmp_path / START / "last.ckpt").is_file()
    again = fit(scene, folder=tmp_path, **settings)
    assert again.provenance["self-supervised"] == whole.provenance["self-supervised"]
    expected = whole.network.state_dict()
    for name, value in again.network.state_dict().items():
        assert value.equal(expected[name]), name
    with pytest.raises(ValueError, match="self_supervised was 2 and is 3"):
        fit(scene, folder=tmp_path, **settings | {"self_supervised": 3})
    # Also of the start alone, before any image is read.
    (tmp_path / "last.ckpt").unlink()
    monkeypatch.setattr("geobiomass.models.network_training.make_loaders", None)
    with pytest.raises(
        ValueError, match=rf"{START}.*learning_rate was 0\.002 and is 1"
    ):
        fit(scene, folder=tmp_path, **settings | {"learning_rate": 1})


def test_settings_of_the_start_are_checked() -> None:
    with pytest.raises(
        ValueError, match="self_supervised must be a number of epochs, 0"
    ):
        find_recipe("quick", self_supervised=-1)
    with pytest.raises(ValueError, match=r"self_supervised must be .* got 2\.5\.$"):
        find_recipe("quick", self_supervised=2.5)
    assert find_recipe("quick", self_supervised=2, frozen=1.0).frozen == 1
