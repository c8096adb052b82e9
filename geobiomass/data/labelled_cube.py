"""A cube with labels as one value, opened once and passed from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import xarray as xr

from geobiomass.cube.convert import need_target
from geobiomass.cube.quantity import Quantity, quantity_of
from geobiomass.cube.static_layers import layers_of
from geobiomass.data.fingerprint import hash_data, hash_labels
from geobiomass.data.reader import Reader, Sample
from geobiomass.data.splits import NO_LABEL, crops_in, label_marks, labelled
from geobiomass.tiles import Marks


@dataclass(frozen=True, eq=False)
class LabelledCube:
    """A cube with labels, checked and opened once for all steps of a training.

    ``gb.fit(cube)`` makes this value at the start. The split, the data loaders, the
    plan, the calibration, the provenance and the check before resuming take it. None
    of them opens the cube again::

        gb.fit(cube)
          LabelledCube.open      cube, bands, reader, fingerprints
            make_loaders         LabelledSamples -> Split -> DataLoaders
              train_stages       weights
            calibrate_together   the same reader, on the calibration samples
            describe_training    the same reader, for the fingerprint

    Parameters
    ----------
    cube : xarray.Dataset
        With ``agb``; also its coordinates and attributes are used.
    bands : tuple of str
        The bands that are read, in the order of the network.
    reader : Reader
        Reads windows of images and labels as they are stored. It is never changed:
        a training that keeps pixels in memory does so with a copy.
    """

    cube: xr.Dataset
    bands: tuple[str, ...]
    reader: Reader = field(repr=False)

    @classmethod
    def open(
        cls, cube: xr.Dataset | xr.DataArray, bands: Sequence[str] | None = None
    ) -> Self:
        """Check a cube and open it; reads no pixel.

        Parameters
        ----------
        cube : xarray.Dataset or xarray.DataArray
            With ``agb``, or data that :func:`geobiomass.as_cube` makes such a cube of.
        bands : sequence of str, optional
            The bands to read, in the order of the network; by default all of the cube.

        Raises
        ------
        CubeError
            If it is not a cube, has no ``agb`` or lacks a band.
        """
        cube = need_target(cube, bands or ())
        names = [str(name) for name in cube["band"].values] if bands is None else bands
        return cls(cube, tuple(names), Reader(cube, names))

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the static layers that the cube has."""
        return layers_of(self.cube)

    def with_layers(self, names: Sequence[str]) -> LabelledCube:
        """Return this value with a reader whose tiles have these static layers."""
        reader = self.reader.with_layers(names)
        return self if reader is self.reader else replace(self, reader=reader)

    @property
    def target(self) -> Quantity:
        """What the labels are: name, description and units."""
        return quantity_of(self.cube["agb"])

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of pixels, labels and names; see :func:`.hash_data`."""
        return hash_data(self.cube, self.reader)

    @cached_property
    def labels_fingerprint(self) -> str:
        """Fingerprint of labels and names, the same on disk and in memory."""
        return hash_labels(self.cube, self.reader)


@dataclass(frozen=True)
class LabelledSamples:
    """Chips, or blocks of a scene, that have labels.

    Parameters
    ----------
    reader : Reader
        Reads them. It may see only the labels of one side of a fold.
    samples : list of Sample
        Chips or blocks.
    marks : mapping of Sample to Marks
        Positions of the labels in each block of a scene, so that random crops hold
        some; empty for chips.
    """

    reader: Reader
    samples: list[Sample]
    marks: dict[Sample, Marks]

    @classmethod
    def find(
        cls,
        reader: Reader,
        samples: Sequence[Sample],
        skip: bool = False,
        none: str = NO_LABEL,
    ) -> Self:
        """Find the chips or blocks that have a label.

        Parameters
        ----------
        reader, samples, skip, none
            As :func:`.splits.labelled` takes them.

        Raises
        ------
        CubeError
            As :func:`.splits.labelled` does.
        """
        if reader.chips:
            return cls(reader, labelled(reader, samples, skip, none), {})
        marks = label_marks(reader, samples, skip, none)
        return cls(reader, list(marks), marks)

    def crops(self, crop: int | None) -> list[Sample]:
        """Return the samples, repeated as in :func:`.splits.crops_in`."""
        return crops_in(self.samples, crop, self.marks)
