"""The comparison of learners on the same held-out labels, for ``gb.fit``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from geobiomass.data.folds import Folds
from geobiomass.data.labelled_cube import LabelledCube, LabelledSamples
from geobiomass.data.splits import groups_of
from geobiomass.learner.fitting import Labels, fit_parts, folds_of, seconds_of
from geobiomass.learner.references import mean_out_of_fold, ridge_out_of_fold
from geobiomass.models.choice_data import (
    FOLDS,
    ComparedFold,
    allowed_by,
    make_common_folds,
    rows_allowed,
    side_of_blocks,
)
from geobiomass.models.choice_network import (
    Estimate,
    guess_time,
    held_out_of_fold,
    measure_time,
    trainings,
)
from geobiomass.models.choice_record import (
    ChoiceFolder,
    ChoicePlan,
    in_words,
    keep_held_out,
    minutes_for,
    read_held_out,
)
from geobiomass.models.choice_verdict import MEAN, NETWORK, PIXELS, RIDGE, STACK, judge
from geobiomass.models.fit_members import fit_opened
from geobiomass.models.pixel_data import floored, predict_parts, row_weights
from geobiomass.models.pixel_regressor import PixelRegressor
from geobiomass.models.stack_regressor import StackRegressor, with_map
from geobiomass.recipes.asked import FEW_LABELS
from geobiomass.recipes.label_table import LabelTable
from geobiomass.recipes.label_weights import weights_of_table
from geobiomass.recipes.objective import recipe_for
from geobiomass.recipes.recipe import Recipe
from geobiomass.recipes.split import HeldOut, split_samples, units_to_split
from geobiomass.statistics.paired_errors import compare_errors

FEW = 1_000
"""Labels from which on the network is compared without ``minutes=``: below, the call
takes about as long as a random forest."""
MINUTES = 30.0
"""Time that the comparison of a network may take, unless the user says."""

_WORSE = 2.0  # standard errors by which a network is worse where it is given up
_FEWEST_ROWS = 10

Numbers = npt.NDArray[np.float64]
Rows = npt.NDArray[np.bool_]


class Comparison:
    """A comparison of learners on one cube.

    Parameters
    ----------
    data : LabelledCube
        To learn from.
    recipe : callable
        Returns a recipe by name, for a subfolder, with the settings of the call.
    held : HeldOut
        What the user holds out: it takes no part.
    record : ChoiceFolder
        Where steps are kept.
    single : bool
        Whether one model is trained, and not one for each of several folds: then no
        stack is compared, of which each member would need a network for each fold.
    client : distributed.Client, optional
        Reads chips for the network.
    kept : bool
        Whether the folder outlives the call: else a learner by pixel is not saved
        there, which would take a part of its time.

    Raises
    ------
    CubeError
        If labels are fewer than ten, all alike, or in one chip or block.
    """

    def __init__(
        self,
        data: LabelledCube,
        recipe: Callable[[str, str], Recipe],
        held: HeldOut,
        record: ChoiceFolder,
        single: bool = True,
        client: Any = None,
        kept: bool = True,
    ) -> None:
        self.data, self.recipe, self.held = data, recipe, held
        self.record, self.single, self.client = record, single, client
        self.kept = kept
        self.asked = recipe(PIXELS, PIXELS)
        self.pixels = recipe_for(self.asked, data.target)
        groups_of(data.cube, [], self.pixels.groups)
        model = self._untrained()
        self.prepared = model._table(data, self.pixels, held, single)
        _, table, self.groups, self.named = self.prepared
        self.table: LabelTable = table
        weigh = weights_of_table(table, self.groups, self.pixels)
        weights = row_weights(table, weigh)
        self.labels = Labels(table.features, table.target, weights, self.groups)
        self.seed = self.pixels.training.seed + self.pixels.fold
        self.floor = 0.0 if table.target.min() >= 0 else None
        self.network: Recipe | None = None
        self.note, self.stopped = "", False
        self.seconds: dict[str, float] = {}

    def _untrained(self) -> PixelRegressor:
        bands, calendar = self.data.bands, self.data.reader.calendar
        return PixelRegressor.untrained(bands, calendar, self.pixels, self.data.layers)

    # --- what will be done ---

    def plan(self, minutes: float | None) -> ChoicePlan:
        """Decide whether the network is compared, and say what will be done."""
        threads = torch.get_num_threads()
        own, fold = seconds_of(self.labels, self.pixels.trees, self.seed, threads)
        by_pixel = 2 * (trainings() - 1) * fold + own  # and the stack; then one of both
        seconds = own
        known = self.record["network"]
        if known is None:
            known = self._decide(minutes, by_pixel, threads)
            self.record.keep(network=known)
        self.note = known["note"]
        if known["recipe"] is not None:
            self.network = self.recipe(known["recipe"], NETWORK)
            seconds = known["seconds"] + by_pixel
        return ChoicePlan(self._in_words(seconds), seconds)

    def _decide(
        self, minutes: float | None, by_pixel: float, threads: int
    ) -> dict[str, Any]:
        """Return the recipe of the network to compare; None with the reason.

        `by_pixel` are seconds of all that is learnt by pixel.
        """
        few = len(self.table) < FEW
        if len(np.unique(self.groups)) < FOLDS:
            return {
                "recipe": None,
                "note": f"not compared: labels are in fewer than {FOLDS} blocks, "
                "chips or groups",
            }
        network = recipe_for(self.recipe(FEW_LABELS, NETWORK), self.data.target)
        if minutes is None and few:
            found = guess_time(self.data, network, self.table, threads)
            return {"recipe": None, "note": _left_out(found, "not compared")}
        allowed = 60 * (MINUTES if minutes is None else minutes)
        allowed -= by_pixel
        found = measure_time(self.data, network, self.held, self.table)
        if found.seconds <= allowed:
            return {
                "recipe": FEW_LABELS,
                "note": f"recipe {FEW_LABELS!r}",
                "seconds": found.seconds,
            }
        return {"recipe": None, "note": _left_out(found, "left out")}

    def _in_words(self, seconds: float) -> str:
        count, groups = len(self.table), len(np.unique(self.groups))
        alone = self.named is None or np.array_equal(self.groups, self.table.where)
        unit = "chips" if alone else f"groups by {self.named!r}"
        if not self.data.reader.chips:
            unit = "blocks"
        text = f"{count:,} labels in {groups:,} {unit}. "
        if self.network is None:
            return (
                f"{text}Learns by pixel (recipe 'pixels'), with ridge regression and "
                f"the mean to compare with: about {in_words(seconds)}. "
                f"The network is {self.note}."
            )
        return (
            f"{text}Compares on {FOLDS} folds of these: learning by pixel (recipe "
            f"'pixels'), the network (recipe {self.network.name!r})"
            f"{', both together' if self.single else ''}, ridge regression and the "
            f"mean; then trains the best on all labels: about {in_words(seconds)}."
        )

    # --- the comparison ---

    def carry_out(self) -> tuple[dict[str, Any], PixelRegressor | None]:
        """Compare; return the record of the choice, and the model if it is trained."""
        if self.network is None:
            return self._by_pixel_alone()
        rows = rows_allowed(self.table, allowed_by(self.held, self._splits()))
        if not _enough(self.table.target[rows], self.groups[rows]):
            self.network = None
            self.note = "not compared: too few labels beside those that are held out"
            return self._by_pixel_alone()
        return self._with_network(rows), None

    def _by_pixel_alone(self) -> tuple[dict[str, Any], PixelRegressor | None]:
        """Take what the learner by pixel predicts out of fold, as it is trained."""
        model, found = self._untrained(), dict[str, Numbers]()
        began = time.perf_counter()
        if self.single:
            asked = self.asked if self.kept else self.asked.with_changes(folder=None)
            model = model._fit(
                self.data,
                asked,
                self.held,
                client=self.client,
                prepared=self.prepared,
                judge=lambda values: found.update({PIXELS: values}),
            )
        if not found:  # read from the folder, or of several members
            other = self._untrained()
            found[PIXELS] = other._learn_from(self.labels, self.pixels)[0]
        self.seconds[PIXELS] = time.perf_counter() - began
        folds = folds_of(self.groups, self.seed)
        every = np.ones(len(self.table), bool)
        result = self._judged(found | self._references(every, folds), every)
        return result, model if self.single else None

    def _references(self, rows: Rows, folds: npt.NDArray[np.int64]) -> dict[str, Any]:
        """Return the predictions of ridge regression and the mean, out of fold."""
        table, target = self.table.features[rows], self.table.target[rows]
        found = {}
        for name, predict in ((RIDGE, ridge_out_of_fold), (MEAN, mean_out_of_fold)):
            began = time.perf_counter()
            found[name] = np.full(len(rows), np.nan)
            found[name][rows] = predict(table, target, folds)
            self.seconds[name] = time.perf_counter() - began
        return found

    def _splits(self) -> list[Any]:
        """Return the splits of which the held-out part takes no part."""
        split, asked = self.prepared[0], self.pixels.validation_fraction > 0
        number = isinstance(self.held, int | float) and self.held > 0
        if self.network is None or not (number or (self.held is None and asked)):
            return [split]
        units = units_to_split(self.data, self.network, self.held, self.single)
        skip = self.network.damaged == "skip"
        every = LabelledSamples.find(self.data.reader, units, skip)
        other = split_samples(self.data, every, self.network, self.held, self.single)
        return [split, other]

    def _with_network(self, rows: Rows) -> dict[str, Any]:
        """Compare on common folds."""
        folds, fold_of = self._folds(rows)
        found: dict[str, Numbers] = {PIXELS: self._by_pixel(rows, fold_of)}
        mapped = self._by_network(folds, fold_of, rows, found[PIXELS])
        if mapped is not None:
            found[NETWORK] = mapped
            if self.single:
                found[STACK] = self._by_pixel(rows, fold_of, mapped)
        found |= self._references(rows, fold_of[rows])
        return self._judged(found, rows)

    def _folds(self, rows: Rows) -> tuple[Folds, npt.NDArray[np.int64]]:
        side = side_of_blocks(self.data, self.pixels, self.held, self.single)
        return make_common_folds(
            self.data, self.table, self.groups, self.named, side, self.seed
        )

    def _by_pixel(
        self,
        rows: Rows,
        fold_of: npt.NDArray[np.int64],
        mapped: Numbers | None = None,
    ) -> Numbers:
        """Return what the learner by pixel predicts for rows of other folds.

        With the network's map of these rows, each by a network that did not see it, as
        one more feature it is the stack (Wolpert, Stacked generalization, 1992).
        """
        began, found = time.perf_counter(), np.full(len(rows), np.nan)
        network, table = self._untrained().network, self.table
        if mapped is not None:
            rows = rows & np.isfinite(mapped)
            table = with_map(table, mapped, np.ones(len(rows), bool))
        for fold in np.unique(fold_of[rows]):
            train, held = rows & (fold_of != fold), rows & (fold_of == fold)
            labels = Labels(
                table.features[train],
                table.target[train],
                self.labels.weights[train],
                self.groups[train],
            )
            threads = torch.get_num_threads()
            parts = fit_parts(
                labels, self.pixels.trees, self.seed, threads=threads, held_out=False
            )
            found[held] = predict_parts(network, parts, table.features[held])
        name = PIXELS if mapped is None else STACK
        self.seconds[name] = time.perf_counter() - began
        return found

    def _by_network(
        self,
        folds: Folds,
        fold_of: npt.NDArray[np.int64],
        rows: Rows,
        by_pixel: Numbers,
    ) -> Numbers | None:
        """Return the network's maps at rows of other folds; None if it is given up."""
        network = self.network
        assert network is not None
        allowed, found = (
            allowed_by(self.held, self._splits()),
            np.full(len(rows), np.nan),
        )
        cost = 0.0
        for number in range(folds.count):
            folder = self.record.folder / "choice" / f"network-fold-{number + 1}"
            held = rows & (fold_of == number)
            known = read_held_out(folder, network.training.resume)
            if known is None:
                if network.training.progress:
                    print(
                        f"Comparison: fold {number + 1} of {folds.count} of the "
                        "network",
                        file=sys.stderr,
                    )
                fold = ComparedFold(folds, number, allowed)
                try:
                    known = held_out_of_fold(
                        *(self.data, network, fold, self.table, held, folder),
                        self.client,
                    )
                except ValueError as error:  # a CubeError, too
                    self.note += f": cannot be trained. {error}"
                    self.seconds[NETWORK] = cost
                    return None
                keep_held_out(folder, *known)
            found[held], cost = known[0][held], cost + known[1]
            self.seconds[NETWORK] = cost
            if number == 0 and self._is_worse(found, by_pixel, held):
                return None
        return found

    def _is_worse(self, mapped: Numbers, by_pixel: Numbers, held: Rows) -> bool:
        """Return whether the network is worse after the first fold, and note it."""
        known = held & np.isfinite(mapped)
        groups = self.groups[known]
        if len(np.unique(groups)) < FOLDS:
            return False
        truth = self.table.target[known]
        errors = {
            name: floored(values[known], self.floor) - truth
            for name, values in ((PIXELS, by_pixel), (NETWORK, mapped))
        }
        found = compare_errors(errors, groups, [PIXELS])[NETWORK]
        if not found.difference > _WORSE * found.difference_error:
            return False
        self.note += (
            f": given up after the first fold, where its RMSE is higher by "
            f"{found.difference:.3g} ± {found.difference_error:.2g}"
        )
        return True

    def fit_stack(self) -> StackRegressor:
        """Train the network on all labels, and the learner of the stack."""
        assert self.network is not None
        folders = [path.parent for path in self._fold_folders()]
        mapped = np.full(len(self.table), np.nan)
        for folder in folders:
            values, _ = cast(Any, read_held_out(folder, True))
            mapped[np.isfinite(values)] = values[np.isfinite(values)]
        folder = self.record.folder / STACK
        network = self.network.with_changes(
            interval=None, domain_cells=0, folder=folder / NETWORK
        )
        inner = fit_opened(self.data, network, self.held, client=self.client)
        recipe = self.recipe(PIXELS, STACK)
        return StackRegressor.fit_on(
            self.data, recipe, self.held, self.prepared, inner, mapped
        )

    def _fold_folders(self) -> list[Path]:
        return sorted((self.record.folder / "choice").glob("network-fold-*/*.json"))

    def _judged(self, found: Mapping[str, Numbers], rows: Rows) -> dict[str, Any]:
        """Return the record of the choice, as JSON has it."""
        known = rows & np.all([np.isfinite(v) for v in found.values()], axis=0)
        truth = self.table.target[known]
        errors = {k: floored(v[known], self.floor) - truth for k, v in found.items()}
        result = judge(errors, self.groups[known], {NETWORK: self.note}, self.seconds)
        recipe = None if self.network is None else self.network.name
        return result | {"recipe": recipe, "units": self.data.target.units}


def _left_out(found: Estimate, what: str) -> str:
    if found.problem:
        return f"not possible: {found.problem}"
    minutes = minutes_for(found.seconds)
    return f"{what}: about {in_words(found.seconds)}; minutes={minutes} compares it"


def _enough(target: Numbers, groups: npt.NDArray[np.int64]) -> bool:
    return len(target) >= _FEWEST_ROWS and len(np.unique(groups)) >= FOLDS


__all__ = ["Comparison"]
