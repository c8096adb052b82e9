"""Counts of labels are labels, not pixels; what is unknown is said to be unknown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import make_scene

import geobiomass as gb

QUICK: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 4,
    "crop": 32,
    "block": 32,
    "encoder": "test_resnet",
    "decoder_channels": (16, 16, 16, 16, 16),
    "progress": False,
}
LABELS = 59  # in the training part
HELD = 11


@pytest.fixture(scope="module")
def scene() -> xr.Dataset:
    """Return a scene with few labels, the left part for training."""
    scene = make_scene(64, 128, months=(6, 7))
    known = np.zeros(64 * 64, bool)
    draw = np.random.default_rng(0)
    known[draw.choice(known.size, LABELS, replace=False)] = True
    labels = scene["agb"].where(False).copy()
    part = np.full((64, 64), np.nan, np.float32)
    part[known.reshape(64, 64)] = scene["agb"].values[:, :64][known.reshape(64, 64)]
    labels.values[:, :64] = part
    labels.values[3, 80 : 80 + HELD] = scene["agb"].values[3, 80 : 80 + HELD]
    return scene.assign(agb=labels.assign_attrs(scene["agb"].attrs))


@pytest.fixture(scope="module")
def model(scene: xr.Dataset) -> gb.BiomassRegressor:
    left, right = scene.isel(x=slice(0, 64)), scene.isel(x=slice(64, None))
    return gb.fit(left, "quick", right, **QUICK)


def test_the_record_counts_labels(model: gb.BiomassRegressor) -> None:
    data = model.provenance["data"]
    assert data["training"]["labels"] == LABELS
    assert data["training"]["pixels"] == 64 * 64
    assert data["validation"]["labels"] == HELD


def test_card_and_summaries_say_labels(
    model: gb.BiomassRegressor, scene: xr.Dataset, tmp_path: Path
) -> None:
    model.save(tmp_path / "model")
    words = f"{LABELS} labels in 4,096 pixels"
    card = (tmp_path / "model" / "README.md").read_text()
    assert words in card
    assert f"{HELD} labels in " in card
    assert words in gb.describe(tmp_path / "model").facts["trained on"]
    assert words in str(gb.provenance(model.predict(scene)))


@pytest.mark.slow
def test_the_report_says_labels_and_what_is_not_known(
    model: gb.BiomassRegressor, scene: xr.Dataset, tmp_path: Path
) -> None:
    without = model.predict(scene).compute()
    path = gb.write_report(
        model, scene, tmp_path / "report.html", map=without, progress=False
    )
    text = " ".join(re.sub(r"<[^>]+>", " ", path.read_text()).split())
    assert f"{LABELS} labels in 4,096 pixels" in text
    assert "trained on 4 blocks of a scene, 4,096 pixels" not in text
    assert "the map has no layers of applicability" in text
    assert "has an observation." not in text


@pytest.mark.slow
def test_pixels_that_all_have_a_label_are_pixels() -> None:
    dense = make_scene(64, 64, months=(6, 7))
    model = gb.fit(dense, "quick", validation=0.0, **QUICK)
    assert "4 blocks of a scene, 4,096 pixels" in model._card()
    assert "labels in" not in model._card()
