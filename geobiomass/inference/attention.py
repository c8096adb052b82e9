"""The weights of the months in a map, from the network's attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import nn

from geobiomass.data.reader import Reader, Sample
from geobiomass.tiles import Window, blocks

Weights = npt.NDArray[np.float64]


def month_attention(
    network: nn.Module,
    bands: Sequence[str],
    cube: xr.Dataset,
    at: tuple[float, float] | None = None,
    chip: Any = None,
    *,
    tile: int = 256,
    samples: int = 16,
) -> xr.DataArray:
    """Return the weights of months in a network's pooling of a cube.

    Parameters
    ----------
    network : torch.nn.Module
        With ``month_weights_by_level``, as :class:`geobiomass.network.AttentionUNet`.
    bands : sequence of str
        The network's bands, in its order.
    cube, at, chip, tile, samples
        As in :meth:`geobiomass.BiomassRegressor.attention`.

    Returns
    -------
    xarray.DataArray
        (level, month), as from :meth:`geobiomass.BiomassRegressor.attention`.

    Raises
    ------
    TypeError
        If the network has no attention over months.
    ValueError, CubeError
        As in :meth:`geobiomass.BiomassRegressor.attention`.
    """
    if not hasattr(network, "month_weights_by_level"):
        raise TypeError(
            "network of the model must have attention over months "
            "(month_weights_by_level, as geobiomass.network.AttentionUNet), got a "
            f"{type(network).__name__}."
        )
    reader = Reader(cube, bands)
    number = _chip_number(reader, chip)
    if at is None:
        chosen, pixel = _spread_out(reader, number, tile, samples), None
    else:
        row, column = pixel_at(cube, at)
        if reader.chips and number is None:
            raise ValueError(
                f"chip must be named where at={at} is a pixel of a chip, got none; "
                f"the first chip is {reader.names[0]!r}."
            )
        window = _around(reader, row, column, tile)
        chosen = [Sample(window, number)]
        pixel = (row - window.top, column - window.left)
    return _mean(network, reader, chosen, pixel)


def pixel_at(cube: xr.Dataset, at: tuple[float, float]) -> tuple[int, int]:
    """Return row and column of the pixel at (y, x).

    Parameters
    ----------
    cube : xarray.Dataset
        A scene; without coordinates, and with chips, `at` is row and column.
    at : tuple of float
        In the scene's coordinate reference system.

    Raises
    ------
    ValueError
        If the point is outside the cube.
    """
    found = []
    for dim, value in zip(("y", "x"), at, strict=True):
        size = cube.sizes[dim]
        known = dim in cube.coords and size > 1
        centres = cube[dim].values if known else np.arange(size)
        index = int(np.argmin(np.abs(centres - value)))
        side = abs(centres[1] - centres[0]) if size > 1 else 1.0
        if abs(centres[index] - value) > side / 2 * (1 + 1e-9):
            low, high = sorted((float(centres[0]), float(centres[-1])))
            raise ValueError(
                f"at must be in the cube, {dim} from {low:.10g} to {high:.10g}, "
                f"got {dim} = {value:.10g}."
            )
        found.append(index)
    return found[0], found[1]


def mean_attention(each: Sequence[xr.DataArray]) -> xr.DataArray:
    """Average the attention of models, each level over the models that have it."""
    joined = xr.concat(list(each), "member", join="outer", combine_attrs="override")
    return joined.mean("member", keep_attrs=True)


def _chip_number(reader: Reader, chip: Any) -> int | None:
    if chip is None:
        return None
    if str(chip) not in reader.names:
        known = ", ".join(reader.names[:3]) if reader.chips else "a scene without chips"
        raise ValueError(f"chip must be one of the cube's ({known}), got {chip!r}.")
    return reader.names.index(str(chip))


def _around(reader: Reader, row: int, column: int, tile: int) -> Window:
    """Return the tile with a pixel in its middle, or as near as the scene allows."""
    top, left = (
        max(0, min(middle - tile // 2, size - tile))
        for middle, size in ((row, reader.height), (column, reader.width))
    )
    window = Window(top, left, top + tile, left + tile)
    return window.intersect(reader.whole) or reader.whole


def _spread_out(
    reader: Reader, chip: int | None, tile: int, samples: int
) -> list[Sample]:
    """Choose up to `samples` tiles, evenly from all over the cube."""
    windows = blocks(reader.height, reader.width, tile)
    chips = range(reader.count) if reader.chips and chip is None else [chip]
    count = len(windows) * len(chips)
    # From the middle of equal shares, rather than from corners.
    middles = (np.arange(min(samples, count)) + 0.5) * count / min(samples, count)
    return [
        Sample(windows[int(i) % len(windows)], chips[int(i) // len(windows)])
        for i in middles
    ]


def _mean(
    network: nn.Module,
    reader: Reader,
    samples: Sequence[Sample],
    pixel: tuple[int, int] | None,
) -> xr.DataArray:
    total, present, seen = None, np.zeros(reader.months), 0
    with _evaluating(network):
        for sample in samples:
            image = reader.read(sample)
            observed = np.isfinite(image).any(axis=(1, 2, 3))
            if not observed.any():
                continue
            levels = _levels(network, image, reader.calendar, pixel)
            total = levels if total is None else total + levels
            present, seen = present + observed, seen + 1
    if total is None:
        raise ValueError(
            "The cube must have an observation to show attention, got none at "
            f"{reader.name_of(samples[0])}"
            f"{' and elsewhere' if len(samples) > 1 else ''}; choose another point or "
            "chip."
        )
    weights = xr.DataArray(
        total / seen,
        {
            "level": network.encoder.feature_info.reduction(),  # type: ignore[operator, union-attr]
            "month": list(reader.calendar),
            "present": ("month", present / seen),
        },
        ("level", "month"),
        "attention",
        {"long_name": "weight of the month", "units": "1", "tiles": seen},
    )
    weights["level"].attrs = {"long_name": "side of a cell", "units": "pixels"}
    weights["present"].attrs = {"long_name": "tiles with the month", "units": "1"}
    return weights


def _levels(
    network: nn.Module,
    image: npt.NDArray[np.float32],
    calendar: tuple[int, ...],
    pixel: tuple[int, int] | None,
) -> Weights:
    """Return the weights (level, month) in one tile: at one pixel, or their mean."""
    has_calendar = getattr(network, "calendar", None) is not None
    height, width = image.shape[-2:]
    device = next(network.parameters()).device
    batch = torch.from_numpy(image)[None].to(device)
    months = calendar if has_calendar else None
    found = network.month_weights_by_level(batch, calendar=months)  # type: ignore[operator]
    strides = network.encoder.feature_info.reduction()  # type: ignore[operator, union-attr]
    rows = []
    for level, side in zip(found, strides, strict=True):
        if pixel is not None:
            chosen = level[0, :, pixel[0] // side, pixel[1] // side]
        else:
            # Cells of padding only are not part of the map.
            inside = level[0, :, : -(-height // side), : -(-width // side)]
            chosen = inside.double().mean(dim=(1, 2))
        rows.append(chosen.double().cpu().numpy())
    return np.stack(rows)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    mode = network.training
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        network.train(mode)
