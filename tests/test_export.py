"""Exported graphs return the same maps as the network, without this package."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from new_process import NewProcesses
from test_maps import BANDS, small_network
from torch import Tensor

import geobiomass as gb
from geobiomass.network import AttentionUNet

# Adding twelve months in another order changes the last digits of float32 only.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
MONTHS = (6, 7, 8)
KINDS = {
    "validity": {"missing": "validity", "passes": (1, 0, 0), "calendar": MONTHS},
    "renormalise": {"missing": "renormalise", "passes": (1, 0, 0)},
    "efficientnet": {"encoder": "tf_efficientnetv2_b0"},
}


def network_of(encoder: str = "test_resnet", **settings) -> AttentionUNet:
    torch.manual_seed(0)
    network = AttentionUNet(3, encoder, (16, 16, 16, 16, 16), **settings)
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.randn(2, 3, 3, 64, 64))
        for attention in network.attention:
            if attention.season is not None:
                attention.season.weight.normal_()
    network.set_statistics([-10, 2000, 2000], [5, 900, 900], [60], [40])
    return network.eval()


def images(count: int, height: int, width: int) -> dict[str, Tensor]:
    """Images in physical units, complete and not."""
    draw = torch.Generator().manual_seed(1)
    shape = (count, 3, 3, height, width)
    complete = (
        torch.randn(shape, generator=draw)
        * torch.tensor([5, 900, 900.0])[:, None, None]
        + torch.tensor([-10, 2000, 2000.0])[:, None, None]
    )
    found = {"complete": complete}
    for name in ("months", "passes", "pixels", "nothing"):
        found[name] = complete.clone()
    found["months"][0, 1] = torch.nan  # one sample lacks July
    found["passes"][:, 0, 1:] = torch.nan  # no optical bands in June
    found["pixels"][:, :, :, 3:9, 5:20] = torch.nan
    found["nothing"][0] = torch.nan
    found["ragged"] = found["passes"].clone()
    found["ragged"][0, 1:] = torch.nan
    return found


def graph_of(path: Path) -> Callable[[Tensor], np.ndarray]:
    if path.suffix == ".onnx":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        return lambda image: session.run(None, {"image": image.numpy()})[0]
    module = torch.export.load(path).module()
    return lambda image: module(image).detach().numpy()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "ending"),
    [("validity", ".pt2"), ("renormalise", ".onnx"), ("efficientnet", ".onnx")],
)
def test_the_graph_returns_the_maps_of_the_network(
    tmp_path: Path, kind: str, ending: str
) -> None:
    network = network_of(**KINDS[kind])
    model = gb.BiomassRegressor(network, BANDS, months=3)
    # Neither side is a multiple of the network's stride.
    graph = graph_of(model.export(tmp_path / f"model{ending}", height=32, width=40))
    for count in (1, 3):
        for name, image in images(count, 32, 40).items():
            with torch.no_grad():
                expected = network(image).numpy()
            before = image.clone()
            np.testing.assert_allclose(graph(image), expected, **CLOSE, err_msg=name)
            assert torch.equal(image.nan_to_num(), before.nan_to_num())


@pytest.mark.slow
def test_the_command_writes_a_graph_of_an_ensemble(tmp_path: Path, run) -> None:
    other = small_network()
    with torch.no_grad():
        other.head.weight.mul_(0.7)
    models = [gb.BiomassRegressor(net, BANDS, 3) for net in (small_network(), other)]
    narrow = AttentionUNet(2, "test_resnet", (16, 16, 16, 16, 16)).eval()
    narrow.set_statistics([2000, -10], [900, 5], [60], [40])
    models.append(gb.BiomassRegressor(narrow, ("B08", "VV_asc"), 3))
    both = gb.Ensemble(models, spread=True)
    both.save(tmp_path / "both")
    path = tmp_path / "both.pt2"
    size = ("--height", 32, "--width", 64)
    code, out, err = run("export", tmp_path / "both", path, *size)
    assert code == 0, err
    assert "(any, 3, 3, 32, 64)" in out
    assert (
        list(tmp_path.iterdir()) == [tmp_path / "both", path]
        or len(list(tmp_path.iterdir())) == 2
    )
    image = images(2, 32, 64)["ragged"]
    with torch.no_grad():
        expected = both.network(image).numpy()
    assert expected.shape[1] == 2
    np.testing.assert_allclose(graph_of(path)(image), expected, **CLOSE)


@pytest.mark.slow
def test_a_graph_runs_without_this_package(
    tmp_path: Path, new_process: NewProcesses
) -> None:
    network = small_network()
    model = gb.BiomassRegressor(network, BANDS, 3)
    path = model.export(tmp_path / "model.pt2", height=32, width=32)
    image = images(2, 32, 32)["months"]
    np.save(tmp_path / "image.npy", image.numpy())
    script = (
        "import sys, numpy, torch; sys.modules['geobiomass'] = None; "
        f"image = torch.from_numpy(numpy.load({str(tmp_path / 'image.npy')!r})); "
        f"graph = torch.export.load({str(path)!r}).module(); "
        f"numpy.save({str(tmp_path / 'maps.npy')!r}, graph(image).detach().numpy())"
    )
    done = new_process(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = network(image).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "maps.npy"), expected, **CLOSE)
    notes = {"outputs": "", "units": ""}
    torch.export.load(path, extra_files=notes)
    assert notes == {"outputs": "agb", "units": "Mg/ha"}


@pytest.mark.slow
def test_exporting_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    network = small_network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    gb.BiomassRegressor(network, BANDS, 3).export(
        tmp_path / "model.pt2", height=32, width=32
    )
    assert network.training
    for name, value in network.state_dict().items():
        assert value.equal(before[name]), name


def test_what_cannot_be_exported(tmp_path: Path, run, monkeypatch) -> None:
    model = gb.BiomassRegressor(small_network(), BANDS, 3)
    with pytest.raises(ValueError, match=r"ends in \.pt2 or \.onnx, got"):
        model.export(tmp_path / "model.tflite")
    with pytest.raises(ValueError, match="must be at least 1"):
        model.export(tmp_path / "model.pt2", height=0)
    with pytest.raises(ValueError, match="does not exist"):
        model.export(tmp_path / "gone" / "model.pt2", height=32, width=32)
    seasonal = gb.BiomassRegressor(network_of(calendar=MONTHS), BANDS, 3)
    with pytest.raises(ValueError, match="months must be 3"):
        seasonal.export(tmp_path / "model.pt2", months=12)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r"geobiomass\[export\]"):
        model.export(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
