"""Recipes: their settings, and the augmentation of photos that they describe."""

import colorsys

import pytest
import torch
from pasture_files import one_thread
from torchvision.transforms import v2

from pasture.recipes import HUE, RECIPES, _jitter, find_recipe


@pytest.fixture(autouse=True)
def _threads():
    with one_thread():
        yield


def test_augmentation_is_random_for_each_photo():
    recipe = RECIPES["quick"]
    image = torch.arange(4 * 3 * 8 * 16).reshape(1, 12, 8, 16).to(torch.uint8)
    image = image[:, :3].repeat(64, 1, 1, 1)
    target = torch.zeros(64, 5)
    flips = recipe.with_changes(jitter=False).augmentation()
    torch.manual_seed(0)
    (flipped,), same = flips((image,), target)
    assert same is target
    found = {tuple(photo.flatten().tolist()) for photo in flipped}
    faces = [image[0].flip(dims) for dims in ((), (1,), (2,), (1, 2))]
    assert found == {tuple(face.flatten().tolist()) for face in faces}
    jitter = recipe.with_changes(flips=False).augmentation()
    (changed,), _ = jitter((image,), target)
    assert len(torch.unique(changed, dim=0)) > 8
    assert (changed - image / 255).abs().mean() < 0.2
    assert recipe.with_changes(flips=False, jitter=False).augmentation() is None


def test_jitter_changes_colours_as_torchvision_does(monkeypatch):
    """Compare with torchvision within its clipping range, one change at a time."""
    image = 0.2 + 0.5 * torch.rand(
        4, 3, 8, 16, generator=torch.Generator().manual_seed(0)
    )
    f = v2.functional
    for name, change in (
        ("saturation", f.adjust_saturation),
        ("contrast", f.adjust_contrast),
        ("brightness", f.adjust_brightness),
    ):
        row = ["saturation", "contrast", "brightness"].index(name)
        for seed in range(3):
            drawn = torch.ones(3, 4)
            drawn[row] = 1 + 0.2 * (torch.rand(4) - 0.5) * (seed + 1) / 2
            answers = iter([torch.zeros(4), drawn])
            with monkeypatch.context() as patch:
                patch.setattr(torch.Tensor, "uniform_", lambda *_: next(answers))  # noqa: B023
                found = _jitter(image)
            expected = [
                change(photo, factor)
                for photo, factor in zip(image, drawn[row].tolist(), strict=True)
            ]
            torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=2e-3)


def test_jitter_turns_hues_and_leaves_greys(monkeypatch):
    image = torch.tensor([[0.7, 0.3, 0.3], [0.5, 0.5, 0.5]]).view(2, 3, 1, 1)
    answers = iter([torch.full((2,), HUE), torch.ones(3, 2)])
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "uniform_", lambda *_: next(answers))
        red, grey = _jitter(image).view(2, 3)
    torch.testing.assert_close(grey, torch.full((3,), 0.5))
    hue = colorsys.rgb_to_hsv(*red.tolist())[0]
    assert hue == pytest.approx(HUE, abs=0.003)
    assert float(red.sum()) == pytest.approx(1.3)


def test_jitter_keeps_bright_pixels_apart():
    white = torch.stack(
        [torch.full((3, 4, 4), v, dtype=torch.uint8) for v in (250, 255)]
    )
    torch.manual_seed(0)
    brightest = 0.0
    for _ in range(50):
        state = torch.get_rng_state()
        changed = []
        for photo in white:
            torch.set_rng_state(state)
            changed.append(_jitter(photo[None]))
        brightest = max(brightest, float(changed[1].max()))
        # Both have the same change of brightness, so their ratio stays, unclipped.
        ratio = changed[1] / changed[0]
        torch.testing.assert_close(ratio, torch.full_like(ratio, 255 / 250))
    assert brightest > 1.1


def test_recipes_are_those_of_the_competition():
    seed, public = RECIPES["seed"], RECIPES["public"]
    assert (seed.height, seed.width, seed.freeze) == (1024, 2048, 0.8)
    assert {recipe.pretrained for recipe in RECIPES.values()} == {False}
    for recipe, rate, decay in ((seed, 2e-4, 1e-2), (public, 1e-4, 2e-5)):
        config = recipe.training
        assert (config.learning_rate, config.weight_decay) == (rate, decay)
        assert config.final_learning_rate == pytest.approx(rate / 100)
        assert (config.batch_size, config.schedule) == (4, "cosine")
        assert (config.keep_best, config.keep, config.keep_last) == (3, "average", 0)
        monitors = {"validation_loss", "validation_weighted_r2"}
        assert set(config.monitors) == monitors
    assert all(name == recipe.name for name, recipe in RECIPES.items())


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("best", {}, "one of seed, public, quick .* got 'best'"),
        (
            "quick",
            {"epoch": 3},
            "'epoch' is not a setting of a recipe; did you mean epochs",
        ),
        ("quick", {"height": 0}, "height .* 1 pixel or more, got 0"),
        ("quick", {"validation_fraction": 1}, "validation_fraction .* got 1"),
        ("quick", {"epochs": 0}, "epochs of TrainingConfig"),
    ],
)
def test_recipes_that_do_not_exist_are_refused(recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        find_recipe(recipe, **changes)
