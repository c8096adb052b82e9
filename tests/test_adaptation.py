"""model.adapt: someone's model, corrected with plots of one's own ground."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import geobiomass as gb
from geobiomass.learner.correction import (
    CORRECTIONS,
    fit_correction,
    predict_out_of_fold,
)
from geobiomass.models.adapted_regressor import AdaptedRegressor
from geobiomass.models.regressor import BiomassRegressor
from geobiomass.network import AttentionUNet

BANDS = ("VV_asc", "VH_asc", "B04", "B08")
FAST: dict[str, Any] = {"trees": 20, "neighbourhoods": (3,), "progress": False}


def some(cube: xr.Dataset, count: int, seed: int = 0) -> xr.Dataset:
    """Return the cube with labels at some pixels only."""
    kept = np.zeros(cube["agb"].size, bool)
    kept[np.random.default_rng(seed).choice(kept.size, count, replace=False)] = True
    return cube.assign(agb=cube["agb"].where(kept.reshape(cube["agb"].shape)))


def ground(seed: int) -> xr.Dataset:
    return gb.landscape(96, months=2, seed=seed, version=1).sel(band=list(BANDS)).load()


@pytest.fixture(scope="module")
def first() -> BiomassRegressor:
    """A learner by pixel of other ground, where labels are three times as high."""
    cube = some(ground(0), 150)
    cube["agb"] = (3 * cube["agb"]).assign_attrs(cube["agb"].attrs)
    return gb.fit(cube, "pixels", interval=0.8, block=16, **FAST)


@pytest.fixture(scope="module")
def own() -> xr.Dataset:
    return ground(5)


@pytest.fixture(scope="module")
def adapted(first: BiomassRegressor, own: xr.Dataset) -> AdaptedRegressor:
    found = first.adapt(some(own, 80), block=16)
    assert isinstance(found, AdaptedRegressor)
    return found


def rmse(model: BiomassRegressor, cube: xr.Dataset) -> float:
    agb = model.predict(cube, check="off").compute()["agb"]
    return float(np.sqrt(((agb - cube["agb"]) ** 2).mean()))


def test_a_map_three_times_too_high_is_put_right(
    first: BiomassRegressor, adapted: AdaptedRegressor, own: xr.Dataset
) -> None:
    assert rmse(adapted, own) < 0.5 * rmse(first, own)
    history = adapted.history.set_index("stage")
    assert list(history.index) == list(CORRECTIONS)
    assert history["rmse"]["affine"] < 0.5 * history["rmse"]["none"]
    kept = history.index[history["share"] == 1].item()
    assert kept in ("affine", "gaussian process")
    assert 0.2 < float(adapted.network.slope) < 0.5
    # What was measured on held-out plots is about the error of the map.
    assert 0.6 < history["rmse"][kept] / rmse(adapted, own) < 1.6
    row = adapted.evaluate(own, bootstrap=0).loc["all"]
    assert 0.8 < row["coverage"] <= 1
    assert repr(adapted).startswith(f"AdaptedRegressor({kept} by ")


def test_the_first_model_stays_as_it_is(
    first: BiomassRegressor, adapted: AdaptedRegressor
) -> None:
    assert "adaptation" not in first.provenance
    assert first.calibration is not None
    assert first.calibration.interval == 0.8
    assert adapted.calibration is not None
    assert adapted.calibration.interval == 0.9
    assert adapted.provenance["data"] == first.provenance["data"]


@pytest.mark.parametrize("method", CORRECTIONS)
def test_it_is_saved_and_mapped_to_the_same_bits(
    method: str, first: BiomassRegressor, own: xr.Dataset, tmp_path: Path
) -> None:
    plots = some(own, 40, seed=3)
    model = first.adapt(plots, method, block=16)
    assert isinstance(model, AdaptedRegressor)
    assert list(model.history["stage"]) == [method]
    assert model.calibration is not None
    assert model.calibration.folds == 10
    model.save(tmp_path / "model")
    loaded = gb.load(tmp_path / "model")
    assert isinstance(loaded, AdaptedRegressor)
    assert repr(loaded) == repr(model)
    part = own.isel(x=slice(0, 48))
    whole = model.predict(part).compute()
    other = {"block": 33, "tile": 80, "overlap": 8}
    assert loaded.predict(part, **other).compute().equals(whole)
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"corrected by {model.provenance['adaptation']['plots']} plots" in card
    assert "adapted" in gb.describe(tmp_path / "model")
    model.predict_to(tmp_path / "map.tif", part, progress=False)
    known = gb.provenance(tmp_path / "map.tif")
    assert " plots, RMSE out of fold " in str(known)
    assert model.was_trained_on(plots)
    assert not model.was_trained_on(part)


def test_a_network_is_adapted_and_its_months_are_those_of_a_cube(
    own: xr.Dataset, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = AttentionUNet(4, "test_resnet", (8, 8, 8, 8, 8), calendar=(7, 8))
    first = BiomassRegressor(network, BANDS, 2)
    model = first.adapt(some(own, 60, seed=1), "gaussian process", block=16)
    assert isinstance(model, AdaptedRegressor)
    assert model.network.calendar == (7, 8)
    assert rmse(model, own) < 1.1 * float(own["agb"].std())
    model.save(tmp_path / "model")
    summer = own.isel(month=[1])
    maps = [
        m.predict(summer, check="off") for m in (model, gb.load(tmp_path / "model"))
    ]
    assert maps[0].compute().equals(maps[1].compute())


@pytest.mark.slow  # torch traces the graph
def test_an_adapted_network_is_exported(own: xr.Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = AttentionUNet(4, "test_resnet", (8, 8, 8, 8, 8))
    first = BiomassRegressor(network, BANDS, 2)
    plots = some(own, 60, seed=1)
    model = first.adapt(plots, "gaussian process", block=16)
    path = model.export(tmp_path / "model.pt2", height=64, width=64)
    image = torch.from_numpy(own["image"].values[None, ..., :64, :64]).float()
    with torch.inference_mode():
        found = torch.export.load(path).module()(image.clone())
        expected = model.network(image.clone())
    # A map that differs in its last bit is rounded to another step by the kernel.
    assert torch.allclose(found, expected, atol=1e-2)
    assert not torch.allclose(found, first.network(image.clone()), atol=1)
    with pytest.raises(ValueError, match="months must be 2, those of the cube"):
        model.export(tmp_path / "other.pt2", months=3, height=64, width=64)


def test_no_row_is_predicted_by_what_saw_its_group() -> None:
    draw = np.random.default_rng(1)
    mapped, table = draw.normal(size=(3, 60)), draw.normal(size=(60, 3))
    table, target = table.astype(np.float32), draw.normal(size=60)
    groups = np.arange(60) // 3
    folds = groups % 5
    for kind in CORRECTIONS:
        rows = (table, target, groups)
        found = predict_out_of_fold(kind, mapped, *rows, folds, 0)
        other = np.where(folds == 2, 1e3, target)
        moved = predict_out_of_fold(kind, mapped, table, other, groups, folds, 0)
        assert np.array_equal(found[:, folds == 2], moved[:, folds == 2])
        fitted = fit_correction(kind, mapped[0], *rows, 0)
        apart = found - found[0]
        assert np.isfinite(found).all()
        assert np.sign(apart[1:] * (mapped[1:] - mapped[0])).min() >= 0
        assert fitted.slope >= 0


def test_a_map_that_falls_where_biomass_rises_leaves_the_mean() -> None:
    mapped = np.arange(20.0)
    found = fit_correction(
        "affine", mapped, np.zeros((20, 1), np.float32), -mapped, np.arange(20), 0
    )
    assert (found.slope, found.intercept) == (0.0, -9.5)


def test_plots_in_few_blocks_are_held_out_by_smaller_ones_and_told(
    first: BiomassRegressor, own: xr.Dataset
) -> None:
    near = own.assign(agb=own["agb"].where((own.x < own.x[40]) & (own.y > own.y[40])))
    rows, columns = np.indices(near["agb"].shape)
    near["agb"] = near["agb"].where((rows % 6 == 0) & (columns % 6 == 0))
    with pytest.warns(
        UserWarning, match="held out by blocks of 16 pixels, the largest"
    ):
        model = first.adapt(near, "affine")
    assert model.calibration is not None
    with pytest.raises(gb.CubeError, match="needs at least 9 chips or blocks"):
        first.adapt(near, "affine", block=48)


def test_too_few_plots_and_wrong_calls_are_one_sentence(
    first: BiomassRegressor, adapted: AdaptedRegressor, own: xr.Dataset
) -> None:
    with pytest.raises(
        gb.CubeError, match="20 plots at least to adapt a model, got 15"
    ):
        first.adapt(some(own, 15))
    one = own.assign(agb=own["agb"].where((own.x > own.x[40]) & (own.y > own.y[40])))
    with pytest.raises(gb.CubeError, match=r"got 1\. Labels of neighbouring"):
        first.adapt(one)
    with pytest.raises(ValueError, match="method must be one of none, offset"):
        first.adapt(some(own, 40), "spline")
    with pytest.raises(TypeError, match="adapted already"):
        adapted.adapt(some(own, 40))
    with pytest.raises(TypeError, match="is not trained"):
        adapted.fit(some(own, 40))
    seen = some(ground(0), 150)
    seen["agb"] = (3 * seen["agb"]).assign_attrs(seen["agb"].attrs)
    with pytest.raises(gb.CubeError, match="was trained on this cube"):
        first.adapt(seen)
    claimed = json.loads(json.dumps(adapted.network.settings))
    claimed["adapted"]["rows"] = 2**40
    with pytest.raises(ValueError, match="rows of a correction"):
        AdaptedRegressor._network_of(claimed)
