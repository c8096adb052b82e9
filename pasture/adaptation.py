"""Test-time training: learn again, from one's own predictions of the test photos."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from geobiomass.training.estimator import ModelError, read_config
from geobiomass.training.model_folder import (
    CARD,
    CONFIG,
    MOVED,
    broken,
    member_name,
    write_config,
)

from .ensemble import PastureEnsemble
from .model import PastureModel, check_share, need, read_table, write_table
from .photos import TARGETS, problems_of_files, problems_of_table, refuse
from .regressor import PastureRegressor
from .sums import PARTS, with_sums

__all__ = ["AdaptedModel", "adapt", "pseudo_labels"]

CLOVER = TARGETS.index("Dry_Clover_g")
_STAGE_1 = "stage-1.csv"


class AdaptedModel(PastureModel):
    """A model and a network of it that learnt from test photos too, blended.

    Parameters
    ----------
    first
        The model before it was adapted.
    second
        The network that learnt from the test photos as well.
    blend
        Share of `second` in predictions, from 0 to 1.
    threshold
        Green, dead and clover below it become 0, g.
    moved
        What `report` gives.

    Raises
    ------
    ValueError
        A number is out of range, or the models predict something else.
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
        _check_numbers(threshold=threshold)
        for model in (first, second):
            _check_targets(model)
        self.first, self.second = first, second
        self.blend, self.threshold = blend, threshold
        self.moved = pd.DataFrame() if moved is None else moved

    def __repr__(self) -> str:
        """Say what it is in one line."""
        return (
            f"AdaptedModel({1 - self.blend:.2g} x {self.first!r} + {self.blend:.2g} x "
            f"{self.second!r})"
        )

    def predict(
        self, photos: pd.DataFrame, flips: bool = True, blend: float | None = None
    ) -> pd.DataFrame:
        """Predict grams: both models blended, small amounts set to 0, sums exact.

        Parameters
        ----------
        photos
            Those it was adapted to, or others: only ``path`` is used.
        flips
            False: the photos alone, without their mirror images.
        blend
            Share of `second`; by default the model's.

        Returns
        -------
        pandas.DataFrame
            As `PastureRegressor.predict` gives it.

        Raises
        ------
        PhotoError
            `photos` has no ``path``, or a photo cannot be read.
        ValueError
            The share is out of range.
        """
        share = check_share(self.blend if blend is None else blend)
        first, second = (m.predict(photos, flips) for m in (self.first, self.second))
        return blended(first, second, share, self.threshold)

    def report(self) -> pd.DataFrame:
        """Say how far adapting moved the predictions of the test photos.

        Returns
        -------
        pandas.DataFrame
            A row a target, g: the mean ``before`` and ``after``, the mean and the
            largest distance between the two (``moved``, ``moved most``), the photo
            that moved most, and how many are 0 that were not.
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
        except (KeyError, TypeError, ValueError) as error:
            raise broken(folder / CONFIG, error) from error


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
    """Adapt a model to test photos, which need no measurements.

    The model's own predictions stand in for measurements (`pseudo_labels`); its best
    single-stream fold learns from training and test photos together, from its
    averaged weights; the weights of the last epochs are averaged; its predictions
    are blended with those of the model as it was. Every number is that of the seed
    solution of the CSIRO Image2Biomass competition.

    Parameters
    ----------
    model
        Trained on `train`.
    train
        Photos with grams, as `read_photos` gives them.
    test
        The photos to predict; grams, where there are any, are not looked at.
    clover
        What predictions of clover are multiplied with before they are learnt from.
    threshold
        Green, dead and clover below it count as none, g: in what is learnt from and
        in what is predicted.
    epochs
        Passes over the photos of both tables.
    last
        Epochs at the end whose weights are averaged.
    blend
        Share of the adapted network in what is predicted; the rest is the model's.
    start
        The regressor that learns on; by default the single-stream member that did
        best on the photos held out from it, or the best of all.
    folder
        Where checkpoints are kept; the same call with it goes on where it stopped.
    **overrides
        Any setting of that member's recipe or of its training, such as
        ``learning_rate=1e-4``.

    Returns
    -------
    AdaptedModel
        Its `predict` blends both; `report` says how far predictions moved.

    Raises
    ------
    PhotoError
        Photos cannot be used, or are in both tables.
    ValueError
        A number or setting is out of range, the model does not predict the five
        targets, or `folder` holds the adaptation of another model or to other photos.

    Examples
    --------
    >>> import pasture
    >>> test = pasture.read_photos("test.csv")  # doctest: +SKIP
    >>> adapted = pasture.adapt(model, photos, test)  # doctest: +SKIP
    >>> adapted.report()  # doctest: +SKIP
    """
    check_share(blend)
    _check_numbers(clover=clover, threshold=threshold)
    _check_targets(model)
    _check_photos(train, test)
    second = _second(start or _best(model), epochs, last, folder, overrides)
    first = model.predict(test)
    if folder is not None:
        first = _kept(first, Path(folder))
    labels = pseudo_labels(first, clover, threshold)
    second.fit(_together(train, test, labels), validation=0)
    after = blended(first, second.predict(test), blend, threshold)
    moved = after.join(first.add_prefix("before_"))
    return AdaptedModel(model, second, blend, threshold, moved)


def pseudo_labels(
    grams: pd.DataFrame, clover: float = 0.8, threshold: float = 0.2
) -> pd.DataFrame:
    """Turn predictions into grams to learn from.

    Parameters
    ----------
    grams
        Predictions of the five targets.
    clover
        What clover is multiplied with: it tends to be predicted where there is none.
    threshold
        Green, dead and clover below it become 0, g.

    Returns
    -------
    pandas.DataFrame
        The same rows and columns, with exact sums.
    """
    parts = grams[list(TARGETS)].to_numpy(np.float64)[:, :PARTS].copy()
    parts[:, CLOVER] *= clover
    return _settled(parts, threshold, grams.index)


def blended(
    first: pd.DataFrame, second: pd.DataFrame, blend: float, threshold: float
) -> pd.DataFrame:
    """Blend two tables of predictions, set small amounts to 0 and add up."""
    mixed = (1 - blend) * first.to_numpy() + blend * second.to_numpy()
    return _settled(mixed[:, :PARTS], threshold, first.index)


def _settled(parts: np.ndarray, threshold: float, index: pd.Index) -> pd.DataFrame:
    kept = np.where(parts < threshold, 0.0, parts)
    return pd.DataFrame(with_sums(kept), index=index, columns=list(TARGETS))


def _check_numbers(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < np.inf:
            raise ValueError(
                f"{name} of adapt must be a number of 0 or more, got {value}"
            )


def _check_targets(model: PastureModel) -> None:
    if model.targets != TARGETS:
        raise ValueError(
            f"a model that is adapted must predict {', '.join(TARGETS)}, got one that "
            f"predicts {', '.join(model.targets)}"
        )


def _check_photos(train: pd.DataFrame, test: pd.DataFrame) -> None:
    need(train, ["path", *TARGETS])
    need(test, ["path"])
    refuse(problems_of_table(train))
    shared = test.index[test["path"].isin(train["path"])]
    if len(shared):
        raise ValueError(
            f"test must hold photos that are not in train, got {len(shared)} that are: "
            f"{', '.join(map(str, shared[:5]))}; leave them out of one"
        )
    refuse(problems_of_table(test[["path"]]))
    refuse(problems_of_files(pd.concat([train["path"], test["path"]])))


def _together(
    train: pd.DataFrame, test: pd.DataFrame, labels: pd.DataFrame
) -> pd.DataFrame:
    """Put photos of both tables in one; their names may be the same."""
    columns = ["path", *TARGETS]
    both = pd.concat([train[columns], test[["path"]].join(labels)])
    both.index = pd.Index([*train.index, *(f"test: {name}" for name in test.index)])
    return both


def _best(model: PastureRegressor | PastureEnsemble) -> PastureRegressor:
    if isinstance(model, PastureRegressor):
        return model
    return model.best_member("single")


def _second(
    start: PastureRegressor,
    epochs: int,
    last: int,
    folder: str | Path | None,
    overrides: dict[str, Any],
) -> PastureRegressor:
    """Give a copy of a regressor, set to learn on and to average its last epochs."""
    if not 1 <= last <= epochs:
        raise ValueError(f"last of adapt must be from 1 to epochs={epochs}, got {last}")
    recipe = start.recipe.with_changes(
        epochs=epochs, keep="average", keep_last=last, folder=folder, **overrides
    )
    return PastureRegressor(copy.deepcopy(start.network), recipe)


def _kept(first: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Keep what the model predicted before; continue only from the same."""
    path = folder / _STAGE_1
    if path.is_file() and (folder / "last.ckpt").is_file():
        before = read_table(path)
        same = list(before.index) == list(first.index)
        if not same or not np.allclose(before, first, rtol=1e-4, atol=1e-4):
            raise ValueError(
                f"folder of adapt must be new or hold the same adaptation, got {folder}"
                ", which adapts another model or to other photos; give another folder"
            )
        # To the bit what the interrupted call learnt from.
        return before.set_axis(first.index)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(first, path)
    return first
