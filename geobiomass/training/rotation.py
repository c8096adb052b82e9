"""Turns by any angle, of an image with gaps and of its labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, TypeAlias

import torch
from torch import Generator, Tensor
from torch.nn import functional

__all__ = ["Rotation", "check_places", "random_rotation"]

Mode: TypeAlias = Literal["bilinear", "nearest"]


@dataclass(frozen=True)
class Rotation:
    """A turn of a tile by any angle, the borders reflected.

    Parameters
    ----------
    degrees
        Against the clock (y runs downwards), as the quarter turns of `Orientation`.
    centre
        What stays in its place: (y, x) from the middle of the tile, in sides of it.
    """

    degrees: float
    centre: tuple[float, float] = (0.0, 0.0)

    def apply(self, tensor: Tensor, mode: Mode = "bilinear") -> Tensor:
        """Turn the last two axes (y, x) of a tensor.

        Parameters
        ----------
        tensor
            (..., y, x) float32 or float64, not finite where missing.
        mode
            The mean of the four pixels around, weighed by nearness, over those that
            are there; or the nearest pixel.

        Returns
        -------
        Tensor
            The same shape; missing exactly where the nearest pixel is missing.
        """
        planes = tensor.reshape(-1, *(1, 1, *tensor.shape)[-3:])
        grid = self._grid(tensor)
        turned = _sample(planes, grid, mode)
        # A sum tells of gaps in a fifth of the time that looking at each pixel takes.
        if mode == "bilinear" and not turned.sum().isfinite():
            _mend(turned, planes, grid)
        return turned.reshape(tensor.shape)

    def _grid(self, tensor: Tensor) -> Tensor:
        """Where each pixel comes from, (y, x, 2): x and y, -1 to 1 between the edges.

        Spelt out, as `affine_grid` multiplies matrices, which autocast would do with
        the eight bits of bfloat16.
        """
        height, width = tensor.shape[-2:]
        like: dict[str, Any] = {"dtype": tensor.dtype, "device": tensor.device}
        y0, x0 = self.centre[0] * height, self.centre[1] * width
        y = torch.arange(height, **like)[:, None] - ((height - 1) / 2 + y0)
        x = torch.arange(width, **like) - ((width - 1) / 2 + x0)
        angle = math.radians(self.degrees)
        cosine, sine = math.cos(angle), math.sin(angle)
        across = (cosine * x - sine * y + x0) * (2 / width)
        down = (sine * x + cosine * y + y0) * (2 / height)
        return torch.stack((across, down), dim=-1)


def _sample(planes: Tensor, grid: Tensor, mode: Mode) -> Tensor:
    # Reflection about the outer edges of the pixels: the outermost one comes twice.
    return functional.grid_sample(
        planes,
        grid.expand(len(planes), -1, -1, -1),
        mode=mode,
        padding_mode="reflection",
        align_corners=False,
    )


def _mend(turned: Tensor, planes: Tensor, grid: Tensor) -> None:
    """Write into pixels that met a gap, but lie nearest to a known one, a value."""
    month, band = (~turned.sum((2, 3)).isfinite()).nonzero(as_tuple=True)
    sources = planes[month, band]
    partly = sources.isfinite().flatten(1).any(1)
    month, band, sources = month[partly], band[partly], sources[partly]
    plane, y, x = (~turned[month, band].isfinite()).nonzero(as_tuple=True)
    height, width = sources.shape[-2:]
    row = _reflected(grid[y, x, 1], height)
    column = _reflected(grid[y, x, 0], width)
    nearest = sources[plane, row.round().long(), column.round().long()]
    plane, y, x, row, column = (
        v[nearest.isfinite()] for v in (plane, y, x, row, column)
    )
    turned[month[plane], band[plane], y, x] = _mean_of_known(
        sources, plane, row, column
    )


def _mean_of_known(
    planes: Tensor, plane: Tensor, row: Tensor, column: Tensor
) -> Tensor:
    """Interpolate planes (plane, y, x) at some places from what is finite."""
    height, width = planes.shape[-2:]
    total, weights = torch.zeros_like(row), torch.zeros_like(row)
    for dy, dx in product((0, 1), repeat=2):
        y, x = row.floor() + dy, column.floor() + dx
        weight = (1 - (row - y).abs()) * (1 - (column - x).abs())
        y, x = y.long().clamp(max=height - 1), x.long().clamp(max=width - 1)
        value = planes[plane, y, x]
        known = value.isfinite()
        total += (weight * value).where(known, 0.0)
        weights += weight.where(known, 0.0)
    return total / weights


def _reflected(place: Tensor, size: int) -> Tensor:
    """Return the pixel, 0 to size - 1 with fractions, for a place of the grid."""
    from_edge = ((place + 1) * (size / 2)).abs() % (2 * size)
    inside = torch.minimum(from_edge, 2 * size - from_edge)
    return (inside - 0.5).clamp(0, size - 1)


def random_rotation(
    inputs: Sequence[Any],
    target: Tensor,
    probability: float = 0.7,
    degrees: float = 45.0,
    jitter: float = 0.1,
    ceiling: float | None = None,
    generator: Generator | None = None,
) -> tuple[tuple[Any, ...], Tensor]:
    """Turn some samples by any angle about a centre near the middle.

    Image and labels go through the same bilinear means, so that a label is the mean
    of just the ground that its pixel shows; the mean of the labels stays, and a zero
    among zeros stays zero. Probability and angle are those of the winner of the
    BioMassters challenge; the size of the jitter is not known and ours.

    Parameters
    ----------
    inputs
        The image (batch, ..., y, x) first, not finite where missing; the rest is
        passed on.
    target
        (batch, ..., y, x) with the image's y and x, NaN where unlabelled.
    probability
        That a sample is turned.
    degrees
        The largest angle to either side; all up to it are equally likely.
    jitter
        How far the centre lies from the middle at most, in sides of the tile,
        along y and along x.
    ceiling
        Labels at or above it are not mixed with others: they go to the pixels
        they are nearest to, and the rest is interpolated without them. Otherwise a
        loss that leaves them out would still meet them, in means below the ceiling.
    generator
        Of the CPU; None is torch's global one.

    Returns
    -------
    inputs, target
        New tensors; what was given where no sample is turned. Nothing missing
        spreads, and nothing comes up where the nearest pixel is missing.

    Raises
    ------
    ValueError
        Image and target differ in batch, y or x.
    """
    image, *rest = inputs
    check_places(image, target)
    chosen = torch.rand(len(image), generator=generator) < probability
    angles = degrees * _to_either_side(torch.rand(len(image), generator=generator))
    centres = jitter * _to_either_side(torch.rand(len(image), 2, generator=generator))
    if not chosen.any():
        return tuple(inputs), target
    image, target = image.clone(), target.clone()
    for sample in chosen.nonzero()[:, 0].tolist():
        y, x = centres[sample].tolist()
        rotation = Rotation(angles[sample].item(), (y, x))
        image[sample] = rotation.apply(image[sample])
        target[sample] = _turned_label(rotation, target[sample], ceiling)
    return (image, *rest), target


def _to_either_side(uniform: Tensor) -> Tensor:
    return 2 * uniform - 1


def _turned_label(rotation: Rotation, label: Tensor, ceiling: float | None) -> Tensor:
    if ceiling is None:
        return rotation.apply(label)
    high = label >= ceiling
    nearest = rotation.apply(label, "nearest")
    return nearest.where(
        nearest >= ceiling, rotation.apply(label.masked_fill(high, torch.nan))
    )


def check_places(image: Tensor, target: Tensor) -> None:
    """Raise a ValueError unless both have one batch, y and x."""
    if image.shape[-2:] != target.shape[-2:] or len(image) != len(target):
        raise ValueError(
            "image and target must have the same batch, y and x, got image "
            f"{tuple(image.shape)} and target {tuple(target.shape)}"
        )
