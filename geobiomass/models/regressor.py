"""The biomass regressor: a network with its bands, which trains, saves and loads."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
from geobiomass.cube.quantity import AGB, Quantity
from geobiomass.data.folds import Fold
from geobiomass.data.labelled_cube import LabelledCube, LabelledSamples
from geobiomass.data.loader import ChipLoader
from geobiomass.data.reader import Sample
from geobiomass.data.splits import samples_of
from geobiomass.metadata.text import FIRST_WEIGHTS
from geobiomass.models.calibration import calibrate_together
from geobiomass.models.card import model_card
from geobiomass.models.domain import domain_of
from geobiomass.models.input_check import INPUTS
from geobiomass.models.map_comparison import measure_map_error
from geobiomass.models.map_error import MapError, tell
from geobiomass.models.norm_choice import choose_norms
from geobiomass.models.predictor import Predictor
from geobiomass.models.training_record import describe_training, note_weights
from geobiomass.network import AttentionUNet
from geobiomass.network.saved_settings import (
    check_count,
    check_names,
    check_text,
    network_of_settings,
)
from geobiomass.network.wrappers import InMonths
from geobiomass.recipes.datasets import DataLoaders, make_loaders
from geobiomass.recipes.freezing import frozen_in_words, frozen_part
from geobiomass.recipes.levels import crop_side
from geobiomass.recipes.objective import (
    augmentation_of,
    loss_of,
    metrics_of,
    prepare_with_calendar,
    recipe_for,
)
from geobiomass.recipes.recipe import (
    Recipe,
    find_recipe,
    recipe_from_dict,
    recipe_to_dict,
)
from geobiomass.recipes.resume import continues_earlier, learnt_from
from geobiomass.recipes.scaling import Statistics, set_scaling
from geobiomass.recipes.schedule import (
    TrainingPlan,
    plan_training,
    settings_of,
    stages_of,
)
from geobiomass.recipes.self_supervised import check_start, start_self_supervised
from geobiomass.recipes.single_values import check_batch_norm, told_of_single_values
from geobiomass.recipes.split import (
    HeldOut,
    Validation,
    grouped_by,
    open_validation,
    units_to_split,
)
from geobiomass.recipes.tile_statistics import check_crop
from geobiomass.tiles import EVALUATION_BLOCK
from geobiomass.training.estimator import Regressor
from geobiomass.training.json_files import finite_number
from geobiomass.training.kept_folder import kept_if_interrupted
from geobiomass.training.model_folder import DOMAIN, WRONG_SETTINGS, broken
from geobiomass.training.setting_names import explain_arguments
from geobiomass.training.usable_model import train_or_keep

if TYPE_CHECKING:
    from geobiomass.training import RegressionTask, TrainingResult

LabelsKnown = Callable[[Sample], npt.NDArray[np.bool_]]


@explain_arguments
class BiomassRegressor(Predictor, Regressor):
    """A network with the bands it reads; it maps cubes to biomass density.

    Parameters
    ----------
    network : AttentionUNet
        With its scaling set, or to be trained.
    bands : sequence of str
        Names of the network's bands, in its order.
    months : int
        Months of the training cubes. Cubes with more or fewer months can be mapped
        too: the attention weighs those that are present.
    outputs : sequence of str
        Name of the map of each output.
    recipe : Recipe, optional
        The recipe of its training.
    units, long_name : str
        Units and description of the target, the first output. :meth:`fit` takes name,
        units and description from the labels.

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
        units: str = AGB.units,
        long_name: str = AGB.long_name,
    ) -> None:
        for name, values in (("bands", bands), ("outputs", outputs)):
            expected = network.settings[name]
            if len(values) != expected:
                raise ValueError(
                    f"{name} must name the network's {expected}, got {list(values)}."
                )
        self.network = network
        self.history = pd.DataFrame()
        # The weights of a given network count as trained; fit replaces them.
        self.fitted = True
        self.bands = tuple(bands)
        self.months = months
        self.outputs = tuple(outputs)
        self.units, self.long_name = units, long_name
        self.recipe = recipe
        self.damaged: dict[str, str] = {}
        self._domain: Domain | None = None
        self.map_error: MapError | None = None
        self._start: str | None = None  # of its training, without labels

    def __repr__(self) -> str:
        """Return a description in one line."""
        state = f"{len(self.history)} epochs" if len(self.history) else "not trained"
        state = self.interrupted or state
        encoder = self.network.settings["encoder"]
        begun = [one for one in FIRST_WEIGHTS if one in self.provenance]
        encoder = " ".join([str(encoder), *begun])
        interval = "" if self.calibration is None else f", {self.calibration}"
        if self.target.settings != AGB.settings:
            state = f"{self.target.name} in {self.units}, {state}"
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
        data = LabelledCube.open(cube, self.bands)
        held = open_validation(validation, self.bands, data.target)
        with kept_if_interrupted(chosen.training.folder) as folder:
            kept = chosen.with_changes(folder=chosen.training.folder or folder)
            self._fit(data, kept, held, announce, client)
        if chosen.training.folder is None and self.recipe is not None:
            self.recipe = self.recipe.with_changes(folder=None)
        return self

    def _fit(
        self,
        data: LabelledCube,
        recipe: Recipe,
        held: HeldOut = None,
        announce: Callable[[TrainingPlan], object] | None = None,
        client: Any = None,
        calibrate: bool = True,
    ) -> Self:
        """Train; with `calibrate` also calibrate the recipe's interval, if any."""
        from geobiomass.training import train_stages  # imports Lightning

        self._learn(data.target)
        recipe = recipe_for(recipe, data.target)
        given = self._check_folder(data, recipe, held)
        units = units_to_split(data, recipe, held, calibrate)
        side = crop_side(recipe, units)
        check_crop(self.network, recipe, side)
        earlier = given is not None and continues_earlier(recipe.training, given)
        loaders, task = self._prepare(data, recipe, held, client, calibrate)
        recipe, stages = loaders.recipe, stages_of(loaders)
        found = self._scale(loaders)
        check_batch_norm(self.network, recipe, loaders.training, side)
        first = int(os.environ.get("LOCAL_RANK", "0")) == 0  # of several processes
        if announce is not None and first:
            announce(plan_training(task, stages, loaders))
        finish = partial(self._finish, data, loaders, held, found, earlier, calibrate)

        def train() -> TrainingResult:
            self._start = start_self_supervised(self.network, loaders, given)
            return train_stages(task, stages, given=given)

        with told_of_single_values(self.network, recipe, side):
            train_or_keep(self, train, self.network, settings_of(recipe), finish)
        return self

    def _finish(
        self,
        data: LabelledCube,
        loaders: DataLoaders,
        held: HeldOut,
        found: Statistics,
        earlier: bool,
        calibrate: bool,
        result: TrainingResult,
    ) -> None:
        """Set all that follows from the trained weights."""
        recipe = loaders.recipe
        first = int(os.environ.get("LOCAL_RANK", "0")) == 0  # of several processes
        self.months = data.reader.months
        self.recipe = recipe
        self.history = result.history
        self.calibration = None
        self.floor = 0.0 if found.target_range[0] >= 0 and not earlier else None
        everything = recipe.ends_with_everything
        last = (loaders.everything if everything else loaders.training).unweighted()
        device = recipe.training.device
        validation = None if everything else loaders.validation
        # Without validation the training labels choose.
        judge = last if validation is None else validation
        compare = partial(self._compare_maps, judge, recipe, found, device)
        fixed = self.network.encoder if recipe.frozen == 1 else None
        error = None
        if not earlier:
            error = choose_norms(self.network, last, compare, device, fixed)
        # Each of several processes calibrates for itself: all end with the same model,
        # any of them may save it, and none waits for another.
        if calibrate and recipe.interval is not None:
            known = [held.trains if isinstance(held, Fold) else None]
            self.calibration = calibrate_together(
                [self], data, [loaders.calibration], known, grouped_by(recipe, held)
            )
        self.provenance = describe_training(
            data, self.network, last, validation, device
        )
        self.provenance[INPUTS] = found.profile.to_dict()
        note_weights(self, loaders.weights, data.reader.has_errors)
        if (words := frozen_in_words(recipe, self.network)) is not None:
            self.provenance["frozen"] = words
        if self._start is not None:
            self.provenance["self-supervised"] = self._start
        self.map_error = None
        if validation is not None:
            self.map_error = error or compare()
        if self.map_error is not None and recipe.training.progress and first:
            print(f"Error of maps: {self.map_error}", file=sys.stderr)
        tell(self.map_errors, stacklevel=6)
        if isinstance(held, Fold):
            self.provenance["fold"] = held.to_dict()
        self._domain = domain_of(self.network, data, loaders)
        self.damaged = loaders.problems
        if self.damaged:
            warnings.warn(
                f"{len(self.damaged)} samples could not be read and were left out of "
                "training; model.damaged lists them with the reasons.",
                stacklevel=5,
            )

    def _learn(self, target: Quantity) -> None:
        """Take name, units and description of what is predicted from the labels."""
        # A model of biomass keeps the names that its outputs were given.
        if target != AGB or self.units != AGB.units:
            self.outputs = target.outputs(self.outputs)
            self.units, self.long_name = target.units, target.long_name

    def _check_folder(
        self, data: LabelledCube, recipe: Recipe, held: HeldOut = None
    ) -> dict[str, Any] | None:
        """Check that the folder holds no other training; return this one's identity.

        This comes before the cube is cached, which may take hours over a network.
        """
        if recipe.training.folder is None:
            return None
        recipe = recipe_for(recipe, data.target)
        from geobiomass.training import check_folder  # imports Lightning

        given = learnt_from(data, self.network, recipe, held)
        check_folder(self.network, settings_of(recipe), given=given)
        check_start(self.network, recipe, given)
        return given

    def plan_fit(
        self, cube: xr.Dataset, recipe: Recipe, validation: Validation = None
    ) -> TrainingPlan:
        """Plan what :meth:`fit` would do; some steps are timed on copies.

        Parameters
        ----------
        cube : xarray.Dataset
            To train on, with ``agb``.
        recipe : Recipe
            How to train.
        validation : optional
            Held-out data, as :func:`geobiomass.fit` takes them.

        Returns
        -------
        TrainingPlan
            Stages, steps and hours; prints itself.
        """
        data = LabelledCube.open(cube, self.bands)
        held = open_validation(validation, self.bands, data.target)
        return self._plan_fit(data, recipe, held)

    def _plan_fit(
        self, data: LabelledCube, recipe: Recipe, held: HeldOut = None
    ) -> TrainingPlan:
        loaders, task = self._prepare(data, recipe_for(recipe, data.target), held)
        self._scale(loaders)
        return plan_training(task, stages_of(loaders), loaders)

    def _prepare(
        self,
        data: LabelledCube,
        recipe: Recipe,
        held: HeldOut = None,
        client: Any = None,
        calibrate: bool = True,
    ) -> tuple[DataLoaders, RegressionTask]:
        from geobiomass.training import RegressionTask  # imports Lightning

        loaders = make_loaders(data, recipe, held, client, calibrate)
        recipe = loaders.recipe
        task = RegressionTask(
            self.network,
            loss_of(recipe),
            metrics=metrics_of(),
            augment=augmentation_of(recipe, loaders.training),
            prepare=prepare_with_calendar,
            frozen=frozen_part(recipe, self.network),
        )
        return loaders, task

    def _compare_maps(
        self, held: ChipLoader, recipe: Recipe, found: Statistics, device: str
    ) -> MapError | None:
        """Return the error of maps of the network as it is."""
        lowest, highest = found.target_range
        ceiling = math.inf if recipe.ceiling is None else recipe.ceiling
        return measure_map_error(
            self._bare_over(held.reader),
            self.network,
            held,
            (lowest, min(highest, ceiling)),
            self.floor,
            device,
        )

    def _scale(self, loaders: DataLoaders) -> Statistics:
        """Set the scaling; return it, with what the training data is."""
        found = loaders.measure()
        set_scaling(self.network, self.bands, loaders.recipe, found)
        self.network.month_group = loaders.recipe.month_group
        return found

    @property
    def map_errors(self) -> tuple[MapError, ...]:
        """The error of maps that :meth:`fit` measured, if it did."""
        return () if self.map_error is None else (self.map_error,)

    def learn_applicability(
        self, cube: xr.Dataset | xr.DataArray, *, cells: int = 3000, seed: int = 0
    ) -> Self:
        """Learn the training data's domain, for :meth:`applicability`.

        :meth:`fit` does so itself: this is for models that were saved without a
        domain, or made of a network that was trained elsewhere.

        Parameters
        ----------
        cube : xarray.Dataset
            The training data of the network, with ``agb``.
        cells : int
            Cells of 16 x 16 pixels that represent it.
        seed : int
            Seed of the random choice of cells.

        Returns
        -------
        BiomassRegressor
            Itself.

        Raises
        ------
        TypeError
            If the network does not return the features that it pools over months.
        CubeError
            If there are fewer than 8 cells with a label, or `cube` is not a cube.
        """
        reader = LabelledCube.open(cube, self.bands).reader
        known = LabelledSamples.find(reader, samples_of(reader, EVALUATION_BLOCK))
        domain = learn_domain(
            self.network, reader, known.samples, cells, seed, marks=known.marks
        )
        if domain is None:
            raise CubeError(
                "cube must have 8 cells of 16 x 16 pixels with a label and an "
                "observation at least, got fewer; give all of the training data."
            )
        self._domain = domain
        return self

    def _in_months(self, calendar: tuple[int, ...]) -> nn.Module:
        # Networks of other classes need not have a month-of-year term.
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
            except (OSError, *WRONG_SETTINGS) as error:
                raise broken(folder / DOMAIN, error) from error
        return model

    def _settings(self) -> dict[str, Any]:
        return {
            "network": self.network.settings,
            "bands": list(self.bands),
            "months": self.months,
            "outputs": list(self.outputs),
            **self.target.settings,
            "recipe": None if self.recipe is None else recipe_to_dict(self.recipe),
            **self._calibrated(),
            **self._known_of_maps(),
        }

    @classmethod
    def _from_settings(cls, settings: Any) -> Self:
        recipe = settings["recipe"]
        for name in ("bands", "outputs"):
            check_names(settings[name], name)
        check_count(settings["months"], "months")
        for name in ("units", "long_name"):
            check_text(settings.get(name, ""), name)
        if settings.get("floor") is not None and not finite_number(settings["floor"]):
            raise ValueError(f"floor must be a number, got {settings['floor']!r}")
        model = cls(
            network_of_settings(settings["network"]),
            settings["bands"],
            settings["months"],
            settings["outputs"],
            None if recipe is None else recipe_from_dict(recipe),
            Quantity.of_settings(settings).units,
            Quantity.of_settings(settings).long_name,
        )
        model._take_calibration(settings)
        model.floor = settings.get("floor")
        if settings.get("map_error") is not None:
            model.map_error = MapError.from_dict(settings["map_error"])
        return model

    def _known_of_maps(self) -> dict[str, Any]:
        """Return floor and error of maps for the settings, where there are."""
        known: dict[str, Any] = {} if self.floor is None else {"floor": self.floor}
        if self.map_error is not None:
            known["map_error"] = self.map_error.to_dict()
        return known

    def _card(self) -> str:
        settings = self.settings | self._marked()
        return model_card(settings, self.provenance, self.load_call)
