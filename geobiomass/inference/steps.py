"""What is made of the network's outputs, pixel by pixel, before a map is given out.

A map has a layer an output of the network. Steps add layers or change them, once
tiles are blended: an interval is calibrated, a mask is drawn from an index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]
Attributes = Mapping[str, Any]


class Step(Protocol):
    """One step from layers to layers; the same for every block, and picklable."""

    def layers(self, layers: Mapping[str, Attributes]) -> dict[str, Attributes]:
        """Give the layers after the step, in order: attributes by name.

        Parameters
        ----------
        layers : mapping
            Those before it.
        """
        ...

    def apply(self, values: Mapping[str, Pixels]) -> dict[str, Pixels]:
        """Give the values of the layers after the step.

        Parameters
        ----------
        values : mapping
            (y, x) float32 by name; NaN where nothing was observed, which stays so.
        """
        ...

    def values_depend_on(self) -> dict[str, Any]:
        """Give what the values depend on, fit for JSON: a map is told apart by it."""
        ...


def density(outputs: Sequence[str]) -> dict[str, Attributes]:
    """Give layers of biomass density, as networks predict them, by name."""
    attributes = {"long_name": "above-ground biomass density", "units": "Mg/ha"}
    return dict.fromkeys(outputs, attributes)


def after(
    steps: Sequence[Step], layers: Mapping[str, Attributes]
) -> dict[str, Attributes]:
    """Give the layers after all steps."""
    found = dict(layers)
    for step in steps:
        found = step.layers(found)
    return found


def taken(
    steps: Sequence[Step], names: Sequence[str], values: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Take all steps on one block.

    Parameters
    ----------
    steps : sequence of Step
        In order.
    names : sequence of str
        Of the network's outputs.
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
