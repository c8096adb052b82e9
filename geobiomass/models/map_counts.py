"""Counts of a written map: pixels raised to the floor, and pixels far beyond labels."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from geobiomass.maps.origin import MAP_CHECKS
from geobiomass.models.map_error import FEWEST, outside_range, percent
from geobiomass.tiles import blocks
from geobiomass.training.json_files import parse_json


@dataclass
class MapCounts:
    """Counts of the pixels of a written map, for its attribute ``map_checks``.

    Parameters
    ----------
    layer : str
        The layer that is counted.
    floor : float or None
        The model's floor: values equal to it were below.
    labels : tuple of float or None
        Range of the labels of training.
    found : str or None
        The attribute's text once it is counted.
    """

    layer: str
    floor: float | None
    labels: tuple[float, float] | None
    found: str | None = None

    def __call__(self, group: Any) -> dict[str, Any]:
        """Return the attribute of a finished map, block by block of its Zarr group."""
        array, side = group[self.layer], int(group.attrs["block"])
        values = low = beyond = 0
        height, width = array.shape[-2:]
        for lead in np.ndindex(array.shape[:-2]):
            for window in blocks(height, width, side):
                part = array[(*lead, window.rows, window.columns)]
                part = part[np.isfinite(part)]
                values += part.size
                if self.floor is not None:
                    low += int((part <= self.floor).sum())
                if self.labels is not None:
                    beyond += int(outside_range(part, self.labels).sum())
        found: dict[str, Any] = {"pixels": values}
        if self.floor is not None:
            found |= {"floor": self.floor, "raised": low}
        if self.labels is not None:
            found |= {"labels": list(self.labels), "outside": beyond}
        self.found = json.dumps(found)
        return {MAP_CHECKS: self.found}


def tell_counts(counted: str | None, name: str, stacklevel: int) -> None:
    """Warn if pixels of a written map are far beyond the range of the labels.

    Parameters
    ----------
    counted : str or None
        The map's attribute ``map_checks``.
    name : str
        How the user named the map.
    stacklevel : int
        As :func:`warnings.warn` takes it.
    """
    found = parse_json(counted, MAP_CHECKS, dict) if counted else {}
    outside, values = found.get("outside", 0), found.get("pixels", 0)
    if outside and outside >= FEWEST * values:
        low, high = found["labels"]
        warnings.warn(
            f"{outside:,} of {values:,} pixels of {name} "
            f"({percent(outside / values)}) are beyond the range of the labels, "
            f"{low:.4g} to {high:.4g}, by more than its width: the images are not like "
            "those of training, or the model did not learn. The count is in the map's "
            f"attribute {MAP_CHECKS!r}.",
            stacklevel=stacklevel + 1,
        )
