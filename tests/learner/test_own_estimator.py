"""The user's own estimator: fitted, saved without pickle, refused if unsafe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVR
from test_pixel_regressor import FAST, landscape, plots

import geobiomass as gb
from geobiomass.learner.own_estimator import TRUSTED, of_bytes, to_bytes


@pytest.fixture(scope="module")
def full() -> xr.Dataset:
    return landscape()


def test_a_forest_of_the_users_is_saved_and_loaded_to_the_bit(
    full: xr.Dataset, tmp_path: Path
) -> None:
    forest = RandomForestRegressor(15, min_samples_leaf=2)
    model = gb.fit(plots(full), "pixels", learner=forest, **FAST)
    assert not hasattr(forest, "estimators_")  # the user's object is not touched
    assert model.evaluate(full, bootstrap=0).loc["all", "r2"] > 0.4
    model.save(tmp_path / "model")
    loaded = gb.load(tmp_path / "model")
    assert loaded.predict(full).compute().equals(model.predict(full).compute())
    assert "RandomForestRegressor(min_samples_leaf=2" in repr(loaded)
    assert not list((tmp_path / "model").glob("*.pkl"))
    with pytest.raises(ValueError, match="an estimator of your own; export that"):
        model.export(tmp_path / "model.onnx")


def test_one_without_missing_values_gets_medians_and_says_so(full: xr.Dataset) -> None:
    pipeline = make_pipeline(StandardScaler(), SVR(C=50))
    with pytest.warns(UserWarning, match="takes no missing values: .* median"):
        model = gb.fit(plots(full), "pixels", learner=pipeline, **FAST)
    assert np.isfinite(model.predict(full)["agb"]).all()
    assert "median of training" in model._card()


def test_an_interval_of_an_own_estimator_covers(full: xr.Dataset) -> None:
    own = GradientBoostingRegressor(n_estimators=20, random_state=0)
    with pytest.warns(UserWarning, match="takes no missing values"):
        model = gb.fit(
            plots(full), "pixels", learner=own, interval=0.8, block=16, **FAST
        )
    assert 0.7 < model.evaluate(full, bootstrap=0).loc["all", "coverage"] < 0.95
    assert "of 5 folds" in str(model.calibration)


class Mine:
    """What has fit and predict only."""

    def fit(self, table: Any, target: Any) -> Mine:
        return self

    def predict(self, table: Any) -> Any:
        return table[:, 0]


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (Mine(), "got a Mine without get_params"),
        (RandomForestRegressor, "got the class RandomForestRegressor"),
        (LogisticRegression(), "which predicts numbers, got a LogisticRegression"),
        (
            make_pipeline(FunctionTransformer(lambda x: x), SVR()),
            "a Pipeline holds .*lambda",
        ),
        (RandomForestRegressor(-1), "RandomForestRegressor raised"),
    ],
)
def test_what_cannot_be_used_is_refused_before_training(
    full: xr.Dataset, learner: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        gb.fit(plots(full, 30), "pixels", learner=learner, **FAST)


def test_content_of_unknown_types_is_not_built() -> None:
    from skops.io import dumps

    unsafe = make_pipeline(FunctionTransformer(Path.unlink), SVR())
    draw = np.random.default_rng(0)
    good = SVR().fit(draw.normal(size=(20, 2)), draw.normal(size=20))
    assert of_bytes(to_bytes(good)).C == 1.0
    with pytest.raises(ValueError, match="may run code"):
        of_bytes(dumps(unsafe))
    with pytest.raises(ValueError, match="cannot be read"):
        of_bytes(to_bytes(good)[:-200])
    assert not any("numpy" in name or "testing" in name for name in TRUSTED)
