"""Rendering of a sward as seen from above: leaves in layers, shadows, the camera."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from .leaves import QUADRAT, STRAW, Sward
from .visits import Floats, Visit, spread

_SOILS = {
    "Tas": (92, 74, 58),
    "Vic": (118, 100, 80),
    "NSW": (136, 94, 68),
    "WA": (164, 140, 108),
}


def photograph(
    sward: Sward, visit: Visit, height: int, random: np.random.Generator
) -> Image.Image:
    """Render a photo of a sward from above, in the light of the visit.

    Leaves are drawn in layers from the ground up. Each layer shades the layers below.

    Parameters
    ----------
    sward, visit
        The leaves, and the visit with its soil and light.
    height
        Height of the photo in pixels; its width is twice that.
    random
        Generator of soil, the sun's bearing, sharpness and noise.

    Returns
    -------
    PIL.Image.Image
        The photo, RGB.
    """
    fine = 2 * height  # drawn in double size, to avoid jagged edges
    canvas = _soil(visit, fine, random)
    across = np.stack([sward.outlines.real, sward.outlines.imag], axis=2)
    pixels = across * (np.array([2, 1]) * fine / np.array(QUADRAT))
    colours = np.clip(sward.colours, 0, 255).astype(int)
    bearing = np.exp(1j * random.uniform(0, 2 * np.pi))
    # A layer covers about a quarter of the ground.
    cover = sward.areas.sum() / (QUADRAT[0] * QUADRAT[1])
    layers = int(np.clip(np.ceil(cover / 0.25), 2, 16))
    for part in np.array_split(np.arange(len(pixels)), layers):
        layer = _layer(pixels[part], colours[part], sward.masses[part], fine)
        canvas = _shade(canvas, layer.getchannel("A"), visit, bearing, fine)
        canvas.paste(layer, mask=layer.getchannel("A"))
    return _develop(canvas.reduce(2), visit, random)


def _soil(visit: Visit, fine: int, random: np.random.Generator) -> Image.Image:
    """Draw soil with crumbs of several sizes and bits that are as pale as straw."""
    size = (2 * fine, fine)
    relief = np.zeros(size[::-1])
    for share, grain in ((0.10, 24), (0.12, 8), (0.14, 3)):
        cells = random.normal(0, share, (fine // grain + 1, 2 * fine // grain + 1))
        rough = Image.fromarray(cells.astype(np.float32))
        relief += np.asarray(rough.resize(size, Image.Resampling.BICUBIC))
    tone = (1.1 - 0.45 * visit.wet) * spread(random, 0.1, 1)
    values = np.array(_SOILS[visit.state]) * tone * np.exp(relief)[:, :, None]
    image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    brush = ImageDraw.Draw(image)
    for x, y in random.uniform(size=(random.integers(40, 400), 2)) * size:
        radius = fine / 30 * random.uniform(0.1, 0.35)
        shade = random.uniform(0.7, 1.25) * np.array(STRAW[random.integers(1, 3)])
        brush.ellipse((x - radius, y - radius, x + radius, y + radius), _rgb(shade))
    return image


def _rgb(colour: Floats) -> tuple[int, ...]:
    return tuple(np.clip(colour, 0, 255).astype(int).tolist())


def _layer(
    pixels: Floats, colours: npt.NDArray[np.int64], masses: Floats, fine: int
) -> Image.Image:
    """Draw leaves, with their ribs, on a transparent layer."""
    layer = Image.new("RGBA", (2 * fine, fine))
    brush = ImageDraw.Draw(layer)
    ribs = (pixels[:, :5] + pixels[:, :6:-1]) / 2
    pale = np.clip(colours * 1.15 + 8, 0, 255).astype(int)
    rows = zip(
        pixels.reshape(-1, 24).tolist(),
        ribs.reshape(-1, 10).tolist(),
        map(tuple, colours.tolist()),
        map(tuple, pale.tolist()),
        (masses > 0).tolist(),
        strict=True,
    )
    for outline, rib, colour, light, ribbed in rows:
        brush.polygon(outline, fill=colour)
        if ribbed:
            brush.line(rib, fill=light)
    return layer


def _shade(
    canvas: Image.Image, leaves: Image.Image, visit: Visit, bearing: complex, fine: int
) -> Image.Image:
    """Darken the image in the shadow of a layer of leaves."""
    centimetre = fine / QUADRAT[1]
    shift = 0.7 * (1 - 0.7 * visit.cloud) * centimetre * bearing
    moved = ImageChops.offset(leaves, round(shift.real), round(shift.imag))
    soft = moved.filter(ImageFilter.BoxBlur((0.15 + 0.7 * visit.cloud) * centimetre))
    strength = 0.6 - 0.2 * visit.cloud
    light = soft.point([round(255 - strength * value) for value in range(256)])
    return ImageChops.multiply(canvas, Image.merge("RGB", [light] * 3))


def _develop(
    image: Image.Image, visit: Visit, random: np.random.Generator
) -> Image.Image:
    """Apply exposure, blur and noise as a camera does."""
    blurred = image.filter(ImageFilter.GaussianBlur(random.uniform(0, 0.8)))
    values = np.asarray(blurred, np.float64)
    # Automatic exposure makes dark scenes brighter, but not as bright as others.
    automatic = (105 / max(float(values.mean()), 1.0)) ** 0.6
    values = values * visit.light * automatic * spread(random, 0.05, 1)
    values += random.normal(0, random.uniform(1, 5), values.shape)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
