"""Maps of chips as the BioMassters competition takes them: a GeoTIFF a chip.

``{chip}_agbm.tif``, one band, float32, Mg/ha, without a place on Earth, as the labels
are. Each file says in a tag what it was made with, and a checksum of its pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.files import replacing
from geobiomass.maps.blocks import Block, checksum
from geobiomass.maps.destination import Destination
from geobiomass.maps.execution import Compute, active_client, on_cluster, on_threads
from geobiomass.maps.geotiff import FINGERPRINT
from geobiomass.maps.lock import only_writer
from geobiomass.maps.map_writer import finish_or_say

_ENDING = "_agbm.tif"
_PART = ".unfinished"
_CHECKSUM = "geobiomass_checksum"


def write_competition(
    folder: str | Path,
    chips: Sequence[str],
    blocks: Sequence[Block],
    compute: Compute,
    fingerprint: str,
    *,
    overwrite: bool = False,
    progress: bool = True,
    client: Any = None,
) -> None:
    """Write a file a chip; called again it goes on with the chips that lack one.

    No biomass is negative, so that predictions below zero are written as zero, which
    is never further from the truth; so are pixels without any observation, as the
    competition takes no gaps.

    Parameters
    ----------
    folder : str or Path
        Made where it is not there; otherwise nothing but these chips' files may be
        in it.
    chips : sequence of str
        Their ids.
    blocks : sequence of Block
        A whole chip each, in their order.
    compute : callable
        Block -> (output, y, x) float32; the first output is written.
    fingerprint : str
        Stands for the model, the input and the settings that values depend on.
    overwrite : bool
        Make files anew that are there.
    progress : bool
        Show a progress bar.
    client : distributed.Client, optional
        Its workers compute the chips, by default those of the client in use, if
        there is one; this process writes.

    Raises
    ------
    FileExistsError
        If the folder holds anything else, or files that were made otherwise and
        not `overwrite`.
    MapInUseError
        If another process writes to the folder.
    IncompleteMapError
        If chips failed, by name and reason; the others are written.
    """
    folder = Path(folder).absolute()
    _refuse_strangers(folder, chips)
    with only_writer(Destination(str(folder), folder)):
        folder.mkdir(exist_ok=True)
        for part in folder.glob(f"*{_PART}"):
            part.unlink()
        files = _Files(folder, tuple(chips), fingerprint)
        done = set() if overwrite else {b for b in blocks if files.is_done(b)}
        waiting = [block for block in blocks if block not in done]
        client = client if client is not None else active_client()
        target: Any = files
        outcomes = (
            on_threads(waiting, compute, target, target)
            if client is None
            else on_cluster(waiting, compute, target, target, client)
        )
        finish_or_say(str(folder), outcomes, len(blocks), len(done), progress)


def _refuse_strangers(folder: Path, chips: Sequence[str]) -> None:
    if not folder.parent.is_dir():
        raise ValueError(f"The folder {folder.parent} does not exist; make it first.")
    if not folder.exists():
        return
    ours = {f"{chip}{_ENDING}" for chip in chips}
    found = [folder.name] if not folder.is_dir() else os.listdir(folder)
    strangers = sorted(
        name for name in found if name not in ours and not name.endswith(_PART)
    )
    if strangers:
        raise FileExistsError(
            f"{folder} must be new or hold nothing but files of these chips, got "
            f"{', '.join(strangers[:3])} and so on ({len(strangers)}); choose another "
            "folder."
        )


class _Files:
    """Where chips are written; stands for a map's arrays and their manifest."""

    def __init__(self, folder: Path, chips: tuple[str, ...], fingerprint: str) -> None:
        self.store = folder
        self.chips = chips
        self.fingerprint = fingerprint

    def path(self, block: Block) -> Path:
        return self.store / f"{self.chips[block.chip or 0]}{_ENDING}"

    def is_done(self, block: Block) -> bool:
        """Tell whether a chip's file is there, whole, and made as it would be now."""
        path = self.path(block)
        if not path.exists():
            return False
        found = _read(path)
        if found is None:
            return False  # damaged since, or of a program that was cut short
        values, tags = found
        if tags.get(FINGERPRINT) != self.fingerprint:
            raise FileExistsError(
                f"{path} exists and was made by another model, of other input or with "
                "other settings. Choose another folder, or overwrite=True (on the "
                "command line --overwrite)."
            )
        return tags.get(_CHECKSUM) == checksum(values)

    def write(self, block: Block, values: npt.NDArray[np.float32]) -> str:
        """Write a chip; its file appears whole."""
        layer = np.nan_to_num(values[:1], nan=0.0).clip(min=0.0).astype(np.float32)
        tags = {FINGERPRINT: self.fingerprint, _CHECKSUM: checksum(layer)}
        with replacing(self.path(block), _PART) as part:
            _write(part, layer, tags)
        return tags[_CHECKSUM]

    def note(self, block: Block, checksum: str) -> None:
        """Nothing: the file says it itself."""


def _write(path: Path, layer: npt.NDArray[np.float32], tags: dict[str, str]) -> None:
    """Write a GeoTIFF without a place, (1, y, x)."""
    count, height, width = layer.shape
    import rasterio

    _, placeless_writer = _placeless()
    size = {"count": count, "height": height, "width": width}
    with (
        rasterio.Env(),  # registers GDAL's drivers
        placeless_writer(
            str(path), "w", driver="GTiff", dtype="float32", **size
        ) as target,
    ):
        target.write(layer)
        target.update_tags(**tags)


def _read(path: Path) -> tuple[npt.NDArray[np.float32], dict[str, str]] | None:
    """Read a chip's pixels and tags; None of a file that cannot be read."""
    import rasterio
    from rasterio.errors import RasterioError

    placeless_reader, _ = _placeless()
    try:
        with (
            # Else GDAL gives zeros for what a file cut short lacks.
            rasterio.Env(GTIFF_DIRECT_IO="NO", GTIFF_IGNORE_READ_ERRORS="NO"),
            placeless_reader(str(path)) as source,
        ):
            return source.read().astype(np.float32), source.tags()
    except RasterioError:
        return None


@cache
def _placeless() -> tuple[Any, Any]:
    """Give a reader and a writer that do not ask where on Earth a file lies.

    rasterio warns each time it asks in vain, and filters of warnings belong to the
    whole process: changing them on threads would race.
    """
    from rasterio.io import DatasetReader, DatasetWriter

    def read_transform(self: Any) -> list[float]:
        return [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]

    own = {"read_transform": read_transform}
    reader = type("PlacelessReader", (DatasetReader,), own)
    return reader, type("PlacelessWriter", (DatasetWriter,), own)
