from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geobiomass.training.augment import (
    FLIPS,
    ORIENTATIONS,
    Augmentation,
    Orientation,
    drop_months,
    random_orientation,
)


def numbered(*shape: int) -> torch.Tensor:
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (2, 3, 4, 6), (2, 12, 1, 5, 5)])
def test_the_inverse_undoes(orientation, shape):
    tensor = numbered(*shape)
    laid = orientation.apply(tensor)
    assert torch.equal(orientation.inverse.apply(laid), tensor)
    assert (laid.shape == tensor.shape) == (
        not orientation.swaps_axes or shape[-1] == shape[-2]
    )


def test_the_eight_are_distinct_and_closed():
    tile = numbered(3, 3)
    tiles = {tuple(o.apply(tile).flatten().tolist()) for o in ORIENTATIONS}
    assert len(tiles) == 8
    for first, second in product(ORIENTATIONS, repeat=2):
        both = second.apply(first.apply(tile))
        assert tuple(both.flatten().tolist()) in tiles


def test_flips_are_identity_left_right_up_down_and_both():
    tile = numbered(2, 3)
    expected = [tile, tile.flip(1), tile.flip(0), tile.flip(0, 1)]
    assert len(FLIPS) == 4
    for flip, result in zip(FLIPS, expected, strict=True):
        assert torch.equal(flip.apply(tile), result)
        assert flip in ORIENTATIONS
        assert not flip.swaps_axes


def test_orientation_refuses_other_turns():
    with pytest.raises(ValueError, match=r"turns.*got 4"):
        Orientation(4)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
)
def test_image_and_target_stay_aligned(seed, height, width):
    target = numbered(5, 1, height, width)
    image = target[:, None].repeat(1, 2, 3, 1, 1)
    generator = torch.Generator().manual_seed(seed)
    (turned, extra), answer = random_orientation((image, "extra"), target, generator)
    assert extra == "extra"
    assert torch.equal(turned, answer[:, None].expand_as(turned))
    allowed = ORIENTATIONS if height == width else FLIPS
    for before, after in zip(target, answer, strict=True):
        assert any(torch.equal(o.apply(before), after) for o in allowed)


def test_every_orientation_is_drawn_about_equally_often():
    target = numbered(1, 1, 2, 2).repeat(4000, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    _, answer = random_orientation((target[:, None],), target, generator)
    _, counts = answer.flatten(1).unique(dim=0, return_counts=True)
    assert len(counts) == 8
    assert (counts - 500).abs().max() < 100  # nearly five standard deviations


def test_image_and_target_must_have_one_size():
    with pytest.raises(ValueError, match="same batch, y and x"):
        random_orientation((torch.zeros(2, 1, 1, 4, 4),), torch.zeros(2, 1, 4, 5))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    batch=st.sampled_from([0.0, 0.5, 1.0]),
    month=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
)
def test_months_are_only_taken_and_never_all(seed, batch, month):
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(6, 12, generator=generator) < 0.5
    present[0] = False
    image = torch.zeros(6, 12, 1, 2, 2)
    kept = drop_months(image, present, batch, month, generator)
    assert kept.dtype == torch.bool
    assert not (kept & ~present).any()
    assert torch.equal(kept.any(1), present.any(1))
    if batch == 0 or month == 0:
        assert torch.equal(kept, present)
    if batch == month == 1:
        assert (kept.sum(1) == present.any(1)).all()


def test_months_are_dropped_as_often_as_asked():
    generator = torch.Generator().manual_seed(0)
    present = torch.ones(20_000, 12, dtype=torch.bool)
    kept = drop_months(torch.zeros(1), present, 0.5, 0.3, generator)
    whole = kept.all(1).double().mean().item()
    assert whole == pytest.approx(0.5 + 0.5 * 0.7**12, abs=0.015)
    assert (~kept).double().mean().item() == pytest.approx(0.15, abs=0.005)


def test_the_last_month_to_stay_is_drawn_evenly():
    generator = torch.Generator().manual_seed(0)
    present = torch.ones(9000, 3, dtype=torch.bool)
    kept = drop_months(torch.zeros(1), present, 1.0, 1.0, generator)
    assert (kept.sum(0) - 3000).abs().max() < 220  # five standard deviations


def test_presence_is_read_from_the_image():
    image = torch.full((2, 3, 2, 4, 4), torch.nan)
    image[0, 1, 0, 2, 2] = 5.0
    image[1] = 0.0
    kept = drop_months(image, None, 0.0, 0.0)
    assert kept.tolist() == [[False, True, False], [True, True, True]]


def test_augmentation_combines_both_and_repeats_by_seed():
    image, target = numbered(4, 12, 2, 3, 3), numbered(4, 1, 3, 3)
    before = image.clone()
    augment = Augmentation(probability_batch=1.0, probability_month=0.5)
    torch.manual_seed(5)
    (turned, present), answer = augment((image,), target)
    torch.manual_seed(5)
    (again, same), _ = augment((image,), target)
    assert torch.equal(turned, again)
    assert torch.equal(present, same)
    assert present.shape == (4, 12)
    assert 0 < (~present).sum() < present.numel()
    assert not torch.equal(turned, image)
    assert sorted(answer[0].flatten().tolist()) == target[0].flatten().tolist()
    assert torch.equal(image, before)


def test_augmentation_respects_a_given_mask():
    given_mask = torch.zeros(4, 12, dtype=torch.bool)
    given_mask[:, :2] = True
    image = torch.zeros(4, 12, 1, 2, 2)
    (_, present), _ = Augmentation(probability_batch=1.0)(
        (image, given_mask), torch.zeros(4, 1, 2, 2)
    )
    assert not present[:, 2:].any()
    assert present.any(1).all()


def test_augmentation_can_be_switched_off():
    image, target = torch.zeros(2, 3, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    quiet = Augmentation(orientations=False, probability_batch=0.0)
    inputs, answer = quiet((image,), target)
    assert inputs[0] is image
    assert len(inputs) == 1
    assert answer is target
    with pytest.raises(ValueError, match=r"probability_month.*1\.5"):
        Augmentation(probability_month=1.5)
