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


SWITCHES = {
    "passes": (0, 0, 1, 1, 2, 2),
    "optical": 2,
    "calendar": (9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 7, 8),
}


def test_without_the_newer_switches_the_draws_are_the_older_ones():
    image, target = numbered(6, 12, 6, 4, 4), numbered(6, 1, 4, 4)
    torch.manual_seed(3)
    (turned, present), answer = Augmentation(**SWITCHES)((image,), target)
    torch.manual_seed(3)
    (expected,), label = random_orientation((image,), target)
    kept = drop_months(expected, None, 0.5, 0.3)
    assert torch.equal(turned, expected)
    assert torch.equal(answer, label)
    assert torch.equal(present, kept)


def test_all_switches_together():
    image, target = numbered(8, 12, 6, 6, 6) / 1000, numbered(8, 1, 6, 6)
    image[0, :, 2:] = torch.nan
    given_mask = torch.rand(8, 12, generator=torch.Generator().manual_seed(1)) < 0.5
    given_mask[:, 0] = True
    before = image.clone()
    augment = Augmentation(
        rotation=1.0, pattern_dropout=1.0, pass_dropout=1.0, **SWITCHES
    )
    calendar = torch.tensor(SWITCHES["calendar"])
    for seed in range(20):
        torch.manual_seed(seed)
        (changed, present, same), answer = augment(
            (image, given_mask, calendar), target
        )
        assert same is calendar
        there = changed.isfinite().flatten(2).any(2)
        assert not (present & ~given_mask).any()
        assert not (present & ~there).any()
        assert present.any(1).all()
        assert not torch.equal(answer, target)
    assert torch.equal(image.nan_to_num(-1), before.nan_to_num(-1))
    torch.manual_seed(seed)
    (again, mask, _), label = augment((image, given_mask, calendar), target)
    assert torch.equal(again.nan_to_num(-1), changed.nan_to_num(-1))
    assert torch.equal(mask, present)
    assert torch.equal(label, answer)


def test_passes_go_before_patterns_and_a_last_month_stays():
    # In a single month the radar always goes, and so the optical image never can.
    image = torch.ones(50, 1, 2, 1, 1)
    augment = Augmentation(
        probability_batch=1.0,
        probability_month=1.0,
        pass_dropout=1.0,
        pattern_dropout=1.0,
        passes=(0, 2),
        optical=2,
        calendar=(9,),
    )
    (changed, present), _ = augment((image,), torch.zeros(50, 1, 1, 1))
    assert changed[:, :, 0].isnan().all()
    assert changed[:, :, 1].eq(1).all()
    assert present.all()


def test_dropped_months_are_drawn_from_those_that_are_left():
    image = torch.full((300, 12, 6, 1, 1), torch.nan)
    image[:, :2, 4:] = 1.0  # September and October, the optical bands alone
    augment = Augmentation(
        probability_batch=1.0, probability_month=1.0, pattern_dropout=1.0, **SWITCHES
    )
    (changed, present), _ = augment((image,), torch.zeros(300, 1, 1, 1))
    there = changed.isfinite().flatten(2).any(2)
    assert (present & there).sum(1).eq(1).all()


def test_a_mask_is_not_made_up_and_further_inputs_stay():
    image, target = numbered(4, 12, 6, 3, 3), numbered(4, 1, 3, 3)
    quiet = {"orientations": False, "probability_batch": 0.0}
    for switches in ({}, {"pass_dropout": 1.0}, {"pattern_dropout": 1.0}):
        augment = Augmentation(**quiet, **switches, **SWITCHES)
        (changed,), _ = augment((image,), target)
        assert (changed is image) == (not switches)
        (_, present, extra), _ = augment((image, None, "extra"), target)
        assert extra == "extra"
        assert present is None or present.dtype == torch.bool
    (_, present, extra), _ = Augmentation()((image, None, "extra"), target)
    assert present.shape == (4, 12)
    assert extra == "extra"


def test_the_ceiling_reaches_the_rotation():
    target = torch.full((4, 1, 16, 16), 50.0)
    target[:, :, 4, 4] = 5000.0
    image = torch.zeros(4, 1, 1, 16, 16)
    augment = Augmentation(rotation=1.0, probability_batch=0.0, ceiling=400.0)
    _, answer = augment((image,), target)
    assert ((answer == 5000) | ((answer - 50).abs() < 1e-3)).all()


@pytest.mark.parametrize("name", ["rotation", "pattern_dropout", "pass_dropout"])
def test_newer_probabilities_are_checked(name):
    with pytest.raises(ValueError, match=rf"{name}.*got -0\.1"):
        Augmentation(**{name: -0.1}, **SWITCHES)


@pytest.mark.parametrize("missing", ["passes", "optical", "calendar"])
def test_a_switch_asks_for_what_it_needs(missing):
    given_rest = SWITCHES | {missing: None}
    with pytest.raises(ValueError, match=f"{missing} of Augmentation.*pattern_dropout"):
        Augmentation(pattern_dropout=0.5, **given_rest)
    if missing == "passes":
        with pytest.raises(ValueError, match=r"passes of Augmentation.*pass_dropout"):
            Augmentation(pass_dropout=0.5, **given_rest)
    else:
        Augmentation(pass_dropout=0.5, **given_rest)
