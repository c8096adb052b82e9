"""The rows of the comparison by number of labels: what a user would pick, and ours.

The first four learn pixel by pixel with scikit-learn, from the monthly bands and their
yearly statistics at the labelled pixels. The others are one call of ``gb.fit``: with
the recipe ``"quick"`` (network), with ``"pixels"``, and without a recipe (fit).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

import geobiomass as gb
from geobiomass.data.splits import NARROWEST_BLOCK
from label_cases import Case, labelled_pixels

Floats = npt.NDArray[np.float64]
Figures = dict[str, Any]

COVERED = 0.9  # coverage that intervals are for
TREES = 100  # scikit-learn's default
MOST = 10_000  # labels that a baseline learns from: a draw of dense labels
OURS = {
    "network": "quick",
    "pixels": "pixels",
    "fit": None,
}


class Fitted(NamedTuple):
    """Predictions at the tests, and half the width of their interval if there is one.

    Parameters
    ----------
    predicted : numpy.ndarray
        One value per tested pixel.
    half : float, optional
        Half the width of an interval for 90 %.
    """

    predicted: Floats
    half: float | None = None


def features(image: npt.NDArray[Any]) -> Floats:
    """Return monthly bands and their yearly statistics, (pixel, feature)."""
    found = [image.reshape(len(image), -1)]
    if image.shape[1] > 1:
        with warnings.catch_warnings():
            # A pixel without a value of a band has no statistics of it: NaN.
            warnings.simplefilter("ignore", RuntimeWarning)
            found += [
                statistic(image, axis=1)
                for statistic in (
                    *(np.nanmean, np.nanmedian, np.nanmin, np.nanmax, np.nanstd),
                )
            ]
    return np.concatenate(found, axis=1, dtype=np.float64)


def mean(seen: Floats, observed: Floats, asked: Floats, seed: int) -> Fitted:
    """Predict the mean of the labels everywhere."""
    middle = observed.mean()
    return Fitted(
        np.full(len(asked), middle),
        float(np.quantile(np.abs(observed - middle), COVERED)),
    )


def ridge(seen: Floats, observed: Floats, asked: Floats, seed: int) -> Fitted:
    """Predict by ridge regression; its penalty is chosen by leaving one out."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    penalties = np.logspace(-1, 5, 19)
    regression = RidgeCV(penalties, store_cv_results=True)
    model = make_pipeline(
        SimpleImputer(strategy="median"), StandardScaler(), regression
    )
    model.fit(seen, observed)
    left_out = regression.cv_results_[:, penalties == regression.alpha_]
    half = float(np.quantile(np.sqrt(left_out), COVERED))
    return Fitted(model.predict(asked), half)


def forest(seen: Floats, observed: Floats, asked: Floats, seed: int) -> Fitted:
    """Predict by a random forest; its interval comes from out-of-bag errors.

    A third of the features is tried at each split, as R's randomForest does: better
    here than scikit-learn's default of all, and a third of its time.
    """
    from sklearn.ensemble import RandomForestRegressor

    model = RandomForestRegressor(
        TREES, max_features=1 / 3, oob_score=True, random_state=seed, n_jobs=1
    )
    model.fit(seen, observed)
    out_of_bag = np.abs(model.oob_prediction_ - observed)
    return Fitted(model.predict(asked), float(np.quantile(out_of_bag, COVERED)))


def boosting(seen: Floats, observed: Floats, asked: Floats, seed: int) -> Fitted:
    """Predict by gradient boosting; it has no interval."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(random_state=seed)
    return Fitted(model.fit(seen, observed).predict(asked))


BASELINES: dict[str, Callable[[Floats, Floats, Floats, int], Fitted]] = {
    "mean": mean,
    "ridge": ridge,
    "forest": forest,
    "boosting": boosting,
}
ROWS = (*BASELINES, *OURS)


def judge_baseline(row: str, case: Case, seed: int) -> Figures:
    """Train a baseline, and return its errors and CPU seconds."""
    truth, tested = labelled_pixels(case.test)
    begin = time.process_time()
    observed, image = labelled_pixels(case.training)
    if len(observed) > MOST:
        drawn = np.random.default_rng(seed).choice(len(observed), MOST, replace=False)
        observed, image = observed[drawn], image[drawn]
    seen = features(image)
    known = np.isfinite(seen).any(axis=0)
    fitted = BASELINES[row](
        seen[:, known], observed.astype(float), features(tested)[:, known], seed
    )
    seconds = time.process_time() - begin
    half = fitted.half
    ends = None if half is None else (fitted.predicted - half, fitted.predicted + half)
    return errors(fitted.predicted, truth, ends) | {
        "labels": len(observed),
        "seconds": seconds,
    }


def judge_ours(row: str, case: Case, seed: int, **settings: Any) -> Figures:
    """Train by ``gb.fit``, map the tests, and return errors and CPU seconds."""
    import torch

    torch.set_num_threads(1)
    recipe = OURS[row]
    # Crops lie within a block, and an encoder needs 32 pixels. Wider ones do not leak:
    # no tested pixel has a label in the training cube.
    block = max(NARROWEST_BLOCK, case.block)
    chosen = {"seed": seed, "progress": False, "block": block} | settings
    if case.groups:
        chosen["groups"] = case.groups
    truth, _ = labelled_pixels(case.test)
    begin = time.process_time()
    with warnings.catch_warnings():
        # The comparison is of the errors; what users are warned of is in the tests.
        warnings.simplefilter("ignore")
        model, interval = _fitted(case.training, recipe, chosen)
        seconds = time.process_time() - begin
        mapped = model.predict(case.test, check="off").compute()
    at = np.isfinite(case.test["agb"].values)
    name = str(model.target.name)
    values = {key: mapped[key].values[at] for key in mapped if key != "spatial_ref"}
    ends = (values[f"{name}_lower"], values[f"{name}_upper"]) if interval else None
    return errors(values[name], truth, ends) | {
        "labels": int(np.isfinite(case.training["agb"].values).sum()),
        "seconds": seconds,
        **_choice(model),
    }


def _choice(model: Any) -> Figures:
    """Return which learner was kept, with the RMSE of each, where one was chosen."""
    if model.choice is None:
        return {}
    rows = model.choice.set_index("learner")
    known = rows["rmse"].dropna().to_dict()
    return {"kept": str(rows.index[rows["kept"]][0]), "compared": known}


def _fitted(
    cube: xr.Dataset, recipe: str | None, settings: dict[str, Any]
) -> tuple[Any, bool]:
    """Return a model with its interval, or without if there are too few blocks."""
    chosen = () if recipe is None else (recipe,)
    try:
        return gb.fit(cube, *chosen, interval=COVERED, **settings), True
    except gb.CubeError as error:
        if "interval" not in str(error):
            raise
        return gb.fit(cube, *chosen, **settings), False


def errors(
    predicted: npt.NDArray[Any],
    truth: npt.NDArray[Any],
    ends: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None,
) -> Figures:
    """Return RMSE, bias and coverage of the tests; all of them must be predicted."""
    off = predicted.astype(float) - truth
    if not np.isfinite(off).all():
        missing = int((~np.isfinite(off)).sum())
        raise ValueError(
            f"All {len(off)} tested pixels must be predicted, got {missing} without."
        )
    inside = None
    if ends is not None:
        inside = float(((ends[0] <= truth) & (truth <= ends[1])).mean())
    return {
        "rmse": float(np.sqrt(np.mean(off**2))),
        "bias": float(off.mean()),
        "covered": inside,
        "tested": len(truth),
    }
