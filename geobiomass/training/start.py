"""State that a training takes over from the one before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .files import sha256_of
from .weights import read_checkpoint

__all__ = ["Start", "read_start"]

_NETWORK = "network."


@dataclass(frozen=True)
class Start:
    """State of a finished training from which another one starts.

    Parameters
    ----------
    path
        The checkpoint of the finished training.
    weights
        The network's last weights and buffers, not the moving average.
    optimizer
        The optimiser's state dict.
    average
        The moving average's state dict; None without one.
    epochs, steps
        Number of epochs and steps, including all earlier trainings.
    """

    path: Path
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    average: dict[str, Any] | None
    epochs: int
    steps: int

    @property
    def identity(self) -> dict[str, Any]:
        """Plain values that differ for another start, to compare."""
        content = [self.weights, self.optimizer["state"], self.average]
        return {
            "content": sha256_of(_flatten(content))[:16],
            "epochs": self.epochs,
            "steps": self.steps,
        }

    def load_into(self, network: nn.Module) -> None:
        """Load the weights into a network.

        Raises
        ------
        ValueError
            If the weights belong to another network.
        """
        own = {name: value.shape for name, value in network.state_dict().items()}
        given = {name: value.shape for name, value in self.weights.items()}
        for name in [*own, *given]:
            if own.get(name) != given.get(name):
                raise ValueError(
                    f"start must be a training of the same network, got {self.path}, "
                    f"where {name} is {_shape_text(given.get(name))} and not "
                    f"{_shape_text(own.get(name))}"
                )
        network.load_state_dict(self.weights)


def read_start(path: Path) -> Start:
    """Read the state of a finished training from its checkpoint.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, is not a checkpoint of the trainer, or its training is
        not finished.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint to start from at {path}")
    content = read_checkpoint(path)
    kept = content.get("geobiomass")
    if not isinstance(kept, dict) or not content.get("optimizer_states"):
        raise ValueError(f"start must be a checkpoint of this trainer, got {path}")
    run, done = kept["run"], len(kept["history"])
    if done < run["epochs"] or kept.get("part", {}).get("steps", 0) > 0:
        raise ValueError(
            f"start must be a finished training, got {path} with {done} of "
            f"{run['epochs']} epochs done; finish it first"
        )
    before = run.get("start") or {"epochs": 0, "steps": 0}
    return Start(
        path,
        {
            name.removeprefix(_NETWORK): value
            for name, value in content["state_dict"].items()
            if name.startswith(_NETWORK)
        },
        content["optimizer_states"][0],
        kept["moving_average"],
        before["epochs"] + done,
        before["steps"] + done * run["steps_per_epoch"],
    )


def _flatten(value: object) -> Iterator[bytes | memoryview]:
    """Yield names, numbers and the bytes of tensors, in a fixed order."""
    if isinstance(value, Mapping):
        for name in sorted(value, key=str):
            yield f"{name}:".encode()
            yield from _flatten(value[name])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _flatten(item)
    elif isinstance(value, Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield (
            value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        )
    else:
        yield repr(value).encode()


def _shape_text(shape: torch.Size | None) -> str:
    return "missing" if shape is None else str(tuple(shape))
