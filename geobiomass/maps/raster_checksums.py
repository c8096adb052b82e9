"""Checksums of a GeoTIFF map, by block, in a tag of the file itself.

Compression notices few flipped bits: a COG with one of them gave a mean of 6e34 Mg/ha.
The tag has the CRC-32C of the values of each block of 512 x 512 pixels, of each band
and overview, and what the header says: georeference, nodata, names, units, tags. They
are of values, not of bytes, so GDAL, QGIS and others read the file as any other, and a
copy of the file has them too.

Other programs hand tags on to what they make of a map. So the checksums count only
where the file has GDAL's mark of a COG, which an edited file loses as soon as one of
its tiles grows, and its own grid: where two of size, transform, system and type differ,
it is another raster. One alone is damage, since a flipped bit changes one.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.cube.errors import DamagedError
from geobiomass.cube.raster_errors import named_errors
from geobiomass.training.checksums import agrees, crc32c_of, with_checksum

TAG = "geobiomass_checksums"
SOFTWARE = "TIFFTAG_SOFTWARE"
MADE_BY = "geobiomass"
"""Software of a map: in a field of its own, so that it outlasts the other tags."""
SIDE = 512
"""Side of a block, pixels: a tile of the GeoTIFF, GDAL's own default for COG."""

_GRID = ("size", "transform", "crs", "types")
_REMEDY = (
    "copy the file again from where it was made, or make it again (predict_to with "
    "overwrite=True). If it was changed on purpose, empty its tags "
    f"{TAG} and {SOFTWARE}."
)

Block = tuple[int, int]  # row and column of blocks
Sums = dict[Block, int]


def block_sums(values: npt.NDArray[Any], top: int = 0, left: int = 0) -> Sums:
    """Return the CRC-32C of each block in a window of a band, (y, x).

    Parameters
    ----------
    values : numpy.ndarray
        Whole blocks, but at the edges of the raster.
    top, left : int
        The window's first row and column, multiples of `SIDE`.
    """
    sums = {}
    for y in range(0, values.shape[0], SIDE):
        for x in range(0, values.shape[1], SIDE):
            block = np.array(values[y : y + SIDE, x : x + SIDE], "<f4", order="C")
            block[np.isnan(block)] = np.nan  # whichever of its patterns of bits
            sums[(top + y) // SIDE, (left + x) // SIDE] = crc32c_of(block.tobytes())
    return sums


def record_checksums(path: Any, bands: Mapping[int, Sums] | None = None) -> None:
    """Write the checksums into a GeoTIFF that is otherwise complete.

    Parameters
    ----------
    path : Path
        A GeoTIFF of float32 values, with its overviews.
    bands : mapping, optional
        The checksums of each band at full resolution, by its number from 1, from the
        values in memory; by default the file is read back.
    """
    import rasterio

    with named_errors(path), rasterio.open(path) as source:
        facts = _header(source)
        factors = source.overviews(1)
        levels = [bands or _sums_of(source)]
    for level in range(len(factors)):
        with named_errors(path), rasterio.open(path, overview_level=level) as source:
            levels.append(_sums_of(source))
    record = with_checksum(
        {
            **facts,
            "overviews": list(factors),
            "blocks": [[_packed(level[n]) for n in sorted(level)] for level in levels],
        }
    )
    with named_errors(path), rasterio.open(path, "r+") as target:
        target.update_tags(**{TAG: json.dumps(record)})


def _sums_of(source: Any) -> dict[int, Sums]:
    sums: dict[int, Sums] = {number: {} for number in source.indexes}
    for rows, columns in _strips(source):
        window = (rows.start, rows.stop), (columns.start, columns.stop)
        for number in source.indexes:
            values = source.read(number, window=window)
            sums[number] |= block_sums(values, rows.start, columns.start)
    return sums


def _strips(source: Any) -> Iterator[tuple[slice, slice]]:
    wide = 8 * SIDE
    for top in range(0, source.height, SIDE):
        for left in range(0, source.width, wide):
            bottom, right = top + SIDE, left + wide
            yield (
                slice(top, min(bottom, source.height)),
                slice(left, min(right, source.width)),
            )


def _packed(sums: Sums) -> str:
    numbers = np.array([sums[block] for block in sorted(sums)], ">u4")
    return base64.b64encode(numbers.tobytes()).decode()


def _header(source: Any) -> dict[str, Any]:
    """Return what the header of an open raster says that values depend on."""
    own = {name: text for name, text in source.tags().items() if name != TAG}
    return {
        "size": [source.height, source.width],
        "transform": list(source.transform)[:6],
        "crs": None if source.crs is None else source.crs.to_wkt(),
        "nodata": [str(value) for value in source.nodatavals],
        "types": list(source.dtypes),
        "names": list(source.descriptions),
        "units": list(source.units),
        "scales": list(source.scales),
        "offsets": list(source.offsets),
        "tags": [own, *(source.tags(n) for n in source.indexes)],
    }


def _has_tag(tags: Mapping[str, str], name: str, known: str) -> bool:
    """Return whether a tag is as it was; earlier records cut digits of statistics."""
    text = tags.get(name, "")
    cut = text[: text.find(".") + 6] if name.startswith("STATISTICS_") else text
    return known in (text, cut)


@dataclass(frozen=True)
class RasterChecksums:
    """The checksums in a GeoTIFF map, compared with what is read of it.

    Parameters
    ----------
    path : str
        The file, for messages.
    record : mapping
        What :func:`record_checksums` wrote.
    """

    path: str
    record: Mapping[str, Any]

    @classmethod
    def of(cls, path: Any) -> RasterChecksums | None:
        """Read the checksums of a GeoTIFF, and compare its header with them.

        Returns
        -------
        RasterChecksums or None
            None where the file has none that count: of an earlier release, or of
            another program.

        Raises
        ------
        DamagedError
            If the header, or the checksums themselves, have changed.
        """
        import rasterio

        name = _name_of(path)
        # Without .aux.xml files, in which other programs write statistics.
        with (
            rasterio.Env(GDAL_PAM_ENABLED="NO"),
            named_errors(name),
            rasterio.open(path, driver="GTiff") as source,
        ):
            tags = source.tags()
            text = tags.get(TAG)
            layout = source.tags(ns="IMAGE_STRUCTURE").get("LAYOUT")
            if not text or layout != "COG":
                # A damaged tag is left out, or has another name; an empty one is there.
                lost = TAG not in tags and (layout == "COG" or not _ours(tags))
                if tags.get(SOFTWARE) == MADE_BY and lost:
                    raise _damaged(name, "the metadata in its header")
                return None
            now = json.loads(json.dumps(_header(source)))
        try:
            record = json.loads(text)
            whole = isinstance(record, dict) and agrees(record)
        except (ValueError, RecursionError):
            whole = False
        if not whole:
            raise _damaged(name, "the checksums in its header")
        changed = [fact for fact in now if not _same(fact, record.get(fact), now[fact])]
        if len(set(changed) & {*_GRID}) > 1 and not _has_its_pixels(path, record):
            return None
        for fact in changed:
            what = f"{_short(now[fact])} for {_short(record.get(fact))}"
            raise _damaged(name, f"{fact} in its header, {what},")
        return cls(name, record)

    def check(
        self, band: int, values: npt.NDArray[Any], top: int, left: int, level: int = 0
    ) -> None:
        """Compare a window of whole blocks with the checksums.

        Parameters
        ----------
        band : int
            Its number from 1.
        values : numpy.ndarray
            (y, x) float32, as they are stored.
        top, left : int
            First row and column of the window, multiples of `SIDE`.
        level : int
            0 for full resolution, or the number of an overview from 1.

        Raises
        ------
        DamagedError
            Names the file and the first block that differs.
        """
        factor = ([1, *self.record["overviews"]])[level]
        across = -(-self._size(level)[1] // SIDE)
        known = np.frombuffer(
            base64.b64decode(self.record["blocks"][level][band - 1]), ">u4"
        )
        for (row, column), crc in block_sums(values, top, left).items():
            if known[row * across + column] != crc:
                low, start = row * SIDE, column * SIDE
                where = (
                    f"rows {low} to {min(low + SIDE, self._size(level)[0]) - 1}, "
                    f"columns {start} to {min(start + SIDE, self._size(level)[1]) - 1}"
                )
                overview = f" of the overview {factor}" if level else ""
                raise _damaged(
                    self.path,
                    f"band {band} ({self.record['names'][band - 1]}){overview} in "
                    f"block {row}.{column}, {where}",
                )

    def check_for(self, path: Any, height: int, width: int) -> None:
        """Compare the overviews that GDAL may read a smaller image from.

        Parameters
        ----------
        path : path or file
            The raster.
        height, width : int
            Size of the image.
        """
        full = self.record["size"]
        step = min(full[0] / max(1, height), full[1] / max(1, width))
        factors = [1, *self.record["overviews"]]
        near = [n for n, factor in enumerate(factors) if factor <= 1.3 * step]
        # GDAL takes the coarsest that is fine enough, by a rule of its release.
        for level in near[-2:]:
            self._check_level(path, level)

    def check_all(self, path: Any, progress: bool = False) -> None:
        """Compare all blocks of all bands and overviews."""
        from tqdm.auto import tqdm

        levels = range(1 + len(self.record["overviews"]))
        with tqdm(
            levels, "Checking what is there", unit="level", disable=not progress
        ) as bar:
            for level in bar:
                self._check_level(path, level)

    def _check_level(self, path: Any, level: int) -> None:
        import rasterio

        some = {} if level == 0 else {"overview_level": level - 1}
        with named_errors(self.path), rasterio.open(path, **some) as source:
            for rows, columns in _strips(source):
                window = (rows.start, rows.stop), (columns.start, columns.stop)
                for band in source.indexes:
                    with named_errors(self.path, rows, columns):
                        values = source.read(band, window=window)
                    self.check(band, values, rows.start, columns.start, level)

    def _size(self, level: int) -> tuple[int, int]:
        height, width = self.record["size"]
        if level == 0:
            return height, width
        factor = self.record["overviews"][level - 1]
        return -(-height // factor), -(-width // factor)


def _name_of(path: Any) -> str:
    if isinstance(path, str | os.PathLike):
        return str(path)
    # An address is read through an open file of fsspec.
    return str(getattr(path, "path", None) or getattr(path, "name", path))


def _has_its_pixels(path: Any, record: Mapping[str, Any]) -> bool:
    """Return whether a raster has the first block of a map that is not empty.

    Then its grid is damaged; otherwise it is another raster, such as a part of the map.
    """
    import rasterio

    height, width = record["size"]
    known = np.frombuffer(base64.b64decode(record["blocks"][0][0]), ">u4")
    starts = [(y, x) for y in range(0, height, SIDE) for x in range(0, width, SIDE)]
    for (top, left), crc in zip(starts, known, strict=True):
        bottom, right = min(top + SIDE, height), min(left + SIDE, width)
        empty = np.full((bottom - top, right - left), np.nan, "<f4")
        if block_sums(empty)[0, 0] == crc:
            continue
        window = (top, bottom), (left, right)
        with named_errors(_name_of(path)), rasterio.open(path) as source:
            if source.height < bottom or source.width < right:
                return False
            return bool(block_sums(source.read(1, window=window))[0, 0] == crc)
    return False


def _ours(tags: Mapping[str, str]) -> bool:
    return any(name.startswith("geobiomass_") for name in tags)


def _same(fact: str, known: Any, found: Any) -> bool:
    if fact == "tags" and isinstance(known, list) and len(known) == len(found):
        # Tags that were added since are no damage.
        pairs = zip(known, found, strict=True)
        return all(
            _has_tag(two, n, text) for one, two in pairs for n, text in one.items()
        )
    if fact == "crs" and known is not None and found is not None and known != found:
        from rasterio.crs import CRS

        # Releases of PROJ write the same system in other words.
        return bool(CRS.from_wkt(known) == CRS.from_wkt(found))
    return bool(known == found)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _damaged(path: str, what: str) -> DamagedError:
    return DamagedError(
        f"{path} is damaged: {what} is not what geobiomass wrote (its checksum "
        f"differs); {_REMEDY}",
        path,
    )
