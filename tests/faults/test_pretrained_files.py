"""A file of weights is loaded whole, or refused with the names that differ."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from geobiomass.network import AttentionUNet

CHANNELS = (8, 8, 8, 8, 8)
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    torch.manual_seed(3)
    full: Weights = timm.create_model("test_resnet", num_classes=7).state_dict()
    return full


def load(path: Path, content: Any, bands: int = 3) -> tuple[AttentionUNet, list[str]]:
    torch.save(content, path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        network = AttentionUNet(bands, "test_resnet", CHANNELS, pretrained=path)
    return network, [str(one.message) for one in told]


def prefixed(weights: Weights, prefix: str) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


@pytest.mark.parametrize(
    "prefix",
    ["encoder.", "module.", "model.", "backbone.", "net.", "module._orig_mod.model."],
)
def test_prefixes_and_dictionaries_of_trainers_are_found_and_told(
    weights: Weights, prefix: str, tmp_path: Path
) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}}
    content = {
        "state_dict": prefixed(weights, prefix),
        "epoch": 3,
        "optimizer": optimizer,
    }
    network, told = load(tmp_path / "last.ckpt", content)
    found = network.encoder.state_dict()
    assert all(value.equal(weights[name]) for name, value in found.items())
    (sentence,) = told
    assert (
        f"{len(found)} tensors of last.ckpt below 'state_dict > {prefix}'" in sentence
    )
    assert "2 others left out" in sentence  # the classifier
    assert str(network.encoder.pretrained_from) in sentence


def test_an_average_is_chosen_and_two_networks_are_refused(
    weights: Weights, tmp_path: Path
) -> None:
    other = {name: value + 1 for name, value in weights.items()}
    both = {"state_dict": other, "state_dict_ema": weights}
    network, (sentence,) = load(tmp_path / "both.pth", both)
    first = network.encoder.state_dict()
    assert all(value.equal(weights[name]) for name, value in first.items())
    assert "state_dict_ema" in sentence
    with pytest.raises(ValueError, match="2 that fit, below one, two"):
        load(tmp_path / "two.pth", {"one": other, "two": weights})
    # The same weights twice are no question.
    load(tmp_path / "same.pth", {"one": weights, "two": dict(weights)})


def test_other_bands_are_told_and_a_missing_head_is_right(
    weights: Weights, tmp_path: Path
) -> None:
    headless = {name: v for name, v in weights.items() if not name.startswith("fc")}
    network, told = load(tmp_path / "plain.pth", headless)
    assert told == []
    assert network.encoder.conv1[0].weight.equal(weights["conv1.0.weight"])
    network, (sentence,) = load(tmp_path / "bands.pth", headless, bands=6)
    assert "repeated from 3 to 6 channels" in sentence
    # timm's rule: RGB repeated, and scaled so that the sum over channels stays.
    expected = weights["conv1.0.weight"].repeat(1, 2, 1, 1) / 2
    assert network.encoder.conv1[0].weight.allclose(expected)


def test_what_does_not_fit_is_refused_with_names(
    weights: Weights, tmp_path: Path
) -> None:
    name = "layer2.0.conv1.weight"
    without = {one: value for one, value in weights.items() if one != name}
    cases: list[tuple[object, str]] = [
        ({"x": torch.ones(3)}, r"got none of its \d+ tensors \(conv1\.0\.weight"),
        ([1, 2], "got none of its"),
        (without, rf"{name}, which is \(.*\) in the encoder and missing"),
        (weights | {name: torch.ones(2, 2)}, rf"{name}.* and \(2, 2\) in the file"),
        (weights | {"layer9.weight": torch.ones(2)}, r"layer9\.weight, which is miss"),
        (weights | {name: weights[name].to(torch.int8)}, r"torch\.int8 in the file"),
        (weights | {name: weights[name] / 0}, rf"must be finite, got \d+ of .*{name}"),
        (
            weights | {"conv1.0.weight": torch.ones(8, 5, 3, 3)},
            r"conv1\.0\.weight.*\(8, 5, 3, 3\)",
        ),
        (prefixed(without, "model."), "below 'model.'"),
        # Finite in the file, infinite in the network's type.
        (weights | {name: weights[name].double() * 1e300}, "must be finite, got"),
        (weights | {name: weights[name].to("meta")}, "a shape without values"),
        ({one: torch.zeros_like(v) for one, v in weights.items()}, "got 0 in all"),
        (
            weights | {"conv1.1.running_var": -weights["conv1.1.running_var"]},
            r"must not be negative, got -1 in conv1\.1\.running_var",
        ),
    ]
    for content, message in cases:
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "wrong.pth", content)
    for given in (5, ["a.pth"]):
        with pytest.raises(ValueError, match="must be a file of weights, True or Fal"):
            AttentionUNet(3, "test_resnet", CHANNELS, pretrained=given)  # type: ignore[arg-type]
    for ending in ("pth", "safetensors"):
        junk = tmp_path / f"junk.{ending}"
        junk.write_bytes(b"no weights" * 20)
        with pytest.raises(ValueError, match=rf"junk\.{ending} must be a safetensors"):
            AttentionUNet(3, "test_resnet", CHANNELS, pretrained=junk)


def test_the_encoder_of_a_saved_network_begins_another(tmp_path: Path) -> None:
    donor = AttentionUNet(3, "test_resnet", CHANNELS)
    save_file(donor.state_dict(), tmp_path / "whole.safetensors")
    with pytest.warns(UserWarning, match=r"below 'encoder\.'"):
        network = AttentionUNet(
            3, "test_resnet", CHANNELS, pretrained=tmp_path / "whole.safetensors"
        )
    expected = donor.encoder.state_dict()
    for name, value in network.encoder.state_dict().items():
        assert value.equal(expected[name]), name
