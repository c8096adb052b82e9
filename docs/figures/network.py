"""The network, drawn from a real one: channels, strides and parameters are its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle

from geobiomass.network import AttentionUNet
from geobiomass.recipes.recipe import RECIPES

BANDS, MONTHS, SHOWN = 15, 12, 4  # of the months' images so many are drawn
IMAGE, ENCODED, POOLED, DECODED, MAP = 0.0, 2.5, 6.1, 8.6, 11.4  # centres of columns
ROW = -1.25  # from a level to the one below it
BLUE, ORANGE, GREEN, GREY = "#3b6ea5", "#c8702a", "#4b8b5a", "#6b6b6b"


@dataclass(frozen=True)
class Level:
    """A feature map: channels, and pixels of the image to one of its own."""

    channels: int
    stride: int


def levels_of(network: AttentionUNet) -> tuple[list[Level], list[Level]]:
    """Give the levels of the encoder, fine to coarse, and those of the decoder."""
    info: Any = network.encoder.feature_info
    widths: Any = network.settings["decoder_channels"]
    encoder = [
        Level(c, s) for c, s in zip(info.channels(), info.reduction(), strict=True)
    ]
    strides = [level.stride for level in encoder[-2::-1]] + [1]
    decoder = [Level(c, s) for c, s in zip(widths, strides, strict=True)]
    return encoder, decoder


def draw() -> Figure:
    """Draw the network of the default recipe."""
    recipe = RECIPES["default"]
    network = AttentionUNet(BANDS, recipe.encoder, recipe.decoder_channels)
    encoder, decoder = levels_of(network)
    figure = Figure(figsize=(11, 7.3), layout="constrained")
    axes = figure.subplots()
    _images(axes)
    for row, level in enumerate(encoder, 1):
        _encoded(axes, level, row)
    for number, level in enumerate(decoder):
        _decoded(
            axes, level, len(encoder) - 1 - number, last=number == len(decoder) - 1
        )
    _paths(axes, len(encoder))
    _captions(axes, network, recipe.encoder)
    axes.set(xlim=(-1.5, 12.7), ylim=(-7.5, 1.45), aspect="equal")
    axes.set_axis_off()
    return figure


def _side(stride: int) -> float:
    return float(0.82 * stride**-0.22)


def _box(axes: Axes, x: float, y: float, side: float, colour: str) -> None:
    corner = (x - side / 2, y - side / 2)
    box = Rectangle(corner, side, side, facecolor=colour, edgecolor="white", lw=1)
    axes.add_patch(box)


def _stack(axes: Axes, x: float, y: float, side: float, colour: str) -> None:
    for place in range(SHOWN):
        shift = 0.09 * (place - (SHOWN - 1) / 2)
        _box(axes, x + shift, y - shift, side, colour)


def _label(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    given: dict[str, Any] = {
        "ha": "center",
        "va": "center",
        "fontsize": 8.5,
        "color": "black",
    } | style
    axes.text(x, y, text, **given)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    arrow = FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=10, color=GREY, lw=1
    )
    axes.add_patch(arrow)


def _images(axes: Axes) -> None:
    _stack(axes, IMAGE, 0, _side(1), GREY)
    _label(axes, IMAGE, -0.85, f"{MONTHS} months x {BANDS} bands")
    _arrow(axes, (IMAGE + 0.65, -0.1), (ENCODED - 0.6, ROW + 0.3))


def _encoded(axes: Axes, level: Level, row: int) -> None:
    """Draw a level of the encoder for each month, and its attention."""
    side, y = _side(level.stride), ROW * row
    _stack(axes, ENCODED, y, side, BLUE)
    _label(
        axes,
        ENCODED + 1.28,
        y + 0.2,
        f"{level.channels} channels, 1/{level.stride}",
        fontsize=7.5,
    )
    middle = (ENCODED + POOLED) / 2 + 0.55
    _arrow(axes, (ENCODED + 0.62, y), (middle - 0.27, y))
    axes.add_patch(Circle((middle, y), 0.26, facecolor=ORANGE, edgecolor="white"))
    _label(axes, middle, y - 0.02, "Σ", color="white", fontsize=11)
    _arrow(axes, (middle + 0.27, y), (POOLED - side / 2 - 0.08, y))
    _box(axes, POOLED, y, side, ORANGE)


def _decoded(axes: Axes, level: Level, row: int, last: bool) -> None:
    side, y = _side(level.stride), ROW * row
    _box(axes, DECODED, y, side, GREEN)
    text = f"{level.channels} channels, " + ("1/1" if last else f"1/{level.stride}")
    _label(axes, DECODED + 0.55, y - 0.02, text, ha="left", fontsize=7.5)
    if not last:
        start = (POOLED + _side(level.stride) / 2 + 0.05, y)
        _arrow(axes, start, (DECODED - side / 2 - 0.05, y))


def _paths(axes: Axes, rows: int) -> None:
    for row in range(1, rows):
        y, next_y = ROW * row, ROW * (row + 1)
        _arrow(axes, (ENCODED, y - 0.55), (ENCODED, next_y + 0.5))
        _arrow(axes, (DECODED, y + 0.45), (DECODED, y - ROW - 0.45))
    coarsest = ROW * rows
    _arrow(axes, (POOLED + 0.3, coarsest + 0.1), (DECODED - 0.4, coarsest - ROW - 0.2))
    _arrow(axes, (DECODED + 0.5, 0.2), (MAP - 0.55, 0.2))
    _box(axes, MAP, 0.2, _side(1), "#2f4b3a")
    _label(axes, MAP, 0.2, "Mg/ha", color="white")
    _label(axes, MAP, -0.45, "one map")


def _captions(axes: Axes, network: AttentionUNet, encoder: str) -> None:
    parts = {
        name: sum(p.numel() for p in getattr(network, name).parameters()) / 1e6
        for name in ("encoder", "attention", "decoder", "head")
    }
    top, size = 1.15, {"fontsize": 10, "fontweight": "bold"}
    _label(axes, IMAGE, top, "images", color=GREY, **size)
    _label(axes, ENCODED, top, "one encoder for all months", color=BLUE, **size)
    _label(axes, POOLED, top, "attention over months", color=ORANGE, **size)
    _label(axes, DECODED + 0.5, top, "decoder", color=GREEN, **size)
    _label(axes, MAP, top, "map", color="#2f4b3a", **size)
    counts = ((ENCODED, "encoder"), (POOLED, "attention"), (DECODED + 0.5, "decoder"))
    for x, name in counts:
        _label(axes, x, top - 0.38, f"{parts[name]:.2f} million parameters", fontsize=8)
    _label(
        axes,
        (IMAGE + MAP) / 2,
        -7.2,
        f"Recipe “default”: {encoder}, {sum(parts.values()):.1f} million parameters. "
        "1/8: one value for 8 x 8 pixels of the image. "
        "Σ: the months weighed, pixel by pixel, and added up.",
        fontsize=8.5,
        color=GREY,
    )
