"""The reader of cubes, for training and for maps: windows in, pixels out.

Pixels on disk are read as they are stored, straight out of their shards; dask arrays
are computed; of arrays in memory a window is cut.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.cube import CubeError, DamagedError, check_cube, is_chips, select_bands
from geobiomass.cube.cluster_errors import ClusterError
from geobiomass.cube.static_layers import STATIC, select_layers
from geobiomass.cube.statistics import BandTally
from geobiomass.data.arrays import (
    Array,
    Codes,
    Decoded,
    Kept,
    Lazy,
    OnDisk,
    Pixels,
    pixels_of,
)
from geobiomass.data.decoder import Decoder
from geobiomass.data.static_pixels import static_pixels
from geobiomass.network.static_planes import packed, plane_count
from geobiomass.tiles import Sample, Window, mirror

__all__ = ["Decoder", "Reader", "Sample"]

Mask = npt.NDArray[np.bool_]


class Reader:
    """Reader of the windows of a cube, with the bands of a model in their order.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene or chips.
    bands : sequence of str
        Bands to read, matched by name.
    layers : sequence of str
        Static layers to read with :meth:`tile`, matched by name.

    Raises
    ------
    CubeError
        If `cube` is not a cube, or lacks a band or a layer.
    """

    def __init__(
        self, cube: xr.Dataset, bands: Sequence[str], layers: Sequence[str] = ()
    ) -> None:
        check_cube(cube)
        cube = select_bands(cube, tuple(bands))
        self.chips = is_chips(cube)
        self.count = cube.sizes["chip"] if self.chips else 1
        self.height, self.width = cube.sizes["y"], cube.sizes["x"]
        self.months = cube.sizes["month"]
        self.calendar = tuple(int(month) for month in cube["month"].values)
        self.bands = tuple(bands)
        self.names = [str(name) for name in cube["chip"].values] if self.chips else []
        self._image = pixels_of(cube["image"].data)
        self._agb = pixels_of(cube["agb"].data) if "agb" in cube else None
        self._errors: Pixels | None = None
        if "agb" in cube and "agb_se" in cube:
            self._errors = pixels_of(cube["agb_se"].data)
        self._weigh: Callable[[Array], Array] | None = None
        self._known: Callable[[Sample], Mask] | None = None
        self._layers = cube[[STATIC]] if STATIC in cube else xr.Dataset()
        self.static_layers: tuple[str, ...] = ()
        self._static: Pixels | None = None
        self._take_layers(layers)

    def _take_layers(self, names: Sequence[str]) -> None:
        self.static_layers = tuple(names)
        if not names:
            self._static = None
            return
        chosen = select_layers(self._layers, names, "The model learnt")
        self._static = static_pixels(chosen[STATIC])

    def with_layers(self, names: Sequence[str]) -> Reader:
        """Return a copy of this reader whose tiles have these static layers.

        Itself, where it reads these already.

        Raises
        ------
        CubeError
            If the cube lacks a layer.
        """
        if tuple(names) == self.static_layers:
            return self
        other = copy.copy(self)
        other._take_layers(names)
        return other

    @property
    def planes(self) -> int:
        """Further months of a tile that hold its static layers."""
        return plane_count(len(self.static_layers), len(self.bands))

    @property
    def whole(self) -> Window:
        """The window of the whole scene, or of a whole chip."""
        return Window(0, 0, self.height, self.width)

    @property
    def pixels(self) -> int:
        """Pixels of the scene, or of all chips."""
        return self.count * self.height * self.width

    def identity(self) -> str:
        """Return a fingerprint of the pixels, as far as it needs no computing."""
        known = self._image.identity()
        if self._static is None:
            return known
        return f"{known} {list(self.static_layers)} {self._static.identity()}"

    def stored_bytes(self) -> int:
        """Return the bytes of image and static layers as stored, compressed or not."""
        layers = 0 if self._static is None else self._static.stored_bytes()
        return self._plain.stored_bytes() + layers

    @property
    def statistics(self) -> pd.DataFrame | None:
        """The stored statistics of these bands, if all of a cube on disk is read."""
        image = self._plain
        if not isinstance(image, OnDisk) or not image.whole:
            return None
        table = image.stored.statistics
        return None if table is None else table.iloc[image.bands]

    @property
    def _plain(self) -> Pixels:
        return self._image.source if isinstance(self._image, Decoded) else self._image

    @property
    def computed_chunks(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """The sizes of dask's chunks along y and x; None where nothing is computed."""
        image = self._plain
        if not isinstance(image, Lazy):
            return None
        height, width = image.array.chunks[-2:]
        return tuple(height), tuple(width)

    def tally(self) -> BandTally:
        """Return an empty tally for the values of :meth:`codes`."""
        return BandTally(self.bands, self._plain.steps, self._plain.missing)

    def codes(self, sample: Sample) -> Codes:
        """Read one window inside the scene as it is stored, (month, band, y, x)."""
        try:
            return self._plain.codes(sample)
        except Exception as error:
            raise self._named(sample, error) from error

    @property
    def decoder(self) -> Decoder:
        """The decoder from the codes of :meth:`fill` to physical values."""
        image = self._image
        return Decoder(image.steps, image.missing, *image.order, self.calendar)

    def decoded(self) -> Reader:
        """Return a copy of this reader whose batches are physical values already.

        For a network on the CPU it is fastest to decode each chunk while it is in the
        processor's cache; a GPU decodes whole batches.
        """
        other = copy.copy(self)
        other._image = Decoded(self._image)
        return other

    def with_labels_where(self, known: Callable[[Sample], Mask]) -> Reader:
        """Return a copy of this reader that sees fewer labels.

        Parameters
        ----------
        known : callable
            Returns which pixels of a sample (y, x) keep their label; the others
            become NaN.
        """
        other = copy.copy(self)
        other._known = known
        return other

    def with_weights(self, weigh: Callable[[Array], Array] | None) -> Reader:
        """Return a copy of this reader whose labels come with their weights.

        Parameters
        ----------
        weigh : callable or None
            Returns the weights of labels from their standard errors; None: without.
        """
        other = copy.copy(self)
        other._weigh = weigh
        return other

    @property
    def has_errors(self) -> bool:
        """Whether labels have standard errors, ``agb_se``."""
        return self._errors is not None

    @property
    def layers(self) -> int:
        """Layers of :meth:`fill`'s labels: two if they come with weights."""
        return 1 if self._weigh is None else 2

    @property
    def ground_layers(self) -> int:
        """Layers that :meth:`fill` fills beside the codes: labels, static layers."""
        return self.layers + len(self.static_layers)

    def keeping(self, height: int, width: int) -> Reader:
        """Return a copy of this reader for windows that are near each other.

        Dask arrays are then computed chunk by chunk, and the chunks are kept for the
        next windows: those that `height` x `width` pixels may touch.
        """
        other = copy.copy(self)
        if isinstance(self._image, Lazy):
            other._image = Kept(self._image.array, height, width)
        if isinstance(self._static, Lazy):
            other._static = Kept(self._static.array, height, width)
        return other

    def cache(self, limit: int) -> None:
        """Read the whole cube into memory, if it takes no more than `limit` bytes.

        Without this, random crops decode more than they need in every epoch.
        """
        sources = [self._image] + ([self._agb] if self._agb is not None else [])
        sources += [each for each in (self._errors, self._static) if each is not None]
        if sum(source.bytes for source in sources) > limit:
            return
        self._image = self._image.in_memory()
        if self._agb is not None:
            self._agb = self._agb.in_memory()
        if self._errors is not None:
            self._errors = self._errors.in_memory()
        if self._static is not None:
            self._static = self._static.in_memory()

    def read(self, sample: Sample) -> Array:
        """Read one window; beyond the scene's edge it is reflected.

        Returns
        -------
        numpy.ndarray
            (month, band, y, x) float32, physical units, NaN where missing.

        Raises
        ------
        CubeError
            If a part of the cube cannot be read; it names the part.
        """
        return self._reflected(self._image, sample)

    def tile(self, sample: Sample) -> Array:
        """Read one window as a network takes it: months, then static layers, if any.

        Returns
        -------
        numpy.ndarray
            (month, band, y, x) float32 as :meth:`read` has it, with static layers as
            :mod:`geobiomass.network.static_planes` arranges them.

        Raises
        ------
        CubeError
            If a part of the cube cannot be read; it names the part.
        """
        image = self.read(sample)
        if self._static is None:
            return image
        return packed(image, self._reflected(self._static, sample)[0])

    def layers_alone(self) -> Reader:
        """Return a reader of the static layers, as an image of one month.

        Its bands are the layers, and its month is 0.
        """
        other = copy.copy(self)
        other._image = cast(Pixels, self._static)
        other.bands, other.months, other.calendar = self.static_layers, 1, (0,)
        other._take_layers(())
        return other

    def _reflected(self, source: Pixels, sample: Sample) -> Array:
        inside = sample.window
        if inside.intersect(self.whole) != inside:
            inside = _reach(inside, self.whole)
        image = self._read(source, Sample(inside, sample.chip))
        if inside != sample.window:
            rows = mirror(sample.window.top, sample.window.bottom, self.height)
            columns = mirror(sample.window.left, sample.window.right, self.width)
            image = image[:, :, rows - inside.top][:, :, :, columns - inside.left]
        return image

    def labels(self, sample: Sample) -> Array:
        """Read the labels of one window inside the scene, (y, x), Mg/ha."""
        return self._labels(sample)

    def _labels(self, sample: Sample, out: Array | None = None) -> Array:
        labels = self._read(cast(Pixels, self._agb), sample, out)
        if self._known is None:
            return labels
        if out is None:
            return np.where(self._known(sample), labels, np.float32(np.nan))
        labels[~self._known(sample)] = np.nan
        return labels

    def errors(self, sample: Sample) -> Array:
        """Read the standard errors of the labels of one window, (y, x), Mg/ha.

        Raises
        ------
        CubeError
            If an error of a label is infinite or negative; or labels have no error and
            pixels without a label have one, so that the errors are of other labels.
        """
        errors = self._read(cast(Pixels, self._errors), sample)
        labels = self._read(cast(Pixels, self._agb), sample)
        known = np.isfinite(labels)
        lacking, left = known & np.isnan(errors), ~known & np.isfinite(errors)
        if lacking.any() and left.any():
            raise CubeError(
                "Standard errors of labels, 'agb_se', must be of the labels that the "
                f"cube has, got {int(lacking.sum()):,} labels without an error and "
                f"{int(left.sum()):,} errors without a label at "
                f"{self.name_of(sample)}, as where 'agb' was replaced; give both, "
                "gb.with_labels(cube, labels, error=...), or drop the old errors, "
                "cube.drop_vars('agb_se'); if they are right, keep those of labels, "
                "cube.assign(agb_se=cube.agb_se.where(cube.agb.notnull()))."
            )
        if self._known is not None:
            known &= self._known(sample)
        wrong = known & (np.isinf(errors) | (errors < 0))
        if wrong.any():
            raise CubeError(
                "Standard errors of labels, 'agb_se', must be finite and not below 0, "
                f"got {errors[wrong][0]:g} at {self.name_of(sample)}; correct them, or "
                "make them missing, cube.assign(agb_se=cube.agb_se.where(...))."
            )
        return errors

    def cells(self, samples: Sequence[Sample]) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return the shape and type that hold the codes of any of some samples."""
        shapes = [self._image.cells(sample)[0] for sample in samples]
        return tuple(np.max(shapes, axis=0).tolist()), self._image.code_type

    def fill(self, sample: Sample, codes: Codes, agb: Array) -> tuple[int, ...]:
        """Read one sample into given memory, as it is stored.

        Parameters
        ----------
        sample : Sample
            A window inside the scene.
        codes : numpy.ndarray
            To be filled: of the shape and type that :meth:`cells` returns.
        agb : numpy.ndarray
            (layer, y, x), to be filled with the labels, with their weights if they
            have any, then with the static layers: `ground_layers` in all.

        Returns
        -------
        tuple of int
            The corner of the window in the cells: month, band, row, column.

        Raises
        ------
        CubeError
            If a part of the cube cannot be read; it names the part.
        """
        try:
            self._image.fill(sample, codes)
        except Exception as error:
            raise self._named(sample, error) from error
        self.fill_ground(sample, agb)
        return self._image.cells(sample)[1]

    def fill_ground(self, sample: Sample, agb: Array) -> None:
        """Read labels, weights and static layers of a sample into given memory."""
        self.fill_labels(sample, agb)
        if self._static is not None:
            agb[self.layers :] = self._read(self._static, sample)[0]

    def fill_labels(self, sample: Sample, agb: Array) -> None:
        """Read the labels of one sample, and their weights, into given memory."""
        self._labels(sample, agb[0])
        if self._weigh is not None:
            agb[1] = self._weigh(self.errors(sample))

    def uncomputed(self, samples: Sequence[Sample]) -> list[Any] | None:
        """Return the samples as lazy dask arrays; None if they are not lazy.

        Computed together, tasks that they share are computed once.
        """
        source = self._plain
        if not isinstance(source, Lazy) or source.keeper is not None:
            return None
        return [source.cut(sample) for sample in samples]

    def blank(self, codes: Codes, agb: Array) -> None:
        """Fill one sample with missing values: no month, no label, no layer."""
        missing = self._image.missing
        codes[...] = np.nan if missing is None else missing
        agb[...] = np.nan

    def _read(self, source: Pixels, sample: Sample, out: Array | None = None) -> Array:
        try:
            return source.read(sample, out)
        except Exception as error:
            raise self._named(sample, error) from error

    def _named(self, sample: Sample, error: Exception) -> Exception:
        """Return the error that names the part of the cube that cannot be read."""
        if isinstance(error, DamagedError | ClusterError):
            return error
        return DamagedError(
            f"The cube cannot be read at {self.name_of(sample)}: {error}"
        )

    def name_of(self, sample: Sample) -> str:
        """Return the name of a sample: the chip's id, rows and columns."""
        window = sample.window
        pixels = (
            f"rows {window.top} to {window.bottom - 1}, columns {window.left} to "
            f"{window.right - 1}"
        )
        if sample.chip is None:
            return pixels
        chip = f"chip {self.names[sample.chip]}"
        return chip if window == self.whole else f"{chip}, {pixels}"


def _reach(window: Window, whole: Window) -> Window:
    """Return the part of the scene that a window and its reflection need."""
    rows = mirror(window.top, window.bottom, whole.height)
    columns = mirror(window.left, window.right, whole.width)
    return Window(
        int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1
    )
