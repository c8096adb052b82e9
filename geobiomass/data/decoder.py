"""From stored codes to physical values, whole batches on their device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from geobiomass.data.arrays import Array

if TYPE_CHECKING:
    from torch import Tensor


class Decoder:
    """Decoder of batches from stored codes to physical values, on their device.

    Parameters
    ----------
    steps : numpy.ndarray or None
        Physical value of one code, one for all or (band, 1, 1).
    missing : int or None
        The code of missing values.
    months, bands : sequence of int
        Positions of the months and bands, from the first one that is stored.
    calendar : tuple of int
        Calendar months of the steps, for networks with a month-of-year term.
    """

    def __init__(
        self,
        steps: Array | None,
        missing: int | None,
        months: Sequence[int],
        bands: Sequence[int],
        calendar: tuple[int, ...] = (),
    ) -> None:
        import torch  # not at the top: errors and `info` come without it

        self.calendar = calendar
        self.steps = None if steps is None else torch.from_numpy(steps)
        self.missing = missing
        self.months = torch.tensor(months)
        self.bands = torch.tensor(bands)

    def decode(
        self, codes: Tensor, corners: Sequence[Sequence[int]], size: tuple[int, int]
    ) -> Tensor:
        """Arrange and decode a batch.

        Parameters
        ----------
        codes : torch.Tensor
            (batch, cells along month, band, y and x, then size of a cell).
        corners : sequence of four int
            The corner of each sample in its cells: month, band, row, column.
        size : tuple of int
            Height and width of a sample.

        Returns
        -------
        torch.Tensor
            (batch, month, band, y, x) float32, physical units, NaN where missing.
        """
        import torch

        whole = codes.permute(0, 1, 5, 2, 6, 3, 7, 4, 8)
        sizes = [whole.shape[i] * whole.shape[i + 1] for i in (1, 3, 5, 7)]
        whole = whole.reshape(len(codes), *sizes)
        if len(set(map(tuple, corners))) == 1:
            return self._physical(self._choose(whole, corners[0], *size))
        pairs = zip(torch.split(whole, 1), corners, strict=True)
        return self._physical(torch.cat([self._choose(*pair, *size) for pair in pairs]))

    def _choose(
        self, codes: Tensor, corner: Sequence[int], height: int, width: int
    ) -> Tensor:
        """Cut a window out of (batch, month, band, y, x), months and bands in order."""
        import torch

        month, band, row, column = corner
        for dim, wanted in ((1, self.months + month), (2, self.bands + band)):
            if not torch.equal(wanted, torch.arange(codes.shape[dim])):
                codes = codes.index_select(dim, wanted.to(codes.device))
        return codes[..., row : row + height, column : column + width]

    def _physical(self, codes: Tensor) -> Tensor:
        if self.steps is None:
            return codes.float()
        values = codes * self.steps.to(codes.device)
        if self.missing is None:
            return values
        return values.masked_fill_(codes == self.missing, np.nan)
