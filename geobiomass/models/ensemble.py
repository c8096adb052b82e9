"""Ensembles: several models as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import xarray as xr
from torch import nn

from geobiomass.applicability import Domain, Domains
from geobiomass.cube.quantity import AGB
from geobiomass.data.label_places import LabelPlaces
from geobiomass.inference.attention import mean_attention
from geobiomass.inference.input_check import Learnt
from geobiomass.models.card import ensemble_card
from geobiomass.models.loading import load
from geobiomass.models.map_error import MapError
from geobiomass.models.predictor import Predictor
from geobiomass.network.wrappers import Ensemble as EnsembleNetwork
from geobiomass.training.estimator import SavedModel
from geobiomass.training.model_folder import (
    CARD,
    CONFIG,
    WRONG_SETTINGS,
    ModelError,
    broken,
    member_folders,
    member_name,
    write_config,
)
from geobiomass.training.setting_names import explain_arguments


@explain_arguments
class Ensemble(Predictor, SavedModel):
    """Several models as one: the mean of their maps, and optionally the spread.

    Parameters
    ----------
    models : sequence of Predictor
        With the same outputs. Each reads its own bands; a cube needs the bands of all
        of them.
    spread : bool
        Also map the standard deviation among the models, as ``agb_spread``.

    Raises
    ------
    ValueError
        If there is no model, or their outputs differ.

    See Also
    --------
    geobiomass.load : Loads what :meth:`save` wrote.

    Examples
    --------
    >>> import geobiomass as gb
    >>> both = gb.Ensemble([gb.load("first/"), gb.load("second/")])  # doctest: +SKIP
    >>> both.predict_to("map.tif", scene)  # doctest: +SKIP
    """

    load_call = "gb.load(folder)"

    def __init__(self, models: Sequence[Predictor], spread: bool = False) -> None:
        strangers = [one for one in models if not hasattr(one, "outputs")]
        if strangers:
            raise ValueError(
                "models of an Ensemble must be models in memory, got a "
                f"{type(strangers[0]).__name__}; load saved ones with gb.load(folder)."
            )
        if not models or any(m.outputs != models[0].outputs for m in models):
            raise ValueError(
                "models of an Ensemble must be one or more with the same outputs, got "
                f"{[model.outputs for model in models]}."
            )
        units = [getattr(model, "units", AGB.units) for model in models]
        if len(set(units)) > 1:
            raise ValueError(
                f"models of an Ensemble must predict in the same units, got {units}."
            )
        if spread and len(models) < 2:
            raise ValueError("spread of an Ensemble needs at least two models, got 1.")
        if spread and any(name.endswith("_spread") for name in models[0].outputs):
            raise ValueError(
                "spread of an Ensemble must be False where the models predict their "
                f"own, got models with the outputs {models[0].outputs}."
            )
        self.models = tuple(models)
        self.bands = tuple(dict.fromkeys(b for model in models for b in model.bands))
        self.outputs = models[0].outputs
        if spread:
            self.outputs += tuple(f"{name}_spread" for name in self.outputs)
        self.units = units[0]
        self.long_name = getattr(models[0], "long_name", AGB.long_name)
        self.months = max(model.months for model in models)
        self._spread = spread
        floors = [model.floor for model in models]
        known = [floor for floor in floors if floor is not None]
        self.floor = min(known) if len(known) == len(floors) else None
        self.network = self._joined([model.network for model in models])

    def _joined(self, networks: Sequence[nn.Module], last: int = 0) -> EnsembleNetwork:
        choices = [[self.bands.index(b) for b in m.bands] for m in self.models]
        named = self.static_layers
        layers = [[named.index(one) for one in m.static_layers] for m in self.models]
        return EnsembleNetwork(networks, choices, self._spread, last, layers, named)

    @property
    def static_layers(self) -> tuple[str, ...]:
        """Names of the static layers that any of the models learnt."""
        return tuple(dict.fromkeys(n for m in self.models for n in m.static_layers))

    @property
    def domain(self) -> Domain | Domains | None:
        """The domains of the members' training data; None if one of them has none."""
        each = [model.domain for model in self.models]
        known = tuple(domain for domain in each if domain is not None)
        return Domains(known) if len(known) == len(each) else None

    @property
    def map_errors(self) -> tuple[MapError, ...]:
        """The error of maps of each member, where it was measured."""
        return tuple(error for model in self.models for error in model.map_errors)

    def _with_dissimilarity(self, calendar: tuple[int, ...]) -> nn.Module:
        self._known_domain()
        each = [model._with_dissimilarity(calendar) for model in self.models]
        return self._joined(each, last=1)

    def _in_months(self, calendar: tuple[int, ...]) -> nn.Module:
        networks = [model._in_months(calendar) for model in self.models]
        own = [model.network for model in self.models]
        return self.network if networks == own else self._joined(networks)

    def was_trained_on(self, cube: xr.Dataset) -> bool:
        """Return whether any of the models was trained on this very cube.

        Parameters
        ----------
        cube : xarray.Dataset
            As :meth:`BiomassRegressor.was_trained_on` takes it.
        """
        return any(model.was_trained_on(cube) for model in self.models)

    @property
    def label_places(self) -> LabelPlaces | None:
        """Places of the labels that any of the models learnt from; None if unknown."""
        known = [getattr(model, "label_places", None) for model in self.models]
        return LabelPlaces.joined(known)

    def learn_percentiles(self, cube: xr.Dataset | xr.DataArray) -> Self:
        """Learn the percentiles of the training data for each of the models.

        Parameters
        ----------
        cube : xarray.Dataset
            As :meth:`BiomassRegressor.learn_percentiles` takes it.
        """
        for model in self.models:
            model.learn_percentiles(cube)
        return self

    def _learnt(self) -> Learnt:
        return [one for model in self.models for one in model._learnt()]

    def _learnt_layers(self) -> Learnt:
        every = [one for model in self.models for one in model._learnt_layers()]
        return [(layers, profile) for layers, profile in every if layers]

    def _attention(self, cube: xr.Dataset, **settings: Any) -> xr.DataArray:
        """Return the mean of the members' attention."""
        return mean_attention([m._attention(cube, **settings) for m in self.models])

    # --- save and load: each member is a model's folder in the ensemble's ---

    def _check_savable(self) -> None:
        for model in self.models:
            if not isinstance(model, SavedModel):
                raise ModelError(
                    "models of an Ensemble that is saved must be gb.BiomassRegressor "
                    f"or gb.Ensemble, got a {type(model).__name__}"
                )
            model._check_savable()

    def _write(self, folder: Path) -> None:
        names = [member_name(number) for number in range(1, len(self.models) + 1)]
        members = [cast(SavedModel, model) for model in self.models]
        for name, member in zip(names, members, strict=True):
            (folder / name).mkdir()
            member._write(folder / name)
        settings = {
            "members": names,
            "spread": self._spread,
            "network": {"members": len(names)},
            "bands": list(self.bands),
            "months": self.months,
            "outputs": list(self.outputs),
            **self.target.settings,
            **self._calibrated(),
        }
        content = {"class": "Ensemble", "loader": self.load_call, "settings": settings}
        content |= self._marked()
        write_config(folder, content)
        (folder / CARD).write_text(self._card(), encoding="utf-8")

    def _card(self) -> str:
        facts = [
            (getattr(model, "settings", {}), getattr(model, "provenance", {}))
            for model in self.models
        ]
        settings = self.target.settings | self._calibrated() | self._marked()
        return ensemble_card(facts, self.outputs, self.load_call, settings)

    @classmethod
    def _read(cls, folder: Path, config: Mapping[str, Any]) -> Self:
        settings = config["settings"]
        try:
            members = [load(member) for member in member_folders(folder, settings)]
            model = cls(members, bool(settings["spread"]))
            model._take_calibration(settings)
            return model
        except ModelError:
            raise
        except WRONG_SETTINGS as error:
            raise broken(folder / CONFIG, repr(error)) from error

    def __repr__(self) -> str:
        """Return a description in one line."""
        text = f"Ensemble of {len(self.models)}: {', '.join(map(repr, self.models))}"
        text += f"; {self.interrupted}" if self.interrupted else ""
        return text if self.calibration is None else f"{text}; {self.calibration}"
