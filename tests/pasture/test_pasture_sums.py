import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import nnls

import pasture
from pasture.sums import WEIGHTS, reconcile, with_sums

TARGETS = list(pasture.TARGETS)
grams = st.floats(0, 200, width=32)


def error(one, other):
    return (((one - other) ** 2) @ np.array(WEIGHTS)).sum()


@settings(deadline=None)
@given(arrays(float, (4, 5), elements=grams), arrays(float, (4, 3), elements=grams))
def test_reconciled_sums_are_exact_and_no_further_from_the_truth(predicted, parts):
    made = reconcile(predicted)
    assert (made >= 0).all()
    np.testing.assert_array_equal(made, with_sums(made[:, :3]))
    truth = with_sums(parts)
    assert error(made, truth) <= error(predicted, truth) + 1e-6


def test_reconciled_is_the_nearest():
    draw = np.random.default_rng(0)
    predicted = draw.exponential(20, (50, 5))
    roots = np.sqrt(WEIGHTS)
    sums = with_sums(np.eye(3)).T  # (target, part)
    for row, made in zip(predicted, reconcile(predicted), strict=True):
        parts, _ = nnls(sums * roots[:, None], row * roots)
        np.testing.assert_allclose(made[:3], parts, atol=1e-6)
    assert (reconcile(predicted)[:, :3] == 0).any()  # the bound of 0 is reached


def test_what_adds_up_stays():
    truth = with_sums(np.random.default_rng(1).exponential(20, (50, 3)))
    np.testing.assert_allclose(reconcile(truth), truth, atol=1e-9)


# --- scores ---


def table(values: np.ndarray) -> pd.DataFrame:
    index = [f"ID{number}" for number in range(len(values))]
    return pd.DataFrame(values, index=index, columns=TARGETS)


def test_both_scores_are_those_of_their_formulas():
    draw = np.random.default_rng(2)
    known = with_sums(draw.exponential(20, (30, 3)))
    found = known + draw.normal(0, 5, known.shape)
    scores = pasture.score(table(found).sample(frac=1, random_state=0), table(known))
    weights = np.array(WEIGHTS)
    mean = (weights * known).sum() / (30 * weights.sum())
    pooled = 1 - error(found, known) / error(known, np.full(5, mean))
    own = 1 - ((found - known) ** 2).sum(0) / ((known - known.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(scores["r2"].iloc[:5], own)
    assert scores["r2"]["weighted R2"] == pytest.approx(pooled)
    assert scores["r2"]["mean R2"] == pytest.approx((weights * own).sum())
    np.testing.assert_allclose(
        scores["rmse"].iloc[:5], np.sqrt(((found - known) ** 2).mean(0))
    )
    np.testing.assert_allclose(scores["bias"].iloc[:5], (found - known).mean(0))


def test_predicting_each_mean_has_different_scores():
    known = with_sums(np.random.default_rng(3).exponential([27, 12, 7], (40, 3)))
    scores = pasture.score(table(np.tile(known.mean(0), (40, 1))), table(known))
    assert scores["r2"]["mean R2"] == pytest.approx(0, abs=1e-12)
    assert scores["r2"]["weighted R2"] > 0.1


def test_other_targets_have_equal_weights():
    draw = np.random.default_rng(4)
    known = pd.DataFrame(draw.random((9, 2)), columns=["a", "b"])
    found = known + draw.normal(0, 0.1, known.shape)
    scores = pasture.score(found, known)
    assert scores["r2"]["mean R2"] == pytest.approx(scores["r2"].iloc[:2].mean())


def test_photos_and_targets_without_measurements_are_named():
    known = table(np.ones((3, 5)))
    with pytest.raises(pasture.PhotoError, match=r"none of ID2; add"):
        pasture.score(known, known.iloc[:2])
    with pytest.raises(pasture.PhotoError, match=r"none of GDM_g; add"):
        pasture.score(known, known.drop(columns="GDM_g"))
    with pytest.raises(pasture.PhotoError, match=r"none of any; add"):
        pasture.score(known.iloc[:0], known)
