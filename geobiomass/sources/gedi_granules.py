"""Granules of GEDI L4A (HDF5): the shots of their beams as a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.cube import CubeError

Inside = Callable[[npt.NDArray[np.float64], npt.NDArray[np.float64]], Any]

EPOCH = np.datetime64("2018-01-01T00:00:00.000", "ms")
"""What ``delta_time`` counts seconds from."""
MISSING = -9999
"""Value of missing numbers in all products of GEDI."""
VERSIONS = {"l4a_quality_flag_rel3": 3, "l4_quality_flag": 2}
"""Version of the product by the name of its quality flag."""
_NEEDED = ("lat_lowestmode", "lon_lowestmode", "shot_number", "delta_time", "agbd")
_NUMBERS = {*_NEEDED, "agbd_se"}
# Taken where they are there: errors, flags of either version, and what filters use.
_MORE = (
    "agbd_se", "agbd_pi_lower", "agbd_pi_upper",
    "l4_quality_flag", "l2_quality_flag", "algorithm_run_flag", "degrade_flag",
    "l4a_quality_flag_rel3", "l2a_quality_flag_rel3", "l2_algrunflag",
    "degrade_include_flag", "elev_highestreturn_outlier_flag", "surface_flag",
    "predictor_limit_flag", "response_limit_flag", "selected_algorithm",
    "sensitivity", "solar_elevation", "elev_lowestmode", "predict_stratum",
)  # fmt: skip
_LAND_COVER = (
    "pft_class", "region_class", "leaf_off_flag", "landsat_treecover",
    "landsat_water_persistence", "urban_proportion", "worldcover_class",
)  # fmt: skip
# Datasets that only another product has, and what that is.
_OTHERS = {
    "rxwaveform": "L1B (waveforms)",
    "rh": "L2A (heights)",
    "pai": "L2B (cover)",
    "wsci": "L4C (structure)",
}


def read_granule(path: str, inside: Inside) -> tuple[pd.DataFrame, int, int]:
    """Return the shots of a granule inside an area, and the numbers of all its shots.

    Parameters
    ----------
    path : str
        An HDF5 file, also an address such as ``s3://...``.
    inside : callable
        Returns the mask of longitudes and latitudes that are inside, (shot,) each.

    Returns
    -------
    tuple
        A table with a row a shot, by the names of the product, ``beam``, ``date`` and
        ``version``, missing numbers as NaN; the number of shots of the file, and of
        those without a place.

    Raises
    ------
    CubeError
        If the file is cut or no HDF5, has no beams, is of another product or of a
        version that is not known, or lacks a part of a beam.
    """
    found, shots, lost = [], 0, 0
    with _opened(path) as file:
        beams = [name for name in file if name.startswith("BEAM")]
        beams = [name for name in beams if hasattr(file[name], "keys")]
        if not beams:
            raise CubeError(
                f"The granule {path} must have groups such as BEAM0101, got "
                f"{sorted(file)[:5]}; give files of GEDI L4A (GEDI04_A_....h5)."
            )
        version = _version(path, {name: set(file[name]) for name in beams})
        for name in beams:
            table, count, nowhere = _beam(path, file, name, inside)
            shots, lost = shots + count, lost + nowhere
            if len(table):
                found.append(table.assign(beam=name, version=version))
    if not found:
        return pd.DataFrame({"version": pd.Series([], dtype="int64")}), shots, lost
    return pd.concat(found, ignore_index=True), shots, lost


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Open a file of HDF5; an error in it or of it is one sentence."""
    import h5py

    try:
        if "://" in path:
            import fsspec

            with fsspec.open(path, "rb") as stream, h5py.File(stream, "r") as file:
                yield file
        else:
            with h5py.File(path, "r") as file:
                yield file
    except FileNotFoundError as error:
        raise CubeError(
            f"The granule {path} cannot be read: there is no such file."
        ) from error
    except (OSError, RuntimeError, KeyError) as error:  # h5py tells damage by any
        raise CubeError(
            f"The granule {path} cannot be read ({error}): it is cut, damaged or no "
            "HDF5; download it again."
        ) from error


def _version(path: str, beams: dict[str, set[str]]) -> int:
    """Return the version of L4A by the names of its flags."""
    names = set().union(*beams.values())
    if "agbd" not in names:
        other = other_product(names)
        is_one = f"is of GEDI {other}" if other else "is of no product that is known"
        raise CubeError(
            f"The granule {path} {is_one} and has no agbd; biomass is in L4A "
            "(GEDI04_A_....h5)."
        )
    for flag, version in VERSIONS.items():
        if flag in names:
            return version
    raise CubeError(
        f"The granule {path} must have {' or '.join(VERSIONS)} (versions 3 and 2 of "
        f"L4A), got neither: its version is not known. Its flags are "
        f"{sorted(name for name in names if 'flag' in name)}."
    )


def other_product(names: Iterable[str]) -> str | None:
    """Return the product of GEDI that some names are of, if not of L4A.

    Parameters
    ----------
    names : iterable of str
        Of datasets, or of the columns of a table, in which heights are rh0 to rh100.
    """
    plain = {re.sub(r"_?\d+(_l2a)?$", "", str(name).lower()) for name in names}
    return next((what for name, what in _OTHERS.items() if name in plain), None)


def _beam(
    path: str, file: Any, name: str, inside: Inside
) -> tuple[pd.DataFrame, int, int]:
    """Return the shots of a beam as :func:`read_granule` does those of a granule."""
    group = file[name]
    lacking = [each for each in _NEEDED if each not in group]
    if lacking:
        raise CubeError(
            f"{name} of the granule {path} lacks {', '.join(lacking)}; download the "
            "granule again, whole."
        )
    cover = group.get("land_cover_data", {})
    parts = {each: group[each] for each in (*_NEEDED, *_MORE) if each in group}
    parts |= {each: cover[each] for each in _LAND_COVER if each in cover}
    kinds = {key: getattr(parts[key], "dtype", None) for key in _NUMBERS & parts.keys()}
    odd = sorted(
        key for key, kind in kinds.items() if kind is None or kind.kind in "OSU"
    )
    if odd or parts["agbd"].ndim != 1:
        what = f"no numbers in {', '.join(odd)}" if odd else "agbd of several axes"
        raise CubeError(
            f"{name} of the granule {path} must have one number a shot of each "
            f"variable, got {what}; download the granule again."
        )
    count = parts["agbd"].shape[0]
    wrong = {key: part.shape for key, part in parts.items() if part.shape != (count,)}
    if wrong:
        raise CubeError(
            f"{name} of the granule {path} must have {count} values of each variable, "
            f"got {wrong}; download the granule again."
        )
    if not count:
        return pd.DataFrame(), 0, 0
    lat, lon = (_values(parts.pop(key)[()]) for key in _NEEDED[:2])
    nowhere = unplaced(lon, lat)
    rows = np.flatnonzero(inside(lon, lat))
    if not len(rows):
        return pd.DataFrame(), count, nowhere
    table = pd.DataFrame({"lat_lowestmode": lat[rows], "lon_lowestmode": lon[rows]})
    for key, part in parts.items():
        table[key] = _values(part[()][rows])
    table["date"] = dates_of(table.pop("delta_time").to_numpy())
    return table, count, nowhere


def unplaced(lon: npt.NDArray[np.float64], lat: npt.NDArray[np.float64]) -> int:
    """Return how many shots have no longitude or no latitude."""
    return int((~(np.isfinite(lon) & np.isfinite(lat))).sum())


def _values(values: npt.NDArray[Any]) -> Any:
    """Return numbers with missing ones as NaN; text as text, None where missing."""
    if values.dtype.kind == "f":
        return np.where(values == MISSING, np.nan, values.astype(np.float64))
    if values.dtype.kind in "iu":
        return values
    texts = [
        cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)
        for cell in values
    ]
    return [None if text in ("", "None") else text for text in texts]


def dates_of(seconds: npt.NDArray[Any]) -> npt.NDArray[np.datetime64]:
    """Return times (UTC) of seconds since 2018-01-01, NaT where missing."""
    known = np.isfinite(seconds)
    milliseconds = np.where(known, seconds, 0.0) * 1000
    made = EPOCH + milliseconds.round().astype("timedelta64[ms]")
    return np.where(known, made, np.datetime64("NaT", "ms"))
