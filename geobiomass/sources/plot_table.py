"""Tables of plots and footprints: a geometry and a value each; what is left out."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.cube import CubeError
from geobiomass.cube.antimeridian import turned_near
from geobiomass.cube.table_errors import cube_errors
from geobiomass.sources.gedi_quality import Quality, shot_quality
from geobiomass.sources.grid import WGS84
from geobiomass.sources.utm_zones import check_zones
from geobiomass.tables import match_column, read_numbers, read_table
from geobiomass.tables.columns import near_names
from geobiomass.tables.coordinates import read_coordinates, shape_column

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

Numbers = npt.NDArray[np.float64]
Indexes = npt.NDArray[np.int64]
Shapes = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

_POINTS, _AREAS = (0, 4), (3, 6)  # as shapely numbers them: one or several


@dataclass(frozen=True)
class Plots:
    """Geometries with a value each.

    Parameters
    ----------
    name : str
        Name of the table, for messages.
    geometries : numpy.ndarray
        (plot,) shapely points and polygons.
    values : numpy.ndarray
        (plot,) float64, all finite.
    crs : odc.geo.crs.CRS
        CRS of the geometries.
    rows : numpy.ndarray
        (plot,) int64: the row of each plot in the table; rows without a location or a
        value are left out.
    left_out : dict
        Rows of the table that are left out, by reason: "plots_without_value",
        "plots_without_location", "plots_of_unreadable_location", "plots_nodata" (the
        value that `nodata` names), "plots_below_minimum", "plots_of_low_quality".
        Reasons that leave out none are not there.
    """

    name: str
    geometries: Shapes
    values: Numbers
    crs: Any
    rows: Indexes
    left_out: dict[str, int] = field(default_factory=dict)

    def geometries_in(self, crs: Any) -> Shapes:
        """Return the geometries in another CRS."""
        return moved(self.geometries, self.crs, crs)

    def geometries_on(self, grid: GeoBox) -> Shapes:
        """Return the geometries in a grid's CRS, near it across 180 degrees."""
        found = self.geometries_in(grid.crs)
        if grid.crs is None or not grid.crs.geographic:
            return found
        return turned_near(found, grid.boundingbox.bbox)

    def bounds_in(self, crs: Any) -> tuple[float, float, float, float]:
        """Return west, south, east and north of all geometries."""
        import shapely

        west, south, east, north = shapely.total_bounds(self.geometries_in(crs))
        return float(west), float(south), float(east), float(north)

    def exchanged_hint(self, crs: Any, box: Any) -> str:
        """Return a sentence if the plots are within a box with x and y exchanged."""
        import shapely

        turned = shapely.transform(self.geometries, lambda xy: xy[:, ::-1])
        there = shapely.get_coordinates(moved(turned, self.crs, crs))
        x, y = there[np.isfinite(there).all(axis=1)].T
        inside = (x >= box[0]) & (x <= box[2]) & (y >= box[1]) & (y <= box[3])
        if not inside.any():
            return ""
        return (
            f" With x and y exchanged, {int(inside.sum())} would be within: longitude "
            "and latitude are probably in each other's columns."
        )


def moved(geometries: Shapes, source: Any, target: Any) -> Shapes:
    """Return geometries of a CRS in another one."""
    import shapely

    if source == target:
        return geometries
    move = source.transformer_to_crs(target, always_xy=True)
    found = shapely.transform(geometries, lambda x, y: move(x, y), interleaved=False)
    return np.asarray(found, object)


def read_plots(
    labels: Any,
    column: str,
    crs: Any = None,
    nodata: float | None = None,
    minimum: float | None = 0.0,
    *,
    argument: str = "column",
    quality: Quality = "good",
    name: str | None = None,
) -> Plots:
    """Read a table of plots or footprints.

    Parameters
    ----------
    labels : path, geopandas.GeoDataFrame or pandas.DataFrame
        A table with a geometry, or with coordinates, in every row.
    column, crs, nodata, minimum, quality
        As :func:`geobiomass.with_labels` accepts them.
    argument : str
        Name of the caller's argument for `column`, for errors.
    name : str, optional
        Name of the table, for messages; by default its path.

    Raises
    ------
    CubeError
        If the table cannot be read, has no locations or CRS, or has no numbers in
        `column`.

    Warns
    -----
    UserWarning
        Once, if rows are left out or geometries are repaired, with the numbers.
    """
    found, table = plots_table(labels)
    name = name or found
    if quality not in ("good", "keep"):
        raise CubeError(f"quality must be 'good' or 'keep', got {quality!r}.")
    values = _values(table, column, name, argument)
    told: list[str] = []
    left_out: dict[str, int] = {}
    geometries, system = geometries_of_table(table, crs, name, left_out, told)
    geometries = _repaired(geometries, told)
    good = _good_shots(table, quality, left_out, told)
    keep = _kept(column, values, geometries, good, left_out, told, nodata, minimum)
    if not keep.any():
        raise CubeError(
            f"No row of {name} has a location and a value in {column!r}"
            f"{' that can be used (' + '; '.join(told) + ')' if told else ''}; check "
            "the table."
        )
    if told:
        warnings.warn(f"{name}, {len(table)} rows: {'; '.join(told)}.", stacklevel=3)
    rows = np.flatnonzero(keep)
    return Plots(name, geometries[keep], values[keep], system, rows, left_out)


def named_column(column: str, observed: str | None, usual: str) -> str:
    """Return the column with the values, which two arguments may name.

    Functions that compare with a map call it observed, those that make labels column;
    both take both names.

    Raises
    ------
    CubeError
        If they name different columns.
    """
    if observed is None or observed == column:
        return column
    if column != usual:
        raise CubeError(
            f"column and observed are one argument, got {column!r} and {observed!r}; "
            "leave one out."
        )
    return observed


def plots_table(labels: Any) -> tuple[str, pd.DataFrame]:
    """Return the name of a table, for messages, and the table.

    Raises
    ------
    CubeError
        If the file cannot be read.
    """
    if isinstance(labels, pd.DataFrame):
        return "the table", labels
    name = os.fspath(labels)
    with cube_errors():
        return name, read_table(name)


def _values(table: pd.DataFrame, column: str, name: str, argument: str) -> Numbers:
    with cube_errors(f"{name}: "):
        found = match_column(table, (column,))
    if found is None:
        known = list(map(str, table.columns))
        numbers = table.select_dtypes("number").columns.astype(str).tolist()
        raise CubeError(
            f"{name} has no column {column!r}{near_names((column,), known)}; its "
            f"columns of numbers are {numbers}: name one, {argument}=."
        )
    values: Any = table[found]
    if isinstance(values, pd.DataFrame):
        raise CubeError(f"{name} has several columns {column!r}; rename all but one.")
    with cube_errors(f"{name}: "):
        read = read_numbers(values, str(found))
    out = np.array(read.to_numpy(np.float64, na_value=np.nan))
    out[~np.isfinite(out)] = np.nan  # infinite is missing everywhere
    return out


def geometries_of_table(
    table: pd.DataFrame, crs: Any, name: str, left_out: dict[str, int], told: list[str]
) -> tuple[Shapes, Any]:
    """Return a geometry for each row, None where it has none, and their CRS.

    What cannot be read is counted in `left_out` and told in `told`.
    """
    given = _system(crs, name) if crs is not None else None
    if hasattr(table, "to_crs"):  # a GeoDataFrame
        geometries = np.asarray(table.geometry.values, object)
        own = cast(Any, table).crs
        system = given if own is None else _system(own, name)
        if given is not None and own is not None and given != system:
            told.append(f"they state their own CRS, {own}, so crs={crs!r} is not used")
    else:
        with cube_errors(f"{name} "):
            geometries, geographic = _points(table, given, left_out, told)
        system = given or (_system(WGS84, name) if geographic else None)
        if system is not None and not geographic:
            check_zones(table, system, name)
    if system is None:
        raise CubeError(f"{name} must have a CRS, got none; add it, crs='EPSG:...'.")
    return geometries, system


def _system(crs: Any, name: str) -> Any:
    from odc.geo.crs import CRS

    try:
        return CRS(crs)
    except Exception as error:
        raise CubeError(
            f"crs of {name} must be a CRS such as 'EPSG:4326', got {crs!r}: {error}."
        ) from error


def _points(
    table: pd.DataFrame, crs: Any, left_out: dict[str, int], told: list[str]
) -> tuple[Shapes, bool]:
    """Return a shape for each row, and whether they are in degrees by their names."""
    import shapely

    projected = crs is not None and not crs.geographic
    shapes = shape_column(table)
    if shapes is not None and (texts := _shapes_of(table[shapes])) is not None:
        return texts, False
    found = read_coordinates(table, projected)
    if found.unreadable:
        left_out["plots_of_unreadable_location"] = found.unreadable
        told.append(
            f"{found.unreadable} have unreadable coordinates and are left out, such as "
            f"{found.example}"
        )
    return np.asarray(shapely.points(found.x, found.y), object), found.geographic


def _shapes_of(values: pd.Series) -> Shapes | None:
    """Return shapes of well-known text or bytes, None if a column has neither."""
    import shapely

    known = values.dropna()
    read = (
        shapely.from_wkb
        if all(isinstance(cell, bytes) for cell in known)
        else shapely.from_wkt
    )
    cells = values.astype(object).where(values.notna(), None).to_numpy()
    found = np.asarray(read(cells, on_invalid="ignore"), object)
    return found if not shapely.is_missing(found).all() else None


def _repaired(geometries: Shapes, told: list[str]) -> Shapes:
    """Return geometries with invalid polygons made valid."""
    import shapely

    wrong = np.isin(shapely.get_type_id(geometries), _AREAS)
    wrong &= ~shapely.is_valid(geometries)
    if not wrong.any():
        return geometries
    told.append(
        f"{int(wrong.sum())} polygons cross themselves or are otherwise invalid and "
        "are repaired (shapely.make_valid)"
    )
    geometries = geometries.copy()
    made = [only_areas(shape) for shape in shapely.make_valid(geometries[wrong])]
    geometries[wrong] = np.array([*made, None], object)[:-1]
    return geometries


def only_areas(shape: Any) -> Any:
    """Return the polygons of a shape, None if it has none."""
    import shapely

    parts = shapely.get_parts(shapely.get_parts(shape))
    parts = parts[shapely.get_type_id(parts) == _AREAS[0]]
    if not parts.size:
        return None
    return parts[0] if parts.size == 1 else shapely.multipolygons(parts)


def _kept(
    column: str,
    values: Numbers,
    geometries: Shapes,
    good: Mask,
    left_out: dict[str, int],
    told: list[str],
    nodata: float | None,
    minimum: float | None,
) -> Mask:
    """Return the good rows with a location and a valid value; count the others."""
    import shapely

    kinds = set(shapely.get_type_id(geometries).tolist()) - {-1, *_POINTS, *_AREAS}
    if kinds:
        raise CubeError(
            "Geometries of labels must be points or polygons, got "
            f"{shapely.GeometryType(min(kinds)).name.lower()}."
        )
    located = ~(shapely.is_missing(geometries) | shapely.is_empty(geometries))
    located &= np.isfinite(shapely.bounds(geometries)).all(axis=1)
    keep = good & located
    missing = keep & (values == nodata) if nodata is not None else keep & False
    unknown = keep & ~np.isfinite(values)
    low = keep & ~missing & (values < minimum) if minimum is not None else keep & False
    nowhere = int((good & ~located).sum())
    nowhere -= min(nowhere, left_out.get("plots_of_unreadable_location", 0))
    counts = {
        "plots_without_location": nowhere,
        "plots_without_value": int(unknown.sum()),
        "plots_nodata": int(missing.sum()),  # as the user says: not told
        "plots_below_minimum": int(low.sum()),
    }
    left_out.update({reason: count for reason, count in counts.items() if count})
    if nowhere:
        told.append(f"{nowhere} have no location and are left out")
    if unknown.any():
        told.append(
            f"{int(unknown.sum())} have no value in {column!r} and are left out"
        )
    if low.any():
        told.append(
            f"{int(low.sum())} labels are below {minimum:g}, such as "
            f"{values[low][0]:g}, and are left out"
        )
    return np.asarray(keep & ~missing & ~unknown & ~low, np.bool_)


def _good_shots(
    table: pd.DataFrame, quality: Quality, left_out: dict[str, int], told: list[str]
) -> Mask:
    """Return the rows without shots of GEDI that fail their quality flags."""
    found = shot_quality(table)
    everything = np.ones(len(table), bool)
    if found is None:
        return everything
    failed = int((~found.good).sum())
    reasons = f"{failed} footprints of GEDI fail their quality flags ({found.reasons})"
    if quality == "keep":
        if failed:
            left_out["plots_of_low_quality_kept"] = failed
            told.append(f"{reasons} and are kept, as quality='keep' says")
        return everything
    if failed:
        left_out["plots_of_low_quality"] = failed
        told.append(
            f"{reasons} and are left out; gb.with_labels(..., quality='keep') keeps "
            "them"
        )
    if found.absent:
        told.append(
            f"footprints of GEDI come without {' and '.join(found.absent)}, so their "
            "quality is not checked by it; add the column, or say quality='keep'"
        )
    return found.good
