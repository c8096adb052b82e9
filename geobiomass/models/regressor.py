"""Fit, predict, evaluate, save, load: the biomass regressor."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from torch import nn

from geobiomass.applicability import Domain
from geobiomass.applicability.learning import learn_domain
from geobiomass.cube import BIOMASSTERS_BANDS, CubeError
from geobiomass.cube.convert import need_target
from geobiomass.data.folds import Fold
from geobiomass.data.reader import Reader, Sample
from geobiomass.data.splits import groups_of, label_marks, labelled, samples_of
from geobiomass.models.calibration import calibration_of, compare_units
from geobiomass.models.card import describe_training, model_card
from geobiomass.models.predictor import Predictor
from geobiomass.network import AttentionUNet
from geobiomass.network.wrappers import InMonths
from geobiomass.recipes.datasets import (
    DataLoaders,
    Validation,
    augmentation_of,
    grouped_by,
    loss_of,
    make_loaders,
    metrics_of,
    prepare_with_calendar,
)
from geobiomass.recipes.recipe import Recipe, find_recipe
from geobiomass.recipes.resume import learnt_from
from geobiomass.recipes.scaling import set_scaling
from geobiomass.recipes.schedule import (
    TrainingPlan,
    plan_training,
    settings_of,
    stages_of,
)
from geobiomass.statistics.conformal import Calibration, Unit
from geobiomass.tiles import EVALUATION_BLOCK
from geobiomass.training import Stage, TrainingConfig
from geobiomass.training.estimator import Regressor
from geobiomass.training.model_folder import DOMAIN, broken

if TYPE_CHECKING:
    from geobiomass.training import RegressionTask

LabelsKnown = Callable[[Sample], npt.NDArray[np.bool_]]


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
    load_call = "gb.load(folder)"

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
        self._domain: Domain | None = None

    def __repr__(self) -> str:
        """Say what it is in one line."""
        state = f"{len(self.history)} epochs" if len(self.history) else "not trained"
        encoder = self.network.settings["encoder"]
        interval = "" if self.calibration is None else f", {self.calibration}"
        return (
            f"BiomassRegressor({encoder}, {len(self.bands)} bands, "
            f"{self.months} months, {state}{interval})"
        )

    # --- fit ---

    def fit(
        self,
        cube: xr.Dataset | xr.DataArray,
        recipe: str | Recipe = "default",
        validation: Validation = None,
        *,
        announce: Callable[[TrainingPlan], object] | None = None,
        client: Any = None,
        **overrides: Any,
    ) -> Self:
        """Train the network on a cube.

        Parameters
        ----------
        cube, recipe, validation, announce, client, **overrides
            As :func:`geobiomass.fit` takes them.

        Returns
        -------
        BiomassRegressor
            Itself.
        """
        chosen = find_recipe(recipe, **overrides)
        return self._fit(need_target(cube), chosen, validation, announce, client)

    def _fit(
        self,
        cube: xr.Dataset,
        recipe: Recipe,
        validation: Validation = None,
        announce: Callable[[TrainingPlan], object] | None = None,
        client: Any = None,
        calibrate: bool = True,
    ) -> Self:
        """Train; with `calibrate` also calibrate the interval that the recipe has."""
        from geobiomass.training import train_stages  # imports Lightning

        given = self._check_folder(cube, recipe, validation)
        loaders, task = self._prepare(cube, recipe, validation, client, calibrate)
        recipe, stages = loaders.recipe, stages_of(loaders)
        self._scale(loaders)
        first = int(os.environ.get("LOCAL_RANK", "0")) == 0  # of several processes
        if announce is not None and first:
            announce(plan_training(task, stages))
        result = train_stages(task, stages, given=given)
        self.months = cube.sizes["month"]
        self.recipe = recipe
        self.history = result.history
        self.calibration = None
        # Each of several processes does this for itself: all end with the same model,
        # whichever of them saves it, and none waits for another.
        if calibrate and recipe.interval is not None:
            fold = validation if isinstance(validation, Fold) else None
            known = [None if fold is None else fold.trains]
            self.calibration = calibrate_together(
                [self], cube, [loaders.calibration], known, grouped_by(recipe, fold)
            )
        everything = recipe.ends_with_everything
        self.provenance = describe_training(
            cube,
            self.network,
            self.bands,
            loaders.everything if everything else loaders.training,
            None if everything else loaders.validation,
            recipe.training.device,
        )
        if isinstance(validation, Fold):
            self.provenance["fold"] = validation.to_dict()
        self._domain = domain_of(self.network, cube, loaders)
        self.damaged = loaders.problems
        if self.damaged:
            warnings.warn(
                f"{len(self.damaged)} samples could not be read and were left out of "
                "training; model.damaged says which and why.",
                stacklevel=4,
            )
        return self

    def _check_folder(
        self, cube: xr.Dataset, recipe: Recipe, validation: Validation = None
    ) -> dict[str, Any] | None:
        """Refuse a folder with another training; give what tells this one from others.

        Before the cube is read into the cache, which may take hours over a network.
        """
        if recipe.training.folder is None:
            return None
        from geobiomass.training import check_folder  # imports Lightning

        given = learnt_from(cube, self.network, self.bands, recipe, validation)
        check_folder(self.network, settings_of(recipe), given=given)
        return given

    def plan_fit(
        self, cube: xr.Dataset, recipe: Recipe, validation: Validation = None
    ) -> TrainingPlan:
        """Say what :meth:`fit` would do, after some steps were timed on copies.

        Parameters
        ----------
        cube : xarray.Dataset
            To train on, with ``agb``.
        recipe : Recipe
            How.
        validation : optional
            What is held out, as :func:`geobiomass.fit` takes it.

        Returns
        -------
        TrainingPlan
            Stages, steps and hours; prints itself.
        """
        loaders, task = self._prepare(cube, recipe, validation)
        self._scale(loaders)
        return plan_training(task, stages_of(loaders))

    def _prepare(
        self,
        cube: xr.Dataset,
        recipe: Recipe,
        validation: Validation = None,
        client: Any = None,
        calibrate: bool = True,
    ) -> tuple[DataLoaders, RegressionTask]:
        loaders = make_loaders(cube, self.bands, recipe, validation, client, calibrate)
        from geobiomass.training import RegressionTask  # imports Lightning

        recipe = loaders.recipe
        task = RegressionTask(
            self.network,
            loss_of(recipe),
            metrics=metrics_of(),
            augment=augmentation_of(recipe, loaders.training),
            prepare=prepare_with_calendar,
        )
        return loaders, task

    def _scale(self, loaders: DataLoaders) -> None:
        set_scaling(self.network, self.bands, loaders.recipe, loaders.measure())
        self.network.month_group = loaders.recipe.month_group

    def learn_applicability(
        self, cube: xr.Dataset | xr.DataArray, *, cells: int = 3000, seed: int = 0
    ) -> Self:
        """Learn what :meth:`applicability` compares with; :meth:`fit` does so itself.

        For models that were loaded without, or whose network was brought.

        Parameters
        ----------
        cube : xarray.Dataset
            What the network was trained on, with ``agb``.
        cells : int
            Cells of 16 x 16 pixels that stand for it.
        seed : int
            Decides which.

        Returns
        -------
        BiomassRegressor
            Itself.

        Raises
        ------
        TypeError
            If the network does not tell what it pools over months.
        CubeError
            If there are fewer than 8 cells with a label, or `cube` is no cube.
        """
        cube = need_target(cube)
        reader = Reader(cube, self.bands)
        samples = samples_of(reader, EVALUATION_BLOCK)
        marks = {} if reader.chips else label_marks(reader, samples)
        samples = list(marks) or labelled(reader, samples)
        domain = learn_domain(self.network, reader, samples, cells, seed, marks=marks)
        if domain is None:
            raise CubeError(
                "cube must have 8 cells of 16 x 16 pixels with a label and an "
                "observation at least, got fewer; give all that the model learnt from."
            )
        self._domain = domain
        return self

    def _in_months(self, calendar: tuple[int, ...]) -> nn.Module:
        # Whoever brings another network need not know of months.
        if getattr(self.network, "calendar", None) in (None, calendar):
            return self.network
        return InMonths(self.network, calendar)

    # --- save and load ---

    def _write(self, folder: Path) -> None:
        super()._write(folder)
        if self._domain is not None:
            self._domain.save(folder / DOMAIN)

    @classmethod
    def _read(cls, folder: Path, config: Mapping[str, Any]) -> Self:
        model = super()._read(folder, config)
        if (folder / DOMAIN).exists():
            try:
                model._domain = Domain.load(folder / DOMAIN)
            except ValueError as error:
                raise broken(folder / DOMAIN, error) from error
        return model

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
            **self._calibrated(),
        }

    @classmethod
    def _from_settings(cls, settings: Any) -> Self:
        model = cls(
            AttentionUNet(**settings["network"]),
            settings["bands"],
            settings["months"],
            settings["outputs"],
            _recipe_from(settings["recipe"]),
        )
        model._take_calibration(settings)
        return model

    def _card(self) -> str:
        return model_card(self.settings, self.provenance, self.load_call)


def calibrate_together(
    models: Sequence[BiomassRegressor],
    cube: xr.Dataset,
    samples: Sequence[Sequence[Sample]],
    known: Sequence[LabelsKnown | None] | None = None,
    groups: str | None = None,
) -> Calibration:
    """Calibrate the interval of models that each left out another part of a cube.

    With several the scores of all folds are pooled (cross-conformal prediction: Vovk,
    Cross-conformal predictors, 2015).

    Parameters
    ----------
    models : sequence of BiomassRegressor
        Trained with one recipe.
    cube : xarray.Dataset
        With ``agb``.
    samples : sequence of sequence of Sample
        What each left out.
    known : sequence, optional
        Of each, what tells which labels of a place it left out; by default all.
    groups : str, optional
        A coordinate along ``chip`` that tells groups of chips apart.

    Raises
    ------
    ValueError
        If too few of them have both a label and an observation.
    """
    recipe = models[0].recipe
    if recipe is None or recipe.interval is None:
        raise ValueError("models to calibrate must be trained with interval, got none.")
    known = [None] * len(models) if known is None else known
    each = [
        units_left_out(*one, cube, groups)
        for one in zip(models, samples, known, strict=True)
    ]
    units = [unit for own in each for unit in own]
    folds = len(models) if len(models) > 1 else 0
    reader = Reader(cube, models[0].bands)
    return calibration_of(units, reader, recipe.interval, folds=folds, groups=groups)


def units_left_out(
    model: BiomassRegressor,
    samples: Sequence[Sample],
    known: LabelsKnown | None,
    cube: xr.Dataset,
    groups: str | None = None,
) -> list[Unit]:
    """Compare what a model predicts, before any calibration, with what it left out.

    Parameters
    ----------
    model : BiomassRegressor
        Trained.
    samples : sequence of Sample
        What it left out.
    known : callable, optional
        Which labels of a place it left out; by default all.
    cube : xarray.Dataset
        With ``agb``.
    groups : str, optional
        As :func:`calibrate_together` takes it.
    """
    mapper = model._bare(cube)
    if known is not None:
        mapper.reader = mapper.reader.with_labels_where(known)
    skip = model.recipe is not None and model.recipe.damaged == "skip"
    return compare_units(mapper, samples, skip, groups_of(cube, samples, groups))


def _recipe_from(settings: dict[str, Any] | None) -> Recipe | None:
    if settings is None:
        return None
    training = dict(settings["training"])
    if isinstance(training.get("monitor"), list):
        training["monitor"] = tuple(training["monitor"])
    return Recipe(
        **settings
        | {
            "decoder_channels": tuple(settings["decoder_channels"]),
            "stages": tuple(Stage(**stage) for stage in settings.get("stages", ())),
            "training": TrainingConfig(**training),
        }
    )


def domain_of(
    network: nn.Module, cube: xr.Dataset, loaders: DataLoaders
) -> Domain | None:
    """Learn what a network was trained on, at the end of its training.

    Parameters
    ----------
    network : torch.nn.Module
        Trained on the feeds.
    cube : xarray.Dataset
        That the feeds are of.
    loaders : DataLoaders
        What was held out to the end is not looked at.

    Returns
    -------
    Domain or None
        None where the recipe asks for none, or there is too little to tell.
    """
    recipe = loaders.recipe
    if not recipe.domain_cells:
        return None
    loader = loaders.everything if recipe.ends_with_everything else loaders.training
    samples = list(dict.fromkeys(loader.samples))
    groups = groups_of(cube, samples, recipe.groups)
    augment = dataclasses.replace(
        augmentation_of(recipe, loader), orientations=False, rotation=0.0
    )
    drops = (recipe.month_dropout, recipe.pattern_dropout, recipe.pass_dropout)
    return learn_domain(
        network,
        loader.reader,
        samples,
        recipe.domain_cells,
        recipe.training.seed,
        groups=None if groups is None else dict(zip(samples, groups, strict=True)),
        marks=loader.marks,
        augment=augment if any(drops) else None,
        skip=recipe.damaged == "skip",
    )
