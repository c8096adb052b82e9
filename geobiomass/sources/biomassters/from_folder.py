"""A lazy cube of the BioMassters chips, from the competition's folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube import BIOMASSTERS_BANDS, CubeError, check_cube
from geobiomass.sources.biomassters.plan_chips import (
    BANDS_AND_DTYPE,
    ChipPlan,
    plan_chips,
)
from geobiomass.training.given_paths import path_text
from geobiomass.training.setting_names import explain_arguments

Pixels = npt.NDArray[np.float32]

CALENDAR = (9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 7, 8)
"""Calendar month of each file number: 00 is September, 11 is August."""

_RADAR_BANDS, _RADAR_MISSING = 4, -9999.0
_CLOUD_UNUSABLE = 255  # cloud probability where all Sentinel-2 bands are missing


@explain_arguments
def from_biomassters(
    root: str | os.PathLike[str],
    split: Literal["train", "test"] = "train",
    *,
    damaged: Literal["raise", "skip"] = "raise",
    chips: int | str | Iterable[str] | None = None,
    download: bool | str = False,
    verify: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Open the chips of the BioMassters competition as a lazy cube.

    `root` contains ``train_features/``, ``test_features/`` and ``train_agbm/`` with
    files named ``{chip}_S1_00.tif`` to ``{chip}_S2_11.tif`` (00 is September) and
    ``{chip}_agbm.tif``. A part of the competition's chips is enough. If `root` contains
    ``features_metadata.csv`` and ``train_agbm_metadata.csv``, these tables define the
    files of each chip and their sizes in bytes; so a recompressed copy must not have
    them. Opening lists folders and reads headers; pixels are read when they are
    computed, with one dask task per chip.

    These values become NaN: -9999 in Sentinel-1; months without a file; all Sentinel-2
    bands where cloud probability is 255; the ten reflectances where all of them are
    zero; labels that are negative or not finite, since biomass is neither. Exact zeros
    in Sentinel-1 cannot be distinguished from 0 dB and are kept.

    Parameters
    ----------
    root : path
        The folder that contains the folders above.
    split : "train" or "test"
        "train" must have labels; "test" has ``agb`` if ``test_agbm/`` exists.
    damaged : "raise" or "skip"
        Action for files that are incomplete, unreadable, or listed but missing: raise
        an error; or warn, treat image files as missing, and leave out chips without a
        valid label.
    chips : int, str or iterable of str, optional
        Ids of the chips to open, or a number of chips. A number is drawn by the hashes
        of the ids: the same number always gives the same chips, and a greater number
        gives these and more. By default all chips in `root`.
    download : bool, "us", "eu", "as" or an address
        First download the files of these chips that `root` lacks, from the public
        bucket of the competition (True is "us"), or from a mirror that fsspec can
        read, such as ``"s3://bucket/folder"``. All training chips are 218 GB, the test
        chips 73 GB. After an interruption, the same call downloads only the rest.
    verify : bool
        When downloading, also check the checksums of files that exist already.
    storage_options : mapping, optional
        Options for fsspec, when downloading; S3 is read anonymously unless they
        contain credentials.
    progress : bool
        Show a progress bar while downloading.

    Returns
    -------
    xarray.Dataset
        ``image`` (chip, month, band, y, x) float32: dB for Sentinel-1, reflectance
        x 10^4 for Sentinel-2, percent for CLP; ``agb`` (chip, y, x) float32, Mg/ha.
        A dask chunk is a chip; chips are in order of id. There are no y and x
        coordinates, since the competition gives no georeference.

    Raises
    ------
    CubeError
        If there are no chips, or if files have problems, which are all listed: damage,
        bands or data types other than the competition's, chips of another size. Also
        while computing, if a file proves to be damaged.
    geobiomass.sources.biomassters.download.DownloadError
        If files cannot be downloaded undamaged, or the disk has no room (an OSError).

    Notes
    -----
    Of uncompressed files of one kind and the same size in bytes, only one header is
    read; of compressed files, every header. A file of the right size and a wrong data
    type is detected when it is read; wrong pixel values are not detected.
    """
    if split not in ("train", "test"):
        raise CubeError(f"split must be 'train' or 'test', got {split!r}.")
    if damaged not in ("raise", "skip"):
        raise CubeError(f"damaged must be 'raise' or 'skip', got {damaged!r}.")
    if download is not False:
        from geobiomass.sources.biomassters.download import download_chips

        fetched = download_chips(
            root,
            split,
            chips,
            source=download,
            storage_options=storage_options,
            verify=verify,
            progress=progress,
        )
        chips = chips if chips is None else fetched
    root = path_text(root, "The folder of BioMassters", CubeError)
    plans = plan_chips(Path(root), split, skip=damaged == "skip", chips=chips)
    cube = xr.Dataset(
        coords={
            "chip": np.array([plan.chip for plan in plans]),
            "month": np.array(CALENDAR),
            "band": np.array(BIOMASSTERS_BANDS),
        },
        attrs={
            "title": f"BioMassters, {split} chips",
            "source": "BioMassters competition: Sentinel-1, Sentinel-2 and biomass "
            "from airborne laser scanning, Finland",
            "licence": "CC-BY-4.0",
        },
    )
    cube["image"] = _lazy_image(plans)
    if plans[0].labels is not None:
        cube["agb"] = _lazy_label(plans)
    check_cube(cube)
    return cube


def _lazy_image(plans: list[ChipPlan]) -> xr.Variable:
    shape = (len(CALENDAR), len(BIOMASSTERS_BANDS), *plans[0].size)
    attrs = {
        "long_name": "monthly Sentinel-1 backscatter and Sentinel-2 reflectance",
        "units": "dB (VV, VH); reflectance x 10^4 (B02 to B12); percent (CLP)",
    }
    dims = ("chip", "month", "band", "y", "x")
    return xr.Variable(dims, _lazy(_read_image, plans, shape), attrs)


def _lazy_label(plans: list[ChipPlan]) -> xr.Variable:
    attrs = {"long_name": "above-ground biomass density", "units": "Mg/ha"}
    return xr.Variable(
        ("chip", "y", "x"), _lazy(_read_label, plans, plans[0].size), attrs
    )


def _lazy(
    read: Callable[[ChipPlan], Pixels], plans: list[ChipPlan], shape: tuple[int, ...]
) -> Any:
    """Return a dask array with one task and one chunk per chip."""
    import dask.array as da
    from dask.base import tokenize

    name = f"{read.__name__.strip('_')}-{tokenize(list(map(repr, plans)))}"
    rest = (0,) * len(shape)
    tasks = {(name, i, *rest): (read, plan) for i, plan in enumerate(plans)}
    chunks = ((1,) * len(plans), *((length,) for length in shape))
    return cast(Any, da.Array)(tasks, name, chunks, dtype=np.float32)


# Reading: the functions below run inside dask tasks, several at a time -------------


def _read_image(plan: ChipPlan) -> Pixels:
    """Read the image of a chip, (1, month, band, y, x): dB, reflectance x 10^4, %."""
    shape = (1, len(CALENDAR), len(BIOMASSTERS_BANDS), *plan.size)
    image: Pixels = np.empty(shape, np.float32)
    optical = np.empty((len(BIOMASSTERS_BANDS) - _RADAR_BANDS, *plan.size), np.uint16)
    with _gdal_settings():
        for month, values in enumerate(image[0]):
            radar, reflectance = values[:_RADAR_BANDS], values[_RADAR_BANDS:]
            if month in plan.radar:
                _read_month(plan, "S1", month, radar)
                radar[radar == _RADAR_MISSING] = np.nan
            else:
                radar[:] = np.nan
            if month in plan.optical:
                _read_month(plan, "S2", month, optical)
                _fill_reflectance(reflectance, optical)
            else:
                reflectance[:] = np.nan
    return image


def _fill_reflectance(out: Pixels, stored: npt.NDArray[np.uint16]) -> None:
    """Copy a month of Sentinel-2, (band, y, x), with NaN where it has no data."""
    out[:] = stored
    empty = ~stored[:-1].any(axis=0)
    unusable = stored[-1] == _CLOUD_UNUSABLE
    np.copyto(out[:-1], np.nan, where=empty)
    np.copyto(out, np.nan, where=unusable)


def _read_label(plan: ChipPlan) -> Pixels:
    """Read the biomass of a chip, (1, y, x), Mg/ha."""
    label: Pixels = np.empty((1, *plan.size), np.float32)
    what = f"The label of chip {plan.chip}"
    with _gdal_settings():
        _read(plan.label_path(), "agbm", label, what)
    label[~np.isfinite(label) | (label < 0)] = np.nan
    return label


def _read_month(plan: ChipPlan, kind: str, month: int, out: npt.NDArray[Any]) -> None:
    sensor = {"S1": "Sentinel-1", "S2": "Sentinel-2"}[kind]
    what = f"{sensor} of chip {plan.chip}, calendar month {CALENDAR[month]},"
    _read(plan.image_path(kind, month), kind, out, what)


def _read(path: str, kind: str, out: npt.NDArray[Any], what: str) -> None:
    from rasterio.errors import RasterioError

    wanted = (*out.shape, BANDS_AND_DTYPE[kind][1])
    try:
        with _reader()(path) as source:
            got = (source.count, source.height, source.width, source.dtypes[0])
            if got == wanted:
                source.read(out=out)
    except (RasterioError, OSError) as error:
        raise CubeError(
            f"{what} cannot be read: {path} is damaged or missing "
            f"({error.__cause__ or error}); download it again, then reopen the cube."
        ) from error
    if got != wanted:
        raise CubeError(
            f"{what} must have (bands, height, width, type) {wanted}, got {got} in "
            f"{path}; download it again, then reopen the cube."
        )


def _gdal_settings() -> Any:
    """Return a context with the GDAL settings of one chip, for this thread only."""
    import rasterio

    return rasterio.Env(
        # Else each open lists a folder of 100,000 files to find companion files.
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",
        # With either, a file that was cut short gives zeros.
        GTIFF_DIRECT_IO="NO",
        GTIFF_IGNORE_READ_ERRORS="NO",
    )


@cache
def _reader() -> Any:
    """Return a reader class that does not read the georeference of a file.

    rasterio warns of each file without a georeference when it reads it. Python's
    filters of warnings belong to the whole process, so changing them here would race
    with other threads. A reader that does not ask needs no filter.
    """
    from rasterio.io import DatasetReader

    class UngeoreferencedReader(DatasetReader):  # type: ignore[misc]  # untyped base
        def read_transform(self) -> list[float]:
            return [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]

    return UngeoreferencedReader
