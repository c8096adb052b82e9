"""Damage to the files of a training, noticed before it is continued.

``torch.load`` does not compare the CRC-32 that a checkpoint, a zip archive, has of each
of its parts. The checkpoint lists the CRC-32C of the weights that are kept of epochs.
"""

from __future__ import annotations

import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from .checkpoint_record import LAST, Record, weights_file
from .checksums import crc32c_of_file

__all__ = ["check_kept_weights", "check_whole", "warn_of_lost_checkpoint"]

_REMEDY = "copy it again from where it was made, or give resume=False to train again"


def check_whole(path: Path) -> None:
    """Check every byte of a checkpoint's parts against the archive's CRC-32.

    Raises
    ------
    ValueError
        If the checkpoint is damaged; the message names the file and the remedy.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
        problem = part and f"the checksum of {part} differs"
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        OverflowError,
        RuntimeError,
        ValueError,
    ) as error:  # zipfile raises all of these for a file that is damaged
        problem = str(error)
    if problem:
        raise ValueError(
            f"{path} is not a whole checkpoint of tensors and plain values "
            f"({problem}); {_REMEDY}"
        )


def check_kept_weights(record: Record, folder: Path, epochs: Iterable[int]) -> None:
    """Check the weights of epochs in a folder against the record of their training.

    Parameters
    ----------
    record
        As the folder's checkpoint has it. Those of earlier releases have no checksums.
    folder
        The folder of the training.
    epochs
        Epochs whose weights are needed. Those of others are compared if they are there.

    Raises
    ------
    ValueError
        If a file is damaged or gone; the message names it and the remedy.
    """
    needed = {weights_file(folder, epoch).name for epoch in epochs}
    for name, sums in record.weights.items():
        path = folder / name
        if not path.is_file():
            if name in needed:
                raise ValueError(f"{path} is gone, which {LAST} lists; {_REMEDY}")
        elif list(crc32c_of_file(path)) != sums:
            raise ValueError(
                f"{path} is damaged (its checksum is not the one in {LAST}); {_REMEDY}"
            )


def warn_of_lost_checkpoint(folder: Path) -> None:
    """Warn if a folder has weights of epochs, and no checkpoint to continue from."""
    kept = sorted(folder.glob("epoch-*.safetensors"))
    if kept:
        warnings.warn(
            f"{folder / LAST} is gone, or training stopped before it was written: "
            f"training begins again, and replaces the weights of {len(kept)} epochs "
            f"there. To continue instead, stop it and copy {LAST} back.",
            UserWarning,
            stacklevel=2,
        )
