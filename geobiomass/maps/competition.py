"""Maps of chips in the form of the BioMassters competition: a GeoTIFF a chip.

``{chip}_agbm.tif``, one band, float32, Mg/ha, without a georeference, as the labels.
Tags of each file contain the fingerprint of its model and input, and a checksum of its
pixels.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.cube.cluster_errors import told_of_cluster
from geobiomass.cube.cluster_watch import active_client
from geobiomass.maps.blocks import Block, checksum
from geobiomass.maps.destination import Destination
from geobiomass.maps.execution import Compute, on_cluster, on_threads
from geobiomass.maps.geotiff import FINGERPRINT
from geobiomass.maps.lock import only_writer
from geobiomass.maps.map_writer import follow_blocks
from geobiomass.outside_text import file_names, printable
from geobiomass.training.files import replacing
from geobiomass.training.given_paths import path_text
from geobiomass.training.own_files import check_own_file

_ENDING = "_agbm.tif"
_PART = ".unfinished"
_PART_NAME = re.compile(
    rf"\.(.+){re.escape(_ENDING)}\.[0-9a-f]{{32}}{re.escape(_PART)}"
)
_CHECKSUM = "geobiomass_checksum"
_CHIP = "geobiomass_chip"


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
    """Write a file for each chip; a repeated call writes the ones that are missing.

    No biomass is negative, so predictions below zero are written as zero, which is
    never further from the truth. Pixels without any observation are zero as well,
    because the competition allows no gaps.

    Parameters
    ----------
    folder : str or Path
        Is created if it does not exist; otherwise it may only contain files of these
        chips, which this function made.
    chips : sequence of str
        Ids of the chips. One that is no plain file name (:func:`.file_names`) is
        written under another; the tag ``geobiomass_chip`` has the id.
    blocks : sequence of Block
        A whole chip each, in their order.
    compute : callable
        Block -> (output, y, x) float32; the first output is written.
    fingerprint : str
        Hash of the model, the input and the settings that the values depend on.
    overwrite : bool
        Write existing files again.
    progress : bool
        Show a progress bar.
    client : distributed.Client, optional
        Its workers compute the chips, by default the client in use, if
        there is one; this process writes.

    Raises
    ------
    FileExistsError
        If the folder contains anything else, also under the name of a chip's file, or
        files with another fingerprint and not `overwrite`.
    MapInUseError
        If another process writes to the folder.
    IncompleteMapError
        If chips failed, by name and reason; the others are written.
    """
    folder = Path(path_text(folder, "The folder of maps")).absolute()
    names = file_names(chips, "chip ids")
    _check_only_ours(folder, names)
    with only_writer(Destination(str(folder), folder)):
        folder.mkdir(exist_ok=True)
        for part in folder.iterdir():
            if _is_part(part.name, names):
                part.unlink()
        files = _Files(folder, tuple(chips), tuple(names), fingerprint)
        for block in blocks:
            check_own_file(files.path(block), "map of a chip", _is_ours)
        done = set() if overwrite else {b for b in blocks if files.is_done(b)}
        waiting = [block for block in blocks if block not in done]
        client = client if client is not None else active_client()
        target: Any = files
        outcomes = (
            on_threads(waiting, compute, target, target)
            if client is None
            else on_cluster(waiting, compute, target, target, client)
        )

        def written() -> str:
            count = sum(map(files.is_done, blocks))
            return f"{count} of {len(blocks)} files are written"

        with told_of_cluster(f"{folder} was being written", client, progress=written):
            follow_blocks(str(folder), outcomes, len(blocks), len(done), progress)


def _check_only_ours(folder: Path, names: Sequence[str]) -> None:
    if not folder.parent.is_dir():
        raise ValueError(f"The folder {folder.parent} does not exist; make it first.")
    if not folder.exists():
        return
    ours = {f"{name}{_ENDING}" for name in names}
    found = [folder.name] if not folder.is_dir() else os.listdir(folder)
    strangers = sorted(
        name for name in found if name not in ours and not _is_part(name, names)
    )
    if strangers:
        raise FileExistsError(
            f"{folder} must be new or hold nothing but files of these chips, got "
            f"{', '.join(strangers[:3])} and so on ({len(strangers)}); choose another "
            "folder."
        )


def _is_part(name: str, chips: Sequence[str]) -> bool:
    """Return whether a file is one of these chips that a killed call was writing."""
    found = _PART_NAME.fullmatch(name)
    return found is not None and found[1] in chips


def _is_ours(first: bytes, last: bytes) -> bool:
    """Return whether a file has the tag of a map, also where it is cut or damaged."""
    return FINGERPRINT.encode() in first or FINGERPRINT.encode() in last


class _Files:
    """The files of chips, with the methods of a map's target and of its manifest."""

    def __init__(
        self,
        folder: Path,
        chips: tuple[str, ...],
        names: tuple[str, ...],
        fingerprint: str,
    ) -> None:
        self.store = folder
        self.chips, self.names = chips, names
        self.fingerprint = fingerprint

    def path(self, block: Block) -> Path:
        """Return the path of a chip's file."""
        return self.store / f"{self.names[block.chip or 0]}{_ENDING}"

    def is_done(self, block: Block) -> bool:
        """Return whether a chip's file exists, is whole and has the fingerprint."""
        path = self.path(block)
        if not path.exists():
            return False
        found = _read(path)
        if found is None:
            return False  # damaged later, or a copy that was interrupted
        values, tags = found
        if tags.get(FINGERPRINT) != self.fingerprint:
            raise FileExistsError(
                f"{path} exists and was made by another model, of other input or with "
                "other settings. Choose another folder, or overwrite=True (on the "
                "command line --overwrite)."
            )
        return tags.get(_CHECKSUM) == checksum(values)

    def write(self, block: Block, values: npt.NDArray[np.float32]) -> str:
        """Write a chip's file, whole or not at all."""
        layer = np.nan_to_num(values[:1], nan=0.0).clip(min=0.0).astype(np.float32)
        tags = {FINGERPRINT: self.fingerprint, _CHECKSUM: checksum(layer)}
        chip, name = self.chips[block.chip or 0], self.names[block.chip or 0]
        if chip != name:  # libxml, which writes tags, takes no control characters
            tags[_CHIP] = printable(chip)
        with replacing(self.path(block), _PART) as part:
            _write(part, layer, tags)
        return tags[_CHECKSUM]

    def note(self, block: Block, checksum: str) -> None:
        """Do nothing: the file itself has the checksum."""


def _write(path: Path, layer: npt.NDArray[np.float32], tags: dict[str, str]) -> None:
    """Write a GeoTIFF without a georeference, (1, y, x)."""
    count, height, width = layer.shape
    import rasterio

    _, writer = _without_georeference()
    size = {"count": count, "height": height, "width": width}
    with (
        rasterio.Env(),  # registers GDAL's drivers
        writer(str(path), "w", driver="GTiff", dtype="float32", **size) as target,
    ):
        target.update_tags(**tags)  # first, so that half a file has them too
        target.write(layer)


def _read(path: Path) -> tuple[npt.NDArray[np.float32], dict[str, str]] | None:
    """Read a chip's pixels and tags; return None if the file is damaged."""
    import rasterio
    from rasterio.errors import RasterioError

    reader, _ = _without_georeference()
    try:
        with (
            # Without these options GDAL reads zeros beyond the end of a short file.
            rasterio.Env(GTIFF_DIRECT_IO="NO", GTIFF_IGNORE_READ_ERRORS="NO"),
            reader(str(path)) as source,
        ):
            return source.read().astype(np.float32), source.tags()
    except RasterioError:
        return None


@cache
def _without_georeference() -> tuple[Any, Any]:
    """Return a reader and a writer that do not look for a georeference.

    rasterio warns if it finds none. Filters of warnings belong to the whole process:
    if threads change them, they race.
    """
    from rasterio.io import DatasetReader, DatasetWriter

    def read_transform(self: Any) -> list[float]:
        return [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]

    own = {"read_transform": read_transform}
    reader = type("PlainReader", (DatasetReader,), own)
    return reader, type("PlainWriter", (DatasetWriter,), own)
