"""Training of one regressor, or of one per fold and stream: ``pasture.fit``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import pandas as pd
import torch

from geobiomass.training.kept_folder import kept_if_interrupted
from geobiomass.training.usable_model import train_each

from .ensemble import PastureEnsemble
from .folds import balanced_folds, check_folds
from .inspection import raise_problems
from .model import check_columns
from .network import PastureNetwork, Stream
from .photo_size import fit_size
from .photos import TARGETS, PhotoSource, problems_of_table, read_photos
from .recipes import PastureRecipe, find_recipe
from .regressor import PastureRegressor, Validation

__all__ = ["Folds", "fit"]

Streams: TypeAlias = Stream | Literal["both"]
Folds: TypeAlias = "int | pd.Series | None"


@overload
def fit(
    photos: PhotoSource,
    recipe: str | PastureRecipe = "seed",
    stream: Stream | None = None,
    validation: Validation = None,
    *,
    folds: None = None,
    groups: None = None,
    **overrides: Any,
) -> PastureRegressor: ...


@overload
def fit(
    photos: PhotoSource,
    recipe: str | PastureRecipe = "seed",
    stream: Streams | None = None,
    validation: Validation = None,
    *,
    folds: Folds = None,
    groups: pd.Series | None = None,
    **overrides: Any,
) -> PastureRegressor | PastureEnsemble: ...


def fit(
    photos: PhotoSource,
    recipe: str | PastureRecipe = "seed",
    stream: Streams | None = None,
    validation: Validation = None,
    *,
    folds: Folds = None,
    groups: pd.Series | None = None,
    **overrides: Any,
) -> PastureRegressor | PastureEnsemble:
    """Train a regressor of grams from photos, or an ensemble of regressors.

    Parameters
    ----------
    photos
        Photos as `read_photos` returns them, or the path of such a table, with values
        of the recipe's targets, in any unit; predictions are in the same. Photos from
        above have no top: those higher than wide are turned by a quarter. All must have
        one shape, such as 4032 x 3024.
    recipe
        The training configuration (hyperparameters): "seed", "public" (both for a GPU
        and DINOv3's weights), "quick" (minutes on two cores), or your own
        `PastureRecipe`.
    stream
        "single" sees whole photos, "dual" their halves; "both" trains one of each and
        blends them. None: the recipe's stream, "single" in those above.
    validation
        Photos that decide which epochs are best (early stopping). None: the photos of a
        tenth of the sampling dates, or a tenth of the photos if there are no dates. A
        number: that fraction; 0 for no validation. Other photos: all of them.
    folds
        Cross-validation: one model per fold and stream, each with a different fold held
        out, returned as an ensemble. A number of folds for `balanced_folds`, or the
        fold number of each photo, as `balanced_folds` returns it. With ``folder=`` each
        model has its own subfolder there, and the same call resumes.
    groups
        Name of each photo's group, which must be in one fold; by default
        `sampling_groups`: sampling dates, with those of WA split.
    **overrides
        Any setting of the recipe or of its training: ``pretrained="weights.
        safetensors"``, ``epochs=10``, ``folder="runs/first"`` to be able to resume.
        ``targets=("fresh_kg",)`` names columns of your own, unless `read_photos` was
        given them. ``height=`` and ``width=`` are the pixels that photos are resized
        to; without them a recipe of the package takes the photos' shape.

    Returns
    -------
    PastureRegressor or PastureEnsemble
        The fitted model. A regressor has ``.history``, one row per epoch, and
        ``.held_out``, its predictions of the validation photos. An ensemble has
        ``.scores`` of each member.

    Raises
    ------
    PhotoError
        Photos cannot be used, are in training and in validation, or photos of a group
        are in two folds. All such photos are named before training starts.
    ValueError
        A recipe or setting is unknown or out of range.
    KeyboardInterrupt
        A cell is interrupted, or Ctrl-C is pressed. The last step is kept, also without
        ``folder=``: the message names a folder, and the same call with it continues.

    Warns
    -----
    UserWarning
        Frozen layers of the backbone have random weights; photos have another shape
        than the recipe; each photo is a group of its own, because no column has
        dates; or folds are made with the dates of a state split. In the last two cases
        scores may be too high.

    Examples
    --------
    >>> import pasture
    >>> photos = pasture.read_photos("train.csv")  # doctest: +SKIP
    >>> model = pasture.fit(photos, "quick", "both", folds=5)  # doctest: +SKIP
    >>> model.scores  # doctest: +SKIP
    """
    if not isinstance(photos, pd.DataFrame):
        photos = read_photos(photos, targets=overrides.get("targets"))
    if stream is not None and stream != "both":
        overrides["stream"] = stream
    chosen = find_recipe(recipe, **_with_read_targets(photos, recipe, overrides))
    if isinstance(recipe, str) and not {"height", "width"} & set(overrides):
        check_columns(photos, ["path"])
        chosen = fit_size(chosen, photos)
    if chosen.freeze > 0 and chosen.pretrained is False:
        warnings.warn(
            f"the first {chosen.freeze:.0%} of {chosen.backbone} stay frozen with "
            "random weights; use pretrained=True (a download), a safetensors file, or "
            "freeze=0",
            stacklevel=2,
        )
    with kept_if_interrupted(chosen.training.folder) as folder:
        kept = chosen.with_changes(folder=chosen.training.folder or folder)
        model = _fit_all(kept, photos, stream, validation, folds, groups)
    if chosen.training.folder is None:
        members = (model,) if isinstance(model, PastureRegressor) else model.members
        for each in members:
            each.recipe = each.recipe.with_changes(folder=None)
    return model


def _fit_all(
    chosen: PastureRecipe,
    photos: pd.DataFrame,
    stream: Streams | None,
    validation: Validation,
    folds: Folds,
    groups: pd.Series | None,
) -> PastureRegressor | PastureEnsemble:
    """Train one regressor, or one for each fold and stream, in the recipe's folder."""
    recipes = _streams(chosen, stream)
    _check_sizes(recipes)
    if folds is None:
        if groups is not None:
            raise ValueError(
                "groups of fit must be left out where folds is not given, got groups "
                "and no folds; add folds, such as folds=5"
            )
        fits = [partial(_fit_one, r, photos, validation) for r in recipes]
        members = train_each(fits, len(fits), PastureEnsemble)
        return members[0] if stream != "both" else PastureEnsemble(members)
    if validation is not None:
        raise ValueError(
            "validation must be left out where folds is given, got both; each fold is "
            "validated on the photos held out from it"
        )
    check_columns(photos, ["path", *chosen.targets])
    # Only the table is checked here. The first member checks all files.
    raise_problems(problems_of_table(photos, chosen.targets))
    if isinstance(folds, int):
        shown = chosen.training.progress
        parts = balanced_folds(photos, folds, groups=groups, progress=shown)
    else:
        parts = folds
    check_folds(photos, parts, groups)
    fits = [
        partial(_fit_fold, member, photos, parts, fold)
        for recipe in recipes
        for fold, member in _members(recipe, parts)
    ]
    return PastureEnsemble(train_each(fits, len(fits), PastureEnsemble))


def _with_read_targets(
    photos: pd.DataFrame, recipe: str | PastureRecipe, overrides: dict[str, Any]
) -> dict[str, Any]:
    """Add the targets that `read_photos` was given, unless others are asked for."""
    read = photos.attrs.get("targets")
    chosen = not isinstance(recipe, str) and recipe.targets != TARGETS
    if not read or chosen or "targets" in overrides:
        return overrides
    return {**overrides, "targets": tuple(read)}


def untrained(recipe: PastureRecipe) -> PastureRegressor:
    """Build a recipe's regressor: the backbone's weights, random heads.

    The same seed gives the same weights. The caller's random state does not change.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        network = PastureNetwork(
            recipe.backbone,
            recipe.stream,
            targets=len(recipe.targets),
            freeze=recipe.freeze,
            pretrained=recipe.pretrained,
            fusion=recipe.fusion,
            sums=None if recipe.adds_up else False,
        )
    return PastureRegressor(network, recipe)


def _streams(recipe: PastureRecipe, stream: str | None) -> list[PastureRecipe]:
    if stream != "both":
        return [recipe]
    return [
        _in_folder(recipe.with_changes(stream=name), name)
        for name in ("single", "dual")
    ]


def _check_sizes(recipes: list[PastureRecipe]) -> None:
    """Check the settings of each network, by building it without memory."""
    for recipe in recipes:
        with torch.device("meta"):
            untrained(recipe.with_changes(pretrained=False))


def _members(
    recipe: PastureRecipe, folds: pd.Series
) -> Iterator[tuple[int, PastureRecipe]]:
    """Yield each fold's number and recipe, with its own folder and seed."""
    seed = recipe.training.seed
    for number, fold in enumerate(sorted(folds.unique())):
        member = recipe.with_changes(seed=seed + number)
        yield int(fold), _in_folder(member, f"fold-{number + 1}")


def _in_folder(recipe: PastureRecipe, name: str) -> PastureRecipe:
    folder = recipe.training.folder
    if folder is None:
        return recipe
    return recipe.with_changes(folder=Path(folder) / name)


def _fit_one(
    recipe: PastureRecipe, photos: pd.DataFrame, validation: Validation
) -> PastureRegressor:
    return untrained(recipe).fit(photos, validation)


def _fit_fold(
    recipe: PastureRecipe, photos: pd.DataFrame, folds: pd.Series, fold: int
) -> PastureRegressor:
    held = folds.reindex(photos.index) == fold
    if recipe.training.progress:
        print(
            f"{recipe.stream} stream, fold {fold + 1} of {folds.nunique()}: "
            f"{(~held).sum()} photos, {held.sum()} held out",
            flush=True,
        )
    return untrained(recipe).fit(photos[~held], validation=photos[held])
