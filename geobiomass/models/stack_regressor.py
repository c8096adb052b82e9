"""The regressor that learns by pixel with the map of a network as one more feature."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Self, cast

import numpy as np
import numpy.typing as npt

from geobiomass.data.label_places import LABEL_PLACES
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.reader import Reader
from geobiomass.learner.fitting import FittedParts
from geobiomass.learner.pixel_network import PixelNetwork
from geobiomass.learner.stack_network import MAP, StackNetwork
from geobiomass.models.choice_network import map_rows
from geobiomass.models.choice_verdict import STACK
from geobiomass.models.pixel_data import Prepared
from geobiomass.models.pixel_regressor import PixelRegressor
from geobiomass.models.regressor import BiomassRegressor
from geobiomass.network import AttentionUNet
from geobiomass.recipes.label_table import LabelTable
from geobiomass.recipes.recipe import Recipe
from geobiomass.recipes.split import HeldOut
from geobiomass.training.setting_names import explain_arguments

Rows = npt.NDArray[np.bool_]


@explain_arguments
class StackRegressor(PixelRegressor):
    """A learner by pixel of which the map of a network is one more feature.

    ``gb.fit(cube, minutes=...)`` makes it, where it is better than both alone. It has
    all that :class:`geobiomass.BiomassRegressor` has.

    Parameters
    ----------
    network : StackNetwork
        Features, network and learner.
    bands, months, outputs, recipe, units, long_name
        As :class:`geobiomass.BiomassRegressor` takes them.

    Attributes
    ----------
    features : tuple of str
        Names of the features of a pixel.
    """

    network: StackNetwork
    _network_of = staticmethod(StackNetwork.of_settings)

    def __repr__(self) -> str:
        """Return a description in one line."""
        encoder = self.network.inner.settings["encoder"]
        parts = super().__repr__().removeprefix("PixelRegressor(")
        return f"StackRegressor({encoder} + {parts}"

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features of a pixel."""
        return (*self.network.features.names, MAP)

    @classmethod
    def fit_on(
        cls,
        data: LabelledCube,
        recipe: Recipe,
        held: HeldOut,
        prepared: Prepared,
        inner: BiomassRegressor,
        mapped: npt.NDArray[np.float64],
    ) -> Self:
        """Fit the learner of a stack.

        Parameters
        ----------
        data, recipe, held
            As :func:`geobiomass.fit` takes them; the recipe is that of the learner.
        prepared : tuple
            Split, labels, groups and their name, as by pixel alone.
        inner : BiomassRegressor
            The network, trained on all labels.
        mapped : numpy.ndarray
            (row,) the network's map at each label, by a network that did not see it;
            NaN where the label takes no part.
        """
        kind = f"stack: {inner.recipe.name}" if inner.recipe is not None else "stack"
        recipe = dataclasses.replace(recipe, name=STACK, learner=kind)
        by_pixel = PixelRegressor.untrained(
            data.bands, data.reader.calendar, recipe, data.layers
        )
        empty = StackNetwork(
            by_pixel.network.features.settings,
            outputs=by_pixel.network.outputs,
            quantiles=by_pixel.network.quantiles,
            inner=inner.network.settings,
            floor=inner.floor,
        )
        empty.inner = inner.network
        model = cls(empty, data.bands, by_pixel.months, by_pixel.outputs, recipe)
        model.fitted = False
        split, table, groups, named = prepared
        known = np.isfinite(mapped)
        joined = with_map(table, mapped, known)
        fitted = model._fit(
            data, recipe, held, prepared=(split, joined, groups[known], named)
        )
        # The network learnt from all labels, also those that the learner leaves out.
        first, record = dict(inner.provenance), dict(fitted.provenance)
        if LABEL_PLACES in first:
            record[LABEL_PLACES] = first.pop(LABEL_PLACES)
        fitted.provenance = {**record, "network": first}
        return fitted

    def _joined(self, parts: FittedParts, quantiles: Sequence[float]) -> PixelNetwork:
        inner, floor = self.network.inner, self.network.floor
        made = StackNetwork.of_parts(
            self.network.features,
            parts,
            quantiles,
            inner=inner.settings,
            floor=floor,
        )
        made.inner = inner
        return made

    def _rows_of(self, table: LabelTable, reader: Reader) -> npt.NDArray[np.float32]:
        inner = _alone(self, self.network.inner)
        every = np.ones(len(table), bool)
        mapped = map_rows(inner._bare_over(reader), table, every, self.network.floor)
        return with_map(table, mapped, every).features


def with_map(
    table: LabelTable, mapped: npt.NDArray[np.float64], rows: Rows
) -> LabelTable:
    """Return some rows of a table of labels, with a map as their last feature."""
    chosen, more = table.select(rows), mapped[rows, None].astype(np.float32)
    joined = np.concatenate([chosen.features, more], axis=1)
    return dataclasses.replace(chosen, features=joined)


def _alone(model: StackRegressor, network: AttentionUNet) -> BiomassRegressor:
    """Return the network of a stack as a model of its own."""
    count = cast(int, network.settings["outputs"])
    return BiomassRegressor(
        network,
        model.bands,
        model.months,
        model.outputs[:count],
        units=model.units,
        long_name=model.long_name,
    )
