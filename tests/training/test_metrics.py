import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from geobiomass.training.metrics import (
    R2,
    AverageRMSE,
    Bias,
    MeanAbsoluteError,
    PixelRMSE,
    WeightedR2,
    average_rmse,
    bias,
    mean_absolute_error,
    pixel_rmse,
    r2,
    weighted_r2,
)

WEIGHTS = [0.1, 0.1, 0.1, 0.2, 0.5]
PAIRS = [
    (average_rmse, AverageRMSE),
    (pixel_rmse, PixelRMSE),
    (mean_absolute_error, MeanAbsoluteError),
    (bias, Bias),
    (r2, R2),
]


def pairs(seed: int, missing: float, shape=(4, 1, 3, 5)):
    rng = np.random.default_rng(seed)
    target = rng.gamma(1, 60, shape).astype("float32")
    prediction = (target + rng.normal(3, 20, shape)).astype("float32")
    target[rng.random(shape) < missing] = np.nan
    return prediction, target


def by_numpy(prediction, target):
    error = prediction.astype(float) - target.astype(float)
    valid = ~np.isnan(error)
    known = error[valid]
    if not known.size:
        return dict.fromkeys([function for function, _ in PAIRS], np.nan)
    roots = [
        np.sqrt(np.mean(e[v] ** 2))
        for e, v in zip(error, valid, strict=True)
        if v.any()
    ]
    enough = known.size > 1
    # In float64: scikit-learn would sum float32 as it is, which costs digits.
    pair = target[valid].astype(float), prediction[valid].astype(float)
    score = r2_score(*pair) if enough else np.nan
    return {
        average_rmse: np.mean(roots),
        pixel_rmse: np.sqrt(np.mean(known**2)),
        mean_absolute_error: np.mean(np.abs(known)),
        bias: np.mean(known),
        r2: score,
    }


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), missing=st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_functions_and_classes_agree_with_numpy_and_sklearn(seed, missing):
    prediction, target = pairs(seed, missing)
    expected = by_numpy(prediction, target)
    for function, kind in PAIRS:
        value = function(prediction, target)
        assert isinstance(value, float)
        assert value == pytest.approx(expected[function], rel=1e-6, nan_ok=True)
        assert function(
            torch.from_numpy(prediction), torch.from_numpy(target)
        ) == pytest.approx(value, nan_ok=True)
        metric = kind()
        for p, t in zip(np.split(prediction, 2), np.split(target, 2), strict=True):
            metric.update(torch.from_numpy(p), torch.from_numpy(t))
        assert metric.compute().item() == pytest.approx(value, rel=1e-12, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    missing=st.sampled_from([0.0, 0.3]),
    pooled=st.booleans(),
)
def test_weighted_r2_agrees_with_sklearn(seed, missing, pooled):
    prediction, target = pairs(seed, missing, (12, 5))
    exact, guess = target.astype(float), prediction.astype(float)
    valid = ~np.isnan(target)
    if pooled:
        weights = np.broadcast_to(WEIGHTS, target.shape)[valid]
        expected = r2_score(exact[valid], guess[valid], sample_weight=weights)
    else:
        scores = [
            r2_score(t[v], p[v])
            for t, p, v in zip(exact.T, guess.T, valid.T, strict=True)
        ]
        expected = np.average(scores, weights=WEIGHTS)
    value = weighted_r2(prediction, target, WEIGHTS, pooled)
    assert value == pytest.approx(expected, rel=1e-6, abs=1e-9)
    metric = WeightedR2(WEIGHTS, pooled)
    for rows in ([0, 1, 2], [3], list(range(4, 12))):
        metric.update(
            torch.from_numpy(prediction[rows]), torch.from_numpy(target[rows])
        )
    assert metric.compute().item() == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_the_two_definitions_differ_as_published():
    # Predicting each target's mean: above zero pooled, zero by column.
    rng = np.random.default_rng(0)
    target = rng.gamma(2, 1, (200, 5)) * [13, 6, 3, 16, 22]
    means = np.broadcast_to(target.mean(0), target.shape)
    assert weighted_r2(means, target, WEIGHTS, pooled=False) == pytest.approx(0)
    assert weighted_r2(means, target, WEIGHTS) > 0.1


def test_average_and_pixel_rmse_are_two_numbers():
    target = np.zeros((2, 1, 1, 1))
    prediction = np.array([3.0, 4.0]).reshape(2, 1, 1, 1)
    assert average_rmse(prediction, target) == 3.5
    assert pixel_rmse(prediction, target) == pytest.approx(np.sqrt(12.5))


def test_bias_is_prediction_minus_target():
    assert bias([3.0, 5.0], [1.0, np.nan]) == 2.0


def test_a_read_only_array_is_left_alone():
    prediction, target = pairs(0, 0.1)
    prediction.flags.writeable = target.flags.writeable = False
    assert np.isfinite(pixel_rmse(prediction, target))


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 / 3])
def test_r2_of_equal_targets_is_undefined(value):
    target = np.full((7, 3), value)
    assert np.isnan(r2(target + 1, target))
    metric = R2()
    for size in (1, 2, 4):
        part = torch.full((size, 3), value, dtype=torch.float64)
        metric.update(part + 1, part)
    assert metric.compute().isnan()


def test_a_constant_column_is_left_out_of_the_mean_of_columns():
    prediction, target = pairs(1, 0.0, (10, 2))
    target[:, 1] = 0
    assert weighted_r2(prediction, target, [0.5, 0.5], pooled=False) == pytest.approx(
        r2(prediction[:, 0], target[:, 0])
    )


def test_r2_does_not_cancel_far_from_zero():
    prediction, target = pairs(2, 0.0, (50, 1))
    far = 1e8
    near = r2(prediction, target)
    metric = R2()
    for p, t in zip(prediction, target, strict=True):
        metric.update(
            torch.from_numpy(p).double() + far, torch.from_numpy(t).double() + far
        )
    assert metric.compute().item() == pytest.approx(near, rel=1e-6)


@pytest.mark.parametrize("kind", [R2, AverageRMSE, lambda: WeightedR2([0.5, 0.5])])
def test_states_of_several_processes_reduce_to_the_whole(kind):
    # What torchmetrics does between processes: stack the states, then reduce.
    prediction, target = map(torch.from_numpy, pairs(3, 0.2, (9, 2)))
    whole, parts = kind(), [kind(), kind(), kind()]
    whole.update(prediction, target)
    for part, rows in zip(parts, ([0], [1, 2, 3], [4, 5, 6, 7, 8]), strict=True):
        part.update(prediction[rows], target[rows])
    reduced = kind()
    for name, reduce in reduced._reductions.items():
        setattr(reduced, name, reduce(torch.stack([getattr(p, name) for p in parts])))
    reduced._update_count = 1
    assert reduced.compute().item() == pytest.approx(whole.compute().item(), rel=1e-12)


def test_forward_and_reset_of_torchmetrics_work():
    prediction, target = map(torch.from_numpy, pairs(4, 0.2, (6, 3)))
    metric = R2()
    first = metric(prediction[:3], target[:3])
    assert first.item() == pytest.approx(r2(prediction[:3], target[:3]))
    metric(prediction[3:], target[3:])
    assert metric.compute().item() == pytest.approx(r2(prediction, target))
    metric.reset()
    assert metric.moments.abs().sum() == 0


def test_shapes_and_weights_must_agree():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        pixel_rmse(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="one number for each column"):
        weighted_r2(np.zeros((2, 3)), np.zeros((2, 3)), [1.0, 1.0])
    with pytest.raises(ValueError, match="0 or more"):
        WeightedR2([1.0, -1.0])
