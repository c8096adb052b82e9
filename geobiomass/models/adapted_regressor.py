"""A model whose map is corrected with plots of the user's own ground: model.adapt."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import xarray as xr
from torch import nn

from geobiomass.cube import CubeError
from geobiomass.cube.convert import need_target
from geobiomass.cube.quantity import Quantity
from geobiomass.data.label_places import LABEL_PLACES, LabelPlaces
from geobiomass.data.labelled_cube import LabelledCube, LabelledSamples
from geobiomass.data.reader import Reader, Sample
from geobiomass.inference.mapper import Mapper
from geobiomass.learner.adapted_network import AdaptedNetwork
from geobiomass.learner.correction import (
    NONE,
    check_correction,
    fit_correction,
    predict_out_of_fold,
)
from geobiomass.learner.features import PixelFeatures
from geobiomass.learner.fitting import FOLDS, folds_of
from geobiomass.learner.pixel_network import PixelNetwork
from geobiomass.learner.saved_network import adapted_network_of_settings
from geobiomass.learner.stack_network import StackNetwork
from geobiomass.models.choice_network import cells_of
from geobiomass.models.input_check import INPUTS
from geobiomass.models.learnt_labels import count_learnt, noted, places_of_table
from geobiomass.models.pixel_calibration import calibrate_out_of_fold
from geobiomass.models.pixel_data import (
    check_units,
    floored,
    groups_of_rows,
    split_by_pixel,
)
from geobiomass.models.pixel_record import errors_by_bin, profiles_of
from geobiomass.models.regressor import BiomassRegressor
from geobiomass.models.training_record import metrics_by_bin
from geobiomass.recipes.label_table import LabelTable, make_table
from geobiomass.recipes.recipe import RECIPES, Recipe
from geobiomass.statistics.conformal import check_interval
from geobiomass.statistics.conformal_quantile import needed_units
from geobiomass.statistics.paired_errors import compare_errors, simplest_of_best
from geobiomass.training.setting_names import explain_arguments

Numbers = npt.NDArray[np.float64]

FEWEST = 20
"""Plots that a model is adapted with at least: with fewer, the choice is by chance."""
_SMALLER = (32, 16, 8)  # pixels: sides of blocks, where plots are in few larger ones
_MOST = 5_000  # plots: more are enough to train on


@explain_arguments
class AdaptedRegressor(BiomassRegressor):
    """A model with a correction of its map, and an interval, by plots of other ground.

    :meth:`geobiomass.BiomassRegressor.adapt` makes it. It has all that the first model
    has, but is not trained on.

    Parameters
    ----------
    network : AdaptedNetwork
        The first model's network, and the correction.
    bands, months, outputs, recipe, units, long_name
        Of the first model, as :class:`geobiomass.BiomassRegressor` takes them.
    """

    network: AdaptedNetwork  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Return a description in one line."""
        interval = "" if self.calibration is None else f", {self.calibration}"
        known = self.provenance.get("adapted", "not fitted")
        return (
            f"AdaptedRegressor({known}, {len(self.bands)} bands, {self.months} months"
            f"{interval})"
        )

    def _fit(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            "An adapted model is not trained; train the first one, and adapt that."
        )

    @staticmethod
    def _network_of(settings: Any) -> AdaptedNetwork:
        return adapted_network_of_settings(settings)


def adapt(
    model: BiomassRegressor,
    cube: xr.Dataset | xr.DataArray,
    method: str | None,
    interval: float,
    groups: str | None,
    block: int | None,
    seed: int,
    remember_labels: bool,
) -> AdaptedRegressor:
    """Adapt a model, as :meth:`geobiomass.BiomassRegressor.adapt` says."""
    if isinstance(model, AdaptedRegressor):
        raise TypeError(
            "The model is adapted already; adapt the first one, with all plots."
        )
    if getattr(model.network, "spread", False):
        raise TypeError(
            "A model to adapt must not predict the spread of its error, as one of "
            "loss='beta_nll' does; train with another loss, and adapt that."
        )
    if remember_labels not in (True, False):
        raise ValueError(
            f"remember_labels must be True or False, got {remember_labels!r}."
        )
    kinds = check_correction(method)
    check_interval(interval)
    given = model._with_own_units(need_target(cube, model.bands))
    if model.was_trained_on(given):
        raise CubeError(
            "The model was trained on this cube, whose labels cannot correct it; give "
            "plots that it never saw."
        )
    data = LabelledCube.open(given, model.bands).with_layers(model.static_layers)
    changes = {"interval": interval, "groups": groups, "block": block, "seed": seed}
    recipe = RECIPES["pixels"].with_changes(
        neighbourhoods=(), monthly=False, most_labels=_MOST, **changes
    )
    calendar = data.reader.calendar
    features = PixelFeatures(model.bands, calendar, (), monthly=False)
    recipe, part, table = _plots_of(data, recipe, features)
    mapped = _mapped(model, part.reader, part.samples, table, recipe)
    known = cast(npt.NDArray[np.bool_], np.isfinite(mapped).all(axis=0))
    _check_new(model, data, table)
    plots = _count(table, known)
    table = table.select(known)
    mapped = mapped[:, known]
    if table.found > _MOST:
        warnings.warn(
            f"cube has {table.found:,} labels, of which {_MOST:,} are drawn to adapt "
            "with; so many are enough to train on: gb.fit(cube).",
            stacklevel=3,
        )
    check_units(table.where, recipe)
    if recipe.block != block:
        warnings.warn(
            f"plots are in few parts of the scene, and are held out by blocks of "
            f"{recipe.block} pixels, the largest of which there are enough for an "
            "interval: errors of plots so near to one another are alike, and the "
            "interval may be too narrow.",
            stacklevel=3,
        )
    where, named = groups_of_rows(data, table, recipe, None)
    folds = folds_of(where, seed)
    rows = (table.features, table.target, where)
    out = {
        kind: predict_out_of_fold(kind, mapped, *rows, folds, seed) for kind in kinds
    }
    errors = {kind: values[0] - table.target for kind, values in out.items()}
    compared = compare_errors(errors, where, kinds)
    kept = simplest_of_best(compared, kinds)
    correction = fit_correction(kept, mapped[0], *rows, seed)
    network = AdaptedNetwork.of(model.network, features, correction).eval()
    made = AdaptedRegressor(
        cast(Any, network),
        model.bands,
        model.months,
        model.outputs,
        model.recipe,
        model.units,
        model.long_name,
    )
    made.floor = 0.0 if table.target.min() >= 0 else None
    made.history = pd.DataFrame(
        {
            "stage": kind,
            "rmse": compared[kind].rmse,
            "standard_error": compared[kind].standard_error,
            "bias": compared[kind].bias,
            "share": float(kind == kept),  # as by pixel: of the map
        }
        for kind in kinds
    )
    ends = out[kept][1:]
    held_out = (out[kept][0], ends if len(ends) else None)
    made.calibration = calibrate_out_of_fold(
        made, interval, part.reader, table, held_out, where, named, FOLDS
    )
    profile = profiles_of(part, recipe)
    _record(made, model, data, table, held_out[0], kept, plots, profile)
    made.provenance = {k: v for k, v in made.provenance.items() if k != LABEL_PLACES}
    if remember_labels:
        both = (model.label_places, places_of_table(data, table))
        made.provenance |= noted(LabelPlaces.joined(both))
    if model.domain is not None:
        # Its ground is that of the plots now; too few of them make no domain.
        with contextlib.suppress(CubeError):
            made.learn_applicability(given, seed=seed)
    return made


def _check_new(model: BiomassRegressor, data: LabelledCube, table: LabelTable) -> None:
    """Check that no plot trained the model, as far as it remembers its labels."""
    found = count_learnt(model, data, table)
    if found.learnt:
        raise CubeError(
            f"Plots to adapt a model with must not have trained it, got {found} that "
            "did: errors at them are too small to correct the map by. Leave them out, "
            "cube.assign(agb=cube.agb.where(~model.learnt_from(cube)))."
        )


def _plots_of(
    data: LabelledCube, recipe: Recipe, features: PixelFeatures
) -> tuple[Recipe, LabelledSamples, LabelTable]:
    """Return the plots by chip or block; blocks are smaller where plots are in few."""
    sides = [recipe.block]
    if recipe.block is None and not data.reader.chips:
        sides += _SMALLER
    for side in sides:
        chosen = recipe.with_changes(block=side)
        part = split_by_pixel(data, chosen, None, calibrate=True).training
        table = make_table(part.reader, part.samples, features, chosen, _MOST)
        if len(np.unique(table.where)) >= needed_units(recipe.interval or 0.9):
            break
    return chosen, part, table


def _mapped(
    model: BiomassRegressor,
    reader: Reader,
    samples: Sequence[Sample],
    table: LabelTable,
    recipe: Recipe,
) -> Numbers:
    """Return the model's maps at the labels, (output, row)."""
    network = cast(nn.Module, model.network)
    alone = isinstance(network, PixelNetwork) and not isinstance(network, StackNetwork)
    # Of the labels alone, which takes much less time than a map.
    if alone and not bool(cast(PixelNetwork, network).unknown.any()):
        network = cast(PixelNetwork, network)
        rows = make_table(reader, samples, network.features, recipe, _MOST).features
        with torch.inference_mode():
            maps = network.predict(torch.from_numpy(np.ascontiguousarray(rows.T)))
        return cast(Numbers, maps.float().double().numpy())
    mapper: Mapper = model._bare_over(reader)
    found = np.full((len(mapper.outputs), len(table)), np.nan)
    for chip, window, own in cells_of(table, np.ones(len(table), bool)):
        at = table.pixels[own] - np.array([window.top, window.left])
        found[:, own] = mapper.compute(window, chip)[:, at[:, 0], at[:, 1]]
    return found


def _count(table: LabelTable, known: npt.NDArray[np.bool_]) -> int:
    """Return the number of plots with a map, of which there must be enough."""
    count = _places(table, known)
    if count < FEWEST:
        unmapped = int((~known).sum()) + table.unseen
        more = f"; {unmapped:,} labels are where the map has no value" * (unmapped > 0)
        raise CubeError(
            f"cube must have {FEWEST} plots at least to adapt a model, got "
            f"{count}{more}. Labels of neighbouring pixels count as one plot."
        )
    return count


def _places(table: LabelTable, known: npt.NDArray[np.bool_]) -> int:
    """Return the number of plots: labelled pixels that do not touch one another."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    count = int(known.sum())
    if not count:
        return 0
    chips = [table.samples[n].chip for n in table.where[known]]
    numbers = np.array([-1 if chip is None else chip for chip in chips], np.float64)
    # Chips are farther apart than any pixels of one chip.
    apart = np.column_stack([1e9 * numbers, table.pixels[known]])
    pairs = KDTree(apart).query_pairs(1.5, output_type="ndarray")
    near = coo_array((np.ones(len(pairs)), pairs.T), (count, count))
    return int(connected_components(near, directed=False)[0])


def _record(
    made: AdaptedRegressor,
    first: BiomassRegressor,
    data: LabelledCube,
    table: LabelTable,
    held_out: Numbers,
    kept: str,
    plots: int,
    profile: dict[str, Any],
) -> None:
    """Write down what it was adapted with, beside all that the first model knows."""
    rmse = float(made.history.set_index("stage")["rmse"][kept])
    text = (
        f"{kept} by {plots} plots" if kept != NONE else f"no correction, {plots} plots"
    )
    target: Quantity = made.target
    errors = errors_by_bin(table, floored(held_out, made.floor), target)
    learner = first.provenance.get("learner") or {}
    steps = made.history.astype(object).where(made.history.notna(), None)
    made.provenance = {
        **first.provenance,
        "adapted": f"{text}, RMSE out of fold {rmse:.4g} {target.units}",
        "adaptation": {
            "correction": kept,
            "plots": plots,
            "labels": len(table),
            "labels found": table.found,
            "fingerprint": data.fingerprint,
            "compared": steps.to_dict("records"),
            "errors of the first model": first.provenance.get("validation"),
        },
        "validation": metrics_by_bin(errors),
        "learner": {**learner, "held out": "out of fold"},
        INPUTS: profile,
    }


__all__ = ["FEWEST", "AdaptedRegressor", "adapt"]
