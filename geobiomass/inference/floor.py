"""A map that is not below the lowest value that its target can have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from geobiomass.inference.steps import Attributes, Pixels


@dataclass(frozen=True)
class Floor:
    """Step that raises lower values of a map, and of its interval, to a floor.

    Parameters
    ----------
    value : float
        The floor, in the map's units: 0 for a target that is never negative.
    name : str
        The layer; the ends of its interval, ``{name}_lower`` and ``{name}_upper``, are
        raised too. No coverage is lost: a value above the floor is in an interval
        before exactly if it is after.
    """

    value: float
    name: str

    def layers(self, layers: Mapping[str, Attributes]) -> dict[str, Attributes]:
        """Return the same layers, with the floor as the lowest valid value."""
        return {
            name: {**attributes, "valid_min": self.value}
            if self._raises(name)
            else dict(attributes)
            for name, attributes in layers.items()
        }

    def apply(self, values: Mapping[str, Pixels]) -> dict[str, Pixels]:
        """Return the values, none of them below the floor; NaN stays NaN."""
        floor = np.float32(self.value)
        return {
            name: np.maximum(layer, floor) if self._raises(name) else layer
            for name, layer in values.items()
        }

    def values_depend_on(self) -> dict[str, Any]:
        """Return what the values of the map depend on, ready for JSON."""
        return {"floor": self.value}

    def _raises(self, name: str) -> bool:
        return name in (self.name, f"{self.name}_lower", f"{self.name}_upper")
