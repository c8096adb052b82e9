"""Static layers read window by window, as an image of one month."""

from __future__ import annotations

import numpy as np
import xarray as xr

from geobiomass.cube.selection import Selection
from geobiomass.data.arrays import (
    Array,
    Codes,
    InMemory,
    OnDisk,
    Pixels,
    is_window,
    pixels_of,
)
from geobiomass.tiles import Sample


def static_pixels(static: xr.DataArray) -> Pixels:
    """Return the reader of the layers of a cube: windows are (1, layer, y, x)."""
    data = static.data
    found = None if isinstance(data, np.ndarray) else Selection.of(data)
    if found is not None and is_window(found):
        return LayersOnDisk(found)
    return pixels_of(data[:, None] if "chip" in static.dims else data[None])


class LayersOnDisk(OnDisk):
    """Static layers on disk, (layer, y, x) or (chip, layer, y, x)."""

    @property
    def _chips(self) -> bool:
        return len(self.positions) == 4

    @property
    def bands(self) -> list[int]:
        """Positions of the layers among those stored."""
        return [int(at) for at in self.positions[-3]]

    @property
    def order(self) -> tuple[list[int], list[int]]:
        """Positions of the one month, and of the layers among those read."""
        layers = self.positions[-3] - self.spans[-3].start
        return [0], layers.tolist()

    def _has_order(self) -> bool:
        return False  # a window has one axis more than is stored

    def _kept(self, values: Codes, sample: Sample | None) -> Codes:
        """Return values with layers in order, and the axis of the one month."""
        values = np.take(values, self.order[1], axis=-3)
        if sample is not None and sample.chip is not None:
            values = values[0]
        return values[..., None, :, :, :]

    def in_memory(self) -> InMemory:
        """Read all layers into memory."""
        values: Array = np.empty([s.stop - s.start for s in self.spans], np.float32)
        self.stored.read(self.spans, values)
        if self._chips:  # which may be in another order
            values = values.take(self.positions[0] - self.spans[0].start, axis=0)
        return InMemory(self._kept(values, None))
