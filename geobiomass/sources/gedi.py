"""Footprints of GEDI L4A, from granules and from the tables of the usual tools."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.cube import CubeError
from geobiomass.cube.table_errors import cube_errors
from geobiomass.sources.gedi_area import inside_area
from geobiomass.sources.gedi_granules import (
    MISSING,
    VERSIONS,
    Inside,
    dates_of,
    other_product,
    read_granule,
    unplaced,
)
from geobiomass.sources.gedi_quality import Quality, shot_quality
from geobiomass.sources.grid import WGS84
from geobiomass.sources.plot_table import geometries_of_table, moved
from geobiomass.tables import is_table, match_column, read_dates, read_table
from geobiomass.tables.coordinates import numbers_or_missing
from geobiomass.training.packages import need, need_for_address
from geobiomass.training.setting_names import explain_arguments

Mask = npt.NDArray[np.bool_]

_HDF5 = (".h5", ".hdf5", ".he5")
_FIRST = ("agbd", "agbd_se", "shot_number", "date", "beam", "pft_class")
# Names that tools give to columns of L4A: ORNL's subsets, GEDI4R, gediDB, gedih3.
_COLUMNS: dict[str, tuple[str, ...]] = {
    "agbd": ("agbd", "agbd_l4a", "l4a_agbd"),
    "agbd_se": ("agbd_se", "agbd_se_l4a", "l4a_agbd_se"),
    "shot_number": ("shot_number", "shot", "shot_number_l4a"),
    "beam": ("beam", "beam_name"),
    "pft_class": ("pft_class", "land_cover_data/pft_class", "pft"),
    "predict_stratum": ("predict_stratum",),
}
_DATES = ("date", "acq_time", "time", "datetime", "acquisition_time")
_DIGITS = 2**53  # whole numbers that a float64 holds exactly

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@explain_arguments
def read_gedi(
    paths: Paths,
    area: Any = None,
    *,
    quality: Quality = "good",
    sensitivity: float | None = None,
    progress: bool = True,
) -> Any:
    """Return footprints of GEDI L4A biomass that pass the quality rules.

    Parameters
    ----------
    paths : path, or sequence of paths
        Granules (HDF5, of version 2 or 3), also at addresses such as ``s3://...``; or
        tables of their shots as the usual tools write them: CSV, Parquet,
        GeoPackage, GeoJSON. Of a folder all granules and tables are
        read; ``*`` matches any text in a name.
    area : optional
        Where shots are wanted: a cube (its bounds), bounds in longitude and latitude
        (west, south, east, north), a vector file, a geopandas object, or GeoJSON.
        Without it all are.
    quality : "good" or "keep"
        Whether shots that fail their flags are left out, or kept.
    sensitivity : float, optional
        Least beam sensitivity, such as 0.98 in dense tropical forest. By default 0.95
        for version 2; the flags of version 3 have their own by kind of land.
    progress : bool
        Whether to show progress where there are several files.

    Returns
    -------
    geopandas.GeoDataFrame
        A row a shot, with its point in longitude and latitude, ``agbd`` and
        ``agbd_se`` (Mg/ha), ``shot_number`` (64-bit), ``date`` (UTC), ``beam``,
        ``pft_class``, and the flags by the names of their version, where the files
        have them. ``attrs``: "left_out", a list of reasons with the number of shots
        (``pandas.DataFrame(shots.attrs["left_out"])`` is the table; a shot may have
        several reasons); "shots", the number that was read in the area;
        "shots_of_files", that of the files; "version", 2 or 3; "units".

    Raises
    ------
    CubeError
        If there is no file; one is cut, of another product, or of a version that is
        not known; files are of different versions, whose models differ; a table has
        no biomass or no places; or no shot is left.
    MissingPackageError
        If the extra ``gedi`` is not installed.

    Notes
    -----
    The rules are those of :func:`geobiomass.with_labels`: see
    docs/explanation/checks.md. Shots without biomass, below 0 or without a stratum of
    the product's model are left out too, and of the same shot number one is taken.

    Examples
    --------
    >>> shots = gb.labels.read_gedi("granules/*.h5", cube)  # doctest: +SKIP
    >>> cube = gb.with_labels(  # doctest: +SKIP
    ...     cube, shots, column="agbd", error="agbd_se", radius=12.5
    ... )
    """
    from tqdm.auto import tqdm

    need("Reading GEDI", "gedi", "geopandas", "h5py")
    if quality not in ("good", "keep"):
        raise CubeError(f"quality must be 'good' or 'keep', got {quality!r}.")
    if sensitivity is not None and not 0 <= sensitivity <= 1:
        raise CubeError(f"sensitivity must be from 0 to 1, got {sensitivity!r}.")
    files = _files(paths)
    inside = inside_area(area)
    tables: list[pd.DataFrame] = []
    total = nowhere = 0
    quiet = not progress or len(files) == 1
    for file in tqdm(files, desc="Reading GEDI", unit="file", disable=quiet):
        table, count, lost = _read(file, inside)
        total, nowhere = total + count, nowhere + lost
        if len(table):
            tables.append(table)
    if not tables:
        where = "in the area" if area is not None else "in them"
        raise CubeError(
            f"None of {total:,} shots of {_named(files)} is {where}; check the area, "
            "in longitude and latitude (west, south, east, north)."
        )
    version = _one_version(tables)
    shots = pd.concat(tables, ignore_index=True)
    keep, reasons = _kept(shots, quality, sensitivity)
    if nowhere:
        reasons.insert(0, {"reason": "no place", "shots": nowhere})
    if not keep.any():
        why = ", ".join(f"{row['reason']}: {row['shots']:,}" for row in reasons)
        raise CubeError(
            f"None of {len(shots):,} shots of {_named(files)} passes the quality rules "
            f"({why}); quality='keep' keeps those that only fail their flags."
        )
    attrs = {
        "left_out": reasons,
        "shots": len(shots),
        "shots_of_files": total,
        "version": version,
        "units": {
            name: "Mg/ha"
            for name in ("agbd", "agbd_se", "agbd_pi_lower", "agbd_pi_upper")
            if name in shots
        },
    }
    return _framed(shots[keep], attrs)


# --- files ---


def _files(paths: Paths) -> list[str]:
    """Return the files of paths, folders and patterns, each once, in their order."""
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found: list[str] = []
    for each in given:
        path = os.fspath(each)
        need_for_address(path)
        if "://" in path:
            found.append(path)
        elif os.path.isdir(path):
            names = sorted(str(one) for one in Path(path).iterdir() if _is_file(one))
            if not names:
                raise CubeError(
                    f"The folder {path} must have granules (.h5) or tables of GEDI, "
                    "got none."
                )
            found += names
        elif os.path.exists(path) or not glob.has_magic(path):
            found.append(path)
        else:
            names = sorted(glob.glob(path, recursive=True))
            if not names:
                raise CubeError(f"No file is named as {path}; check the pattern.")
            found += names
    if not found:
        raise CubeError("paths must name one file of GEDI or more, got none.")
    for path in found:
        if "://" not in path and not os.path.exists(path.split("|")[0]):
            raise CubeError(f"{path} cannot be read: there is no such file.")
        if not path.lower().endswith(_HDF5) and not is_table(path):
            raise CubeError(
                f"{path} must be a granule (.h5) or a table (.csv, .parquet, .gpkg, "
                ".geojson), got another kind of file."
            )
    return list(dict.fromkeys(found))


def _is_file(path: Path) -> bool:
    return path.is_file() and (path.suffix.lower() in _HDF5 or is_table(path))


def _named(files: Sequence[str]) -> str:
    return files[0] if len(files) == 1 else f"{len(files)} files"


def _read(file: str, inside: Inside) -> tuple[pd.DataFrame, int, int]:
    """Return shots of a file inside an area; how many it has, and has without a place.

    They have one set of names.
    """
    read = read_granule if file.lower().endswith(_HDF5) else _read_table
    table, count, lost = read(file, inside)
    return table.assign(file=os.path.basename(file.rstrip("/"))), count, lost


# --- tables ---


def _read_table(path: str, inside: Inside) -> tuple[pd.DataFrame, int, int]:
    """Return the shots of a table as :func:`read_granule` does those of a granule."""
    with cube_errors():
        table = read_table(path)
    lon, lat = _places(table, path)
    rows = np.flatnonzero(inside(lon, lat))
    if hasattr(table, "to_crs"):  # its points are made again, in degrees
        table = pd.DataFrame(table.drop(columns=cast(Any, table).geometry.name))
    made = table.iloc[rows].reset_index(drop=True)
    with cube_errors(f"{path}: "):
        for name, names in _COLUMNS.items():
            column = match_column(made, names)
            if column is not None and column != name:
                made = made.rename(columns={column: name})
        if "agbd" not in made:
            there = list(map(str, table.columns))
            other = other_product(there)
            is_other = f": it is of GEDI {other}" if other else ""
            raise CubeError(
                f"{path} must have a column agbd, as tables of GEDI L4A have, got "
                f"{there}{is_other}."
            )
        dates = _dates(made)
        if dates is not None:
            made["date"] = dates
    for name in ("agbd", "agbd_se"):
        if name in made:
            values = numbers_or_missing(made[name])[0]
            made[name] = np.where(values == MISSING, np.nan, values)
    if "shot_number" in made:
        made["shot_number"] = _shot_numbers(made["shot_number"], path)
    if "beam" in made:
        made["beam"] = made["beam"].map(_beam_name)
    made["lon_lowestmode"], made["lat_lowestmode"] = lon[rows], lat[rows]
    flag = match_column(made, tuple(VERSIONS))
    made["version"] = VERSIONS.get(str(flag), 0)
    return made, len(table), unplaced(lon, lat)


def _places(table: pd.DataFrame, path: str) -> tuple[Any, Any]:
    """Return longitudes and latitudes of the rows, NaN where missing."""
    import shapely
    from odc.geo.crs import CRS

    told: list[str] = []
    crs = None
    if hasattr(table, "to_crs") and cast(Any, table).crs is None:
        crs = WGS84
        told.append("they state no CRS and are taken to be in longitude and latitude")
    shapes, system = geometries_of_table(table, crs, path, {}, told)
    if told:
        warnings.warn(f"{path}, {len(table)} rows: {'; '.join(told)}.", stacklevel=4)
    points = moved(shapes, system, CRS(WGS84))
    return shapely.get_x(points), shapely.get_y(points)


def _dates(table: pd.DataFrame) -> Any:
    """Return the times of shots, NaT where missing; None where no column has them."""
    column = match_column(table, ("delta_time",))
    if column is not None:
        return dates_of(numbers_or_missing(table[column])[0])
    column = match_column(table, _DATES)
    if column is None or table[column].isna().all():
        return None
    return read_dates(table[column], str(column)).to_numpy().astype("datetime64[ms]")


def _shot_numbers(values: pd.Series, path: str) -> Any:
    """Return shot numbers as 64-bit whole numbers; text where one cannot be one."""
    if pd.api.types.is_float_dtype(values.dtype):
        numbers = values.to_numpy(np.float64, na_value=np.nan)
        if (numbers >= _DIGITS).any():
            warnings.warn(
                f"Shot numbers of {path} are stored as decimals, which have lost their "
                "last digits: they do not identify shots. Write them as whole numbers "
                "or text.",
                stacklevel=4,
            )
            return values
    try:
        return pd.array([int(cell) for cell in values], dtype="UInt64").to_numpy(
            np.uint64
        )
    except (ValueError, TypeError, OverflowError):
        return values.astype("string")


def _beam_name(value: Any) -> Any:
    """Return BEAM0101 for 0101, "beam 0101" and 5."""
    text = str(value).strip().upper().removeprefix("BEAM").strip(" _-")
    if text.removesuffix(".0").isdigit():
        text = text.removesuffix(".0")
        bits = text.zfill(4) if set(text) <= {"0", "1"} else f"{int(text):04b}"
        return f"BEAM{bits}" if len(bits) == 4 else value
    return value


# --- what is kept ---


def _one_version(tables: Iterable[pd.DataFrame]) -> int | None:
    """Return the version of all shots; None where tables do not tell."""
    found: dict[int, str] = {}
    for table in tables:
        found.setdefault(int(table["version"].iloc[0]), str(table["file"].iloc[0]))
    known = {version: file for version, file in found.items() if version}
    if len(known) > 1:
        said = " and ".join(
            f"version {version} ({file})" for version, file in sorted(known.items())
        )
        raise CubeError(
            f"Files must be of one version of L4A, got {said}: their models and flags "
            "differ. Read each version on its own, and keep one."
        )
    return next(iter(known), None)


def _kept(
    shots: pd.DataFrame, quality: Quality, sensitivity: float | None
) -> tuple[Mask, list[dict[str, Any]]]:
    """Return the shots to keep, and the number of the others by reason."""
    keep = np.ones(len(shots), bool)
    reasons: list[dict[str, Any]] = []

    def leave_out(reason: str, failed: Mask) -> None:
        if failed.any():
            reasons.append({"reason": reason, "shots": int(failed.sum())})
            np.logical_and(keep, ~failed, out=keep)

    values = shots["agbd"].to_numpy(np.float64, na_value=np.nan)
    leave_out("no biomass", ~np.isfinite(values))
    leave_out("biomass below 0", values < 0)
    if "predict_stratum" in shots and shots["version"].iloc[0] == 3:
        missing = shots["predict_stratum"].isna().to_numpy()
        leave_out("no stratum of the model", missing & np.isfinite(values))
    found = shot_quality(shots)
    if found is not None and quality == "good":
        for name, count in found.failed.items():
            reasons.append({"reason": f"fails {name}", "shots": count})
        keep &= found.good
        for name in found.absent:
            reasons.append({"reason": f"not checked: no {name}", "shots": 0})
    if sensitivity is not None:
        column = match_column(shots, ("sensitivity",))
        if column is None:
            raise CubeError(
                f"sensitivity={sensitivity:g} needs the beam sensitivity of the shots, "
                "got tables without it."
            )
        beam = numbers_or_missing(shots[column])[0]
        leave_out(f"sensitivity below {sensitivity:g}", ~(beam >= sensitivity))
    # Decimals have lost their last digits: different shots look alike.
    if "shot_number" in shots and shots["shot_number"].dtype.kind != "f":
        numbers = shots["shot_number"][keep]
        again = (numbers.duplicated() & numbers.notna()).to_numpy()
        twice = np.zeros(len(shots), bool)
        twice[np.flatnonzero(keep)[again]] = True
        leave_out("the same shot again", twice)
    return keep, reasons


def _framed(shots: pd.DataFrame, attrs: Mapping[str, Any]) -> Any:
    """Return shots as points, the usual columns first."""
    import geopandas

    shots = shots.reset_index(drop=True)
    first = [name for name in _FIRST if name in shots]
    rest = [name for name in shots.columns if name not in (*first, "version")]
    points = geopandas.points_from_xy(shots["lon_lowestmode"], shots["lat_lowestmode"])
    made = geopandas.GeoDataFrame(shots[[*first, *rest]], geometry=points, crs=WGS84)
    made.attrs = dict(attrs)
    return made
