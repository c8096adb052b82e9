"""Selections: dask arrays that are a part of one stored variable."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from geobiomass.cube.stored_array import StoredArray

Positions = npt.NDArray[np.int64]

PREFIX = "stored-"
"""Prefix of the names of dask arrays that are made from a StoredArray."""


@dataclass(frozen=True)
class Selection:
    """A stored variable, and the positions that are selected along each dimension."""

    stored: StoredArray
    positions: tuple[Positions, ...]

    @classmethod
    def all_of(cls, stored: StoredArray) -> Self:
        """Return the selection of a whole stored variable."""
        return cls(stored, tuple(np.arange(size) for size in stored.shape))

    @classmethod
    def of(cls, array: Any) -> Self | None:
        """Return the part of a stored variable that a dask array selects.

        The array's own graph is run on positions instead of pixels. Operations that do
        more than select (arithmetic, casts, masks) fail on positions.

        Parameters
        ----------
        array : dask.array.Array
            Such as a variable of an opened cube, with bands, chips or pixels chosen.

        Returns
        -------
        Selection or None
            None if the array is not just a part of one variable.
        """
        layers = getattr(getattr(array, "dask", None), "layers", {})
        leaves = [name for name in layers if name.startswith(f"original-{PREFIX}")]
        if len(leaves) != 1:
            return None
        stored = layers[leaves[0]][leaves[0]]
        stored = getattr(stored, "value", stored)  # newer versions of dask wrap it
        try:
            return cls(stored, _trace(array, leaves[0], stored))
        except Exception:
            # Functions of other packages may raise any error on positions. dask then
            # computes the array as usual, and shows the error if there is one.
            return None

    @property
    def whole(self) -> bool:
        """Whether all pixels are selected, in order; bands may be a selection."""
        taken = [
            np.array_equal(positions, np.arange(size))
            for positions, size in zip(self.positions, self.stored.shape, strict=True)
        ]
        return all(taken[:-3] + taken[-2:])

    @property
    def spans(self) -> tuple[slice, ...]:
        """The smallest window of the stored variable around the selection."""
        return tuple(slice(int(p.min()), int(p.max()) + 1) for p in self.positions)


class _NotASelection(AttributeError, TypeError):
    """An operation on a stored variable is not a selection."""


class _Trace:
    """A block without pixels, which records the positions that they would come from."""

    # Makes numpy's arithmetic fail; the methods below fail where values are needed.
    __array_ufunc__ = None

    def __init__(self, positions: tuple[Positions, ...]) -> None:
        self.positions = positions
        self.shape = tuple(len(one) for one in positions)
        self.ndim = len(positions)
        self.dtype = StoredArray.dtype

    def __getitem__(self, index: Any) -> _Trace:
        given = list(index) if isinstance(index, tuple) else [index]
        if any(one is Ellipsis for one in given):
            at = next(i for i, one in enumerate(given) if one is Ellipsis)
            given[at : at + 1] = [slice(None)] * (self.ndim - len(given) + 1)
        given += [slice(None)] * (self.ndim - len(given))
        lists = [one for one in given if not isinstance(one, slice)]
        # Two lists would select points, and integers would drop a dimension.
        outer = len(lists) <= 1 and all(np.ndim(one) == 1 for one in lists)
        if len(given) != self.ndim or not outer:
            raise _NotASelection
        pairs = zip(self.positions, given, strict=True)
        return _Trace(tuple(positions[one] for positions, one in pairs))

    def __array__(self, *args: Any, **options: Any) -> Any:
        raise _NotASelection

    def __array_function__(
        self, function: Any, types: Any, args: Any, options: Any
    ) -> _Trace:
        known: dict[Any, Callable[..., _Trace]] = {
            np.concatenate: _concatenate,
            np.take: _take,
        }
        if function not in known:
            raise _NotASelection
        return known[function](*args, **options)

    def __getattr__(self, name: str) -> Any:
        raise _NotASelection


def _concatenate(parts: Iterable[_Trace], axis: int = 0) -> _Trace:
    traces = list(parts)
    if not all(isinstance(part, _Trace) for part in traces):
        raise _NotASelection
    positions = list(traces[0].positions)
    for part in traces[1:]:
        for at, (ours, theirs) in enumerate(
            zip(positions, part.positions, strict=True)
        ):
            if at != axis and not np.array_equal(ours, theirs):
                raise _NotASelection
    positions[axis] = np.concatenate([part.positions[axis] for part in traces])
    return _Trace(tuple(positions))


def _take(block: _Trace, indices: Any, axis: int) -> _Trace:
    index = [slice(None)] * block.ndim
    index[axis] = indices
    return block[tuple(index)]


def _trace(array: Any, leaf: str, stored: StoredArray) -> tuple[Positions, ...]:
    """Trace the blocks along each axis, at the first and last block of the others."""
    import dask
    from dask.optimization import cull

    if array.ndim != stored.ndim or 0 in array.shape:
        raise _NotASelection
    ends = [(0,) * array.ndim, tuple(count - 1 for count in array.numblocks)]
    keys = [
        [
            [
                (
                    array.name,
                    *(i if at == axis else end[at] for at in range(array.ndim)),
                )
                for i in range(array.numblocks[axis])
            ]
            for axis in range(array.ndim)
        ]
        for end in ends
    ]
    graph = dict(array.dask)
    graph[leaf] = _Trace(tuple(np.arange(size) for size in stored.shape))
    flat = [key for cross in keys for axis in cross for key in axis]
    graph, _ = cull(graph, flat)
    first, last = (
        tuple(_along(blocks, axis) for axis, blocks in enumerate(cross))
        for cross in dask.get(graph, keys)  # type: ignore[attr-defined, arg-type]
    )
    if not all(np.array_equal(*pair) for pair in zip(first, last, strict=True)):
        raise _NotASelection
    return first


def _along(blocks: list[_Trace], axis: int) -> Positions:
    return _concatenate(blocks, axis).positions[axis]
