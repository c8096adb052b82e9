"""The biomass regressor that learns by pixel, with the interface of the network's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import xarray as xr

from geobiomass.applicability import Domain
from geobiomass.applicability.learning import domain_of_rows
from geobiomass.cube import CubeError
from geobiomass.cube.quantity import AGB
from geobiomass.data.folds import Fold
from geobiomass.data.label_places import LABEL_PLACES
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.reader import Reader
from geobiomass.learner.features import PixelFeatures
from geobiomass.learner.fitting import FOLDS, KERNEL, FittedParts, Labels, fit_parts
from geobiomass.learner.own_estimator import (
    OWN_FOLDS,
    check_estimator,
    fit_own,
    takes_missing,
    takes_weights,
    weighed_if_possible,
)
from geobiomass.learner.pixel_network import OWN, PixelNetwork
from geobiomass.models.input_check import INPUTS
from geobiomass.models.learnt_labels import noted, places_of_table
from geobiomass.models.pixel_calibration import calibrate_out_of_fold
from geobiomass.models.pixel_data import (
    Prepared,
    check_rows_worth,
    check_units,
    floored,
    groups_of_rows,
    predict_rows,
    row_weights,
    split_by_pixel,
    standardise,
)
from geobiomass.models.pixel_folder import find_finished, identity_of, keep_finished
from geobiomass.models.pixel_plan import plan_pixels
from geobiomass.models.pixel_record import (
    describe_data,
    environment,
    errors_by_bin,
    profiles_of,
)
from geobiomass.models.regressor import BiomassRegressor
from geobiomass.models.training_record import metrics_by_bin, note_shift, note_weights
from geobiomass.recipes.label_shift import check_layout, matched_labels
from geobiomass.recipes.label_table import LabelTable, check_enough, make_table
from geobiomass.recipes.label_weights import weights_of_table
from geobiomass.recipes.objective import recipe_for
from geobiomass.recipes.recipe import Recipe
from geobiomass.recipes.split import HeldOut, Split
from geobiomass.training.setting_names import explain_arguments


@explain_arguments
class PixelRegressor(BiomassRegressor):
    """A learner by pixel with the bands it reads; it maps cubes to biomass density.

    ``gb.fit(cube, "pixels")`` makes it. It has all that
    :class:`geobiomass.BiomassRegressor` has.

    Parameters
    ----------
    network : PixelNetwork
        Features and learner.
    bands, months, outputs, recipe, units, long_name
        As :class:`geobiomass.BiomassRegressor` takes them.

    Attributes
    ----------
    features : tuple of str
        Names of the features of a pixel.
    """

    network: PixelNetwork  # type: ignore[assignment]

    def __init__(
        self,
        network: PixelNetwork,
        bands: Sequence[str],
        months: int = 12,
        outputs: Sequence[str] = ("agb",),
        recipe: Recipe | None = None,
        units: str = AGB.units,
        long_name: str = AGB.long_name,
    ) -> None:
        super().__init__(
            cast(Any, network), bands, months, outputs, recipe, units, long_name
        )

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features of a pixel."""
        return self.network.features.names

    def __repr__(self) -> str:
        """Return a description in one line."""
        state = "not trained" if not len(self.history) else ""
        if len(self.history):
            last = self.history.iloc[-1]
            state = f"out-of-fold RMSE {last['rmse']:.4g} {self.units}"
        own = self.network.own
        parts = [*self.network.kinds]
        if len(self.network.kernel.rows):
            parts.append(KERNEL)
        kind = (
            own.name if own is not None else " + ".join(parts) or self.network.learner
        )
        interval = "" if self.calibration is None else f", {self.calibration}"
        count = len(self.static_layers)
        layers = f" and {count} static layer{'s' * (count > 1)}" if count else ""
        return (
            f"PixelRegressor({kind}, {len(self.features)} features of "
            f"{len(self.bands)} bands{layers}, {self.months} months, {state}{interval})"
        )

    # --- fit ---

    @classmethod
    def untrained(
        cls,
        bands: Sequence[str],
        calendar: Sequence[int],
        recipe: Recipe,
        layers: Sequence[str] = (),
    ) -> PixelRegressor:
        """Return the untrained model of a recipe.

        Raises
        ------
        ValueError
            If the user's own estimator cannot be used or saved.
        """
        own = not isinstance(recipe.learner, str)
        if own:
            check_estimator(recipe.learner)
        squares, monthly = recipe.neighbourhoods, recipe.monthly
        features = PixelFeatures(bands, calendar, squares, monthly, layers)
        ends = recipe.interval is not None and not own
        network = PixelNetwork(
            features.settings,
            outputs=3 if ends else 1,
            quantiles=_quantiles(recipe) or (),
        )
        outputs = recipe.outputs if ends else recipe.outputs[:1]
        model = cls(network, bands, len(calendar), outputs, recipe)
        model.fitted = False
        return model

    def _fit(
        self,
        data: LabelledCube,
        recipe: Recipe,
        held: HeldOut = None,
        announce: Callable[[Any], object] | None = None,
        client: Any = None,
        calibrate: bool = True,
        prepared: Prepared | None = None,
        judge: Callable[[npt.NDArray[np.float64]], object] | None = None,
    ) -> Self:
        """Learn; with `calibrate` also calibrate the recipe's interval, if any.

        `prepared` is what :meth:`_table` returned for the same arguments; `judge` is
        called with the predictions out of fold.
        """
        self._learn(data.target)
        data = data.with_layers(self.static_layers)
        recipe = recipe_for(recipe, data.target)
        given = identity_of(data, recipe, held)
        finished = find_finished(recipe.training, given)
        if finished is not None:
            self.__dict__.update(type(self).load(finished).__dict__)
            self.recipe = recipe
            if not recipe.remember_labels:
                self.provenance = {
                    k: v for k, v in self.provenance.items() if k != LABEL_PLACES
                }
            return self
        if prepared is None:
            prepared = self._table(data, recipe, held, calibrate)
        split, table, groups, named = prepared
        weigh = weights_of_table(table, groups, recipe)
        weights = row_weights(table, weigh)
        calibrates = calibrate and recipe.interval is not None
        if calibrates and weigh is not None:
            check_rows_worth(table.where, weights, recipe)
        labels = Labels(table.features, table.target, weights, groups)
        if announce is not None:
            announce(plan_pixels(labels, table.found, recipe, _threads()))
        plain, moved = labels, 0
        if recipe.label_shift:
            labels, moved = self._matched(plain, split, table, recipe)
        held_out, ends = self._learn_from(labels, recipe)
        if judge is not None:
            judge(held_out)
        self._finish_by_pixel(data, recipe, held, split, table, held_out)
        taken = takes_weights(recipe.learner)
        note_weights(self, weigh, data.reader.has_errors, taken)
        note_shift(self, recipe, labels=len(table), moved=moved)
        if recipe.domain_cells:
            self._domain = self._domain_of(plain, recipe)
        if calibrates and recipe.interval is not None:
            self.calibration = calibrate_out_of_fold(
                self,
                recipe.interval,
                split.training.reader,
                table,
                (held_out, ends),
                groups,
                named,
                FOLDS if ends is not None else OWN_FOLDS,
                recipe.label_errors,
            )
        keep_finished(self, recipe.training, given)
        return self

    def _table(
        self, data: LabelledCube, recipe: Recipe, held: HeldOut, calibrate: bool
    ) -> Prepared:
        """Return the split, the table of labels, their groups and what names these."""
        split = split_by_pixel(data, recipe, held, calibrate)
        part = split.training
        table = make_table(
            part.reader,
            part.samples,
            self.network.features,
            recipe,
            recipe.most_labels,
        )
        check_enough(table, "chips" if part.reader.chips else "blocks of a scene")
        self._check_layers(table)
        groups, named = groups_of_rows(data, table, recipe, held)
        if calibrate and recipe.interval is not None:
            check_units(table.where, recipe)
        return split, table, groups, named

    def _check_layers(self, table: LabelTable) -> None:
        """Check that each static layer has a value at some of the labels."""
        features = self.network.features
        columns = [features.names.index(name) for name in features.layer_names]
        gone = np.isnan(table.features[:, columns]).all(axis=0)
        if gone.any():
            names = np.array(features.layers)[gone].tolist()
            raise CubeError(
                f"Static layers must have a value at some labels, got none of {names}; "
                "leave them out, cube.drop_sel(layer=[...])."
            )

    def _matched(
        self, labels: Labels, split: Split, table: LabelTable, recipe: Recipe
    ) -> tuple[Labels, int]:
        """Return labels matched with the pixels around them, and how many moved."""
        part = split.training
        check_layout(part.reader, part.samples, recipe.label_shift)
        return matched_labels(
            labels,
            part.reader,
            table,
            self.network.features,
            recipe.label_shift,
            recipe.training.seed,
        )

    def _plan_fit(
        self, data: LabelledCube, recipe: Recipe, held: HeldOut = None
    ) -> Any:
        recipe = recipe_for(recipe, data.target)
        data = data.with_layers(self.static_layers)
        _, table, groups, _ = self._table(data, recipe, held, calibrate=False)
        labels = Labels(table.features, table.target, np.ones(len(table)), groups)
        return plan_pixels(labels, table.found, recipe, _threads())

    def _check_folder(
        self, data: LabelledCube, recipe: Recipe, held: HeldOut = None
    ) -> dict[str, Any] | None:
        if recipe.training.folder is None:
            return None
        data = data.with_layers(self.static_layers)
        given = identity_of(data, recipe_for(recipe, data.target), held)
        find_finished(recipe.training, given)
        return given

    def _domain_of(self, labels: Labels, recipe: Recipe) -> Domain | None:
        """Learn the area of applicability from the labelled pixels."""
        rows = torch.from_numpy(np.ascontiguousarray(labels.table.T))
        with torch.inference_mode():
            views = [view.T for view in self.network.views(rows)]
        return domain_of_rows(
            [view.clone() for view in views],
            [str(group) for group in labels.groups],
            recipe.domain_cells,
            recipe.training.seed,
        )

    def _learn_from(
        self, labels: Labels, recipe: Recipe
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
        """Fit the learner; return its predictions and interval out of fold."""
        features, seed = self.network.features, recipe.training.seed + recipe.fold
        if isinstance(recipe.learner, str):
            quantiles = _quantiles(recipe)
            parts = fit_parts(labels, recipe.trees, seed, quantiles, _threads())
            self.network = self._joined(parts, quantiles or ())
            self.history = pd.DataFrame(parts.steps)
            assert parts.held_out is not None
            held_out, ends = parts.held_out, parts.ends
        else:
            if not takes_missing(recipe.learner) and np.isnan(labels.table).any():
                share = float(np.isnan(labels.table).mean())
                warnings.warn(
                    f"{type(recipe.learner).__name__} takes no missing values: "
                    f"{100 * share:.2g} % of the features are missing, and each is "
                    "replaced by the feature's median.",
                    stacklevel=4,
                )
            labels = weighed_if_possible(recipe.learner, labels)
            part, held_out, _ = fit_own(recipe.learner, labels, seed)
            self.network = PixelNetwork(features.settings, OWN, own=part.settings)
            self.network.own = part
            squares = float(np.mean((held_out - labels.target) ** 2))
            row = {"stage": type(recipe.learner).__name__, "rmse": squares**0.5}
            self.history = pd.DataFrame([row | {"share": 1.0}])
            ends = None
        standardise(self.network, labels.table)
        names = [f"{band} mean" for band in features.bands]
        columns = [features.names.index(name) for name in names]
        nothing = np.isnan(labels.table[:, columns]).all(axis=0)
        self.network.unknown.copy_(torch.from_numpy(nothing))
        if nothing.any():
            which = ", ".join(np.array(features.bands)[nothing])
            warnings.warn(
                f"Bands without any value at the labels: {which}. The model takes them "
                "as missing, in maps too; leave them out with cube.sel(band=[...]).",
                stacklevel=4,
            )
        self.network.eval()
        return held_out, ends

    def _joined(self, parts: FittedParts, quantiles: Sequence[float]) -> PixelNetwork:
        """Return the network of what was fitted."""
        return PixelNetwork.of_parts(self.network.features, parts, quantiles)

    def _rows_of(self, table: LabelTable, reader: Reader) -> npt.NDArray[np.float32]:
        """Return the features of the rows of a table."""
        return table.features

    def _finish_by_pixel(
        self,
        data: LabelledCube,
        recipe: Recipe,
        held: HeldOut,
        split: Split,
        table: LabelTable,
        held_out: npt.NDArray[np.float64],
    ) -> None:
        """Set all that follows from what was learnt."""
        part = split.training
        self.fitted, self.interrupted = True, ""
        self.months, self.recipe = data.reader.months, recipe
        self.calibration, self.map_error = None, None
        self.floor = 0.0 if table.target.min() >= 0 else None
        validation = None
        weigh = recipe.label_errors
        maps = floored(held_out, self.floor)
        errors = errors_by_bin(table, maps, data.target, weigh)
        if split.validation is not None:
            other = split.validation
            judged = make_table(
                other.reader,
                other.samples,
                self.network.features,
                recipe,
                recipe.most_labels,
            )
            if len(judged):
                validation = (judged, other.reader)
                rows = self._rows_of(judged, other.reader)
                maps = floored(predict_rows(self.network, rows), self.floor)
                errors = errors_by_bin(judged, maps, data.target, weigh)
        self.provenance = {
            "data": describe_data(data, (table, part.reader), validation),
            "bands": list(data.bands),
            "validation": metrics_by_bin(errors),
            "environment": environment(),
            "learner": {
                "held out": "out of fold" if validation is None else "held out",
                "labels": len(table),
                "labels found": table.found,
                "at the ceiling": table.above,
                "without an image": table.unseen,
                # JSON has no NaN: where labels are few, boosting is in no fold.
                "steps": [
                    {k: None if v != v else v for k, v in step.items()}
                    for step in self.history.to_dict("records")
                ],
            },
            INPUTS: profiles_of(part, recipe),
        }
        if recipe.remember_labels:
            self.provenance = {
                **self.provenance,
                **noted(places_of_table(data, table)),
            }
        if isinstance(held, Fold):
            self.provenance = {**self.provenance, "fold": held.to_dict()}
        self.damaged = table.problems
        if self.damaged:
            warnings.warn(
                f"{len(self.damaged)} samples could not be read and were left out of "
                "training; model.damaged lists them with the reasons.",
                stacklevel=5,
            )

    def _attention(self, cube: xr.Dataset, **settings: Any) -> xr.DataArray:
        raise TypeError(
            "A learner by pixel has no attention over months; "
            "gb.plots.history(model) shows what was fitted."
        )

    # --- save and load ---

    _network_of = staticmethod(PixelNetwork.of_settings)


def _quantiles(recipe: Recipe) -> tuple[float, float] | None:
    """Return the quantiles of the ends of an interval, which the trees predict."""
    if recipe.interval is None or not isinstance(recipe.learner, str):
        return None
    return ((1 - recipe.interval) / 2, (1 + recipe.interval) / 2)


def _threads() -> int:
    return torch.get_num_threads()
