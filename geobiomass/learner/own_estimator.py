"""The user's own estimator of scikit-learn: checked, fitted, saved without pickle."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from geobiomass.learner.fitting import Labels, folds_of
from geobiomass.learner.kernel_ridge import Numbers, Table

OWN_FOLDS = 5
"""Times that an estimator is fitted to measure its error, before all labels."""

# Classes of data that fitted estimators hold and that skops does not list itself. By
# name, not by package: scikit-learn also holds functions that start programs.
TRUSTED = frozenset(
    {
        "sklearn._loss.loss.HalfTweedieLossIdentity",
        "sklearn._loss.loss.HalfTweedieLoss",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.gaussian_process.kernels.ConstantKernel",
        "sklearn.gaussian_process.kernels.Matern",
        "sklearn.gaussian_process.kernels.Product",
        "sklearn.gaussian_process.kernels.RBF",
        "sklearn.gaussian_process.kernels.Sum",
        "sklearn.gaussian_process.kernels.WhiteKernel",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        "lightgbm.basic.Booster",
        "lightgbm.sklearn.LGBMRegressor",
        "xgboost.core.Booster",
        "xgboost.sklearn.XGBRegressor",
    }
)


def check_estimator(estimator: Any) -> None:
    """Check that an estimator can be fitted, predict numbers and be saved.

    Raises
    ------
    ValueError
        One sentence that names the estimator and what it lacks.
    """
    name = type(estimator).__name__
    if isinstance(estimator, type):
        raise ValueError(
            f"learner must be an estimator, got the class {estimator.__name__}; give "
            f"an object, learner={estimator.__name__}()."
        )
    from sklearn.base import clone, is_regressor

    for method in ("fit", "predict", "get_params"):
        if not hasattr(estimator, method):
            raise ValueError(
                f"learner must be a regressor as scikit-learn has them, got a {name} "
                f"without {method}; give one such as RandomForestRegressor(500)."
            )
    if not is_regressor(estimator):
        raise ValueError(
            f"learner must be a regressor, which predicts numbers, got a {name}; give "
            "one such as RandomForestRegressor(500)."
        )
    draw = np.random.default_rng(0)
    table = draw.normal(size=(40, 3)).astype(np.float32)
    small = clone(estimator)
    try:
        small.fit(table, table[:, 0] + 0.1 * draw.normal(size=40))
    except Exception as error:
        raise ValueError(
            f"learner must be fitted on 40 rows of 3 features before anything long is "
            f"begun, and {name} raised {type(error).__name__}: {error}."
        ) from error
    to_bytes(small)


def takes_missing(estimator: Any) -> bool:
    """Return whether an estimator takes NaN."""
    from sklearn.utils import get_tags

    return bool(get_tags(estimator).input_tags.allow_nan)


def takes_weights(learner: Any) -> bool:
    """Return whether a learner, "blend" or an estimator, can weigh labels."""
    from sklearn.utils.validation import has_fit_parameter

    return isinstance(learner, str) or has_fit_parameter(learner, "sample_weight")


def weighed_if_possible(estimator: Any, labels: Labels) -> Labels:
    """Return labels without weights, with a warning, if an estimator takes none."""
    equal = (labels.weights == labels.weights[0]).all()
    if equal or takes_weights(estimator):
        return labels
    warnings.warn(
        f"{type(estimator).__name__} takes no sample_weight: the standard errors of "
        "labels do not weigh; label_errors=False leaves them out without a warning.",
        stacklevel=5,
    )
    return dataclasses.replace(labels, weights=np.ones(len(labels.weights)))


def to_bytes(estimator: Any) -> bytes:
    """Return a fitted estimator in the form of skops, which cannot run code.

    Raises
    ------
    ValueError
        If it holds a type that is not known to be safe.
    """
    from skops.io import dumps
    from skops.io.exceptions import UnsupportedTypeException

    name = type(estimator).__name__
    try:
        content: bytes = dumps(estimator)
    except (UnsupportedTypeException, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"learner must be saved without pickle, and skops cannot save a {name}: "
            f"{error}; give an estimator of scikit-learn."
        ) from error
    unsafe = _unsafe(content)
    if unsafe:
        raise ValueError(
            f"learner must hold only types that are safe to load, and a {name} holds "
            f"{', '.join(unsafe[:3])}; give an estimator of scikit-learn, without "
            "functions of your own."
        )
    return content


def _unsafe(content: bytes) -> list[str]:
    from skops.io import get_untrusted_types

    return sorted(set(get_untrusted_types(data=content)) - TRUSTED)


def of_bytes(content: bytes) -> Any:
    """Return the estimator of :func:`to_bytes`; nothing of unknown type is built.

    Raises
    ------
    ValueError
        If the content is damaged, or holds a type that is not known to be safe.
    """
    from skops.io import loads

    try:
        unsafe = _unsafe(content)
        if unsafe:
            raise ValueError(f"it holds {', '.join(unsafe[:3])}, which may run code")
        return loads(content, trusted=sorted(TRUSTED))
    except Exception as error:
        raise ValueError(f"the estimator in it cannot be read: {error}") from error


class OwnEstimator(nn.Module):
    """A fitted estimator as a part of a network; it computes on the CPU.

    Parameters
    ----------
    features : int
        Features of a pixel.
    size : int
        Bytes of the estimator in the form of skops.
    impute : bool
        Whether missing features are replaced by the median of the training data.
    name : str
        The estimator, as it prints itself.
    """

    content: Tensor
    medians: Tensor

    def __init__(
        self, features: int, size: int, impute: bool, name: str = "estimator"
    ) -> None:
        super().__init__()
        self.impute, self.name = impute, name
        self.register_buffer("content", torch.zeros(size, dtype=torch.uint8))
        self.register_buffer("medians", torch.zeros(features))

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, ready for JSON."""
        return {
            "size": self.content.numel(),
            "impute": self.impute,
            "name": self.name,
        }

    @classmethod
    def of(
        cls, estimator: Any, medians: npt.NDArray[np.float32] | None
    ) -> OwnEstimator:
        """Return the part of a fitted estimator; `medians` if it cannot take NaN."""
        content = np.frombuffer(to_bytes(estimator), np.uint8)
        count = int(estimator.n_features_in_)
        made = cls(count, len(content), medians is not None, describe(estimator))
        made.content.copy_(torch.from_numpy(content.copy()))
        if medians is not None:
            made.medians.copy_(torch.from_numpy(medians))
        return made

    @functools.cached_property
    def estimator(self) -> Any:
        """The estimator, built on first use."""
        found = of_bytes(self.content.cpu().numpy().tobytes())
        if "n_jobs" in found.get_params():
            found.set_params(n_jobs=1)  # tiles run side by side already
        return found

    def forward(self, features: Tensor) -> Tensor:
        """Return (pixel,) float64 for (feature, pixel) float32."""
        table = np.ascontiguousarray(features.cpu().numpy().T)
        if self.impute:
            table = np.where(np.isnan(table), self.medians.cpu().numpy(), table)
        predicted = np.asarray(self.estimator.predict(table), np.float64).reshape(-1)
        return torch.from_numpy(predicted).to(features.device)


def describe(estimator: Any) -> str:
    """Return an estimator in one line, with the settings that differ from default."""
    return " ".join(repr(estimator).split())


def fit_own(
    estimator: Any, labels: Labels, seed: int
) -> tuple[OwnEstimator, Numbers, float]:
    """Fit clones of an estimator fold by fold, and one on all labels.

    Parameters
    ----------
    estimator : estimator
        Of scikit-learn; it is cloned. Where its ``random_state`` is None it is `seed`.
    labels : Labels
        To learn from.
    seed : int
        Of the folds.

    Returns
    -------
    tuple
        The fitted part, predictions out of fold, and the share of missing values that
        were replaced by medians.
    """
    from sklearn.base import clone

    medians = None
    table, asked, missing = labels.table, labels.asked, 0.0
    if not takes_missing(estimator):
        medians = _medians(table)
        missing = float(np.isnan(table).mean())
        table = np.where(np.isnan(table), medians, table)
        asked = np.where(np.isnan(asked), medians, asked)
    made = clone(estimator)
    if made.get_params().get("random_state", 0) is None:
        made.set_params(random_state=seed)
    folds = folds_of(labels.groups, seed, OWN_FOLDS)
    held_out = np.zeros(len(folds))
    for fold in range(int(folds.max()) + 1):
        rest = folds != fold
        one = _fit(clone(made), table[rest], labels, rest)
        held_out[~rest] = np.asarray(one.predict(asked[~rest])).reshape(-1)
    every = np.ones(len(folds), bool)
    return OwnEstimator.of(_fit(made, table, labels, every), medians), held_out, missing


def _fit(
    estimator: Any, table: Table, labels: Labels, rows: npt.NDArray[np.bool_]
) -> Any:
    weights, target = labels.weights[rows], labels.target[rows]
    if (weights == weights[0]).all():
        return estimator.fit(table, target)
    return estimator.fit(table, target, sample_weight=weights)


def _medians(table: Table) -> npt.NDArray[np.float32]:
    there = np.isfinite(table).any(axis=0)
    found = np.zeros(table.shape[1], np.float32)
    found[there] = np.nanmedian(table[:, there], axis=0)
    return found
