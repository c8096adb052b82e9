"""The map on disk: Zarr or cloud-optimised GeoTIFF, written block by block.

Finished blocks are noted in a journal, so that an interrupted map goes on where
it stopped and a finished one is recognised.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.maps.geotiff import FINGERPRINT, geotiff_fingerprint, write_geotiff
from geobiomass.pieces import UNFINISHED, Journal, few_at_a_time, finish
from geobiomass.tiles import Window

Compute = Callable[["Block"], npt.NDArray[np.float32]]


class IncompleteMapError(RuntimeError):
    """Some blocks of a map could not be computed; the others are on disk."""


@dataclass(frozen=True, order=True)
class Block:
    """One block of a map: a window, of one chip where there are chips."""

    window: Window
    chip: int | None = None

    @property
    def key(self) -> str:
        """How the journal names the block."""
        place = (self.chip, self.window.top, self.window.left)
        return "/".join("-" if part is None else str(part) for part in place)

    def __str__(self) -> str:
        w = self.window
        where = f"rows {w.top} to {w.bottom}, columns {w.left} to {w.right}"
        return where if self.chip is None else f"chip {self.chip}, {where}"


def write_map(
    path: Path,
    template: xr.Dataset,
    blocks: Sequence[Block],
    compute: Compute,
    fingerprint: str,
    *,
    side: int,
    resume: bool = True,
    overwrite: bool = False,
    progress: bool = True,
    client: Any = None,
) -> None:
    """Write a map to Zarr (``.zarr``) or a cloud-optimised GeoTIFF (``.tif``).

    Parameters
    ----------
    path : Path
        Ends in ``.zarr``, ``.tif`` or ``.tiff``.
    template : xarray.Dataset
        The lazy map: its variables, coordinates and attributes are taken over; it
        is not computed.
    blocks : sequence of Block
        Cover the map once.
    compute : callable
        Block -> (output, y, x) float32; must pickle where there is a `client`.
    fingerprint : str
        Stands for the model, the input and the settings that values depend on.
    side : int
        Side of a block, pixels.
    resume : bool
        Go on with a half-written map; otherwise it is begun again.
    overwrite : bool
        Delete what is at `path` first.
    progress : bool
        Show a progress bar.
    client : distributed.Client, optional
        Its workers compute the blocks; this process writes them.

    Raises
    ------
    ValueError
        If the ending of `path` is none of those above.
    FileExistsError
        If another map, or anything else, is at `path` and not `overwrite`.
    IncompleteMapError
        If blocks failed, by place and reason; the others are kept, and the same
        call computes only what is missing.
    """
    _refuse_format(path, template)
    if not path.parent.is_dir():
        raise ValueError(f"The folder {path.parent} does not exist; make it first.")
    raster = path.suffix != ".zarr"
    store = path.with_name(path.name + ".unfinished.zarr") if raster else path
    if overwrite:
        for old in (path, store, Journal(store).path):
            _remove(old)
    if raster and path.exists():
        if geotiff_fingerprint(path) == fingerprint:
            return
        raise _refusal(path)
    done = _begin(store, template, fingerprint, side, resume)
    if done is not None:
        _write_blocks(store, template, blocks, done, compute, progress, client)
        finish(store)
    if raster:
        write_geotiff(store, path, list(map(str, template)), fingerprint)
        shutil.rmtree(store)


def _refuse_format(path: Path, template: xr.Dataset) -> None:
    """Refuse a path whose ending is unknown, or chips in one GeoTIFF."""
    if path.suffix not in (".zarr", ".tif", ".tiff"):
        raise ValueError(
            f"A map's path must end in .zarr, .tif or .tiff, got {str(path)!r}."
        )
    if path.suffix != ".zarr" and "chip" in template.dims:
        raise ValueError(
            f"Chips have no common grid for one GeoTIFF, {path.name}; write a .zarr."
        )


def _refusal(path: Path) -> FileExistsError:
    return FileExistsError(
        f"{path} exists and holds something else: a map by another model, of other "
        "input or with other settings, or no map. Choose another path, or "
        "overwrite=True (on the command line --overwrite)."
    )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _begin(
    store: Path, template: xr.Dataset, fingerprint: str, side: int, resume: bool
) -> set[str] | None:
    """Create the store or recognise it; give what is done, None if all of it."""
    import zarr

    if store.exists():
        try:
            attrs = dict(zarr.open_group(store, mode="r").attrs)
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise _refusal(store) from error
        if attrs.get(FINGERPRINT) != fingerprint:
            raise _refusal(store)
        if not attrs.get(UNFINISHED):
            return None
        if resume and attrs["block"] != side:
            raise ValueError(
                f"{store} was begun with block={attrs['block']} and cannot go on with "
                f"block={side}; use the same, or resume=False to begin again."
            )
        if resume:
            return Journal(store).done()
        shutil.rmtree(store)
    Journal(store).remove()
    _create(store, template, fingerprint, side)
    return set()


def _create(store: Path, template: xr.Dataset, fingerprint: str, side: int) -> None:
    import zarr
    from zarr.codecs import BloscCodec

    making = store.with_name(store.name + ".making")
    _remove(making)
    frame = template.drop_vars(list(template))
    if "chip" in frame.coords:  # text of any length: fixed width has no Zarr v3 spec
        frame["chip"] = frame["chip"].astype(object)
        frame["chip"].encoding = {}
    frame.attrs = {FINGERPRINT: fingerprint, UNFINISHED: True, "block": side}
    frame.to_zarr(making, mode="w", zarr_format=3, consolidated=False)
    group = zarr.open_group(making, mode="r+")
    for name, variable in template.items():
        attributes = dict(variable.attrs)
        if "spatial_ref" in template.coords:
            attributes["grid_mapping"] = "spatial_ref"
        # A block is whole chunks, so that two blocks never write the same one.
        group.create_array(
            str(name),
            shape=variable.shape,
            dtype="float32",
            chunks=tuple(
                1 if dim == "chip" else min(side, size)
                for dim, size in variable.sizes.items()
            ),
            compressors=BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle"),
            fill_value=float("nan"),
            dimension_names=[str(dim) for dim in variable.dims],
            attributes=attributes,
        )
    making.rename(store)


def _write_blocks(
    store: Path,
    template: xr.Dataset,
    blocks: Sequence[Block],
    done: set[str],
    compute: Compute,
    progress: bool,
    client: Any,
) -> None:
    import zarr
    from tqdm.auto import tqdm

    group: Any = zarr.open_group(store, mode="r+")
    waiting = [block for block in blocks if block.key not in done]
    failed: list[tuple[Block, Exception]] = []
    run = _on_threads if client is None else _on_cluster
    with (
        Journal(store) as journal,
        tqdm(
            total=len(blocks),
            initial=len(done),
            unit="block",
            desc="Mapping",
            disable=not progress,
        ) as bar,
    ):
        for block, result in run(waiting, compute, client):
            if isinstance(result, Exception):
                failed.append((block, result))
                if len(failed) == bar.n + 3 - len(done):
                    break  # nothing works: say so now rather than after hours
                continue
            for values, name in zip(result, template, strict=True):
                here = values if block.chip is None else values[None]
                group[str(name)][_place(block)] = here
            journal.note(block.key)
            bar.update()
    if failed:
        reasons = "; ".join(f"{block}: {error}" for block, error in failed[:5])
        more = f"; and {len(failed) - 5} more" if len(failed) > 5 else ""
        raise IncompleteMapError(
            f"{len(failed)} of {len(blocks)} blocks of {store.name} could not be "
            f"computed ({reasons}{more}). The finished ones are kept; mend the input "
            "and make the same call again."
        ) from failed[0][1]


def _place(block: Block) -> tuple[slice, ...]:
    place = (block.window.rows, block.window.columns)
    if block.chip is None:
        return place
    return (slice(block.chip, block.chip + 1), *place)


Outcome = tuple[Block, "npt.NDArray[np.float32] | Exception"]


def _on_threads(
    blocks: Sequence[Block], compute: Compute, client: None
) -> Iterator[Outcome]:
    """Two blocks at a time: one reads while the other has the network."""
    for block, future in few_at_a_time(blocks, compute, 2):
        yield block, _outcome(future)


def _outcome(
    future: Future[npt.NDArray[np.float32]],
) -> npt.NDArray[np.float32] | Exception:
    error = future.exception()
    if isinstance(error, Exception):
        return error
    return future.result()


def _on_cluster(
    blocks: Sequence[Block], compute: Compute, client: Any
) -> Iterator[Outcome]:
    """Give out twice as many blocks as there are workers, and more as they end."""
    from distributed import as_completed

    remaining = iter(blocks)
    shared = client.scatter(compute, broadcast=True, hash=False)
    width = 2 * max(1, len(client.scheduler_info()["workers"]))
    places: dict[str, Block] = {}

    def submit() -> list[Any]:
        for block in remaining:
            future = client.submit(_call, shared, block, pure=False)
            places[future.key] = block
            return [future]
        return []

    first = [future for _ in range(width) for future in submit()]
    queue = as_completed(first, with_results=False)
    for future in queue:
        block = places.pop(future.key)
        error = future.exception()
        yield block, error if error is not None else future.result()
        for more in submit():
            queue.add(more)


def _call(compute: Compute, block: Block) -> npt.NDArray[np.float32]:
    return compute(block)


def describe_progress(store: Path) -> dict[str, Any]:
    """Tell how far a map at `store` is: its attributes and finished blocks."""
    import zarr

    attrs = dict(zarr.open_group(store, mode="r").attrs)
    blocks = len(Journal(store).done()) if attrs.get(UNFINISHED) else None
    return {"finished": not attrs.get(UNFINISHED), "blocks": blocks}


def fingerprint_of(parts: dict[str, Any]) -> str:
    """Give one short text that stands for what a map's values depend on."""
    import hashlib

    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
