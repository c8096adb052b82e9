"""Saved models: provenance and card, ensembles on disk, the Hugging Face Hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import make_chips, make_scene
from hub_server import hub
from huggingface_hub import ModelCard
from test_maps import BANDS, small_network

import geobiomass as gb
from geobiomass.data.fingerprint import data_fingerprint
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.loader import ChipLoader
from geobiomass.data.reader import Reader, Sample
from geobiomass.models.training_record import describe_training, validation_by_bin
from geobiomass.training.estimator import ModelError, read_config

BINS = [
    *("all", "0-50", "50-100", "100-150", "150-200", "200-300", "300-400"),
    "400 and more",
]


def model_of(factor: float = 1.0) -> gb.BiomassRegressor:
    network = small_network()
    with torch.no_grad():
        network.head.weight.mul_(factor)
    return gb.BiomassRegressor(network, BANDS, months=3)


def loaders_of(chips: xr.Dataset, held: int = 2) -> tuple[ChipLoader, ChipLoader]:
    reader = Reader(chips, BANDS)
    samples = [Sample(reader.whole, chip) for chip in range(reader.count)]
    return (
        ChipLoader(reader, samples[held:] * 2, batch_size=2),
        ChipLoader(reader, samples[:held], batch_size=2, shuffle=False),
    )


@pytest.fixture
def described() -> gb.BiomassRegressor:
    """A model with a record of its training."""
    chips = make_chips()
    chips.attrs["title"] = "Six chips"
    model = model_of()
    model.recipe = gb.Recipe(name="quick", crop=32, month_term=False)
    training, validation = loaders_of(chips)
    model.provenance = describe_training(
        LabelledCube.open(chips), model.network, training, validation
    )
    return model


def test_metrics_by_bin_are_those_of_evaluate() -> None:
    chips, model = make_chips(), model_of()
    _, validation = loaders_of(chips)
    model.network.train()
    found = validation_by_bin(model.network, validation)
    assert model.network.training
    model.network.eval()
    expected = model.evaluate(chips.isel(chip=slice(0, 2)), tile=32, overlap=0)
    np.testing.assert_allclose(
        found.to_numpy(), expected[found.columns].to_numpy(), rtol=1e-4
    )
    assert list(found.index) == list(expected.index)


def test_provenance_has_the_facts_of_the_training(described) -> None:
    facts = described.provenance
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    data = facts["data"]
    assert data["kind"] == "chips"
    assert data["months"] == [6, 7, 8]
    assert data["title"] == "Six chips"
    assert data["training"]["places"] == 4  # crops repeat them
    assert data["training"]["pixels"] == 4 * 32 * 32
    assert data["validation"]["places"] == 2
    assert facts["bands"] == list(BANDS)
    assert facts["normalisation"]["bands"]["B04"] == {"shift": 2000, "scale": 900}
    assert facts["normalisation"]["target"] == {"shift": [60.0], "scale": [40.0]}
    assert list(facts["validation"]) == BINS
    assert facts["validation"]["all"]["pixels"] == 2 * 32 * 32
    assert facts["validation"]["50-100"]["r2"] is None
    assert facts["environment"]["packages"]["torch"] == version("torch")


def test_provenance_of_a_scene_has_crs_and_bounds(scene) -> None:
    reader = Reader(scene, BANDS)
    loader = ChipLoader(reader, [Sample(reader.whole)], batch_size=1)
    data = describe_training(LabelledCube.open(scene), model_of().network, loader)
    data = data["data"]
    assert data["crs"] == "EPSG:3067"
    assert data["bounds"] == list(scene.rio.bounds())
    assert data["validation"] is None


def test_different_data_has_different_fingerprints(tmp_path: Path) -> None:
    chips = make_chips(3)
    first = data_fingerprint(chips, BANDS)
    assert data_fingerprint(chips.copy(deep=True), BANDS) == first
    changed = chips.copy(deep=True)
    changed["agb"][0, 0, 0] += 1
    others = [
        changed,
        chips.assign_coords(chip=["a", "b", "c"]),
        chips.assign(image=chips["image"] + 1),
    ]
    for other in others:
        assert data_fingerprint(other, BANDS) != first
    assert data_fingerprint(chips, BANDS[:2]) != first
    # On disk it does not depend on where that is.
    gb.write_cube(chips, tmp_path / "a.zarr")
    stored = data_fingerprint(gb.open_cube(tmp_path / "a.zarr"), BANDS)
    shutil.move(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert data_fingerprint(gb.open_cube(tmp_path / "b.zarr"), BANDS) == stored


def test_config_and_card_hold_the_provenance(described, tmp_path: Path) -> None:
    described.save(tmp_path / "model")
    config = read_config(tmp_path / "model")
    assert config["provenance"] == described.provenance
    assert config["settings"]["recipe"]["name"] == "quick"
    loaded = gb.load(tmp_path / "model")
    assert loaded.provenance == described.provenance
    assert loaded.recipe == described.recipe
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.library_name == "geobiomass"
    rmse = described.provenance["validation"]["all"]["average_rmse"]
    values = [result.metric_value for result in card.data.eval_results]
    assert round(rmse, 3) in values
    text = " ".join(card.text.split())
    assert "Mg/ha (tonnes per hectare)" in text
    assert "(Jun Jul Aug)" in text
    assert text.index("| VV_asc |") < text.index("| B04 |") < text.index("| B08 |")
    assert "Recipe `quick`" in text
    assert "Six chips: 4 chips, 4,096 pixels; 2 samples" in text
    assert f"| all | 2,048 | {rmse:.2f} |" in text
    assert "Where not to trust it" in text
    assert "fewer than 65,536 pixels were held out" in text
    assert "1000 Mg/ha and more were left out" in text
    assert "gb.load(folder)" in text


def test_a_card_of_a_network_from_elsewhere_claims_nothing(tmp_path: Path) -> None:
    model_of().save(tmp_path / "model")
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.eval_results is None
    assert "The origin of the weights is not recorded" in card.text
    assert "Not measured" in card.text


# --- ensembles ------------------------------------------------------------------


def test_an_ensemble_is_loaded_as_it_was_saved(tmp_path: Path, run) -> None:
    scene = make_scene(64, 64)
    both = gb.Ensemble([model_of(), model_of(0.7)], spread=True)
    both.save(tmp_path / "both")
    assert sorted(os.listdir(tmp_path / "both")) == [
        "README.md",
        "config.json",
        "member-1",
        "member-2",
    ]
    back = gb.load(tmp_path / "both")
    assert isinstance(back, gb.Ensemble)
    xr.testing.assert_identical(
        back.predict(scene).compute(), both.predict(scene).compute()
    )
    back.save(tmp_path / "both")  # replaced
    gb.Ensemble([back.models[0]]).save(tmp_path / "both")
    assert not (tmp_path / "both" / "member-2").exists()
    both.save(tmp_path / "both")
    gb.write_cube(scene, tmp_path / "scene.zarr")
    words = (tmp_path / "both", tmp_path / "scene.zarr")
    code, _, err = run("predict", *words, tmp_path / "map.zarr")
    assert code == 0, err
    stored = gb.open_cube(tmp_path / "scene.zarr")
    expected = both.predict(stored).compute()
    found = xr.open_zarr(tmp_path / "map.zarr").compute()
    np.testing.assert_array_equal(found.agb_spread, expected.agb_spread)
    code, out, err = run("evaluate", *words)
    assert code == 0, err
    assert f"{both.evaluate(stored).loc['all', 'average_rmse']:.2f}" in out
    code, out, err = run("info", tmp_path / "both")
    assert code == 0, err
    assert "Ensemble" in out


@pytest.mark.slow
def test_an_ensemble_may_hold_ensembles(tmp_path: Path) -> None:
    scene = make_scene(32, 32)
    inner = gb.Ensemble([model_of(), model_of(0.7)])
    outer = gb.Ensemble([inner, model_of(0.5)])
    outer.save(tmp_path / "outer")
    np.testing.assert_array_equal(
        gb.load(tmp_path / "outer").predict(scene).agb, outer.predict(scene).agb
    )


def test_a_broken_ensemble_is_named(tmp_path: Path) -> None:
    both = gb.Ensemble([model_of(), model_of(0.7)])
    folder = tmp_path / "both"
    both.save(folder)
    (folder / "member-2" / "weights.safetensors").unlink()
    with pytest.raises(ModelError, match=r"member-2.weights.safetensors is missing"):
        gb.load(folder)
    both.save(folder)
    config = json.loads((folder / "config.json").read_text())
    config["settings"]["members"] = ["../elsewhere"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="damaged"):
        gb.load(folder)
    with pytest.raises(ModelError, match=r"must hold a BiomassRegressor"):
        gb.BiomassRegressor.load(folder)
    (folder / "member-2" / "thesis.txt").write_text("ten years of work")
    with pytest.raises(ModelError, match=r"thesis\.txt"):
        both.save(folder)


def test_members_that_cannot_be_saved_are_refused(tmp_path: Path) -> None:
    from geobiomass.models.predictor import Predictor

    class Plain(Predictor):
        network, bands, outputs, months = small_network(), BANDS, ("agb",), 3

    with pytest.raises(ModelError, match="got a Plain"):
        gb.Ensemble([Plain()]).save(tmp_path / "both")
    assert not (tmp_path / "both").exists()


# --- the hub --------------------------------------------------------------------

PUSH_AND_PULL = """
import sys
from importlib.metadata import version
import numpy as np
import geobiomass as gb

folder, scene = sys.argv[1:]
cube = gb.open_cube(scene)
model = gb.load(folder)
print(model.push_to_hub("someone/forest"))
back = type(model).from_pretrained("someone/forest")
same = np.array_equal(model.predict(cube).agb, back.predict(cube).agb, equal_nan=True)
print("same" if same else "other", type(back).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["BiomassRegressor", "Ensemble"])
def test_pushed_is_pulled(tmp_path: Path, kind: str) -> None:
    model = model_of()
    saved = model if kind == "BiomassRegressor" else gb.Ensemble([model, model_of(0.7)])
    saved.save(tmp_path / "model")
    gb.write_cube(make_scene(32, 32), tmp_path / "scene.zarr")
    with hub() as (address, files):
        result = subprocess.run(
            [
                *(sys.executable, "-c", PUSH_AND_PULL),
                *(str(tmp_path / "model"), str(tmp_path / "scene.zarr")),
            ],
            env=os.environ
            | {
                "HF_ENDPOINT": address,
                "HF_HOME": str(tmp_path / "cache"),
                "HF_TOKEN": "hf_of_nobody",
                "HF_HUB_DISABLE_XET": "1",
                "NO_PROXY": "127.0.0.1",
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert result.returncode == 0, result.stderr
    address_of_commit, outcome = result.stdout.splitlines()[-2:]
    # The commit's address; before huggingface-hub 1, that of the branch.
    assert address_of_commit.startswith(f"{address}/someone/forest/")
    assert outcome == f"same {kind}"
    on_disk = {
        file.relative_to(tmp_path / "model").as_posix()
        for file in (tmp_path / "model").rglob("*")
        if file.is_file()
    }
    assert on_disk <= set(files)
    assert files["README.md"].startswith(b"---\n")
