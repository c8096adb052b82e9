"""``model.check``: whether a cube looks like what the model has learnt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import pandas as pd
import xarray as xr

from geobiomass.cube.convert import cube_for
from geobiomass.data.band_profile import BandProfile
from geobiomass.data.input_sample import sample_input
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.reader import Reader
from geobiomass.data.splits import samples_of
from geobiomass.inference.input_check import Learnt, check_input, tell
from geobiomass.inference.mapper import Mapper
from geobiomass.recipes.scaling import measure_statistics
from geobiomass.tiles import EVALUATION_BLOCK, blocks, samples_on_chips
from geobiomass.training.setting_names import explain_arguments

INPUTS = "inputs"
"""Name of the training percentiles in a model's provenance."""

_BLOCK = 1024  # pixels: windows are spread over the blocks of a map


@explain_arguments
class ChecksInput:
    """A model that knows the percentiles of its training data, and compares inputs."""

    bands: tuple[str, ...]
    provenance: Mapping[str, Any]

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
            A row for each band. ``verdict`` is "ok"; "wrong scale" (another unit, or
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
        reader = Reader(cube_for(cube, self.bands), self.bands)
        windows = blocks(reader.height, reader.width, _BLOCK)
        samples = samples_on_chips(windows, reader.count if reader.chips else None)
        return check_input(self._learnt(), sample_input(reader, samples))

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
        found = measure_statistics(reader, samples_of(reader, EVALUATION_BLOCK))
        known = getattr(self, "provenance", {})
        self.provenance = {**known, INPUTS: found.profile.to_dict()}
        return self

    def _learnt(self) -> Learnt:
        """Return bands and training percentiles; an ensemble has those of its models.

        The percentiles are None where the model does not know them.
        """
        known = getattr(self, "provenance", {}).get(INPUTS)
        profile = None if known is None else BandProfile.from_dict(known)
        return [(self.bands, profile)]

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
        return tell(check_input(learnt, sample), check, stacklevel)
