"""Values that writing a cube changes, by band: taken as missing, or clipped."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from threading import Lock

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.missing_values import Found, tell
from geobiomass.cube.static_layers import STATIC

CLIPPED = "clipped"
"""Attribute of an image on disk: the numbers of values that did not fit its type."""

Counts = npt.NDArray[np.uint32]


class Losses:
    """Numbers of values of a block, or of a cube, that writing changes.

    ``counts`` is (band and other variable, 2): taken as missing, clipped. ``found``
    and ``worst`` say more about those that this process saw.

    Parameters
    ----------
    bands : sequence of str
        Names of the bands.
    others : sequence of str
        Other variables whose values are counted, each as a whole.
    """

    def __init__(self, bands: Sequence[str], others: Sequence[str] = ("agb",)) -> None:
        self.bands = tuple(bands)
        self.others = tuple(others)
        size = len(self.bands) + len(self.others)
        self.counts: Counts = np.zeros((size, 2), np.uint32)
        self.found: Found = Counter()
        self.worst: dict[str, float] = {}
        self._lock = Lock()

    @classmethod
    def of(cls, cube: xr.Dataset) -> Losses:
        """Return the numbers of a cube of which nothing is written yet."""
        bands = [str(band) for band in cube["band"].values]
        return cls(bands, ("agb", STATIC) if STATIC in cube else ("agb",))

    def add_missing(self, found: Found, other: str = "") -> None:
        """Count values taken as missing of bands, or of another variable."""
        for (band, value), count in found.items():
            at = (
                len(self.bands) + self.others.index(other)
                if other
                else self.bands.index(band)
            )
            self.counts[at, 0] += count
            self.found[other or band, value] += count

    def add_clipped(self, band: int, count: int, worst: float) -> None:
        """Count clipped values of a band, and the largest of them."""
        self.counts[band, 1] += count
        name = self.bands[band]
        self.worst[name] = max(worst, self.worst.get(name, 0.0))

    def merge(self, other: Losses) -> None:
        """Add the numbers of a block."""
        with self._lock:
            self.counts += other.counts
            self.found += other.found
            for name, worst in other.worst.items():
                self.worst[name] = max(worst, self.worst.get(name, 0.0))

    def in_words(self, which: int) -> str:
        """Return the numbers by band: 0, taken as missing; 1, clipped."""
        names = [*self.bands, *self.others]
        return ", ".join(
            f"{name} {count}"
            for name, count in zip(names, self.counts[:, which].tolist(), strict=True)
            if count
        )

    def tell(self, dtype: str) -> None:
        """Warn of what was changed, once of each kind."""
        if self.counts[:, 0].any():
            # An interrupted call counted by band, without the values.
            values = sorted({value for _, value in self.found})
            words = f" ({', '.join(f'{v:.7g}' for v in values)})" if values else ""
            tell(f"pixels: {self.in_words(0)}{words}", stacklevel=4)
        clipped = int(self.counts[:, 1].sum())
        if clipped:
            counts = dict(zip(self.bands, self.counts[:, 1].tolist(), strict=False))
            names = [*self.worst, *(b for b in counts if b not in self.worst)]
            names = [name for name in names if counts[name]]
            worst = f" (largest {max(self.worst.values()):g})" if self.worst else ""
            warnings.warn(
                f"{clipped} values of bands {names} do not fit {dtype}{worst} and were "
                "clipped; dtype='float32' keeps them.",
                stacklevel=4,
            )
