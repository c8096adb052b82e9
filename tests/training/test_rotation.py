import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from geobiomass.training.augment import random_orientation, random_rotation
from geobiomass.training.rotation import Rotation

SIZES = st.integers(2, 9)
SHARES = st.floats(-0.3, 0.3)


def places(rotation: Rotation, height: int, width: int) -> np.ndarray:
    """Return the source of each pixel, (2, y, x) in pixels, by a matrix of numpy."""
    angle = np.deg2rad(rotation.degrees)
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    sides = np.array([height, width])
    centre = (sides - 1) / 2 + np.array(rotation.centre) * sides
    pixels = np.indices((height, width)) - centre[:, None, None]
    return np.einsum("ij,jyx->iyx", matrix, pixels) + centre[:, None, None]


def by_scipy(plane: np.ndarray, rotation: Rotation, order: int = 1) -> np.ndarray:
    found = places(rotation, *plane.shape)
    return ndimage.map_coordinates(plane, found, order=order, mode="reflect")


def random_planes(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def away_from_ties(rotation: Rotation, height: int, width: int) -> np.ndarray:
    """Whether just one pixel is nearest, however the last bit is rounded."""
    return (abs(places(rotation, height, width) % 1 - 0.5) > 1e-6).all(0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    height=SIZES,
    width=SIZES,
    degrees=st.floats(-360, 360),
    centre=st.tuples(SHARES, SHARES),
)
def test_a_rotation_is_scipys(seed, height, width, degrees, centre):
    rotation = Rotation(degrees, centre)
    planes = random_planes(seed, 2, 3, height, width)
    turned = rotation.apply(planes)
    expected = np.stack(
        [[by_scipy(band.numpy(), rotation) for band in month] for month in planes]
    )
    np.testing.assert_allclose(turned, expected, atol=1e-9)
    nearest = rotation.apply(planes, "nearest")[0, 0]
    sure = away_from_ties(rotation, height, width)
    np.testing.assert_array_equal(
        nearest[sure], by_scipy(planes[0, 0].numpy(), rotation, order=0)[sure]
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    missing=st.sampled_from([0.05, 0.5, 0.95]),
    degrees=st.floats(-60, 60),
    centre=st.tuples(SHARES, SHARES),
)
def test_gaps_neither_spread_nor_fill(seed, missing, degrees, centre):
    rotation = Rotation(degrees, centre)
    planes = random_planes(seed, 3, 4, 7, 8)
    gap = random_planes(seed + 1, *planes.shape).sigmoid() < missing
    gap[0, 0] = True
    gap[0, 1] = False
    turned = rotation.apply(planes.masked_fill(gap, torch.nan)).numpy()
    sure = away_from_ties(rotation, 7, 8)
    for month, band in np.ndindex(3, 4):
        known = (~gap[month, band]).double().numpy()
        total = by_scipy(planes[month, band].numpy() * known, rotation)
        weight = by_scipy(known, rotation)
        there = by_scipy(known, rotation, order=0) == 1
        result = turned[month, band]
        np.testing.assert_array_equal(np.isfinite(result)[sure], there[sure])
        both = sure & there
        np.testing.assert_allclose(result[both], (total / weight.clip(1e-9))[both])


def test_values_of_gaps_have_no_influence():
    planes = random_planes(0, 2, 3, 8, 8).float()
    gap = random_planes(1, 2, 3, 8, 8) < 0
    rotation = Rotation(20.0, (0.1, -0.05))
    expected = rotation.apply(planes.masked_fill(gap, torch.nan))
    known = expected.isfinite()
    for rubbish in (torch.inf, -torch.inf):
        turned = rotation.apply(planes.masked_fill(gap, rubbish))
        assert torch.equal(turned.isfinite(), known)
        assert torch.equal(turned[known], expected[known])


@pytest.mark.parametrize("turns", [0, 1, 2, 3, -1])
@pytest.mark.parametrize("gaps", [False, True])
def test_a_quarter_turn_is_rot90(turns, gaps):
    planes = random_planes(2, 3, 2, 9, 9).float()
    if gaps:
        planes[random_planes(3, *planes.shape) < 0] = torch.nan
    expected = planes.rot90(turns, (-2, -1))
    turned = Rotation(90.0 * turns).apply(planes)
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-5, equal_nan=True)
    nearest = Rotation(90.0 * turns).apply(planes, "nearest")
    torch.testing.assert_close(nearest, expected, rtol=0, atol=0, equal_nan=True)


def test_the_centre_stays_in_its_place():
    planes = random_planes(4, 9, 9)
    turned = Rotation(37.0, (2 / 9, -1 / 9)).apply(planes)
    assert turned[6, 3].item() == pytest.approx(planes[6, 3].item())
    assert (turned[5, 3] - planes[5, 3]).abs() > 1e-3


def test_autocast_does_not_coarsen_the_places():
    planes = random_planes(5, 2, 2, 32, 32).float()
    expected = Rotation(30.0).apply(planes)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Rotation(30.0).apply(planes), expected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), height=SIZES, width=SIZES)
def test_image_and_label_stay_aligned(seed, height, width):
    generator = torch.Generator().manual_seed(seed)
    label = torch.rand(5, 1, height, width, generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.2] = torch.nan
    image = label[:, None].repeat(1, 3, 2, 1, 1)
    image[:, :, 1] *= 2
    before = image.clone(), label.clone()
    (turned, extra), answer = random_rotation(
        (image, "extra"), label, 0.7, generator=generator
    )
    assert extra == "extra"
    pair = turned[:, :, 0], answer.expand(5, 3, height, width)
    torch.testing.assert_close(*pair, rtol=0, atol=1e-6, equal_nan=True)
    pair = turned[:, :, 1], 2 * turned[:, :, 0]
    torch.testing.assert_close(*pair, rtol=0, atol=1e-6, equal_nan=True)
    torch.testing.assert_close((image, label), before, rtol=0, atol=0, equal_nan=True)


def test_samples_are_turned_as_often_as_asked_and_others_not_at_all():
    generator = torch.Generator().manual_seed(0)
    label = torch.rand(2000, 1, 4, 4, generator=generator)
    (image,), answer = random_rotation((label[:, None],), label, generator=generator)
    same = (answer == label).flatten(1).all(1)
    assert same.double().mean().item() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(image[:, 0], answer)
    inputs = (label[:, None],)
    unturned, unmoved = random_rotation(inputs, label, probability=0.0)
    assert unturned[0] is inputs[0]
    assert unmoved is label


def test_angles_and_centres_are_drawn_evenly():
    # Two bands hold where a pixel lies: their corners tell angle and centre.
    side = 64
    y, x = np.indices((side, side)) - (side - 1) / 2
    ramps = torch.from_numpy(np.stack([y, x])).repeat(400, 1, 1, 1, 1)
    generator = torch.Generator().manual_seed(1)
    label = ramps[:, 0, :1]
    (turned,), _ = random_rotation((ramps,), label, 1.0, generator=generator)
    middle = turned[:, 0, :, side // 2, side // 2]
    aside = turned[:, 0, :, side // 2, side // 2 + 4]
    across, down = (aside - middle)[:, 1], (aside - middle)[:, 0]
    angles = torch.rad2deg(torch.atan2(down, across))
    assert angles.abs().max() <= 45 + 1e-6
    assert angles.mean().abs() < 5
    assert angles.std().item() == pytest.approx(90 / 12**0.5, rel=0.1)
    # A place p comes from c + R (p - c): what is not R p is c - R c, of length
    # 2 |c| sin(angle / 2).
    turn = torch.deg2rad(angles)
    laid = 0.5 * torch.stack([turn.cos() + turn.sin(), turn.cos() - turn.sin()], 1)
    moved = (middle - laid).norm(dim=1) / (2 * (turn / 2).sin().abs())
    assert moved.max() <= 0.1 * side * 2**0.5 + 1e-3
    # The mean square of a centre drawn evenly in a square of half side h is 2 h^2 / 3.
    expected = (2 / 3) ** 0.5 * 0.1 * side
    assert moved.square().mean().sqrt().item() == pytest.approx(expected, rel=0.1)


def test_labels_keep_zeros_mean_and_range():
    generator = torch.Generator().manual_seed(2)
    label = 100 * torch.rand(40, 1, 64, 64, generator=generator)
    label[..., :32] = 0
    image = torch.zeros(40, 1, 1, 64, 64)
    _, answer = random_rotation((image,), label, 1.0, jitter=0.0, generator=generator)
    assert answer.min() == 0
    assert answer.max() <= label.max()
    assert answer.mean().item() == pytest.approx(label.mean().item(), rel=0.02)
    assert (answer == 0).double().mean().item() == pytest.approx(0.5, abs=0.03)


def test_labels_at_the_ceiling_are_not_mixed():
    label = torch.full((6, 1, 32, 32), 50.0)
    label[:, :, 4::8, 4::8] = 12_900.0
    label[:, :, 0::8, 0::8] = torch.nan
    image = torch.zeros(6, 1, 1, 32, 32)
    draw = {"probability": 1.0, "generator": torch.Generator().manual_seed(3)}
    _, answer = random_rotation((image,), label, ceiling=400.0, **draw)
    counts = [answer == 12_900, (answer - 50).abs() < 1e-3, answer.isnan()]
    assert sum(counts).all()
    for count in counts:
        assert count.any()
    _, mixed = random_rotation((image,), label, **draw)
    assert ((mixed > 51) & (mixed < 400)).any()


def test_image_and_target_must_have_one_size():
    for change in (random_rotation, random_orientation):
        with pytest.raises(ValueError, match="same batch, y and x"):
            change((torch.zeros(2, 1, 1, 4, 4),), torch.zeros(3, 1, 4, 4))
