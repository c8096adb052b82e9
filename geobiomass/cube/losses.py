"""Values that writing a cube changes, by band: taken as missing, or clipped."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from threading import Lock

import numpy as np
import numpy.typing as npt

from geobiomass.cube.missing_values import Found, tell

CLIPPED = "clipped"
"""Attribute of an image on disk: the numbers of values that did not fit its type."""

Counts = npt.NDArray[np.uint32]


class Losses:
    """Numbers of values of a block, or of a cube, that writing changes.

    ``counts`` is (band and labels, 2): taken as missing, clipped. ``found`` and
    ``worst`` say more about those that this process saw.
    """

    def __init__(self, bands: Sequence[str]) -> None:
        self.bands = tuple(bands)
        self.counts: Counts = np.zeros((len(self.bands) + 1, 2), np.uint32)
        self.found: Found = Counter()
        self.worst: dict[str, float] = {}
        self._lock = Lock()

    def add_missing(self, found: Found) -> None:
        """Count values taken as missing; those without a band are labels."""
        for (band, value), count in found.items():
            at = self.bands.index(band) if band else -1
            self.counts[at, 0] += count
            self.found[band or "agb", value] += count

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
        names = [*self.bands, "agb"]
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
