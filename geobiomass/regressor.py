"""Fit, predict, evaluate, save, load: the biomass regressor."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from geobiomass.chips import Reader
from geobiomass.cube import BIOMASSTERS_BANDS, CubeError, DamagedError
from geobiomass.evaluation import EVALUATION_BLOCK
from geobiomass.feed import ChipFeed, decode_batch
from geobiomass.network import AttentionUNet
from geobiomass.predictor import Predictor, need_target
from geobiomass.recipes import Recipe, find_recipe
from geobiomass.scaling import Statistics, measure_statistics, set_scaling
from geobiomass.splits import (
    crops_in,
    fixed_crops,
    groups_of,
    hold_out,
    labelled,
    places_of,
    refuse_overlap,
)
from geobiomass.training import RegressionTask, train
from geobiomass.training.augment import Augmentation
from geobiomass.training.estimator import Regressor
from geobiomass.training.losses import (
    chip_rmse_loss,
    masked_huber_loss,
    masked_mse_loss,
)
from geobiomass.training.metrics import AverageRMSE, Bias, PixelRMSE

Validation = xr.Dataset | float | Sequence[str] | None


class BiomassRegressor(Predictor, Regressor):
    """A network with the bands it reads: maps cubes to biomass density.

    Parameters
    ----------
    network : AttentionUNet
        With its statistics set, or to be fitted.
    bands : sequence of str
        Names of the network's bands, in its order.
    months : int
        Months of the cubes it was made for. Cubes with more or fewer months can be
        mapped too: the attention weighs those that are there.
    outputs : sequence of str
        Name of the map of each output.
    recipe : Recipe, optional
        How it was trained.

    Raises
    ------
    ValueError
        If the number of bands or outputs differs from the network's.
    """

    network: AttentionUNet
    loader = "gb.load(folder)"

    def __init__(
        self,
        network: AttentionUNet,
        bands: Sequence[str] = BIOMASSTERS_BANDS,
        months: int = 12,
        outputs: Sequence[str] = ("agb",),
        recipe: Recipe | None = None,
    ) -> None:
        for name, values in (("bands", bands), ("outputs", outputs)):
            expected = network.settings[name]
            if len(values) != expected:
                raise ValueError(
                    f"{name} must name the network's {expected}, got {list(values)}."
                )
        self.network = network
        self.history = pd.DataFrame()
        # Whoever brings a network vouches for its weights; fit replaces them.
        self.fitted = True
        self.bands = tuple(bands)
        self.months = months
        self.outputs = tuple(outputs)
        self.recipe = recipe
        self.damaged: dict[str, str] = {}

    def __repr__(self) -> str:
        """Say what it is in one line."""
        state = f"{len(self.history)} epochs" if len(self.history) else "not trained"
        encoder = self.network.settings["encoder"]
        return (
            f"BiomassRegressor({encoder}, {len(self.bands)} bands, "
            f"{self.months} months, {state})"
        )

    # --- fit ---

    def fit(
        self,
        cube: xr.Dataset,
        recipe: str | Recipe = "default",
        validation: Validation = None,
        *,
        client: Any = None,
        **overrides: Any,
    ) -> Self:
        """Train the network on a cube; :func:`fit` says what the arguments mean."""
        recipe = find_recipe(recipe, **overrides)
        training, checking, recipe = _feeds(
            cube, self.bands, recipe, validation, client
        )
        found = _measure(training, recipe)
        set_scaling(self.network, self.bands, recipe, found)
        feeds = [feed for feed in (training, checking) if feed is not None]
        task = RegressionTask(
            self.network,
            _loss(recipe),
            metrics={"average_rmse": AverageRMSE(), "pixel_rmse": PixelRMSE()}
            | {"bias": Bias()},
            augment=Augmentation(
                orientations=recipe.turns, probability_batch=recipe.month_dropout
            ),
            prepare=decode_batch,
        )
        result = train(task, training, checking, recipe.training)
        self.months = cube.sizes["month"]
        self.recipe = recipe
        self.history = result.history
        self.damaged = {k: v for feed in feeds for k, v in feed.problems.items()}
        if self.damaged:
            warnings.warn(
                f"{len(self.damaged)} samples could not be read and were left out of "
                "training; model.damaged says which and why.",
                stacklevel=3,
            )
        return self

    # --- save and load ---

    def _settings(self) -> dict[str, Any]:
        recipe = dataclasses.asdict(self.recipe) if self.recipe is not None else None
        if recipe is not None and recipe["training"]["folder"] is not None:
            recipe["training"]["folder"] = None  # a place on the trainer's machine
        return {
            "network": self.network.settings,
            "bands": list(self.bands),
            "months": self.months,
            "outputs": list(self.outputs),
            "units": "Mg/ha",
            "recipe": recipe,
        }

    @classmethod
    def _from_settings(cls, settings: Any) -> Self:
        return cls(
            AttentionUNet(**settings["network"]),
            settings["bands"],
            settings["months"],
            settings["outputs"],
            _recipe_from(settings["recipe"]),
        )


def _recipe_from(settings: dict[str, Any] | None) -> Recipe | None:
    if settings is None:
        return None
    from geobiomass.training import TrainingConfig

    training = dict(settings["training"])
    if isinstance(training.get("monitor"), list):
        training["monitor"] = tuple(training["monitor"])
    return Recipe(
        **settings
        | {
            "decoder_channels": tuple(settings["decoder_channels"]),
            "training": TrainingConfig(**training),
        }
    )


def fit(
    cube: xr.Dataset,
    recipe: str | Recipe = "default",
    validation: Validation = None,
    *,
    client: Any = None,
    **overrides: Any,
) -> BiomassRegressor:
    """Train a biomass regressor on a cube.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene or chips, with ``agb``; NaN where unlabelled, sparse labels are fine.
        All its bands are used.
    recipe : str or Recipe
        ``"default"``, ``"quick"`` (minutes on two cores), ``"biomassters"`` (the
        network and settings of the competition's winner), or your own.
    validation : optional
        What tells which epoch is best. None: a tenth of the chips, or of the blocks
        of a scene (nothing, with a warning, where there is only one). A number:
        that fraction, 0 for no validation. A sequence of chip ids: those chips.
        Another cube: all of it.
    client : distributed.Client, optional
        Read chips on its workers, who must see the cube under the same path; the
        network stays here.
    **overrides
        Any setting of the recipe or of its training: ``epochs=10``, ``seed=1``,
        ``encoder="resnet18"``, ``folder="runs/first"`` to be able to resume.

    Returns
    -------
    BiomassRegressor
        Trained; ``.history`` has a row an epoch.

    Raises
    ------
    CubeError
        If `cube` is not a cube, has no ``agb`` or no label, or shares chips or
        ground with the validation cube.
    ValueError
        If a recipe or setting is unknown or out of range.

    Examples
    --------
    >>> import geobiomass as gb
    >>> model = gb.fit(gb.open_cube("chips.zarr"), "quick")  # doctest: +SKIP
    """
    chosen = find_recipe(recipe, **overrides)
    need_target(cube)
    return untrained(cube, chosen).fit(cube, chosen, validation, client=client)


def untrained(cube: xr.Dataset, recipe: str | Recipe) -> BiomassRegressor:
    """Make a recipe's network for the bands and months of a cube, random weights."""
    recipe = find_recipe(recipe)
    bands = [str(name) for name in cube["band"].values]
    # The same seed gives the same weights, and the caller's random state is kept.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        network = AttentionUNet(
            bands=len(bands),
            encoder=recipe.encoder,
            decoder_channels=recipe.decoder_channels,
            pretrained=recipe.pretrained,
        )
    return BiomassRegressor(network, bands, cube.sizes["month"])


def load(folder: str | Path) -> BiomassRegressor:
    """Load a model saved by :meth:`BiomassRegressor.save`.

    Raises
    ------
    ModelError
        If the folder, or a file of it, is missing or broken.
    """
    return BiomassRegressor.load(folder)


def _feeds(
    cube: xr.Dataset,
    bands: Sequence[str],
    recipe: Recipe,
    validation: Validation,
    client: Any,
) -> tuple[ChipFeed, ChipFeed | None, Recipe]:
    """Split a cube, or take what the user gave, into what trains and validates."""
    need_target(cube)
    reader = _reader(cube, bands, recipe)
    crop = recipe.crop
    places = places_of(reader, recipe.block or 2 * (crop or EVALUATION_BLOCK))
    if crop is not None:
        narrowest = min(min(p.window.height, p.window.width) for p in places)
        crop = min(crop, narrowest)
        recipe = dataclasses.replace(recipe, crop=crop)
    elif not reader.chips:
        raise ValueError(
            "crop must be a number of pixels to train on a scene, got None; "
            "blocks of a scene differ in size."
        )
    skip = recipe.damaged == "skip"
    places = labelled(reader, places, skip)
    config = recipe.training
    checking: ChipFeed | None = None
    feed = partial(
        ChipFeed,
        batch_size=config.batch_size,
        seed=config.seed,
        memory=recipe.read_ahead,
        damaged=recipe.damaged,
        client=client,
    )
    if isinstance(validation, xr.Dataset):
        need_target(validation)
        refuse_overlap(cube, validation)
        other = _reader(validation, bands, recipe)
        held = labelled(other, places_of(other, EVALUATION_BLOCK), skip)
        checking = feed(other, fixed_crops(held, _common(held, crop)), shuffle=False)
    else:
        places, held = _split(cube, places, recipe, validation)
        if held:
            checking = feed(reader, fixed_crops(held, crop), shuffle=False)
    training = feed(reader, crops_in(places, crop), crop=crop)
    return training, checking, recipe


def _reader(cube: xr.Dataset, bands: Sequence[str], recipe: Recipe) -> Reader:
    """Give what reads the cube as suits the device."""
    reader = Reader(cube, bands)
    try:
        reader.cache(recipe.cache)
    except DamagedError:
        if recipe.damaged == "raise":
            raise  # else it is read chip by chip, and what cannot be is left out
    return reader.decoded() if recipe.training.device == "cpu" else reader


def _measure(feed: ChipFeed, recipe: Recipe) -> Statistics:
    places = list(dict.fromkeys(feed.places))  # crops repeat them
    return measure_statistics(
        feed.reader, places, recipe.damaged == "skip", recipe.training.progress
    )


def _common(places: Sequence[Any], crop: int | None) -> int | None:
    if crop is None:
        return None
    return int(min(crop, *(min(p.window.height, p.window.width) for p in places)))


def _split(
    cube: xr.Dataset, places: list[Any], recipe: Recipe, validation: Validation
) -> tuple[list[Any], list[Any]]:
    if validation is None:
        if len(places) == 1:
            warnings.warn(
                "one chip, or a scene too small for two blocks: training without "
                "validation; give a validation cube to know the error",
                stacklevel=2,
            )
            return places, []
        validation = recipe.validation_fraction
    if isinstance(validation, int | float):
        if not 0 <= validation < 1:
            raise ValueError(f"validation must be from 0 to below 1, got {validation}.")
        if validation == 0:
            return places, []
        groups = groups_of(cube, places, recipe.groups)
        config = recipe.training
        return hold_out(places, validation, config.seed, groups, config.ranks)
    if "chip" not in cube.dims:
        raise CubeError(
            "validation by ids needs a cube of chips; for a scene give a fraction or "
            "another cube."
        )
    wanted = {str(chip) for chip in validation}
    ids = [str(chip) for chip in cube["chip"].values]
    unknown = sorted(wanted - set(ids))
    if unknown:
        raise CubeError(f"Chips {unknown[:5]} to validate on are not in the cube.")
    training = [place for place in places if ids[place.chip] not in wanted]
    if not training:
        raise CubeError("No chip is left to train on: all are for validation.")
    return training, [place for place in places if ids[place.chip] in wanted]


def _loss(recipe: Recipe) -> Callable[[Tensor, Tensor], Tensor]:
    if recipe.loss == "chip_rmse":
        return partial(chip_rmse_loss, ceiling=recipe.ceiling)
    if recipe.loss == "huber":
        # Below about the error that is reached quadratic, beyond it linear.
        return partial(masked_huber_loss, delta=30.0)
    return masked_mse_loss
