"""An encoder that begins with trained weights, frozen or not, and says so."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import xarray as xr
from torch import Tensor

import geobiomass as gb
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.splits import repeated
from geobiomass.info import describe
from geobiomass.metadata.record import model_facts
from geobiomass.models.fit_members import untrained
from geobiomass.network import AttentionUNet
from geobiomass.network.weight_packages import (
    _FIRST_STAGE,
    _OTHER_STAGES,
    _STEM,
    WEIGHT_PACKAGES,
)
from geobiomass.recipes.datasets import make_loaders
from geobiomass.recipes.recipe import find_recipe
from geobiomass.tiles import Sample, Window

LITE = "efficientnet-lite0"
PACKAGE = WEIGHT_PACKAGES[LITE]
CHANNELS = (8, 8, 8, 8, 8)
TINY: dict[str, Any] = {
    "encoder": "test_resnet",
    "decoder_channels": CHANNELS,
    "progress": False,
    "crop": 32,
    "block": 32,
    "validation_fraction": 0.0,
    "keep": "last",
    "domain_cells": 0,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    model = timm.create_model("test_resnet")
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.uniform_(-0.1, 0.1)
    file = tmp_path_factory.mktemp("weights") / "donor.pth"
    torch.save(model.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def scene() -> xr.Dataset:
    scene = gb.landscape((64, 64), months=2, seed=4, version=1).compute()
    draw = np.random.default_rng(0).random(scene["agb"].shape)
    return scene.assign(agb=scene["agb"].where(draw < 0.05))


def fit(scene: xr.Dataset, **settings: Any) -> gb.BiomassRegressor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return gb.fit(scene, "quick", **TINY | settings)


@pytest.fixture(scope="module")
def frozen(weights: Path, scene: xr.Dataset) -> gb.BiomassRegressor:
    # Crops of 32: norms are measured on tiles afterwards, but not those of the encoder.
    return fit(scene, epochs=2, pretrained=str(weights), frozen=1.0)


def authors_names(full: torch.nn.Module) -> dict[str, Tensor]:
    """Return timm's weights under the names of the file in the package."""
    first, others = (
        {b: a for a, b in d.items()} for d in (_FIRST_STAGE, _OTHER_STAGES)
    )
    stem = {theirs: ours for ours, theirs in _STEM.items()}
    sizes = [len(stage) for stage in full.blocks]
    found = {}
    for name, value in full.state_dict().items():
        part, *rest = name.split(".")
        if part == "blocks":
            stage, block, part, last = rest
            number = sum(sizes[: int(stage)]) + int(block)
            part = (others if int(stage) else first)[part]
            found[f"_blocks.{number}.{part}.{last}"] = value
        else:
            found[f"{stem[part]}.{rest[0]}"] = value
    return found


def test_weights_of_a_package_load_by_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, channels = PACKAGE.encoder, CHANNELS
    with pytest.raises(ValueError, match=f"encoder '{name}', got encoder 'resnet18'"):
        AttentionUNet(3, "resnet18", channels, pretrained=LITE)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=f"pip install {PACKAGE.package}$"):
        AttentionUNet(3, name, channels, pretrained=LITE)
    monkeypatch.undo()

    folder = tmp_path / "site" / PACKAGE.module / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('it is imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(
        ValueError, match=r"must be one file .*got 0 in .*install it ag"
    ):
        AttentionUNet(3, name, channels, pretrained=LITE)
    torch.manual_seed(5)
    full = timm.create_model(name)
    expected = full.state_dict()
    file = folder / "efficientnet-lite0-12345678.pth"
    torch.save(authors_names(full), file)
    network = AttentionUNet(3, name, channels, pretrained=LITE)
    own = network.encoder.state_dict()
    assert len(own) == 288
    assert all(value.equal(expected[one]) for one, value in own.items())
    told = str(network.encoder.pretrained_from)
    assert "288 tensors of efficientnet-lite0-12345678.pth, trained on ImageN" in told
    assert re.search(r"SHA-256 [0-9a-f]{16}$", told)
    # Some of it is not enough.
    lacking = authors_names(full)
    del lacking["_blocks.15._project_conv.weight"]
    torch.save(lacking, file)
    with pytest.raises(ValueError, match=r"blocks\.6\.0\.conv_pwl\.weight"):
        AttentionUNet(3, name, channels, pretrained=LITE)
    # A file of the user's with that name comes first, as before.
    monkeypatch.chdir(tmp_path)
    torch.save(expected, tmp_path / LITE)
    network = AttentionUNet(3, name, channels, pretrained=LITE)
    assert "trained on" not in str(network.encoder.pretrained_from)


def test_the_weights_of_the_package_index_are_whole() -> None:
    pytest.importorskip(PACKAGE.module, reason="the extra 'pretrained' is not there")
    network = AttentionUNet(3, PACKAGE.encoder, CHANNELS, pretrained=LITE)
    loaded: Any = network.encoder.pretrained_from
    assert (loaded.tensors, loaded.left_out) == (288, 8)
    # Its authors put the beginning of the checksum into the file's name.
    assert loaded.file == f"efficientnet-lite0-{loaded.sha256[:8]}.pth"


def test_a_frozen_encoder_is_told_and_keeps_its_bits(
    weights: Path, frozen: gb.BiomassRegressor, tmp_path: Path
) -> None:
    donor = torch.load(weights, weights_only=True)
    model = frozen
    own = model.network.encoder.state_dict()
    changed = [name for name, value in own.items() if not value.equal(donor[name])]
    assert changed == ["conv1.0.weight"]  # of 15 bands, made of three
    assert own["conv1.0.weight"].shape[1] == 15
    begun = donor["conv1.0.weight"].repeat(1, 5, 1, 1) / 5
    assert not own["conv1.0.weight"].allclose(begun)
    words = "the encoder in all epochs, but conv1.0.weight"
    assert model.provenance["frozen"] == words
    assert "test_resnet pretrained frozen, 15 bands" in repr(model)
    model.save(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"Frozen in training: {words}." in card
    assert f"The encoder began with {len(own)} tensors of donor.pth" in card
    again = gb.load(tmp_path / "model")
    assert again.provenance["frozen"] == words
    assert again.recipe.frozen == 1.0
    assert model_facts(again)["frozen"] == words
    for told in (describe(tmp_path / "model"), describe(again)):
        assert words in str(told)
        assert "donor.pth" in str(told)


@pytest.mark.slow
def test_a_half_frozen_encoder_learns_in_the_other_half(
    weights: Path, scene: xr.Dataset
) -> None:
    donor = torch.load(weights, weights_only=True)
    model = fit(scene, epochs=2, pretrained=str(weights), frozen=0.2)
    words = "the encoder in the first epoch, but conv1.0.weight"
    assert model.provenance["frozen"] == words
    own = model.network.encoder.state_dict()
    kernel = "layer4.0.conv1.weight"
    assert not own[kernel].equal(donor[kernel])
    # One step less than without freezing: the weights are nearer to their first ones.
    free = fit(scene, epochs=2, pretrained=str(weights))
    assert "frozen" not in free.provenance
    assert "frozen" not in repr(free)
    far = (free.network.encoder.state_dict()[kernel] - donor[kernel]).norm()
    assert (own[kernel] - donor[kernel]).norm() < 0.9 * far


def test_settings_that_freeze_nothing_or_too_much_are_refused(
    scene: xr.Dataset,
) -> None:
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="frozen must be from 0 to 1, got"):
            find_recipe("quick", frozen=share, pretrained=True)
    with pytest.raises(ValueError, match=r"random weights, got 0\.5 with pretrai"):
        find_recipe("quick", frozen=0.5)
    with pytest.raises(ValueError, match="crops must be at least 1 crop, got 0"):
        find_recipe("quick", crops=0)
    with pytest.raises(ValueError, match=r"crops must be .* got 8\.5\.$"):
        find_recipe("quick", crops=8.5)
    for name in ("frozen", "crops"):
        with pytest.raises(ValueError, match=f"{name} is a setting of networks"):
            gb.fit(scene, "pixels", **{name: 1})


def test_the_recipe_for_few_labels_is_a_small_network(scene: xr.Dataset) -> None:
    sparse, quick = find_recipe("sparse"), find_recipe("quick")
    assert (sparse.levels, sparse.crop, sparse.training.epochs) == ("crop", 32, 70)
    same = {"name": "quick", "levels": "all", "crop": 64, "epochs": 20}
    assert sparse.with_changes(**same) == quick
    network = untrained(scene, "sparse").network
    assert network.settings["levels"] == 2
    assert sum(weight.numel() for weight in network.parameters()) < 200_000


def test_an_epoch_has_as_many_crops_as_asked(scene: xr.Dataset) -> None:
    units = [Sample(Window(i, 0, i + 1, 1)) for i in range(3)]
    found = repeated(units, 8)
    assert sorted(found.count(unit) for unit in units) == [2, 3, 3]
    assert repeated(units, 2) == units
    data = LabelledCube.open(scene)
    counts = {}
    for crops in (None, 40, 2):
        loaders = make_loaders(data, find_recipe("quick", **TINY, crops=crops))
        samples = loaders.training.samples
        counts[crops] = (len(samples), len(set(samples)))
        assert loaders.training.batches_per_epoch() == -(-len(samples) // 8)
    # None of the four blocks is left out, where fewer crops are asked for.
    assert counts == {None: (4, 4), 40: (40, 4), 2: (4, 4)}
