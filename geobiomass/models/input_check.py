"""``model.check``: whether a cube looks like what the model has learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import pandas as pd
import xarray as xr

from geobiomass.cube.convert import cube_for
from geobiomass.data.band_profile import BandProfile
from geobiomass.data.input_sample import InputSample, Mask, sample_input
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.reader import Reader
from geobiomass.data.splits import samples_of
from geobiomass.inference.input_check import Learnt, check_input, tell
from geobiomass.inference.mapper import Mapper
from geobiomass.recipes.scaling import measure_statistics
from geobiomass.tiles import EVALUATION_BLOCK, Sample, blocks, samples_on_chips
from geobiomass.training.setting_names import explain_arguments

INPUTS = "inputs"
"""Name of the training percentiles in a model's provenance."""
LAYERS = "static layers"
"""Name of those of static layers among them."""

_BLOCK = 1024  # pixels: windows are spread over the blocks of a map


@explain_arguments
class ChecksInput:
    """A model that knows the percentiles of its training data, and compares inputs."""

    bands: tuple[str, ...]
    provenance: Mapping[str, Any]

    @property
    def static_layers(self) -> tuple[str, ...]:
        """Names of the static layers that the model learnt."""
        return ()

    def check(self, cube: xr.Dataset | xr.DataArray) -> pd.DataFrame:
        """Compare a small sample of a cube with what the model has learnt.

        ``predict``, ``predict_to``, ``predict_chips_to`` and ``evaluate`` do this
        themselves: see their setting ``check``.

        Parameters
        ----------
        cube : xarray.Dataset or xarray.DataArray
            With all bands that the model needs. Of a lazy cube only the sample is
            computed.

        Returns
        -------
        pandas.DataFrame
            A row for each band, and for each static layer that the model learnt
            ("static elevation"). ``verdict`` is "ok"; "wrong scale" (another unit, or
            an order off), "offset", "nodata as values", "swapped", "missing", "other
            season" or "unusual"; or "unknown" where the model does not know its
            training data. ``cause`` is the likely cause with the remedy. ``outside``
            is the share of the values outside the training percentiles 1 and 99,
            ``missing`` the share of missing values; ``training_p1`` to
            ``training_p99`` and ``input_p1`` to ``input_p99`` are percentiles.
            ``attrs["sample"]`` says which pixels were looked at: always the same for
            cubes of the same size.

        Raises
        ------
        CubeError
            If `cube` is not a cube or lacks a band.
        """
        reader = Reader(cube_for(cube, self.bands), self.bands, self.static_layers)
        windows = blocks(reader.height, reader.width, _BLOCK)
        samples = samples_on_chips(windows, reader.count if reader.chips else None)
        return self._compared(reader, samples, sample_input(reader, samples))

    def _compared(
        self,
        reader: Reader,
        samples: Sequence[Sample],
        sample: InputSample,
        inside: Mask | None = None,
    ) -> pd.DataFrame:
        """Compare a sample of the bands, and one of the static layers, if any."""
        table = check_input(self._learnt(), sample)
        if not reader.static_layers:
            return table
        static = sample_input(reader.layers_alone(), samples, inside)
        rows = check_input(self._learnt_layers(), static)
        joined = pd.concat([table, rows.rename(index="static {}".format)])
        joined.index.name = table.index.name
        joined.attrs = dict(table.attrs)
        return joined

    def learn_percentiles(self, cube: xr.Dataset | xr.DataArray) -> Self:
        """Learn the percentiles of the training data's bands, for :meth:`check`.

        ``fit`` does so itself: this is for models that were saved without them, or made
        of a network that was trained elsewhere. An ensemble's models all learn them.

        Parameters
        ----------
        cube : xarray.Dataset
            The training data of the network, with ``agb``.

        Returns
        -------
        Predictor
            Itself.

        Raises
        ------
        CubeError
            If `cube` is not a cube, has no label or lacks a band.
        """
        reader = LabelledCube.open(cube, self.bands).reader
        reader = reader.with_layers(self.static_layers)
        samples = samples_of(reader, EVALUATION_BLOCK)
        profile = measure_statistics(reader, samples).profile.to_dict()
        if reader.static_layers:
            layers = measure_statistics(reader.layers_alone(), samples).profile
            profile[LAYERS] = layers.to_dict()
        known = getattr(self, "provenance", {})
        self.provenance = {**known, INPUTS: profile}
        return self

    def _learnt(self) -> Learnt:
        """Return bands and training percentiles; an ensemble has those of its models.

        The percentiles are None where the model does not know them.
        """
        known = getattr(self, "provenance", {}).get(INPUTS)
        profile = None if known is None else BandProfile.from_dict(known)
        return [(self.bands, profile)]

    def _learnt_layers(self) -> Learnt:
        """Return static layers and training percentiles, as for the bands."""
        known = getattr(self, "provenance", {}).get(INPUTS, {}).get(LAYERS)
        profile = None if known is None else BandProfile.from_dict(known)
        return [(self.static_layers, profile)]

    def _check_mapped(
        self, mapper: Mapper, check: str, stacklevel: int = 4
    ) -> Mapping[str, Any]:
        """Check what is about to be mapped; return the result for its provenance."""
        learnt = self._learnt()
        if check == "off" or (
            check == "warn" and all(profile is None for _, profile in learnt)
        ):
            return {"result": "off" if check == "off" else "unknown"}
        region = mapper.region
        inside = None if region is None else region.mask
        sample = sample_input(mapper.reader, mapper.samples(), inside)
        if not sample.values.size and check == "warn":
            return {"result": "unknown", "sample": sample.text}
        table = self._compared(mapper.reader, mapper.samples(), sample, inside)
        return tell(table, check, stacklevel)
