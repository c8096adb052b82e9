import os

import pytest
import torch
from torch import nn

from geobiomass.training.weights import (
    MovingAverage,
    average_weights,
    load_weights,
    save_weights,
)


def network(seed: int, width: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))


def equal(one, other) -> bool:
    return list(one) == list(other) and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture
def files(tmp_path):
    paths = []
    for seed in range(3):
        net = network(seed)
        net[1].num_batches_tracked += seed
        paths.append(tmp_path / f"{seed}.safetensors")
        save_weights(net, paths[-1])
    return paths


def test_saved_weights_are_loaded_to_the_bit(tmp_path):
    source, target = network(0), network(1)
    save_weights(source, tmp_path / "w.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]
    load_weights(target, tmp_path / "w.safetensors")
    assert equal(source.state_dict(), target.state_dict())


def test_tied_weights_come_back_tied(tmp_path):
    def tied(seed):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        net[1].weight = net[0].weight
        return net

    source, target = tied(0), tied(1)
    save_weights(source, tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    assert equal(source.state_dict(), target.state_dict())
    assert target[0].weight is target[1].weight


def test_slices_of_one_tensor_are_saved(tmp_path):
    net = nn.Module()
    whole = torch.arange(6.0)
    net.register_buffer("first", whole[:3])
    net.register_buffer("second", whole[3:])
    net.register_buffer("turned", torch.arange(6.0).reshape(2, 3).T)
    save_weights(net, tmp_path / "w.safetensors")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    whole.zero_()
    net.turned.zero_()
    load_weights(net, tmp_path / "w.safetensors")
    assert equal(before, net.state_dict())


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_weights(network(0), path)
    before = path.read_bytes()

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(network(1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_other_networks_weights_are_refused(tmp_path):
    save_weights(network(0), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"0\.weight is \(5, 3\).*\(4, 3\)"):
        load_weights(network(0, width=5), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"1\.\w+ is in .*not in the module"):
        load_weights(nn.Sequential(nn.Linear(3, 4)), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"2\.weight is in the module and not"):
        load_weights(
            nn.Sequential(*network(0), nn.Linear(1, 1)), tmp_path / "w.safetensors"
        )


@pytest.mark.parametrize("name", ["w.safetensors", "last.ckpt"])
def test_damaged_and_missing_files_are_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name):
        load_weights(network(0), tmp_path / name)
    (tmp_path / name).write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match=f"{name} is not a whole"):
        load_weights(network(0), tmp_path / name)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    torch.save({"state_dict": Bomb()}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="tensors and plain values"):
        load_weights(network(0), tmp_path / "last.ckpt")
    assert not (tmp_path / "exploded").exists()


def test_the_average_is_the_mean_in_float64(files):
    states = []
    for path in files:
        net = network(9)
        load_weights(net, path)
        states.append(net.state_dict())
    averaged = average_weights(files)
    for name, value in averaged.items():
        stack = torch.stack([state[name] for state in states])
        if value.is_floating_point():
            expected = stack.double().mean(0)
            assert torch.equal(value, expected.float())
        else:
            assert torch.equal(value, stack[-1])
    assert averaged["1.num_batches_tracked"] == 2
    network(0).load_state_dict(averaged)


def test_the_same_file_counts_once(files, tmp_path):
    link = tmp_path / "link.safetensors"
    link.symlink_to(files[0])
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(files[0].read_bytes())
    assert equal(
        average_weights([*files[:2], files[0], link, copy]), average_weights(files[:2])
    )
    assert equal(average_weights([files[0], copy]), average_weights(files[:1]))


def test_averages_of_different_networks_are_refused(files, tmp_path):
    save_weights(network(0, width=5), tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match=r"0\.\w+ is \(4,.*\(5,"):
        average_weights([*files, tmp_path / "wide.safetensors"])
    with pytest.raises(ValueError, match="at least one"):
        average_weights([])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        average_weights([tmp_path / "nowhere.safetensors"])


def test_the_moving_average_follows_its_formula():
    net = network(0)
    average = MovingAverage(net, 0.9)
    expected = net[0].weight.detach().double().clone()
    for update in range(1, 200):
        with torch.no_grad():
            net[0].weight += 0.1
        net[1].num_batches_tracked += 1
        average.update(net)
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * net[0].weight.detach().double()
    torch.testing.assert_close(
        average.weights["0.weight"].double(), expected, rtol=1e-5, atol=0
    )
    assert average.weights["1.num_batches_tracked"] == 199


def test_the_average_is_lent_and_given_back():
    net = network(0)
    average = MovingAverage(net, 0.5)
    own = {name: value.clone() for name, value in average.weights.items()}
    with torch.no_grad():
        net[0].weight.fill_(7.0)
    with average.applied(net):
        assert equal(net.state_dict(), own)
    assert (net[0].weight == 7).all()
    assert equal(average.weights, own)


def test_the_average_continues_from_its_state():
    def steps(net, average, count):
        for _ in range(count):
            with torch.no_grad():
                net[0].weight.mul_(1.1)
            average.update(net)

    whole, parts = network(0), network(0)
    through = MovingAverage(whole, 0.99)
    steps(whole, through, 8)
    first = MovingAverage(parts, 0.99)
    steps(parts, first, 3)
    second = MovingAverage(network(1), 0.99)
    second.load_state_dict(first.state_dict())
    steps(parts, second, 5)
    assert equal(through.weights, second.weights)
    with pytest.raises(ValueError, match="decay"):
        MovingAverage(whole, 1.0)
