import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from geobiomass.training.losses import (
    chip_huber_loss,
    chip_rmse_loss,
    masked_huber_loss,
    masked_mse_loss,
    r2_loss,
)

SHAPE = (3, 1, 4, 5)
MASKED = [chip_rmse_loss, chip_huber_loss, masked_mse_loss, masked_huber_loss]
CHIPWISE = [chip_rmse_loss, chip_huber_loss]


def chips(seed: int, missing: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    prediction = rng.normal(60, 50, SHAPE).astype("float32")
    target = rng.uniform(0, 600, SHAPE).astype("float32")
    target[rng.random(SHAPE) < missing] = np.nan
    return prediction, target


def valid_errors(prediction, target, ceiling):
    """Errors of the valid pixels of each chip, by plain numpy."""
    for p, t in zip(prediction, target, strict=True):
        keep = np.isfinite(t) & (t < (np.inf if ceiling is None else ceiling))
        yield (p[keep].astype(float) - t[keep].astype(float)).ravel()


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    missing=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    ceiling=st.sampled_from([None, 400.0, 50.0, 0.0]),
)
def test_masked_losses_agree_with_numpy(seed, missing, ceiling):
    prediction, target = chips(seed, missing)
    errors = list(valid_errors(prediction, target, ceiling))
    together = np.concatenate(errors)
    roots = [np.sqrt(np.mean(e**2)) for e in errors if e.size]
    huber = np.where(
        abs(together) <= 30, together**2 / 2, 30 * (abs(together) - 30 / 2)
    )
    pair = torch.from_numpy(prediction), torch.from_numpy(target)
    expected = {
        chip_rmse_loss(*pair, ceiling=ceiling): np.mean(roots) if roots else 0.0,
        masked_mse_loss(*pair, ceiling=ceiling): (
            np.mean(together**2) if together.size else 0.0
        ),
        masked_huber_loss(*pair, 30.0, ceiling): (
            np.mean(huber) if together.size else 0.0
        ),
    }
    for loss, value in expected.items():
        assert loss.item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("loss", MASKED)
@pytest.mark.parametrize("rubbish", [np.nan, np.inf, -np.inf, 3e38])
def test_an_invalid_pixel_gives_no_gradient(loss, rubbish):
    prediction, target = map(torch.from_numpy, chips(1, 0.4))
    invalid = ~torch.isfinite(target)
    assert invalid.any()
    clean = prediction.clone().requires_grad_()
    loss(clean, target).backward()
    dirty = torch.where(invalid, rubbish, prediction).requires_grad_()
    value = loss(dirty, target)
    value.backward()
    assert torch.equal(dirty.grad, clean.grad)
    assert (dirty.grad[invalid] == 0).all()
    assert value.isfinite()


@pytest.mark.parametrize("loss", MASKED)
def test_nothing_valid_is_zero_with_zero_gradients(loss):
    prediction = torch.full(SHAPE, torch.nan, requires_grad=True)
    value = loss(prediction, torch.full(SHAPE, torch.nan))
    value.backward()
    assert value.item() == 0
    assert (prediction.grad == 0).all()


def test_one_chip_without_valid_pixels_leaves_the_others_alone():
    prediction, target = map(torch.from_numpy, chips(2, 0.0))
    target[1] = 500.0
    expected = chip_rmse_loss(prediction[[0, 2]], target[[0, 2]])
    assert chip_rmse_loss(prediction, target).item() == pytest.approx(expected.item())


def test_a_chip_without_error_has_finite_gradients():
    target = torch.rand(SHAPE)
    prediction = target.clone()
    prediction[0] += 1
    prediction.requires_grad_()
    loss = chip_rmse_loss(prediction, target)
    loss.backward()
    assert loss.item() == pytest.approx(1 / 3)
    assert prediction.grad.isfinite().all()
    assert (prediction.grad[1:] == 0).all()


@pytest.mark.parametrize("loss", MASKED)
def test_gradients_agree_with_finite_differences(loss):
    prediction, target = map(torch.from_numpy, chips(3, 0.3))
    prediction.requires_grad_()
    loss(prediction, target).backward()
    pixel = tuple((target < 400).nonzero()[7].tolist())
    step = torch.zeros(SHAPE)
    step[pixel] = 0.5
    with torch.no_grad():
        rise = loss(prediction + step, target) - loss(prediction - step, target)
    assert prediction.grad[pixel].item() == pytest.approx(rise.item(), rel=2e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_losses_are_computed_in_float32(dtype):
    # A squared error of 300 overflows float16.
    prediction = torch.full(SHAPE, 300.0, dtype=dtype, requires_grad=True)
    target = torch.zeros(SHAPE, dtype=dtype)
    for loss in MASKED:
        value = loss(prediction, target)
        assert value.dtype == torch.float32
        assert value.isfinite()
    r2 = r2_loss(prediction[:, 0, 0], target[:, 0, 0] + torch.arange(5), [1.0] * 5)
    assert r2.dtype == torch.float32
    assert r2.isfinite()


@pytest.mark.parametrize("loss", MASKED)
def test_shapes_must_agree(loss):
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4\).*\(2, 4, 4\)"):
        loss(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4))


def test_huber_is_pytorchs():
    prediction, target = map(torch.from_numpy, chips(4, 0.0))
    expected = torch.nn.functional.huber_loss(prediction, target, delta=20.0)
    assert masked_huber_loss(prediction, target, 20.0).item() == pytest.approx(
        expected.item(), rel=1e-5
    )
    for loss in (masked_huber_loss, chip_huber_loss):
        with pytest.raises(ValueError, match="delta"):
            loss(prediction, target, 0.0)


def twice_huber(error: np.ndarray, delta: float) -> np.ndarray:
    return np.where(abs(error) <= delta, error**2, delta * (2 * abs(error) - delta))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    missing=st.sampled_from([0.0, 0.3, 1.0]),
    ceiling=st.sampled_from([None, 400.0, 50.0]),
    tail=st.sampled_from(["drop", "clip"]),
)
def test_tails_agree_with_numpy(seed, missing, ceiling, tail):
    prediction, target = chips(seed, missing)
    prediction *= 4  # so that some lie above the ceiling, as some targets do
    roots, robust, all_errors = [], [], [np.zeros(0)]
    for p, t in zip(prediction.astype(float), target.astype(float), strict=True):
        keep = np.isfinite(t)
        high = keep & (t >= (np.inf if ceiling is None else ceiling))
        error = np.where(high, np.minimum(p - (ceiling or 0), 0), p - t)
        error = error[keep & ~high] if tail == "drop" else error[keep]
        if error.size:
            roots.append(np.sqrt(np.mean(error**2)))
            robust.append(np.sqrt(np.mean(twice_huber(error, 80.0))))
        all_errors.append(error)
    together = np.concatenate(all_errors)
    pair = torch.from_numpy(prediction), torch.from_numpy(target)
    how = {"ceiling": ceiling, "tail": tail}
    expected = {
        chip_rmse_loss(*pair, **how): np.mean(roots) if roots else 0.0,
        chip_huber_loss(*pair, 80.0, **how): np.mean(robust) if robust else 0.0,
        masked_mse_loss(*pair, **how): np.sum(together**2) / max(together.size, 1),
        masked_huber_loss(*pair, 80.0, **how): (
            np.sum(twice_huber(together, 80.0)) / 2 / max(together.size, 1)
        ),
    }
    for loss, value in expected.items():
        assert loss.item() == pytest.approx(value, rel=1e-5)


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    loss=st.sampled_from(CHIPWISE),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    ceiling=st.sampled_from([None, 0.0, 400.0]),
    tail=st.sampled_from(["drop", "clip"]),
)
def test_values_and_gradients_are_always_finite(data, loss, dtype, ceiling, tail):
    # What float16 holds; the two share values, so that errors are often zero.
    numbers = st.one_of(
        st.sampled_from([0.0, 1e-7, 399.75, 400.0, 400.25, 12_900.0, 65_504.0]),
        st.floats(-65_504, 65_504, width=16),
    )
    labels = st.one_of(numbers, st.sampled_from([np.nan, np.inf]))
    draw = (st.lists(v, min_size=6, max_size=6) for v in (numbers, labels))
    guesses, known = (
        torch.tensor(data.draw(d), dtype=torch.float64).reshape(2, 1, 1, 3).to(dtype)
        for d in draw
    )
    guesses.requires_grad_()
    value = loss(guesses, known, ceiling=ceiling, tail=tail)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert guesses.grad.isfinite().all()
    assert (guesses.grad[~known.isfinite()] == 0).all()


@pytest.mark.parametrize("loss", MASKED)
def test_a_clipped_tail_pulls_up_to_the_ceiling_and_no_further(loss):
    target = torch.tensor([100.0, 500.0, 12_900.0, 400.0]).reshape(1, 1, 1, 4)
    below = torch.tensor([110.0, 300.0, 300.0, 300.0]).reshape_as(target)
    below.requires_grad_()
    loss(below, target, ceiling=400.0, tail="clip").backward()
    pull = below.grad.flatten()
    assert pull[0] > 0
    assert pull[1] < 0
    assert (pull[1:] == pull[1]).all()  # an outlier pulls like any tall forest
    above = torch.tensor([110.0, 401.0, 700.0, 400.0]).reshape_as(target)
    above.requires_grad_()
    loss(above, target, ceiling=400.0, tail="clip").backward()
    assert (above.grad.flatten()[1:] == 0).all()


def test_robust_loss_is_the_other_one_where_errors_are_small():
    prediction, target = map(torch.from_numpy, chips(5, 0.2))
    near = target.nan_to_num(0) + (prediction - 60).clamp(-99, 99)
    expected = chip_rmse_loss(near, target, ceiling=None)
    assert chip_huber_loss(near, target).item() == pytest.approx(expected.item())
    target[0, 0, 0, 0], near[0, 0, 0, 0] = 12_900.0, 100.0
    assert chip_huber_loss(near, target) < expected + 150
    assert chip_rmse_loss(near, target, ceiling=None) > expected + 500


@pytest.mark.parametrize("loss", MASKED)
def test_an_unknown_tail_is_refused(loss):
    with pytest.raises(ValueError, match=r"tail.*'cut'"):
        loss(torch.zeros(SHAPE), torch.zeros(SHAPE), tail="cut")


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), batch=st.integers(2, 7))
def test_r2_loss_is_the_pooled_weighted_r2_of_sklearn(seed, batch):
    rng = np.random.default_rng(seed)
    target = rng.gamma(2, 15, (batch, 5)).astype("float32")
    prediction = target + rng.normal(0, 10, target.shape).astype("float32")
    weights = np.array([0.1, 0.1, 0.1, 0.2, 0.5])
    expected = 1 - r2_score(
        target.ravel(), prediction.ravel(), sample_weight=np.tile(weights, batch)
    )
    loss = r2_loss(torch.from_numpy(prediction), torch.from_numpy(target), weights)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_r2_loss_leaves_unknown_targets_out():
    target = torch.tensor([[1.0, 2.0], [3.0, torch.nan], [5.0, 7.0]])
    prediction = torch.tensor([[1.5, 2.0], [2.0, torch.nan], [5.0, 6.0]])
    prediction.requires_grad_()
    loss = r2_loss(prediction, target, [0.3, 0.7])
    known = np.array([1, 2, 3, 5, 7.0])
    expected = 1 - r2_score(known, [1.5, 2, 2, 5, 6], sample_weight=[3, 7, 3, 3, 7])
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert prediction.grad[1, 1] == 0
    assert prediction.grad.isfinite().all()


@pytest.mark.parametrize("value", [0.0, 40.0, torch.nan])
def test_r2_loss_of_equal_targets_is_finite(value):
    prediction = torch.rand(3, 2, requires_grad=True)
    loss = r2_loss(prediction, torch.full((3, 2), value), [0.5, 0.5])
    loss.backward()
    assert loss.isfinite()
    assert prediction.grad.isfinite().all()


def test_r2_loss_needs_a_weight_a_column():
    with pytest.raises(ValueError, match=r"\(3,\).*\(4, 2\)"):
        r2_loss(torch.zeros(4, 2), torch.zeros(4, 2), [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"\(4, 2\).*\(4, 3\)"):
        r2_loss(torch.zeros(4, 2), torch.zeros(4, 3), [1.0, 2.0])
