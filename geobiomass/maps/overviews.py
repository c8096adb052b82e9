"""Overviews of a finished map, so that viewers that zoom out read few pixels.

Full resolution stays at the root, where plain `xr.open_zarr` finds it. Each level is a
group below ``overviews``; its name is the factor by which its pixels are larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.grid import transform_of
from geobiomass.cube.publishing import consolidate
from geobiomass.cube.sealing import leave_unsealed, publish_sealed
from geobiomass.maps.conventions import (
    MULTISCALES,
    PROJ,
    REGISTRY,
    SPATIAL,
    conventions_of,
    declare,
)
from geobiomass.threads import few_at_a_time

if TYPE_CHECKING:
    import zarr
    from affine import Affine

_OVERVIEWS = "overviews"
SMALLEST = 256
"""Pixels: levels are added until the smaller side is at most this long."""


def add_overviews(
    group: zarr.Group, names: Sequence[str], side: int, progress: bool = False
) -> None:
    """Add overviews to a finished map: readers see it without them, or with all.

    Its checksums are never gone, wherever it is interrupted.
    """
    root = _whole_root(group)
    leave_unsealed(root, f"{_OVERVIEWS}/")
    factors = _write_levels(root, names, side, progress)
    publish_sealed(root, _described(root, names, factors))


def write_overviews(
    group: zarr.Group, names: Sequence[str], side: int, progress: bool = False
) -> None:
    """Write levels of half, a quarter, ... the resolution of a finished map.

    A pixel of a level covers up to four pixels of the level before and is the mean of
    those that are finite, NaN if none is. The groups ``overviews/2``,
    ``overviews/4``, ... contain the same variables as the root, with their own
    coordinates, grid mapping and attributes. At the end the root gets the attribute
    ``multiscales`` [1]_; without it the levels are not complete. A repeated call, also
    after an interruption, writes the same again. A map whose smaller side is at most
    256 pixels gets no levels and no such attribute. `group` keeps the attributes that
    it was opened with: open it again before you change them.

    Parameters
    ----------
    group : zarr.Group
        A finished map, Zarr v3, open for writing, in any store: variables (y, x)
        float32, NaN where there is no data; `y`, `x` and `spatial_ref` where known.
    names : sequence of str
        The variables.
    side : int
        Side of a block, pixels of the level that is written; rounded up to whole
        shards. Up to four blocks of four times as many pixels are in memory.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        If a variable has no dimensions (y, x): chips have no common grid.

    References
    ----------
    .. [1] https://github.com/zarr-conventions/multiscales/blob/v0.1/README.md
    """
    import zarr

    root = _whole_root(group)
    for name in names:
        _check_grid(name, _array(root, name))
    _remove_entry(root)
    factors = _write_levels(root, names, side, progress)
    described = _described(root, names, factors)
    consolidate(root)
    # Opened with consolidated metadata, so that both are written in one step.
    zarr.open_group(root.store, path=root.path, mode="r+").attrs.put(described)


def _whole_root(group: zarr.Group) -> zarr.Group:
    """Open a group without consolidated metadata, which lacks the groups made here."""
    import zarr

    return zarr.open_group(
        group.store, path=group.path, mode="r+", use_consolidated=False
    )


def _write_levels(
    root: zarr.Group, names: Sequence[str], side: int, progress: bool
) -> list[int]:
    """Write the levels, which nothing lists yet; return their factors."""
    from tqdm.auto import tqdm

    for name in names:
        _check_grid(name, _array(root, name))
    finer = root
    sizes = list(level_sizes(*_array(root, names[0]).shape))
    with tqdm(desc="Overviews", unit="block", disable=not progress) as bar:
        for factor, (height, width) in sizes:
            level = _create_level(root, finer, names, factor, height, width)
            for name in names:
                _fill(finer, level, name, side, bar)
            consolidate(level)
            finer = level
    return [factor for factor, _ in sizes]


def level_sizes(height: int, width: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield factor and (height, width) of each level of a map, finest first."""
    factor = 1
    while min(height, width) > SMALLEST:
        factor, height, width = factor * 2, -(-height // 2), -(-width // 2)
        yield factor, (height, width)


def halve(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Average squares of two by two pixels; only finite values count.

    Parameters
    ----------
    values : numpy.ndarray
        (y, x) float32, of any size.

    Returns
    -------
    numpy.ndarray
        (ceil(y / 2), ceil(x / 2)) float32. Sums are float64, so that the mean of
        equal values is exactly that value.
    """
    height, width = values.shape
    ragged = ((0, height % 2), (0, width % 2))
    padded = np.pad(values, ragged, constant_values=np.nan)
    total = np.zeros((len(padded) // 2, padded.shape[1] // 2))
    count = np.zeros(total.shape, np.uint8)
    for row in (0, 1):
        for column in (0, 1):
            corner = padded[row::2, column::2]
            finite = np.isfinite(corner)
            np.add(total, corner, out=total, where=finite)
            count += finite
    mean = np.full(total.shape, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean.astype(np.float32)


def _check_grid(name: str, array: Any) -> None:
    if tuple(array.metadata.dimension_names or ()) != ("y", "x"):
        raise ValueError(
            f"Overviews are made of maps on one grid: {name} must have dimensions "
            f"(y, x), got {array.metadata.dimension_names}. Leave them out for chips."
        )


def _array(group: zarr.Group, name: str) -> Any:
    return group[name]


def _entries(attributes: Mapping[str, Any]) -> list[dict[str, str]]:
    return list(attributes.get(REGISTRY, ()))


def _remove_entry(group: zarr.Group) -> None:
    """Remove the attribute that lists the overviews, while they are written."""
    attributes: dict[str, Any] = dict(group.attrs)
    if attributes.pop("multiscales", None) is not None:
        kept = [e for e in _entries(group.attrs) if e.get("uuid") != MULTISCALES.uuid]
        group.attrs.put({**attributes, REGISTRY: kept})


def _create_level(
    root: zarr.Group,
    finer: zarr.Group,
    names: Sequence[str],
    factor: int,
    height: int,
    width: int,
) -> zarr.Group:
    """Create the group of a level: coordinates, attributes, empty variables."""
    import zarr

    root.require_group(_OVERVIEWS)
    path = f"{root.path}/{_OVERVIEWS}/{factor}".lstrip("/")
    frame = _halved_frame(finer, names, height, width)
    frame.attrs = {**_titles(root), **conventions_of(frame)}
    frame.to_zarr(root.store, group=path, mode="w", zarr_format=3, consolidated=False)
    level = zarr.open_group(root.store, path=path, mode="r+")
    for name in names:
        source = _array(root, name)
        grids = map(_chunk_and_shard, (height, width), *_chunking(source))
        chunks, shards = zip(*grids, strict=True)
        level.create_array(
            name,
            shape=(height, width),
            dtype="float32",
            chunks=chunks,
            shards=None if source.shards is None else shards,
            compressors=source.compressors,
            fill_value=float("nan"),
            dimension_names=["y", "x"],
            attributes={**source.attrs, "cell_methods": "area: mean"},
        )
    return level


def _chunking(source: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return source.chunks, source.shards or source.chunks


def _chunk_and_shard(size: int, chunk: int, shard: int) -> tuple[int, int]:
    """Cut a chunk and a shard, pixels, down to an axis of `size` pixels."""
    chunk = min(chunk, size)
    return chunk, min(shard // chunk, -(-size // chunk)) * chunk


def _titles(root: zarr.Group) -> dict[str, Any]:
    """Return the attributes of a map that its overviews get too."""
    kept = ("Conventions", "title", "institution", "source", "history", "references")
    return {name: root.attrs[name] for name in kept if name in root.attrs}


def _halved_frame(
    finer: zarr.Group, names: Sequence[str], height: int, width: int
) -> xr.Dataset:
    """Return the coordinates of a map of half the resolution, (height, width)."""
    scene = _open(finer)
    coordinates = {
        name: _pairs(scene[name], size)
        for name, size in (("y", height), ("x", width))
        if name in scene.coords
    }
    mapping = _array(finer, names[0]).attrs.get("grid_mapping", "spatial_ref")
    if mapping in scene.coords:
        coordinates[mapping] = scene[mapping].variable.copy(deep=True)
    transform = transform_of(scene)
    if transform is not None:
        _write_georeference(coordinates, mapping, _doubled(transform))
    return xr.Dataset(coords=coordinates)


def _open(group: zarr.Group) -> xr.Dataset:
    scene: xr.Dataset = xr.open_zarr(
        group.store,
        group=group.path or None,
        chunks=None,
        consolidated=False,
        decode_coords="all",
    )
    return scene


def _pairs(centres: xr.DataArray, size: int) -> xr.Variable:
    """Return the centre of each pair of pixels; the last may be a single one."""
    values = centres.values
    middles = [values[2 * i : 2 * i + 2].mean() for i in range(size)]
    return xr.Variable(centres.dims, np.array(middles), centres.attrs)


def _doubled(transform: Affine) -> Affine:
    """Return the transform of pixels twice as wide and high, from the same corner."""
    a, b, c, d, e, f = transform[:6]
    return type(transform)(2 * a, 2 * b, c, 2 * d, 2 * e, f)


def _write_georeference(
    coordinates: dict[str, Any], mapping: str, transform: Affine
) -> None:
    """Write pixel centres and the grid mapping from a transform."""
    axes = (("y", transform.e, transform.f), ("x", transform.a, transform.c))
    for name, side, start in axes:
        size = coordinates[name].size
        coordinates[name].values = start + side * (np.arange(size) + 0.5)
    if mapping in coordinates:
        numbers = map(float, transform.to_gdal())
        coordinates[mapping].attrs["GeoTransform"] = " ".join(map(str, numbers))


def _fill(finer: zarr.Group, level: zarr.Group, name: str, side: int, bar: Any) -> None:
    """Compute a variable of a level, a few blocks of whole shards at a time."""
    source, target = _array(finer, name), _array(level, name)
    height, width = target.shape
    # A block is whole shards, so that no two threads write to the same shard.
    down, across = (-(-side // shard) * shard for shard in _chunking(target)[1])
    corners = [(y, x) for y in range(0, height, down) for x in range(0, width, across)]
    bar.total = (bar.total or 0) + len(corners)

    def compute(corner: tuple[int, int]) -> None:
        top, left = corner
        fine = source[2 * top : 2 * (top + down), 2 * left : 2 * (left + across)]
        target[top : top + down, left : left + across] = halve(np.asarray(fine))

    for _, future in few_at_a_time(corners, compute, 2):
        future.result()
        bar.update()


def _described(
    group: zarr.Group, names: Sequence[str], factors: Sequence[int]
) -> dict[str, Any]:
    """Return the root's attributes with the levels, after all of them are written."""
    conventions = conventions_of(_open(group))
    kept = [
        known for known in (PROJ, SPATIAL) if known.entry() in _entries(conventions)
    ]
    described: dict[str, Any] = {**group.attrs, **conventions}
    if factors:
        kept.append(MULTISCALES)
        described["multiscales"] = {
            "layout": list(_layout(group, names, factors, conventions)),
            "resampling_method": "average",
        }
    if kept:
        described[REGISTRY] = declare(_entries(group.attrs), *kept)
    return described


def _layout(
    group: zarr.Group,
    names: Sequence[str],
    factors: Sequence[int],
    conventions: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Yield each variable at each level, by paths that any Zarr reader resolves.

    The assets are arrays; the convention also allows groups. But full resolution is in
    the root group, which has no relative path (Zarr does not know ".").
    """
    for name in names:
        yield {"asset": name, "transform": _scaled(1.0), **_where(conventions)}
        finer = name
        for factor in factors:
            path = f"{_OVERVIEWS}/{factor}"
            yield {
                "asset": f"{path}/{name}",
                "derived_from": finer,
                "transform": _scaled(2.0),
                "resampling_method": "average",
                **_where(group[path].attrs),
            }
            finer = f"{path}/{name}"


def _scaled(factor: float) -> dict[str, list[float]]:
    """Return the transform to the next level, from the same upper left corner."""
    return {"scale": [factor, factor], "translation": [0.0, 0.0]}


def _where(attributes: Mapping[str, Any]) -> dict[str, Any]:
    names = ("spatial:shape", "spatial:transform")
    return {name: attributes[name] for name in names if name in attributes}
