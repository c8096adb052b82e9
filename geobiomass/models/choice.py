"""The choice between learners by measurement: ``gb.fit`` without a recipe.

Labels that are dense train the network, as before there was a choice. With fewer, the
learner by pixel and, where the time allows, the network are compared on the same
held-out labels; the simplest that is not worse than the best by a standard error of
their difference is kept, and trained as if its recipe had been named.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from geobiomass.data.folds import Folds
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.models.choice_data import DENSE_PIXELS, Density, count_labels
from geobiomass.models.choice_network import measure_time
from geobiomass.models.choice_record import (
    CHOICE,
    RECORD,
    ChoiceFolder,
    ChoicePlan,
    table_in_words,
)
from geobiomass.models.choice_verdict import PIXELS, STACK
from geobiomass.models.compare_learners import Comparison
from geobiomass.models.ensemble import Ensemble
from geobiomass.models.fit_members import (
    check_members,
    fit_folds,
    fit_opened,
    forget_folder,
)
from geobiomass.models.pixel_folder import RECORD as LEARNT
from geobiomass.models.pixel_folder import identity_of
from geobiomass.models.regressor import BiomassRegressor
from geobiomass.recipes.objective import recipe_for
from geobiomass.recipes.recipe import Recipe, find_recipe
from geobiomass.recipes.split import HeldOut, Validation, open_validation
from geobiomass.training.checkpoint_record import is_begun
from geobiomass.training.kept_folder import kept_if_interrupted
from geobiomass.training.unfinished import UnfinishedTraining

Announce = Callable[[Any], object] | None


def fit_best(
    data: LabelledCube,
    changes: Mapping[str, Any],
    validation: Validation = None,
    *,
    folds: int | Folds | None = None,
    at_once: int | None = None,
    announce: Announce = None,
    client: Any = None,
    minutes: float | None = None,
) -> BiomassRegressor | Ensemble:
    """Choose a learner and train it, for :func:`geobiomass.fit` without a recipe.

    Parameters
    ----------
    data : LabelledCube
        To train on.
    changes : mapping
        Settings that all learners have, by name.
    validation, folds, at_once, announce, client, minutes
        As :func:`geobiomass.fit` takes them.
    """
    held = open_validation(validation, data.bands, data.target)
    asked = find_recipe(PIXELS, **changes)
    with kept_if_interrupted(asked.training.folder) as folder:
        call = _Call(data, changes, held, Path(folder), folds, at_once, client)
        call.kept = asked.training.folder is not None
        model = call.fit(minutes, announce)
        if isinstance(model, Ensemble):
            return forget_folder(model, asked)
        return forget_folder(model, asked)


class _Call:
    """One call of ``gb.fit`` without a recipe: what all of its trainings share."""

    def __init__(
        self,
        data: LabelledCube,
        changes: Mapping[str, Any],
        held: HeldOut,
        folder: Path,
        folds: int | Folds | None,
        at_once: int | None,
        client: Any,
    ) -> None:
        self.data, self.changes, self.held = data, changes, held
        self.folder, self.folds, self.at_once = folder, folds, at_once
        self.client = client
        self.kept = True  # whether the folder outlives the call
        self.pixels = self.recipe(PIXELS, PIXELS)

    def recipe(self, name: str, subfolder: str = "") -> Recipe:
        """Return a recipe with the settings of the call, in its own folder."""
        folder = self.folder / subfolder
        return find_recipe(name, **{**self.changes, "folder": folder})

    def fit(
        self, minutes: float | None, announce: Announce
    ) -> BiomassRegressor | Ensemble:
        """Choose, train, and note the choice in the model's provenance."""
        if self.folds is not None:
            check_members(self.data, self.pixels, self.folds, self.at_once, self.client)
        network, line = self._without_choice(minutes)
        if network is not None:
            self._say(ChoicePlan(line), announce)
            return self.train(network, announce)
        pixels = recipe_for(self.pixels, self.data.target)
        folds = self.folds.count if isinstance(self.folds, Folds) else self.folds
        given = identity_of(self.data, pixels, self.held)
        given |= {"minutes": minutes, "folds": folds}
        resume = pixels.training.resume
        record = ChoiceFolder(self.folder, given, resume)
        found = record[CHOICE]
        model: BiomassRegressor | Ensemble | None = None
        comparison = None
        if found is None or found["kept"] == STACK:
            comparison = Comparison(
                *(self.data, self.recipe, self.held, record),
                single=self.folds is None,
                client=self.client,
                kept=self.kept,
            )
            plan = comparison.plan(minutes)
            if found is None:
                self._say(plan, announce)
                found, model = comparison.carry_out()
                record.keep(choice=found)
        if model is None:
            kept = found["kept"]
            name = PIXELS if kept == PIXELS else found["recipe"]
            try:
                if comparison is not None and kept == STACK:
                    model = comparison.fit_stack()
                else:
                    model = self.train(self.recipe(name, kept), None)
            except UnfinishedTraining as stop:
                if stop.model is not None:
                    _note(stop.model, found)
                raise
        _note(model, found)
        self._tell(found)
        return model

    def train(self, recipe: Recipe, announce: Announce) -> BiomassRegressor | Ensemble:
        """Train as if the recipe had been named."""
        if self.folds is not None:
            return fit_folds(
                self.data, recipe, self.folds, self.at_once, announce, self.client
            )
        return fit_opened(self.data, recipe, self.held, announce, self.client)

    def _without_choice(self, minutes: float | None) -> tuple[Recipe | None, str]:
        """Return the network where nothing is to be chosen, and why."""
        network = self.recipe("default")
        resume = network.training.resume
        chosen = resume and (self.folder / RECORD).exists()
        if not chosen and is_begun(network.training):
            return network, f"Goes on with the training of a network in {self.folder}."
        if resume and (self.folder / LEARNT).exists():
            raise ValueError(
                f"folder must be new or of the same training, got {str(self.folder)!r},"
                " which has a model of the recipe 'pixels'; give another folder, the "
                "recipe, or resume=False."
            )
        if chosen:
            return None, ""
        density = count_labels(self.data, self.pixels, self.held)
        if not density.dense:
            return None, ""
        if minutes is not None:
            estimate = measure_time(self.data, network, self.held)
            if estimate.seconds > 60 * minutes:
                return None, ""
        return network, dense_in_words(density)

    def _say(self, plan: ChoicePlan, announce: Announce) -> None:
        """Say what will be done: to `announce`, or where progress is shown."""
        if announce is not None:
            announce(plan)
        elif self.pixels.training.progress:
            print(plan, file=sys.stderr)

    def _tell(self, found: Mapping[str, Any]) -> None:
        """Show the table, and warn where all that is learnt is the mean."""
        if self.pixels.training.progress:
            print(table_in_words(found), file=sys.stderr)
        if found["warning"]:
            warnings.warn(found["warning"], stacklevel=5)


def dense_in_words(density: Density) -> str:
    """Return why a network is trained without a comparison, in one line."""
    count = f"{density.labels:,}" + ("" if density.whole else " and more")
    return (
        f"Labels are dense: {count} labelled pixels, {100 * density.share:.0f} % of "
        f"their chips or blocks. From {DENSE_PIXELS:,} on, the network (recipe "
        "'default') is trained without a comparison."
    )


def _note(model: BiomassRegressor | Ensemble, found: Mapping[str, Any]) -> None:
    """Write a choice into the provenance of a model, or of the members of one."""
    for each in model.models if isinstance(model, Ensemble) else [model]:
        known = getattr(each, "provenance", {})
        each.provenance = {**known, CHOICE: dict(found)}


__all__ = ["fit_best"]
