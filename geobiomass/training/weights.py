"""Weights on disk and their averages, in files that cannot run code."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .checkpoint_checks import check_whole
from .files import replacing, sha256_of_file

__all__ = [
    "MovingAverage",
    "average_weights",
    "load_weights",
    "read_weights",
    "save_weights",
]

_NETWORK = "network."


def save_weights(module: nn.Module, path: str | Path) -> None:
    """Write a module's parameters and buffers as a safetensors file.

    The file is written whole or not at all. Tensors that share memory are written
    under each of their names.

    Parameters
    ----------
    module
        Any module, on any device.
    path
        The file to write; an existing file is replaced.
    """
    with replacing(Path(path)) as part:
        save_file(_separate(module.state_dict()), part)


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load the weights of a file into a module.

    Parameters
    ----------
    module
        The module, which is changed in place.
    path
        A safetensors file or a checkpoint of the trainer.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or its names or shapes differ from the module's.
    """
    weights = read_weights(path)
    _check_same(module.state_dict(), weights, "the module", str(path))
    module.load_state_dict(weights)


def check_shapes(expected: Mapping[str, Tensor], path: str | Path) -> None:
    """Check that a file has weights of some names and shapes; no values are read.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load_weights` does.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file with weights at {path}")
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    found = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    _check_same(expected, found, "the module", str(path))


@contextmanager
def without_memory() -> Iterator[None]:
    """Make modules within the `with` statement without memory for their weights.

    The state of the random numbers is the same afterwards.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        yield


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the weights in a safetensors file or in a checkpoint of the trainer.

    From a checkpoint it reads the weights that the trainer evaluates: the moving
    average if there is one.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file with weights at {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from (
                error
            )
    return _checkpoint_weights(read_checkpoint(path), path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain values.

    Raises
    ------
    ValueError
        If the file is damaged or contains anything else.
    """
    check_whole(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is not a whole checkpoint of tensors and plain values; delete it "
            f"and train again: {error}"
        ) from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(f"{path} is not a checkpoint of the trainer: no state_dict")
    return content


def _checkpoint_weights(checkpoint: dict[str, Any], path: Path) -> dict[str, Tensor]:
    average = checkpoint.get("geobiomass", {}).get("moving_average")
    if average is not None:
        return dict(average["weights"])
    weights = {
        name.removeprefix(_NETWORK): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(_NETWORK)
    }
    if not weights:
        raise ValueError(f"{path} is not a checkpoint of the trainer: no network in it")
    return weights


def average_weights(paths: Iterable[str | Path]) -> dict[str, Tensor]:
    """Return the mean of the weights of several files.

    The same file given twice, or two files of the same content, count once.

    Parameters
    ----------
    paths
        Safetensors files or checkpoints of the trainer.

    Returns
    -------
    dict
        A state dict: floating-point values averaged in float64 and returned in
        the type of the last file; all others (counters) are taken from the last file.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If no file is given, or names or shapes differ; the message names the first
        difference.
    """
    files = _distinct([Path(path) for path in paths])
    if not files:
        raise ValueError("paths of average_weights must hold at least one file, got 0")
    sums: dict[str, Tensor] = {}
    last: dict[str, Tensor] = {}
    for file in files:
        weights = read_weights(file)
        if last:
            _check_same(last, weights, str(files[0]), str(file))
        for name, value in weights.items():
            if value.is_floating_point():
                sums[name] = sums.get(name, 0.0) + value.double()
        last = weights
    return {
        name: (sums[name] / len(files)).to(value.dtype) if name in sums else value
        for name, value in last.items()
    }


class MovingAverage:
    """Exponential moving average of a module's weights and float buffers.

    After update n the decay is min(decay, (1 + n) / (10 + n)), as in TensorFlow's
    ExponentialMovingAverage, so that the initial weights count little after a short
    training. Integer buffers are copied.

    Parameters
    ----------
    module
        The module; its present weights are the first average.
    decay
        The weight of the old average, 0 or more and below 1.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(
                f"decay of MovingAverage must be 0 or more and below 1, got {decay}"
            )
        self.decay = decay
        self.updates = 0
        self.weights = {
            name: value.detach().clone() for name, value in module.state_dict().items()
        }

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Update the average with the module's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in module.state_dict().items():
            average = self.weights[name]
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)

    @torch.no_grad()
    def swap(self, module: nn.Module) -> None:
        """Exchange the average and the module's weights; a second call undoes it."""
        seen: set[int] = set()
        for name, value in module.state_dict().items():
            if value.data_ptr() in seen and value.numel():
                continue  # tied weights: exchanged under their first name
            seen.add(value.data_ptr())
            kept = value.clone()
            value.copy_(self.weights[name])
            self.weights[name].copy_(kept)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Set the averaged weights in the module within the `with` statement."""
        self.swap(module)
        try:
            yield
        finally:
            self.swap(module)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed training needs."""
        return {"updates": self.updates, "weights": dict(self.weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of another average."""
        _check_same(self.weights, state["weights"], "the average", "the saved average")
        self.updates = int(state["updates"])
        for name, value in state["weights"].items():
            self.weights[name].copy_(value)


def _separate(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors that share no memory, as safetensors requires."""
    seen: set[int] = set()
    separate = {}
    for name, value in weights.items():
        plain = value.detach().contiguous().cpu()
        start = plain.untyped_storage().data_ptr()
        separate[name] = plain.clone() if start in seen else plain
        seen.add(start)
    return separate


def _distinct(paths: list[Path]) -> list[Path]:
    """Return the files without repetitions, by identity and by content."""
    kept: dict[str, Path] = {}
    identities: set[tuple[int, int]] = set()
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no file with weights at {path}")
        stat = path.stat()
        if (stat.st_dev, stat.st_ino) in identities:
            continue
        identities.add((stat.st_dev, stat.st_ino))
        kept.setdefault(sha256_of_file(path), path)
    return list(kept.values())


def _check_same(
    expected: Mapping[str, Tensor],
    actual: Mapping[str, Tensor],
    here: str,
    there: str,
) -> None:
    """Check that weights are of the same network; raise at the first difference."""
    for name in [*expected, *actual]:
        if name not in actual or name not in expected:
            holder, lacking = (there, here) if name in actual else (here, there)
            raise ValueError(
                f"weights must be of the same network: {name} is in {holder} and not "
                f"in {lacking}"
            )
        if expected[name].shape != actual[name].shape:
            raise ValueError(
                f"weights must be of the same network: {name} is "
                f"{tuple(expected[name].shape)} in {here} and "
                f"{tuple(actual[name].shape)} in {there}"
            )
