"""Record of a training in its folder: epochs done, history, best epochs.

``last.ckpt`` contains everything that is needed to continue after a step or an epoch,
``epoch-0007.safetensors`` the weights of one epoch. Reading the record of a checkpoint
does not import PyTorch, and does not read the tensors.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from .settings import TrainingConfig

__all__ = ["Record", "RunningEpoch", "is_begun", "read_training_record", "weights_file"]

LAST = "last.ckpt"
FORMAT = 2
_READABLE = (1, 2)  # format 1 was written at the end of epochs only


@dataclass
class RunningEpoch:
    """Progress within the epoch that runs: steps, sum of their losses, seconds."""

    steps: int = 0
    loss: float = 0.0
    seconds: float = 0.0


@dataclass
class Record:
    """Record of a training after some of its epochs.

    Parameters
    ----------
    run
        Everything that affects the weights: settings, steps per epoch, validation.
    history
        One mapping per epoch: the rows of the history.
    best
        For each monitored value its best epochs as (value, epoch), best first.
    part
        Progress within the next epoch.
    weights
        Size and CRC-32C of the weights of epochs that are kept, by the file's name.
    """

    run: dict[str, Any]
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    part: RunningEpoch = field(default_factory=RunningEpoch)
    weights: dict[str, list[int]] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return len(self.history)

    @property
    def begun(self) -> int:
        """Number of finished epochs, plus one if an epoch is done in part."""
        return self.epochs + (self.part.steps > 0)

    def kept(self, recent: int) -> list[int]:
        """Return the epochs whose weights are kept.

        First the best epochs, by each monitored value in turn; then the last `recent`
        epochs.
        """
        ranked = [epoch for pairs in self.best.values() for _, epoch in pairs]
        done = self.epochs
        return list(dict.fromkeys([*ranked, *range(max(0, done - recent), done)]))

    def add(
        self,
        row: dict[str, float],
        higher_is_better: Mapping[str, bool],
        count: int,
    ) -> None:
        """Finish the epoch that runs, and keep the `count` best epochs.

        `higher_is_better` has the monitored values as keys. Of equal values the
        earlier epoch ranks first; NaN ranks last.
        """
        epoch = self.epochs
        self.history.append(row)
        self.part = RunningEpoch()
        for name, higher in higher_is_better.items():
            pairs = [*self.best.get(name, []), (row[name], epoch)]
            pairs.sort(key=lambda pair: _cost(pair[0], higher))
            self.best[name] = pairs[:count]


def _cost(value: float, higher_is_better: bool) -> float:
    if math.isnan(value):
        return math.inf
    return -value if higher_is_better else value


def weights_file(folder: Path, epoch: int) -> Path:
    """Return the file of an epoch's weights; epochs count from 0, file names from 1."""
    return folder / f"epoch-{epoch + 1:04d}.safetensors"


def is_begun(config: TrainingConfig) -> bool:
    """Return whether the folder holds a training that can be continued.

    Parameters
    ----------
    config
        The settings of the whole training, of one stage or of several.
    """
    if config.folder is None or not config.resume:
        return False
    folder = Path(config.folder)
    return any((*folder.glob(LAST), *folder.glob(f"*/{LAST}")))


def read_training_record(path: Path) -> tuple[Record, dict[str, tuple[int, ...]]]:
    """Read the record of a checkpoint, and the shapes of its network's tensors.

    Raises
    ------
    ValueError
        If the checkpoint is damaged or was not written by the trainer.
    """
    content = _read_plain_values(path)
    kept = content.get("geobiomass")
    if not isinstance(kept, dict) or kept.get("format") not in _READABLE:
        raise ValueError(
            f"{path} is not a checkpoint of this trainer; give another folder, or "
            "resume=False to replace it"
        )
    best = {
        name: [(value, epoch) for value, epoch in pairs]
        for name, pairs in kept["best"].items()
    }
    shapes = {
        name.removeprefix("network."): value.shape
        for name, value in content["state_dict"].items()
        if name.startswith("network.")
    }
    part = RunningEpoch(**kept.get("part", {}))
    weights = kept.get("weights", {})
    return Record(kept["run"], kept["history"], best, part, weights), shapes


class _Skipped:
    """Stand-in for a tensor, a storage or a type, of which only a shape is kept."""

    def __init__(self, *arguments: Any) -> None:
        # torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...)
        self.shape: tuple[int, ...] = ()
        if len(arguments) > 2 and isinstance(arguments[2], tuple):
            self.shape = arguments[2]


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler of plain values; it runs no code of the file and loads no tensor."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module.split(".")[0] == "torch":
            return _Skipped
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a checkpoint")

    def persistent_load(self, pid: Any) -> _Skipped:
        return _Skipped()


def _read_plain_values(path: Path) -> dict[str, Any]:
    """Read a checkpoint as `torch.load` does, with stand-ins for its tensors.

    `torch.save` writes a zip archive, whose ``data.pkl`` has everything but the bytes
    of the tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
            with archive.open(name) as stream:
                content = _unpickle(stream)
    except (
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        IndexError,
        KeyError,
        OverflowError,
        RuntimeError,
        TypeError,
        ValueError,
        struct.error,
        zlib.error,
    ) as error:  # pickle and zipfile raise all of these for a file that is damaged
        raise ValueError(
            f"{path} is not a whole checkpoint of tensors and plain values; delete it "
            f"and train again: {error}"
        ) from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(f"{path} is not a checkpoint of the trainer: no state_dict")
    return content


def _unpickle(stream: IO[bytes]) -> Any:
    return _PlainUnpickler(stream).load()
