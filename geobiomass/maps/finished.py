"""Whether the map at a path is this one, finished, and still what was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geobiomass.cube import CubeError, DamagedError
from geobiomass.cube.file_checks import Files
from geobiomass.cube.plain_attributes import mapping_in
from geobiomass.cube.store import store_at
from geobiomass.cube.store_seal import UNFINISHED, check_store
from geobiomass.maps.destination import Destination
from geobiomass.maps.geotiff import FINGERPRINT
from geobiomass.maps.lock import writer_of
from geobiomass.maps.origin import MADE_WITH as MADE_WITH
from geobiomass.maps.raster_checksums import RasterChecksums
from geobiomass.threads import few_at_a_time

_DESC = "Checking what is there"
_AT_ONCE = 8  # files, or requests to object storage


def needs_overviews(destination: Destination, levels: Sequence[str]) -> bool:
    """Return whether a finished map lacks the overviews that are wanted."""
    attrs = destination.attrs() if levels else None
    if attrs is None or "multiscales" in attrs:
        return False
    height, width = destination.group("r")[levels[0]].shape  # type: ignore[union-attr]
    from geobiomass.maps.overviews import level_sizes

    return any(level_sizes(height, width))


def is_done(
    destination: Destination, fingerprint: str, here: Mapping[str, Any] | None
) -> bool:
    """Return whether the map is there and finished; raise if it is another map."""
    if destination.raster is None:
        attrs = destination.attrs()
        if attrs is not None and attrs.get(FINGERPRINT) != fingerprint:
            raise refusal(destination.name, mapping_in(attrs.get(MADE_WITH)), here)
        return attrs is not None and UNFINISHED not in attrs
    raster = destination.raster_there()
    if raster is None:
        return False
    if raster != fingerprint:
        raise refusal(destination.name)
    return True


def is_whole(destination: Destination, progress: bool) -> bool:
    """Return whether a finished map is whole; False where it is being replaced now.

    Raises
    ------
    DamagedError
        If it is damaged.
    """
    try:
        check_finished(destination, progress)
    except (CubeError, OSError):
        if writer_of(destination) is None:
            raise
        return False
    return True


def refusal(
    name: str,
    there: Mapping[str, Any] | None = None,
    here: Mapping[str, Any] | None = None,
) -> FileExistsError:
    """Return the error of another map, or of anything else, at a map's path.

    Parameters
    ----------
    name : str
        The path.
    there, here : mapping, optional
        What the values of both maps depend on, to name the differences.
    """
    what = "a map by another model, of other input or with other settings, or no map"
    if there and here:
        both = [(key, there.get(key), here.get(key)) for key in here]
        what = "a map with " + "; ".join(
            f"{key} {_short(one)}, not {_short(other)}"
            for key, one, other in both
            if one != other
        )
    return FileExistsError(
        f"{name} exists and holds something else: {what}. Choose another path, or "
        "overwrite=True (on the command line --overwrite)."
    )


def _short(value: Any) -> str:
    """Return a value as short text: the first letters of a hash are enough."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def check_finished(destination: Destination, progress: bool) -> None:
    """Check every byte of a finished map against its checksums.

    A call that finds its map finished would otherwise return a damaged one as whole.
    Maps of earlier versions have no checksums, and are left as they are.

    Raises
    ------
    DamagedError
        If anything differs; it names the first file, or block, and the remedy.
    """
    if destination.raster is None:
        _check_zarr(destination, progress)
    else:
        _check_raster(destination, progress)


def _check_zarr(destination: Destination, progress: bool) -> None:
    from tqdm.auto import tqdm

    store: Any = destination.store
    store = store_at(store) if isinstance(store, Path) else store
    found = check_store(store, destination.name)
    if found is None:
        return
    files = Files(store)
    problems: list[tuple[str, str]] = []
    every = list(found.pixel_files())
    with tqdm(total=len(every), unit="file", desc=_DESC, disable=not progress) as bar:
        for (file, *_), future in few_at_a_time(
            every, lambda one: files.whole_problem(*one), _AT_ONCE
        ):
            if (problem := future.result()) is not None:
                problems.append((file, problem))
            bar.update()
    problems += found.new_files(store)
    if problems:
        file, problem = min(problems)
        raise DamagedError(
            f"{destination.name} is a finished map that was damaged since: {file} "
            f"{problem} ({len(problems)} of {len(every)} files of pixels are damaged; "
            "geobiomass.cube.verify lists them). Restore it from a copy, or make it "
            "again with overwrite=True (on the command line --overwrite).",
            f"{destination.name}/{file}",
        )


def _check_raster(destination: Destination, progress: bool) -> None:
    with destination.open_raster() as file:
        found = RasterChecksums.of(file)
        if found is not None:
            found.check_all(file, progress)
