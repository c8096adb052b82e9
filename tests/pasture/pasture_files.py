"""Photos drawn for the tests: discs on soil, whose areas determine the grams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw

import pasture

SOIL = (120, 90, 60)
COLOURS = {"green": (40, 160, 50), "dead": (210, 190, 110), "clover": (20, 80, 100)}
# Settings of `pasture.fit` that train in seconds on one core.
SMALL = {
    "recipe": "quick",
    "backbone": "test_vit",
    "height": 32,
    "width": 64,
    "epochs": 3,
    "accelerator": "cpu",
    "progress": False,
}
SCALE = 60.0  # grams of a photo that one colour covers completely


def draw_photo(draw: np.random.Generator, height: int) -> tuple[Image.Image, list]:
    """Draw one photo; return it and its grams of the targets, by counting pixels."""
    image = Image.new("RGB", (2 * height, height), SOIL)
    brush = ImageDraw.Draw(image)
    for _ in range(draw.integers(2, 9)):
        x, y = draw.integers(0, 2 * height), draw.integers(0, height)
        radius = draw.integers(height // 12, height // 3)
        colour = list(COLOURS.values())[draw.integers(3)]
        brush.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
    pixels = np.asarray(image).reshape(-1, 3)
    green, dead, clover = (
        SCALE * float((pixels == colour).all(1).mean()) for colour in COLOURS.values()
    )
    return image, [green, dead, clover, green + clover, green + dead + clover]


def draw_photos(folder: Path, count: int = 12, height: int = 64) -> pd.DataFrame:
    """Draw photos in a folder, and return their plain table."""
    draw = np.random.default_rng(0)
    (folder / "train").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        image, grams = draw_photo(draw, height)
        image.save(folder / "train" / f"ID{number}.png")
        about = {
            "image_path": f"train/ID{number}.png",
            "Sampling_Date": f"2015/9/{number % 4 + 4}",
            "State": ["Tas", "Vic"][number % 2],
            "Pre_GSHH_NDVI": 0.5 + number / 100,
        }
        rows.append(about | dict(zip(pasture.TARGETS, grams, strict=True)))
    return pd.DataFrame(rows)


def lengthen(table: pd.DataFrame) -> pd.DataFrame:
    """Return a plain table in the competition's long layout."""
    about = ["image_path", "Sampling_Date", "State", "Pre_GSHH_NDVI"]
    long = table.melt(
        about, list(pasture.TARGETS), var_name="target_name", value_name="target"
    )
    image = long["image_path"].str.removeprefix("train/").str.removesuffix(".png")
    long.insert(0, "sample_id", image + "__" + long["target_name"])
    return long


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread, because small networks are slower on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
