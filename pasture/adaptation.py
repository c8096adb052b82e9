"""Test-time training: a model is trained further on its predictions of test photos."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from geobiomass.training.estimator import ModelError, read_config
from geobiomass.training.files import sha256_of_file, write_whole
from geobiomass.training.kept_folder import kept_if_interrupted
from geobiomass.training.model_folder import (
    CARD,
    CONFIG,
    MOVED,
    WRONG_SETTINGS,
    broken,
    member_name,
    write_config,
)
from geobiomass.training.setting_names import explain_arguments

from .ensemble import PastureEnsemble
from .inspection import problems_of_files, raise_problems
from .model import PastureModel, check_columns, check_share, read_table, write_table
from .photos import TARGETS, PhotoSource, problems_of_table
from .regressor import PastureRegressor
from .sums import PARTS, with_sums

__all__ = ["AdaptedModel", "adapt", "pseudo_labels"]

CLOVER = TARGETS.index("Dry_Clover_g")
_STAGE_1 = "stage-1.csv"  # predictions before adaptation, kept with the checkpoints


@explain_arguments
class AdaptedModel(PastureModel):
    """A model blended with one of its members, trained further on the test photos.

    Parameters
    ----------
    first
        The model before adaptation.
    second
        The regressor that was also trained on the test photos.
    blend
        Share of `second` in predictions, from 0 to 1.
    threshold
        Green, dead and clover grams below it become 0, g.
    moved
        Predictions of the test photos after and before adaptation, which `report`
        summarises.

    Raises
    ------
    ValueError
        A number is out of range, or a model predicts other targets.
    """

    targets = TARGETS

    def __init__(
        self,
        first: PastureRegressor | PastureEnsemble,
        second: PastureRegressor,
        blend: float = 0.8,
        threshold: float = 0.2,
        moved: pd.DataFrame | None = None,
    ) -> None:
        check_share(blend)
        _check_not_negative(threshold=threshold)
        for model in (first, second):
            _check_targets(model)
        self.first, self.second = first, second
        self.blend, self.threshold = blend, threshold
        self.moved = pd.DataFrame() if moved is None else moved

    def __repr__(self) -> str:
        """Return a one-line description."""
        return (
            f"AdaptedModel({1 - self.blend:.2g} x {self.first!r} + {self.blend:.2g} x "
            f"{self.second!r})"
        )

    def predict(
        self, photos: PhotoSource, flips: bool = True, blend: float | None = None
    ) -> pd.DataFrame:
        """Predict grams: both models blended, small amounts set to 0, sums exact.

        Parameters
        ----------
        photos
            The photos it was adapted to, or others, as the first model takes them.
        flips
            Whether to predict mirror images too and average (test-time augmentation).
        blend
            Share of `second`; by default the model's.

        Returns
        -------
        pandas.DataFrame
            Grams, as `PastureRegressor.predict` returns them.

        Raises
        ------
        PhotoError
            `photos` has no ``path``, or a photo cannot be read.
        ValueError
            The share is out of range.
        """
        share = check_share(self.blend if blend is None else blend)
        table = self._table(photos)
        first, second = (m.predict(table, flips) for m in (self.first, self.second))
        return blended(first, second, share, self.threshold)

    @property
    def ratio(self) -> float:
        """The longer divided by the shorter side of the photos it was trained on."""
        return self.first.ratio

    def report(self) -> pd.DataFrame:
        """Compare the predictions of the test photos before and after adaptation.

        Returns
        -------
        pandas.DataFrame
            One row per target, g: the mean ``before`` and ``after``, the mean and the
            largest absolute change (``moved``, ``moved most``), the ``photo`` with the
            largest change, and ``now 0``, the number of photos whose prediction became
            0.
        """
        names = list(TARGETS)
        after = self.moved[names]
        before = self.moved[[f"before_{name}" for name in names]].set_axis(
            names, axis=1
        )
        distance = (after - before).abs()
        return pd.DataFrame(
            {
                "before": before.mean(),
                "after": after.mean(),
                "moved": distance.mean(),
                "moved most": distance.max(),
                "photo": distance.idxmax(),
                "now 0": ((after == 0) & (before > 0)).sum(),
            }
        )

    def _write(self, folder: Path) -> None:
        for number, model in enumerate((self.first, self.second), 1):
            part = folder / member_name(number)
            part.mkdir()
            model._write(part)
        settings = {
            "members": [member_name(1), member_name(2)],
            "blend": self.blend,
            "threshold": self.threshold,
            "targets": list(TARGETS),
            "units": "g",
        }
        content = {
            "class": type(self).__name__,
            "loader": self.load_call,
            "settings": settings,
        }
        write_config(folder, content)
        moved = "" if self.moved.empty else self.report().round(2).to_string()
        card = (
            "---\nlibrary_name: geobiomass\n---\n\n# Grams of grass, adapted\n\nTo "
            "photos without measurements, by geobiomass's `pasture`; it is for those "
            f"photos. Load it with `{self.load_call}`.\n\n```\n{moved}\n```\n"
        )
        (folder / CARD).write_text(card, encoding="utf-8")
        if len(self.moved):
            write_table(self.moved, folder / MOVED)

    @classmethod
    def _read(cls, folder: Path, config: Mapping[str, Any]) -> Self:
        settings = config["settings"]
        try:
            first = folder / member_name(1)
            one = read_config(first)["class"] == PastureRegressor.__name__
            kind = PastureRegressor if one else PastureEnsemble
            moved = folder / MOVED
            return cls(
                kind.load(first),
                PastureRegressor.load(folder / member_name(2)),
                settings["blend"],
                settings["threshold"],
                read_table(moved) if moved.is_file() else None,
            )
        except ModelError:
            raise
        except WRONG_SETTINGS as error:
            raise broken(folder / CONFIG, repr(error)) from error


def adapt(
    model: PastureRegressor | PastureEnsemble,
    train: pd.DataFrame,
    test: pd.DataFrame,
    *,
    clover: float = 0.8,
    threshold: float = 0.2,
    epochs: int = 12,
    last: int = 4,
    blend: float = 0.8,
    start: PastureRegressor | None = None,
    folder: str | Path | None = None,
    **overrides: Any,
) -> AdaptedModel:
    """Adapt a model to test photos without measurements (test-time training).

    The model predicts the test photos, and these predictions serve as ground truth
    (`pseudo_labels`). Its best single-stream member is trained further, from its
    averaged weights, on the training and test photos together. The weights of the last
    epochs are averaged. Predictions are blended with the original model's. All
    defaults are from the seed solution of the CSIRO Image2Biomass competition.

    Parameters
    ----------
    model
        A model trained on `train`.
    train
        Photos with grams, as `read_photos` returns them.
    test
        The photos to predict. Grams in this table are ignored.
    clover
        Factor for predicted clover before it is used as a pseudo-label.
    threshold
        Green, dead and clover below it become 0, both in the pseudo-labels and in
        predictions; in the unit of the targets, and the default is for grams.
    epochs
        Passes over the photos of both tables.
    last
        Number of final epochs whose weights are averaged.
    blend
        Share of the adapted network in predictions. The rest is the original model's.
    start
        The regressor to train further. By default the single-stream member with the
        best score on the photos held out from it, or the best member of all.
    folder
        Folder for checkpoints. The same call with the same folder resumes.
    **overrides
        Any setting of that member's recipe or of its training, such as
        ``learning_rate=1e-4``.

    Returns
    -------
    AdaptedModel
        Its `predict` blends both; its `report` summarises the changes.

    Raises
    ------
    PhotoError
        Photos cannot be used.
    ValueError
        A number or setting is out of range, a photo is in both tables, the model does
        not predict the five targets, or `folder` holds the adaptation of another model
        or to other photos.

    Warns
    -----
    UserWarning
        The threshold is of the size of the predictions, which are in another unit.

    Examples
    --------
    >>> import pasture
    >>> test = pasture.read_photos("test.csv")  # doctest: +SKIP
    >>> adapted = pasture.adapt(model, photos, test)  # doctest: +SKIP
    >>> adapted.report()  # doctest: +SKIP
    """
    check_share(blend)
    _check_not_negative(clover=clover, threshold=threshold)
    _check_targets(model)
    _check_photos(train, test)
    # A network that is adapted in part is no model of this function.
    with kept_if_interrupted(folder, usable=False) as kept:
        best = start or _best(model)
        second = _copy_to_train(best, epochs, last, folder or kept, overrides)
        first = _keep_or_read(model.predict(test), kept)
        _warn_of_threshold(first, threshold)
        labels = pseudo_labels(first, clover, threshold)
        second.fit(_concatenate(train, test, labels), validation=0)
    second.recipe = second.recipe.with_changes(folder=folder)
    after = blended(first, second.predict(test), blend, threshold)
    moved = after.join(first.add_prefix("before_"))
    return AdaptedModel(model, second, blend, threshold, moved)


def pseudo_labels(
    grams: pd.DataFrame, clover: float = 0.8, threshold: float = 0.2
) -> pd.DataFrame:
    """Convert predictions to pseudo-labels.

    Parameters
    ----------
    grams
        Predictions of the five targets.
    clover
        Factor for clover. Below 1, because models predict clover where there is none.
    threshold
        Green, dead and clover grams below it become 0, g.

    Returns
    -------
    pandas.DataFrame
        The same rows and columns, with exact sums.
    """
    parts = grams[list(TARGETS)].to_numpy(np.float64)[:, :PARTS].copy()
    parts[:, CLOVER] *= clover
    return _cut_and_sum(parts, threshold, grams.index)


def blended(
    first: pd.DataFrame, second: pd.DataFrame, blend: float, threshold: float
) -> pd.DataFrame:
    """Return the blend of two tables, with small amounts set to 0 and exact sums."""
    mixed = (1 - blend) * first.to_numpy() + blend * second.to_numpy()
    return _cut_and_sum(mixed[:, :PARTS], threshold, first.index)


def _cut_and_sum(parts: np.ndarray, threshold: float, index: pd.Index) -> pd.DataFrame:
    kept = np.where(parts < threshold, 0.0, parts)
    return pd.DataFrame(with_sums(kept), index=index, columns=list(TARGETS))


def _check_not_negative(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < np.inf:
            raise ValueError(
                f"{name} of adapt must be a number of 0 or more, got {value}"
            )


def _warn_of_threshold(first: pd.DataFrame, threshold: float) -> None:
    """Warn if the threshold is of the size of predictions, as where they are in kg."""
    total = float(first[TARGETS[-1]].mean())
    parts = first[list(TARGETS[:PARTS])].to_numpy()
    cut = int(((parts > 0) & (parts < threshold)).sum())
    if cut and threshold > total / 10:
        warnings.warn(
            f"threshold={threshold:g} sets {cut} of {parts.size} predictions of green, "
            f"dead and clover to 0, where the mean total is {total:.3g}: it is in the "
            "unit of the targets; give threshold= in that unit (0.2 is for grams)",
            stacklevel=3,
        )


def _check_targets(model: PastureModel) -> None:
    if model.targets != TARGETS:
        raise ValueError(
            f"a model to adapt must predict {', '.join(TARGETS)}, got one that "
            f"predicts {', '.join(model.targets)}; train it with these targets"
        )


def _check_photos(train: pd.DataFrame, test: pd.DataFrame) -> None:
    check_columns(train, ["path", *TARGETS])
    check_columns(test, ["path"])
    raise_problems(problems_of_table(train))
    shared = test.index[test["path"].isin(train["path"])]
    if len(shared):
        raise ValueError(
            f"test must hold photos that are not in train, got {len(shared)} that are: "
            f"{', '.join(map(str, shared[:5]))}; remove them from one table"
        )
    raise_problems(problems_of_table(test[["path"]]))
    raise_problems(problems_of_files(pd.concat([train["path"], test["path"]])))


def _concatenate(
    train: pd.DataFrame, test: pd.DataFrame, labels: pd.DataFrame
) -> pd.DataFrame:
    """Return the photos of both tables in one table."""
    columns = ["path", *TARGETS]
    both = pd.concat([train[columns], test[["path"]].join(labels)])
    # A photo of each table may have the same name: the prefix keeps names unique.
    both.index = pd.Index([*train.index, *(f"test: {name}" for name in test.index)])
    return both


def _best(model: PastureRegressor | PastureEnsemble) -> PastureRegressor:
    if isinstance(model, PastureRegressor):
        return model
    return model.best_member("single")


def _copy_to_train(
    start: PastureRegressor,
    epochs: int,
    last: int,
    folder: str | Path | None,
    overrides: dict[str, Any],
) -> PastureRegressor:
    """Return a copy of a regressor, with the settings of the adaptation."""
    if not 1 <= last <= epochs:
        raise ValueError(f"last of adapt must be from 1 to epochs={epochs}, got {last}")
    recipe = start.recipe.with_changes(
        epochs=epochs, keep="average", keep_last=last, folder=folder, **overrides
    )
    return PastureRegressor(copy.deepcopy(start.network), recipe)


def _keep_or_read(first: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Write the first predictions, or read them if a call is resumed.

    An interrupted adaptation is resumed only if the predictions are the same.
    """
    path = folder / _STAGE_1
    sums = folder / f"{_STAGE_1}.sha256"  # earlier releases wrote none
    if path.is_file() and (folder / "last.ckpt").is_file():
        try:
            if sums.is_file() and sums.read_text() != _sum_of(path):
                raise ValueError(f"its SHA-256 is not the one in {sums.name}")
            before = read_table(path)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{path}, the first predictions, is damaged ({error}); copy it again "
                "from where it was made, or give another folder to adapt again"
            ) from error
        same = list(before.index) == list(first.index)
        if not same or not np.allclose(before, first, rtol=1e-4, atol=1e-4):
            raise ValueError(
                f"folder of adapt must be new or hold the same adaptation, got {folder}"
                ", which adapts another model or to other photos; give another folder"
            )
        # The exact bits that the interrupted call was trained on: predictions of
        # another device may differ slightly.
        return before.set_axis(first.index)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(first, path)
    write_whole(sums, _sum_of(path))
    return first


def _sum_of(path: Path) -> str:
    """Return what sha256sum writes of a file."""
    return f"{sha256_of_file(path)}  {path.name}\n"
