"""Post-processing: steps from the network's outputs to a map's layers.

A map has a layer for each output of the network. Once tiles are blended, steps add
or change layers, pixel by pixel: one calibrates an interval, one computes a mask
from an index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from geobiomass.cube.quantity import AGB, Quantity

Pixels = npt.NDArray[np.float32]
Attributes = Mapping[str, Any]


class Step(Protocol):
    """A step of post-processing; the same for every block, and picklable."""

    def layers(self, layers: Mapping[str, Attributes]) -> dict[str, Attributes]:
        """Return the layers after the step, in order: attributes by name.

        Parameters
        ----------
        layers : mapping
            The layers before the step.
        """
        ...

    def apply(self, values: Mapping[str, Pixels]) -> dict[str, Pixels]:
        """Return the values of the layers after the step.

        Parameters
        ----------
        values : mapping
            (y, x) float32 by name; NaN where nothing was observed, which stays so.
        """
        ...

    def values_depend_on(self) -> dict[str, Any]:
        """Return what the values depend on, as JSON: part of a map's fingerprint."""
        ...


def density(outputs: Sequence[str], target: Quantity = AGB) -> dict[str, Attributes]:
    """Return layers of biomass density, or of another target, by name."""
    attributes = {"long_name": target.long_name, "units": target.units}
    return dict.fromkeys(outputs, attributes)


def layers_after(
    steps: Sequence[Step], layers: Mapping[str, Attributes]
) -> dict[str, Attributes]:
    """Return the layers after all steps."""
    found = dict(layers)
    for step in steps:
        found = step.layers(found)
    return found


def apply_steps(
    steps: Sequence[Step], names: Sequence[str], values: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Apply all steps to one block.

    Parameters
    ----------
    steps : sequence of Step
        In order.
    names : sequence of str
        Names of the network's outputs.
    values : numpy.ndarray
        (output, y, x) float32.

    Returns
    -------
    numpy.ndarray
        (layer, y, x) float32.
    """
    if not steps:
        return values
    layers = dict(zip(names, values, strict=True))
    for step in steps:
        layers = step.apply(layers)
    return np.stack(list(layers.values())).astype(np.float32, copy=False)
