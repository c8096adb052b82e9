"""How a biomass regressor trains its network: from a labelled cube to a model."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.applicability import Domain
from geobiomass.cube.quantity import AGB, Quantity
from geobiomass.data.folds import Fold
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.loader import ChipLoader
from geobiomass.data.reader import Sample
from geobiomass.models.calibration import calibrate_together, check_worth
from geobiomass.models.domain import domain_of
from geobiomass.models.input_check import INPUTS, LAYERS
from geobiomass.models.learnt_labels import noted
from geobiomass.models.map_comparison import measure_map_error
from geobiomass.models.map_error import MapError, tell
from geobiomass.models.norm_choice import choose_norms
from geobiomass.models.predictor import Predictor
from geobiomass.models.tail_correction import (
    check_correctable,
    learn_correction,
)
from geobiomass.models.training_record import (
    TrainedPlaces,
    add_labels,
    describe_training,
    note_shift,
    note_weights,
)
from geobiomass.network import AttentionUNet
from geobiomass.recipes.datasets import DataLoaders, make_loaders
from geobiomass.recipes.freezing import frozen_in_words, frozen_part
from geobiomass.recipes.label_shift import check_layout
from geobiomass.recipes.levels import crop_side
from geobiomass.recipes.objective import (
    loss_of,
    metrics_of,
    prepare_with_calendar,
    recipe_for,
    training_changes,
)
from geobiomass.recipes.recipe import (
    Recipe,
    find_recipe,
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
from geobiomass.training.estimator import Regressor
from geobiomass.training.kept_folder import kept_if_interrupted
from geobiomass.training.label_matching import FEWEST_TOGETHER
from geobiomass.training.setting_names import explain_arguments
from geobiomass.training.usable_model import train_or_keep

if TYPE_CHECKING:
    from geobiomass.training import RegressionTask, TrainingResult

LabelsKnown = Callable[[Sample], npt.NDArray[np.bool_]]


@explain_arguments
class NetworkTraining(Predictor, Regressor):
    """What a :class:`.BiomassRegressor` does to train its network on cubes."""

    network: AttentionUNet
    bands: tuple[str, ...]
    months: int
    outputs: tuple[str, ...]
    recipe: Recipe | None
    damaged: dict[str, str]
    map_error: MapError | None
    _domain: Domain | None
    _start: str | None  # of the training, without labels

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
        Self
            The model.
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
        data, held = self._with_layers(data, held)
        recipe = recipe_for(recipe, data.target)
        with self._uncorrected():
            given = self._check_folder(data, recipe, held)
            units = units_to_split(data, recipe, held, calibrate)
            side = crop_side(recipe, units)
            check_crop(self.network, recipe, side)
            earlier = given is not None and continues_earlier(recipe.training, given)
            loaders, task = self._prepare(data, recipe, held, client, calibrate)
            recipe, stages = loaders.recipe, stages_of(loaders)
            part = loaders.training
            samples = [*dict.fromkeys(part.samples)]
            check_layout(part.reader, samples, recipe.label_shift, FEWEST_TOGETHER)
            if recipe.tail_correction:
                check_correctable(self.network, loaders.validation)
            if calibrate and recipe.interval and loaders.weights is not None:
                calibrating = loaders.calibration
                check_worth(data.reader, calibrating, loaders.weights, recipe.interval)
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
        corrected = self._correct_tail(validation, recipe)
        if corrected is not None:
            error = None  # that was of the maps before
        # Each of several processes calibrates for itself: all end with the same model,
        # any of them may save it, and none waits for another.
        if calibrate and recipe.interval is not None:
            known = [held.trains if isinstance(held, Fold) else None]
            self.calibration = calibrate_together(
                [self], data, [loaders.calibration], known, grouped_by(recipe, held)
            )
        places = TrainedPlaces(data, held if isinstance(held, LabelledCube) else None)
        self.provenance = describe_training(
            data,
            self.network,
            last,
            validation,
            device,
            places,
            recipe.label_errors,
        )
        if recipe.remember_labels:
            if calibrate:
                reader = data.reader
                if isinstance(held, Fold):
                    reader = reader.with_labels_where(held.trains)
                add_labels(places.training, reader, loaders.calibration)
            self.provenance |= noted(places.places())
        self.provenance[INPUTS] = found.profile.to_dict()
        if found.static is not None:
            self.provenance[INPUTS][LAYERS] = found.static.profile.to_dict()
        note_weights(self, loaders.weights, data.reader.has_errors)
        note_shift(self, recipe)
        if (words := frozen_in_words(recipe, self.network)) is not None:
            self.provenance["frozen"] = words
        if self._start is not None:
            self.provenance["self-supervised"] = self._start
        if corrected is not None:
            self.provenance["tail correction"] = corrected
        if loaders.balance is not None:
            self.provenance["balance of labels"] = str(loaders.balance)
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

    def _with_layers(
        self, data: LabelledCube, held: HeldOut
    ) -> tuple[LabelledCube, HeldOut]:
        """Return both with readers of the static layers that the network reads."""
        unused = set(data.layers) - set(self.static_layers)
        if unused:
            warnings.warn(
                f"The network does not read static layers {sorted(unused)}: they are "
                "left out of its training; gb.fit(cube) makes a network that does.",
                stacklevel=6,
            )
        if isinstance(held, LabelledCube):
            held = held.with_layers(self.static_layers)
        return data.with_layers(self.static_layers), held

    def _check_folder(
        self, data: LabelledCube, recipe: Recipe, held: HeldOut = None
    ) -> dict[str, Any] | None:
        """Check that the folder holds no other training; return this one's identity.

        This comes before the cube is cached, which may take hours over a network.
        """
        if recipe.training.folder is None:
            return None
        recipe = recipe_for(recipe, data.target)
        data, held = self._with_layers(data, held)
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
        data, held = self._with_layers(data, held)
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
            loss_of(recipe, loaders.balance),
            metrics=metrics_of(),
            augment=training_changes(recipe, loaders.training),
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

    def _correct_tail(
        self, validation: ChipLoader | None, recipe: Recipe
    ) -> str | None:
        """Let maps pass through a curve that is learnt on what is held out."""
        if not recipe.tail_correction or validation is None:
            return None
        mapper = self._bare_over(validation.reader)
        curve, found = learn_correction(mapper, validation, recipe)
        self.network.set_curve(curve)
        return found

    @contextmanager
    def _uncorrected(self) -> Iterator[None]:
        """Take the curve off the network, to train; put it back after an error."""
        curve = getattr(self.network, "curve", None)  # not of networks of all classes
        if curve is None:
            yield
            return
        self.network.set_curve(None)
        try:
            yield
        except BaseException:
            self.network.set_curve(curve)
            raise

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
