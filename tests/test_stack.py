"""A learner by pixel with the map of a network as one more feature: gb.fit keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from test_choice import CALL, TINY, landscape, plots

import geobiomass as gb
from geobiomass.learner.stack_network import MAP
from geobiomass.models import choice_verdict, compare_learners
from geobiomass.models.stack_regressor import StackRegressor
from geobiomass.recipes.recipe import RECIPES

MORE: dict[str, Any] = CALL | {"minutes": 5, "interval": 0.6}


@pytest.fixture(scope="module")
def full() -> xr.Dataset:
    cube = landscape()
    image = cube["image"].copy()
    image[1, :, 10:40, 20:60] = np.nan
    image[:, :, 80:, 90:] = np.nan
    return cube.assign(image=image)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stack") / "run"


@pytest.fixture(scope="module")
def model(full: xr.Dataset, folder: Path) -> Any:
    """A stack; it is kept whatever its error."""
    with pytest.MonkeyPatch().context() as patch:
        tiny = RECIPES["quick"].with_changes(**TINY)
        patch.setitem(RECIPES, "sparse", tiny)
        patch.setattr(compare_learners, "_WORSE", 1e9)
        patch.setattr(choice_verdict, "simplest_of_best", lambda *_: "stack")
        yield gb.fit(plots(full), folder=folder, **MORE)


@pytest.mark.slow
def test_a_stack_is_compared_and_has_the_interface_of_a_model(
    full: xr.Dataset, model: Any, tmp_path: Path
) -> None:
    assert isinstance(model, StackRegressor)
    rows = model.choice.set_index("learner")
    assert list(rows.index) == ["pixels", "network", "stack", "ridge", "mean"]
    assert rows.loc["stack", "kept"]
    assert 0 < rows.loc["stack", "rmse"] < rows.loc["mean", "rmse"]
    # Each label is predicted with a map of a network that did not see it.
    assert abs(rows.loc["stack", "rmse"] / rows.loc["pixels", "rmse"] - 1) < 0.3
    assert model.features[-1] == MAP
    assert repr(model).startswith("StackRegressor(test_resnet + extra trees")
    whole = model.predict(full, applicability=True).compute()
    assert set(whole) >= {"agb", "agb_lower", "agb_upper", "applicable"}
    assert np.isnan(whole["agb"].values[80:, 90:]).all()
    assert np.isfinite(whole["agb"].values[:80]).all()
    other = model.predict(full, block=33).compute()
    for name in ("agb", "agb_lower", "agb_upper"):
        assert np.array_equal(other[name], whole[name], equal_nan=True)
    model.predict_to(tmp_path / "map.zarr", full, progress=False, block=48)
    with xr.open_zarr(tmp_path / "map.zarr") as written:
        assert np.array_equal(written["agb"], whole["agb"], equal_nan=True)
    # The map of the network is a feature: another network gives another map.
    image = torch.from_numpy(full["image"].values[None].astype(np.float32))
    with torch.inference_mode():
        plain = model.network(image)[0, 0].numpy()
        z = model.network.inner(image.clone())[0, 0].clamp_min(0)
        features = model.network._features_of(image, None)
        assert torch.equal(features[0, -1], z)
    seen = np.isfinite(whole["agb"].values)
    assert np.array_equal(np.maximum(plain, 0)[seen], whole["agb"].values[seen])


@pytest.mark.slow
def test_a_stack_is_saved_and_loaded_to_the_bit(
    full: xr.Dataset, model: Any, tmp_path: Path
) -> None:
    model.save(tmp_path / "model")
    loaded = gb.load(tmp_path / "model")
    maps = [m.predict(full, applicability=True).compute() for m in (model, loaded)]
    assert maps[0].equals(maps[1])
    assert loaded.choice.equals(model.choice)
    assert repr(loaded) == repr(model)
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {
        *("config.json", "weights.safetensors", "history.csv", "README.md"),
        "domain.safetensors",
    }
    card = (tmp_path / "model" / "README.md").read_text()
    assert "from the map of a network (encoder `test_resnet`)" in card
    assert "map of test_resnet" in str(gb.describe(tmp_path / "model"))
    with pytest.raises(ValueError, match="recipe must not be that of a stack"):
        gb.fit(plots(full), loaded.recipe)


@pytest.mark.slow
def test_the_same_call_reads_the_stack(
    full: xr.Dataset, model: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_learners, "held_out_of_fold", None)
    again = gb.fit(plots(full), folder=folder, **MORE)
    assert again.predict(full).compute().equals(model.predict(full).compute())
    assert again.choice.equals(model.choice)


@pytest.mark.slow
def test_a_stack_is_exported_as_one_graph(
    full: xr.Dataset, model: Any, tmp_path: Path
) -> None:
    path = model.export(tmp_path / "model.pt2", height=64, width=64)
    image = torch.from_numpy(full["image"].values[None, ..., :64, :64])
    image = image.float().expand(2, -1, -1, -1, -1)
    with torch.inference_mode():
        mapped = torch.export.load(path).module()(image)
        expected = model.network(image)
    assert torch.allclose(mapped, expected, atol=1e-3)
