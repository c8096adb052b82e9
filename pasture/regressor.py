"""Fit, predict, save, load: the regressor of grams from photos."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from geobiomass.training import RegressionTask, train
from geobiomass.training.estimator import Regressor
from geobiomass.training.losses import r2_loss
from geobiomass.training.metrics import WeightedR2

from .network import PastureNetwork, Stream, add_up
from .photos import (
    TARGETS,
    PhotoError,
    PhotoFeed,
    problems_of_files,
    problems_of_table,
    refuse,
)
from .recipes import PastureRecipe, find_recipe

__all__ = ["PastureRegressor", "fit", "load"]

Validation = pd.DataFrame | float | None

# Of `TARGETS` in the competition's score.
WEIGHTS = (0.1, 0.1, 0.1, 0.2, 0.5)
_DATE = "Sampling_Date"


class PastureRegressor(Regressor):
    """A network and how its photos are prepared: maps photos to grams.

    Parameters
    ----------
    network
        With an output for each of `pasture.TARGETS`.
    recipe
        How photos are sized and how to train. What it says of the network is taken
        from the network.

    Raises
    ------
    ValueError
        The network has another number of outputs, or cannot see photos of the
        recipe's size.
    """

    network: PastureNetwork
    loader = "pasture.load(folder)"

    def __init__(
        self, network: PastureNetwork, recipe: str | PastureRecipe = "seed"
    ) -> None:
        made = network.settings
        if made["targets"] != len(TARGETS):
            raise ValueError(
                f"targets of a PastureRegressor's network must be {len(TARGETS)}, got "
                f"{made['targets']}"
            )
        names = ("backbone", "stream", "freeze")
        self.recipe = find_recipe(recipe, **{name: made[name] for name in names})
        network.check_size(self.recipe.height, self.recipe.width)
        self.network = network
        self.history = pd.DataFrame()

    def __repr__(self) -> str:
        """Say what it is in one line."""
        state = f"{len(self.history)} epochs" if self.fitted else "not fitted"
        recipe = self.recipe
        return (
            f"PastureRegressor({recipe.backbone}, {recipe.stream}, "
            f"{recipe.height} x {recipe.width}, {state})"
        )

    def fit(self, photos: pd.DataFrame, validation: Validation = None) -> Self:
        """Train the network on photos; `pasture.fit` says what the arguments mean."""
        config = self.recipe.training
        training, checking = _split(photos, validation, self.recipe)
        used = training if checking is None else pd.concat([training, checking])
        refuse(problems_of_files(used["path"]))
        task = RegressionTask(
            self.network,
            partial(r2_loss, weights=WEIGHTS),
            metrics={"weighted_r2": WeightedR2(WEIGHTS)},
            augment=self.recipe.augmentation(),
        )
        feed = partial(self._feed, batch_size=config.batch_size)
        held = None if checking is None else feed(checking, shuffle=False)
        self.history = train(task, feed(training), held, config).history
        self.fitted = True
        return self

    def _feed(
        self, photos: pd.DataFrame, batch_size: int, shuffle: bool = True
    ) -> PhotoFeed:
        known = photos.reindex(columns=list(TARGETS))
        return PhotoFeed(
            tuple(photos["path"]),
            known.to_numpy(np.float32),
            self.recipe.height,
            self.recipe.width,
            batch_size,
            shuffle,
            self.recipe.training.seed,
        )

    def predict(self, photos: pd.DataFrame) -> pd.DataFrame:
        """Predict grams, the mean over each photo and its left-right mirror image.

        Photos are seen one at a time: what is predicted for one does not depend on
        the others. On a GPU where there is one, unless the recipe says "cpu".

        Parameters
        ----------
        photos
            As `pasture.read_photos` gives them; only ``path`` is used.

        Returns
        -------
        pandas.DataFrame
            Grams, float64: the photos' index, a column a target. Of two streams,
            ``GDM_g`` and ``Dry_Total_g`` are exactly the sums of their parts.

        Raises
        ------
        NotFittedError
            The network has learnt nothing yet.
        PhotoError
            `photos` has no ``path``, or a photo cannot be read.
        """
        self.check_fitted()
        _need(photos, ["path"])
        feed = self._feed(photos, batch_size=1, shuffle=False)
        before = next(self.network.parameters()).device
        cuda = torch.cuda.is_available() and self.recipe.training.accelerator != "cpu"
        device = torch.device("cuda" if cuda else "cpu")
        self.network.to(device).eval()
        try:
            with torch.inference_mode():
                rows = [self._grams(image.to(device)) for image, _ in feed.epoch(0)]
        finally:
            self.network.to(before)
        grams = torch.stack(rows).numpy()
        return pd.DataFrame(grams, index=photos.index, columns=list(TARGETS))

    def _grams(self, image: Tensor) -> Tensor:
        """Give (target,) float64 for one photo, (1, 3, y, x)."""
        both: Tensor = self.network(torch.cat([image, image.flip(-1)]))
        grams = both.double().mean(0).cpu()
        return grams if self.recipe.stream == "single" else add_up(grams)

    def _settings(self) -> dict[str, Any]:
        return {
            "network": self.network.settings,
            "targets": list(TARGETS),
            "units": "g",
            "recipe": self.recipe.plain(),
        }

    @classmethod
    def _from_settings(cls, settings: Mapping[str, Any]) -> Self:
        network = PastureNetwork(**settings["network"])
        return cls(network, PastureRecipe.from_plain(settings["recipe"]))


def fit(
    photos: pd.DataFrame,
    recipe: str | PastureRecipe = "seed",
    stream: Stream | None = None,
    validation: Validation = None,
    **overrides: Any,
) -> PastureRegressor:
    """Train a regressor of grams on photos.

    Parameters
    ----------
    photos
        As `read_photos` gives them, with grams of all five targets.
    recipe
        "seed", "public" (both for a GPU and DINOv3's weights), "quick" (minutes on
        two cores), or your own.
    stream
        "single" looks at whole photos, "dual" at their halves; None: the recipe's,
        which is "single" in those above.
    validation
        What tells which epoch is best. None: the photos of a tenth of the sampling
        dates, or a tenth of the photos where there are no dates. A number: that
        fraction, 0 for no validation. Other photos: all of them.
    **overrides
        Any setting of the recipe or of its training: ``pretrained="weights.
        safetensors"``, ``epochs=10``, ``folder="runs/first"`` to be able to resume.

    Returns
    -------
    PastureRegressor
        Trained; ``.history`` has a row an epoch.

    Raises
    ------
    PhotoError
        Photos cannot be used or are in training and in validation; all at fault are
        named before anything is trained.
    ValueError
        A recipe or setting is unknown or out of range.

    Warns
    -----
    UserWarning
        Layers of the backbone are frozen that never learnt anything.

    Examples
    --------
    >>> import pasture
    >>> photos = pasture.read_photos("train.csv")  # doctest: +SKIP
    >>> model = pasture.fit(photos, "quick", stream="dual")  # doctest: +SKIP
    """
    if stream is not None:
        overrides["stream"] = stream
    chosen = find_recipe(recipe, **overrides)
    if chosen.freeze > 0 and chosen.pretrained is False:
        warnings.warn(
            f"the first {chosen.freeze:.0%} of {chosen.backbone} stay as they are, "
            "random: give pretrained=True (a download) or a safetensors file, or "
            "freeze=0",
            stacklevel=2,
        )
    # The same seed gives the same weights, and the caller's random state is kept.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chosen.training.seed)
        network = PastureNetwork(
            chosen.backbone,
            chosen.stream,
            freeze=chosen.freeze,
            pretrained=chosen.pretrained,
        )
    return PastureRegressor(network, chosen).fit(photos, validation)


def load(folder: str | Path) -> PastureRegressor:
    """Load a model saved by `PastureRegressor.save`.

    Raises
    ------
    ModelError
        A file is missing or damaged; the message names it.
    """
    return PastureRegressor.load(folder)


def _need(photos: pd.DataFrame, columns: list[str]) -> None:
    absent = [name for name in columns if name not in photos]
    if absent or photos.empty:
        raise PhotoError(
            f"photos must have rows and the columns {', '.join(columns)}, got "
            f"{len(photos)} rows and no {', '.join(absent) or 'column too few'}"
        )


def _split(
    photos: pd.DataFrame, validation: Validation, recipe: PastureRecipe
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Give the photos to learn from and those to validate on, checked."""
    _need(photos, ["path", *TARGETS])
    refuse(problems_of_table(photos))
    if isinstance(validation, pd.DataFrame):
        _need(validation, ["path", *TARGETS])
        refuse(problems_of_table(validation))
        both = validation.index[validation["path"].isin(photos["path"])]
        if len(both):
            raise PhotoError(
                "validation must hold photos that are not trained on, got "
                f"{len(both)} that are: {', '.join(map(str, both[:5]))}; leave them "
                "out of one"
            )
        return photos, validation
    fraction = recipe.validation_fraction if validation is None else validation
    if not 0 <= fraction < 1:
        raise ValueError(f"validation must be from 0 to below 1, got {fraction}")
    if fraction == 0:
        return photos, None
    held = _hold_out(photos, fraction, recipe.training.seed)
    return photos[~held], photos[held]


def _hold_out(photos: pd.DataFrame, fraction: float, seed: int) -> pd.Series:
    """Choose photos by sampling date, as photos of one day resemble each other."""
    dated = _DATE in photos
    codes = pd.factorize(photos[_DATE if dated else "path"], use_na_sentinel=False)[0]
    count = int(codes.max()) + 1
    if count < 2:
        kind = "sampling dates" if dated else "photos"
        raise PhotoError(
            f"{kind} must be 2 or more to hold one out for validation, got {count}; "
            "give other photos as validation, or validation=0"
        )
    places = min(max(1, round(fraction * count)), count - 1)
    chosen = np.random.default_rng(seed).permutation(count)[:places]
    return pd.Series(np.isin(codes, chosen), index=photos.index)
