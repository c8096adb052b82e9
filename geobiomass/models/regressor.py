"""The biomass regressor: a network with its bands, which trains, saves and loads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from torch import nn

from geobiomass.applicability import Domain
from geobiomass.applicability.learning import learn_domain
from geobiomass.cube import BIOMASSTERS_BANDS, CubeError
from geobiomass.cube.quantity import AGB, Quantity
from geobiomass.data.labelled_cube import LabelledCube, LabelledSamples
from geobiomass.data.reader import Sample
from geobiomass.data.splits import samples_of
from geobiomass.learner.own_estimator import describe
from geobiomass.metadata.text import FIRST_WEIGHTS
from geobiomass.models.card import model_card
from geobiomass.models.map_error import MapError
from geobiomass.models.network_training import NetworkTraining
from geobiomass.network import AttentionUNet
from geobiomass.network.saved_settings import (
    check_count,
    check_names,
    check_text,
    network_of_settings,
)
from geobiomass.network.wrappers import InMonths
from geobiomass.recipes.recipe import (
    LATER,
    Recipe,
    recipe_from_dict,
    recipe_to_dict,
)
from geobiomass.tiles import EVALUATION_BLOCK
from geobiomass.training.json_files import finite_number
from geobiomass.training.model_folder import DOMAIN, WRONG_SETTINGS, broken
from geobiomass.training.setting_names import explain_arguments

LabelsKnown = Callable[[Sample], npt.NDArray[np.bool_]]


@explain_arguments
class BiomassRegressor(NetworkTraining):
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
        self.damaged = {}
        self._domain = None
        self.map_error = None
        self._start = None

    def __repr__(self) -> str:
        """Return a description in one line."""
        state = f"{len(self.history)} epochs" if len(self.history) else "not trained"
        state = self.interrupted or state
        encoder = self.network.settings["encoder"]
        begun = [one for one in FIRST_WEIGHTS if one in self.provenance]
        if "tail correction" in begun and self.network.curve is None:
            begun.remove("tail correction")  # there was none to learn
        encoder = " ".join([str(encoder), *begun])
        interval = "" if self.calibration is None else f", {self.calibration}"
        if self.target.settings != AGB.settings:
            state = f"{self.target.name} in {self.units}, {state}"
        return (
            f"BiomassRegressor({encoder}, {len(self.bands)} bands, "
            f"{self.months} months, {state}{interval})"
        )

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
        reader = reader.with_layers(self.static_layers)
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

    def adapt(
        self,
        cube: xr.Dataset | xr.DataArray,
        method: str | None = None,
        *,
        interval: float = 0.9,
        groups: str | None = None,
        block: int | None = None,
        seed: int = 0,
        remember_labels: bool = True,
    ) -> BiomassRegressor:
        """Return this model with its map corrected by plots of one's own ground.

        The corrections are none, a shift (``"offset"``), a line (``"affine"``), and a
        line with a Gaussian process of the yearly features of a pixel and the map
        (``"gaussian process"``). Each is judged by plots that it was fitted without;
        the simplest within one standard error of the best is kept. The plots calibrate
        the interval again.

        Parameters
        ----------
        cube : xarray.Dataset
            Of one's own ground, with ``agb`` at 20 plots or more, such as
            :func:`geobiomass.with_labels` makes it. 30 to 100 are usual.
        method : str, optional
            One of the four, in place of the comparison.
        interval : float
            Share of pixels that the interval is meant to cover.
        groups : str, optional
            A coordinate along ``chip``: its groups are never on two sides of a fold.
        block : int, optional
            Side of the blocks of a scene that are never on two sides of a fold, pixels.
        seed : int
            Seed of the folds.
        remember_labels : bool
            Whether the adapted model and its maps keep hashes of the places of the
            plots, with those that this model learnt from. False for confidential plots:
            it is then unknown which plots it learnt from.

        Returns
        -------
        BiomassRegressor
            Of the class ``AdaptedRegressor``, with the interface of this model, which
            stays as it is. Its ``history`` has a row for each correction.

        Raises
        ------
        CubeError
            If there are fewer than 20 plots with a map, too few blocks or chips to
            calibrate an interval, no ``agb``, or some of the plots trained this model.
        ValueError
            If a setting is out of its range.
        TypeError
            If this model is an adapted one.
        """
        from geobiomass.models.adapted_regressor import adapt

        return adapt(self, cube, method, interval, groups, block, seed, remember_labels)

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

    @staticmethod
    def _network_of(settings: Mapping[str, Any]) -> Any:
        """Build the network of saved settings; each class has its own kind."""
        return network_of_settings(settings)

    def _settings(self) -> dict[str, Any]:
        return {
            "network": self.network.settings,
            "bands": list(self.bands),
            "months": self.months,
            "outputs": list(self.outputs),
            **self.target.settings,
            "recipe": None if self.recipe is None else _plain(self.recipe),
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
            cls._network_of(settings["network"]),
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


def _plain(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe ready for JSON."""
    if not recipe.by_pixel:
        return recipe_to_dict(recipe)
    learner = recipe.learner
    if not isinstance(learner, str):
        learner = f"own: {describe(learner)}"
    found = dataclasses.asdict(dataclasses.replace(recipe, learner=learner))
    for name in LATER:
        if found[name] == getattr(Recipe, name):
            del found[name]  # as earlier releases saved a model
    found["training"]["folder"] = None  # a path of the machine that trained
    return found
