"""Features of each pixel, made lazily of a monthly image and its neighbourhood.

All sums are in float64 and in one order, so that a feature has the same bits in every
tile, batch and number of threads. Values that are missing take no part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geobiomass.learner.band_kinds import (
    cross_polarised,
    normalised_differences,
    sensors,
)
from geobiomass.network.static_planes import unpacked

MOST_MONTHLY = 400
"""Bands times months up to which each is a feature: 15 bands of two years are 360."""
_FEWEST_HARMONIC = 6
"""Months of the year that a cube must have for the harmonics, of three terms."""
_SMALL = 4096  # pixels
_SINGULAR = 1e-3  # of a determinant that is 1/8 for twelve months, all there


class PixelFeatures(nn.Module):
    """Features of each pixel of a monthly image.

    Bands by calendar month; statistics over the months that are there; indices that
    the names of the bands allow; a harmonic of the year; mean and spread of the yearly
    means in the neighbourhood.

    Parameters
    ----------
    bands : sequence of str
        Names of the image's bands, in their order.
    months : sequence of int
        Calendar months, 1 to 12, of the training cube. Other cubes may have others: a
        month that a cube lacks is missing.
    neighbourhoods : sequence of int
        Sides of the squares around the pixel, odd numbers of pixels.
    monthly : bool
        Whether bands by calendar month are features, where they are not too many.
    layers : sequence of str
        Names of static layers, each of which is a feature: the value of the pixel.
    """

    def __init__(
        self,
        bands: Sequence[str],
        months: Sequence[int],
        neighbourhoods: Sequence[int] = (3, 7, 15),
        monthly: bool = True,
        layers: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if any(side < 3 or side % 2 == 0 for side in neighbourhoods):
            raise ValueError(
                "neighbourhoods must be odd numbers of pixels from 3 on, got "
                f"{list(neighbourhoods)}."
            )
        self.bands = tuple(bands)
        self.calendar = tuple(months)
        self.neighbourhoods = tuple(neighbourhoods)
        self.monthly = monthly
        self.layers = tuple(layers)
        self._differences = normalised_differences(self.bands)
        self._ratios = cross_polarised(self.bands)
        self._sensors = sensors(self.bands)
        self._seasons = sorted(set(self.calendar))
        self._all_bands = (*self.bands, *self._differences, *self._ratios)
        many = len(self._seasons) * len(self.bands) > MOST_MONTHLY
        self._by_month = monthly and len(self._seasons) > 1 and not many
        self._harmonic = len(self._seasons) >= _FEWEST_HARMONIC
        self.names = tuple(self._name_all())

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, ready for JSON."""
        found = {
            "bands": list(self.bands),
            "months": list(self.calendar),
            "neighbourhoods": list(self.neighbourhoods),
            "monthly": self.monthly,
        }
        return found | ({"layers": list(self.layers)} if self.layers else {})

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> PixelFeatures:
        """Build the features of saved settings."""
        return cls(**settings)

    @property
    def radius(self) -> int:
        """Pixels around a pixel that its features depend on."""
        return max(self.neighbourhoods, default=1) // 2

    def _name_all(self) -> list[str]:
        names = []
        for band in self._all_bands:
            names.append(f"{band} mean")
            if len(self.calendar) > 1:
                names += [f"{band} {what}" for what in ("median", "min", "max", "sd")]
            if self._harmonic:
                names += [f"{band} cosine", f"{band} sine"]
        if self._by_month:
            names += [f"{b} month {m}" for b in self.bands for m in self._seasons]
        if len(self.calendar) > 1:
            names += [f"{sensor} months" for sensor in self._sensors]
        for side in self.neighbourhoods:
            for band in self._all_bands:
                names += [
                    f"{band} mean of {side}x{side}",
                    f"{band} sd of {side}x{side}",
                ]
        return names + self.layer_names

    @property
    def layer_names(self) -> list[str]:
        """Names of the features that are static layers."""
        return [f"static {layer}" for layer in self.layers]

    def forward(
        self, image: Tensor, calendar: Sequence[int] | None = None, margin: int = 0
    ) -> Tensor:
        """Return the features of an image.

        Parameters
        ----------
        image : Tensor
            (batch, month, band, y, x) float32, NaN where missing; with static layers
            after the months, as :mod:`geobiomass.network.static_planes` has them.
        calendar : sequence of int, optional
            Calendar months of its steps; by default those of training.
        margin : int
            Pixels at each edge of the image that are only seen by their neighbours:
            0, or at least `radius`. Without them the image is reflected.

        Returns
        -------
        Tensor
            (batch, feature, y, x) float32 without the margin; NaN where missing.
        """
        calendar = self.calendar if calendar is None else tuple(calendar)
        image, static = unpacked(image, len(self.layers))
        if len(calendar) != image.shape[1]:
            raise ValueError(
                f"image must have the {len(calendar)} months of its calendar, got "
                f"{image.shape[1]}."
            )
        inner = (
            slice(margin, image.shape[-2] - margin),
            slice(margin, image.shape[-1] - margin),
        )
        rows, means = [], []
        monthly: list[Tensor] = []
        for position in range(len(self._all_bands)):
            band = self._band(image, position)
            wide = _mean(band)
            means.append(wide)
            values = band[..., inner[0], inner[1]]
            mean = wide[..., inner[0], inner[1]]
            rows.append(mean)
            if len(self.calendar) > 1:
                rows += _over_months(values, mean)
            if self._harmonic:
                rows += _harmonic(values, calendar)
            if self._by_month and position < len(self.bands):
                monthly += [
                    _mean(values[:, [i for i, m in enumerate(calendar) if m == month]])
                    for month in self._seasons
                ]
        rows += monthly
        if len(self.calendar) > 1:
            cut = image[..., inner[0], inner[1]]
            rows += [
                cut[:, :, own].isfinite().any(dim=2).sum(dim=1)
                for own in self._sensors.values()
            ]
        planes = [row.to(torch.float32) for row in rows]
        # All bands together where an image is so small that the calls take the time.
        together = torch.compiler.is_exporting() or means[0].numel() <= _SMALL
        group = len(means) if together else 1
        for side in self.neighbourhoods:
            for first in range(0, len(means), group):
                some = torch.stack(means[first : first + group])
                mean, spread = _around(some, side, margin)
                planes += [
                    one for pair in zip(mean, spread, strict=True) for one in pair
                ]
        if self.layers:
            cut = static[..., inner[0], inner[1]]
            planes += cut.masked_fill(~cut.isfinite(), torch.nan).float().unbind(1)
        return torch.stack(planes, dim=1)

    def _band(self, image: Tensor, position: int) -> Tensor:
        """Return a band or an index, (batch, month, y, x) float32."""
        if position < len(self.bands):
            band = image[:, :, position]
            return band.masked_fill(~band.isfinite(), torch.nan)
        name = self._all_bands[position]
        if name in self._ratios:
            first, second = self._ratios[name]
            ratio = image[:, :, first] - image[:, :, second]
            return ratio.masked_fill(~ratio.isfinite(), torch.nan)
        first, second = self._differences[name]
        a, b = image[:, :, first], image[:, :, second]
        index = ((a - b) / (a + b)).clamp(-1.0, 1.0)
        there = a.isfinite() & b.isfinite() & (a + b > 0)
        return index.masked_fill(~there, torch.nan)


def _mean(values: Tensor) -> Tensor:
    """Return the mean over months, (batch, y, x) float64, of those that are there."""
    total, count = _sums(values)
    return (total / count).masked_fill(count == 0, torch.nan)


def _sums(values: Tensor) -> tuple[Tensor, Tensor]:
    shape = (values.shape[0], *values.shape[2:])
    total = torch.zeros(shape, dtype=torch.float64, device=values.device)
    count = torch.zeros_like(total)
    for month in range(values.shape[1]):
        one = values[:, month]
        there = one == one
        total = total + one.masked_fill(~there, 0.0).double()
        count = count + there
    return total, count


def _over_months(values: Tensor, mean: Tensor) -> list[Tensor]:
    """Return median, minimum, maximum and standard deviation over months."""
    there = values == values
    count = there.sum(dim=1)
    none = count == 0
    ordered = values.masked_fill(~there, torch.inf).sort(dim=1).values
    last = (count - 1).clamp(min=0)
    ends = [ordered.gather(1, at[:, None])[:, 0] for at in (last // 2, (last + 1) // 2)]
    median = (ends[0].double() + ends[1].double()) / 2
    lowest, highest = ordered[:, 0], ordered.gather(1, last[:, None])[:, 0]
    away, _ = _sums((values.double() - mean[:, None]).square())
    spread = (away / count).sqrt()
    return [
        one.masked_fill(none, torch.nan) for one in (median, lowest, highest, spread)
    ]


def _harmonic(values: Tensor, calendar: Sequence[int]) -> list[Tensor]:
    """Return cosine and sine of the year, by least squares over months that are there.

    Missing where the months that are there do not determine them.
    """
    sums: dict[str, Any] = dict.fromkeys(("n", "c", "s", "cc", "cs", "ss"), 0.0)
    sums |= dict.fromkeys(("v", "vc", "vs"), 0.0)
    for month, number in enumerate(calendar):
        angle = 2 * np.pi * (number - 0.5) / 12
        c, s = float(np.cos(angle)), float(np.sin(angle))
        one = values[:, month]
        there = (one == one).double()
        value = one.masked_fill(one != one, 0.0).double()
        terms = {"n": there, "c": c * there, "s": s * there, "cc": c * c * there}
        terms |= {"cs": c * s * there, "ss": s * s * there}
        terms |= {"v": value, "vc": c * value, "vs": s * value}
        sums = {name: sums[name] + term for name, term in terms.items()}
    n = sums["n"].clamp(min=1.0)
    mean_c, mean_s, mean_v = sums["c"] / n, sums["s"] / n, sums["v"] / n
    cc = sums["cc"] / n - mean_c * mean_c
    ss = sums["ss"] / n - mean_s * mean_s
    cs = sums["cs"] / n - mean_c * mean_s
    vc = sums["vc"] / n - mean_v * mean_c
    vs = sums["vs"] / n - mean_v * mean_s
    determinant = cc * ss - cs * cs
    unknown = (determinant < _SINGULAR) | (sums["n"] < 4)
    safe = determinant.masked_fill(unknown, 1.0)
    found = ((vc * ss - vs * cs) / safe, (vs * cc - vc * cs) / safe)
    return [one.masked_fill(unknown, torch.nan) for one in found]


def _around(means: Tensor, side: int, margin: int) -> list[Tensor]:
    """Return mean and spread in squares of (..., y, x), of values that are there."""
    radius = side // 2
    if margin:
        cut = [slice(margin - radius, n - margin + radius) for n in means.shape[-2:]]
        wide = means[..., cut[0], cut[1]]
    else:
        rows, columns = (_mirrored(n, radius, means.device) for n in means.shape[-2:])
        wide = means[..., rows, :][..., columns]
    there = wide == wide
    values = wide.masked_fill(~there, 0.0)
    count = _box(there.double(), side)
    mean = _box(values, side) / count
    variance = _box(values * values, side) / count - mean * mean
    # Rounding leaves a little where all values are equal.
    variance = variance.masked_fill(variance < 1e-12 * mean * mean, 0.0)
    none = count == 0
    return [
        one.masked_fill(none, torch.nan).to(torch.float32)
        for one in (mean, variance.sqrt())
    ]


def _box(values: Tensor, side: int) -> Tensor:
    """Return sums over squares, without the edges, added in one order."""
    height, width = (n - side + 1 for n in values.shape[-2:])
    rows = values[..., :height, :]
    for shift in range(1, side):
        rows = rows + values[..., shift : shift + height, :]
    total = rows[..., :width]
    for shift in range(1, side):
        total = total + rows[..., shift : shift + width]
    return total


def _mirrored(size: int, radius: int, device: torch.device) -> Tensor:
    """Return positions of an axis and its reflection, the edge repeated."""
    position = torch.arange(-radius, size + radius, device=device) % (2 * size)
    return torch.minimum(position, 2 * size - 1 - position)
