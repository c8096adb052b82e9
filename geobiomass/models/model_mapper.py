"""What a model maps with: its network, post-processing and training data."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, cast

import xarray as xr
from torch import nn

from geobiomass.applicability import Domain, Domains
from geobiomass.applicability.cells import need_looking
from geobiomass.applicability.dissimilarity import Applicability, WithDissimilarity
from geobiomass.applicability.layer_names import INDEX
from geobiomass.cube.quantity import AGB, Quantity
from geobiomass.cube.region import Region
from geobiomass.data.reader import Reader
from geobiomass.inference.floor import Floor
from geobiomass.inference.map_settings import MapSettings
from geobiomass.inference.mapper import Mapper
from geobiomass.inference.steps import Step
from geobiomass.metadata.record import weights_fingerprint
from geobiomass.models.input_check import ChecksInput
from geobiomass.models.map_counts import MapCounts
from geobiomass.models.map_error import MapError
from geobiomass.models.network_settings import settings_for
from geobiomass.network.static_planes import static_layers_of
from geobiomass.statistics.conformal import Calibration


class ModelMapper(ChecksInput):
    """A model with what its maps are made of: network, bands, target, calibration.

    Attributes
    ----------
    network : torch.nn.Module
        (batch, month, band, y, x) -> (batch, output, y, x).
    bands : tuple of str
        The network's bands, in its order.
    outputs : tuple of str
        Name of the map of each output; the first one is the target's.
    units, long_name : str
        Units and description of the target.
    months : int
        Number of months of the cubes that it was made for.
    calibration : Calibration or None
        Calibrates the interval of maps, ``agb_lower`` and ``agb_upper``.
    floor : float or None
        Lower values of maps, and of their intervals, are raised to it: 0 for a model
        whose training labels are never negative. None: maps are as the network has
        them, as those of models that earlier releases saved.
    """

    network: nn.Module
    bands: tuple[str, ...]
    outputs: tuple[str, ...]
    units: str = AGB.units
    long_name: str = AGB.long_name
    months: int
    calibration: Calibration | None = None
    floor: float | None = None
    _domain: Domain | None = None

    @property
    def domain(self) -> Domain | Domains | None:
        """The training data that maps are compared with; None where unknown."""
        return self._domain

    @property
    def static_layers(self) -> tuple[str, ...]:
        """Names of the static layers that the model learnt."""
        return static_layers_of(self.network)

    @property
    def target(self) -> Quantity:
        """What the model predicts: name, description and units."""
        return Quantity(self.outputs[0], self.long_name, self.units)

    def _mapper(
        self, cube: xr.Dataset, settings: MapSettings, applicability: bool = False
    ) -> Mapper:
        """Return the mapper of a cube, with the post-processing of this model."""
        reader = Reader(cube, self.bands, self.static_layers)
        settings = settings_for(self.network, settings)
        given = settings.region
        region = Region.of(given, cube) if given is not None else None
        network, outputs = self._in_months(reader.calendar), self.outputs
        steps = self._steps()
        if applicability:
            network = self._with_dissimilarity(reader.calendar)
            outputs = (*outputs, INDEX)
            steps = (*steps, Applicability(self._known_domain().fingerprint()))
        # Workers get the region on the grid, not the table that a user may have given.
        settings = dataclasses.replace(settings, region=None)
        return Mapper(network, reader, settings, outputs, region, steps, self.target)

    def _steps(self) -> tuple[Step, ...]:
        """Return the post-processing, from the network's maps to the map's layers."""
        steps: list[Step] = [] if self.calibration is None else [self.calibration]
        if self.floor is not None:
            # After the interval, which covers as much as before then.
            steps.append(Floor(self.floor, self.outputs[0]))
        return tuple(steps)

    @property
    def map_errors(self) -> tuple[MapError, ...]:
        """The error of maps that each fitted network of this model was measured at."""
        return ()

    def _counts(self) -> MapCounts | None:
        """Return what counts the pixels of a written map; None for older models."""
        known = [error.labels for error in self.map_errors]
        if self.floor is None and not known:
            return None
        labels = None
        if known:
            labels = (min(low for low, _ in known), max(high for _, high in known))
        return MapCounts(self.outputs[0], self.floor, labels)

    def _bare(self, cube: xr.Dataset) -> Mapper:
        """Return a mapper with default settings and without post-processing."""
        return self._bare_over(Reader(cube, self.bands))

    def _bare_over(self, reader: Reader) -> Mapper:
        """Return the same mapper for a cube that is opened already."""
        network = self._in_months(reader.calendar)
        reader = reader.with_layers(self.static_layers)
        # Blocks of a tile's size: only those that are asked for are computed.
        settings = settings_for(self.network, MapSettings(block=MapSettings.tile))
        return Mapper(network, reader, settings, self.outputs, target=self.target)

    def _in_months(self, calendar: tuple[int, ...]) -> nn.Module:
        """Return the network for time steps of these calendar months."""
        return self.network

    def _with_dissimilarity(self, calendar: tuple[int, ...]) -> nn.Module:
        """Return the network with the dissimilarity as its last map."""
        need_looking(self.network)
        domain = cast(Domain, self._known_domain())
        return WithDissimilarity(self._in_months(calendar), domain)

    def _known_domain(self) -> Domain | Domains:
        if self.domain is None:
            raise ValueError(
                "the model must know what it was trained on to map applicability, got "
                "one that does not; give it the training data with "
                "model.learn_applicability(cube), or train with domain_cells above 0."
            )
        return self.domain

    def _depends_on(self, cube: xr.Dataset, mapper: Mapper) -> dict[str, Any]:
        """Return all that a map's values depend on, as settings and hashes."""
        grid = [
            repr(cube[dim].values.tolist())
            for dim in ("chip", "month", "y", "x")
            if dim in cube.coords
        ]
        return {
            "model": weights_fingerprint(self.network),
            "bands": list(self.bands),
            "input": mapper.reader.identity(),
            "grid": _hash("".join(grid)),
            "region": _hash(repr(mapper.region)) if mapper.region else "whole",
            **mapper.values_depend_on(),
        }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
