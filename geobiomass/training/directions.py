"""Directions on the ground, such as an aspect: they turn with the image they are in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Directions"]


@dataclass(frozen=True)
class Directions:
    """Two planes of an image: the components of a direction at each pixel.

    Parameters
    ----------
    east, north
        Month and band of the plane with each component; negative numbers count from
        the end.
    rows_go_north
        Whether the first row of the image is the southernmost.
    """

    east: tuple[int, int]
    north: tuple[int, int]
    rows_go_north: bool = False

    def turn(self, image: Tensor, degrees: float, mirrored: bool = False) -> None:
        """Turn the directions of an image that was turned, in place.

        Parameters
        ----------
        image
            (..., month, band, y, x).
        degrees
            By which the image was turned, counter-clockwise (y points down).
        mirrored
            Whether its left and right were exchanged before.
        """
        angle = math.radians(-degrees if self.rows_go_north else degrees)
        # Quarter turns are exact.
        cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
        east, north = (image[..., *at, :, :] for at in (self.east, self.north))
        across, up = -east if mirrored else east.clone(), north.clone()
        east.copy_(across * cosine - up * sine)
        north.copy_(across * sine + up * cosine)
