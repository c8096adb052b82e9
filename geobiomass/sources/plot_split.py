"""An audit sample of plots, drawn by chance before anything is trained."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.cube import CubeError
from geobiomass.sources.plot_table import plots_table
from geobiomass.tables import TableError
from geobiomass.tables.columns import near_names
from geobiomass.tables.coordinates import read_coordinates
from geobiomass.training.setting_names import explain_arguments

Indexes = npt.NDArray[np.int64]

PROBABILITY, STRATUM = "audit_probability", "audit_stratum"
"""Columns that the audit sample has."""
_FEWEST = 4  # units of a split: two for each side
_MANY = 50  # strata that a user hardly means
_SHOWN = 5


class PlotSplit(NamedTuple):
    """Plots to train on, and the audit sample, which never trains.

    Parameters
    ----------
    training, audit : pandas.DataFrame
        Rows of the table that was split, as it was (a GeoDataFrame stays one). The
        audit sample has two columns more, ``audit_probability`` and
        ``audit_stratum``. ``attrs["split"]`` of both says how it was drawn.
    """

    training: pd.DataFrame
    audit: pd.DataFrame


@explain_arguments
def split(
    plots: Any,
    audit: float = 0.3,
    by: str | Sequence[str] | None = None,
    *,
    cluster: str | None = None,
    seed: int = 0,
) -> PlotSplit:
    """Return plots to train on, and an audit sample drawn by chance.

    Parameters
    ----------
    plots : path, geopandas.GeoDataFrame or pandas.DataFrame
        A table with a row a plot, as :func:`geobiomass.with_labels` reads it.
    audit : float
        Share of the plots to draw, above 0 and below 1.
    by : str or sequence of str, optional
        Columns of strata, such as forest type: the share is drawn in each of them, and
        at least two units where it has four or more.
    cluster : str, optional
        Column of groups, such as sites or tracks, which are drawn whole: plots of one
        site resemble each other. Plots at one place are always drawn together.
    seed : int
        The same seed and table give the same sample.

    Returns
    -------
    PlotSplit
        ``training`` and ``audit``, both with the columns of the table and in its
        order. The audit sample also has ``audit_probability``, the chance with which
        a plot was drawn, and with `by` ``audit_stratum``.

    Raises
    ------
    CubeError
        If the table cannot be read; there are fewer than four plots, clusters or
        places in it, or fewer than two in a stratum; a column is missing or has missing
        values; a cluster is in several strata; or `audit` is not above 0 and below 1.

    Warns
    -----
    UserWarning
        If several plots are at one place, with their number.

    Notes
    -----
    Simple or stratified random sampling without replacement, of plots or of whole
    clusters (Cochran, Sampling Techniques, 1977, chapters 2, 5 and 9). The sample
    represents the plots. It represents an area too if the plots themselves were drawn
    at random in it: then :func:`geobiomass.totals` takes it as `plots`.

    Examples
    --------
    >>> training, audit = gb.labels.split(plots, 0.3, by="forest")  # doctest: +SKIP
    >>> model = gb.fit(gb.with_labels(cube, training))  # doctest: +SKIP
    >>> gb.totals(model.predict(cube), plots=audit)  # doctest: +SKIP
    """
    if isinstance(audit, bool) or not 0 < audit < 1:
        raise CubeError(
            f"audit must be a share above 0 and below 1, such as 0.3, got {audit!r}."
        )
    if not isinstance(plots, str | os.PathLike | pd.DataFrame):
        raise CubeError(f"plots must be a path or a table, got {type(plots).__name__}.")
    name, table = plots_table(plots)
    units = _units(table, cluster, name)
    strata = _strata(table, by, name)
    chosen, chance = _draw(units, strata, audit, seed, name, cluster)
    mine = np.flatnonzero(chosen[units])
    rest = np.flatnonzero(~chosen[units])
    drawn = table.iloc[mine].copy()
    drawn[PROBABILITY] = chance[units][mine]
    if by is not None:
        drawn[STRATUM] = strata[mine]
    training = table.iloc[rest].copy()
    how = {
        "audit": float(audit),
        "by": [by] if isinstance(by, str) else None if by is None else list(by),
        "cluster": cluster,
        "seed": int(seed),
        "plots": len(table),
        "drawn": len(drawn),
        "units": len(chosen),
        "units_drawn": int(chosen.sum()),
    }
    for each in (training, drawn):
        each.attrs = {**table.attrs, "split": how}
    return PlotSplit(training, drawn)


def _units(table: pd.DataFrame, cluster: str | None, name: str) -> Indexes:
    """Return the unit of each plot: its cluster, with all plots at one place."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(table)
    places = _places(table)
    together = places
    if cluster is not None:
        groups = pd.factorize(_column(table, cluster, name))[0]
        # Clusters that share a place are one unit.
        rows = np.concatenate([places, places.max(initial=-1) + 1 + groups])
        edges = coo_array(
            (
                np.ones(count, np.int8),
                (rows[:count], rows[count:]),
            ),
            shape=(rows.max(initial=-1) + 1,) * 2,
        )
        parts = connected_components(edges, directed=False)[1]
        together = parts[places]
    else:
        alike = count - len(np.unique(places))
        if alike:
            warnings.warn(
                f"{name}: {alike} of {count} plots lie at the place of another and are "
                "drawn together with it.",
                stacklevel=3,
            )
    return np.unique(together, return_inverse=True)[1].astype(np.int64)


def _places(table: pd.DataFrame) -> Indexes:
    """Return a number for each place; plots without one are places of their own."""
    if hasattr(table, "to_crs"):
        keys: Any = cast(Any, table).geometry.to_wkb()
        missing = cast(Any, table).geometry.isna().to_numpy()
    else:
        try:
            found = read_coordinates(table)
        except TableError as error:
            warnings.warn(
                f"Plots of one place are not drawn together: the table {error}.",
                stacklevel=4,
            )
            return np.arange(len(table))
        keys = pd.Series(zip(found.x, found.y, strict=True))
        missing = np.isnan(found.x) | np.isnan(found.y)
    places = np.array(pd.factorize(keys)[0], np.int64)
    places[missing] = len(table) + np.flatnonzero(missing)
    return np.unique(places, return_inverse=True)[1].astype(np.int64)


def _strata(table: pd.DataFrame, by: Any, name: str) -> npt.NDArray[Any]:
    """Return the stratum of each plot, as text; one for all without columns."""
    if by is None:
        return np.full(len(table), "", object)
    columns = [by] if isinstance(by, str) else list(by)
    parts = [_column(table, each, name).astype(str) for each in columns]
    found = np.array([", ".join(row) for row in zip(*parts, strict=True)], object)
    count = len(np.unique(found))
    if count > _MANY:
        raise CubeError(
            f"by={by!r} must name columns of a few strata, got {count} different "
            f"values in {name}; join them, such as pandas.qcut(plots['agb'], 4)."
        )
    return found


def _column(table: pd.DataFrame, column: str, name: str) -> pd.Series:
    """Return a column without missing values."""
    if column not in table.columns:
        known = list(map(str, table.columns))
        raise CubeError(
            f"{name} has no column {column!r}{near_names((column,), known)}; its "
            f"columns are {known}."
        )
    values = table[column]
    missing = int(values.isna().sum())
    if missing:
        raise CubeError(
            f"{missing} of {len(table)} plots of {name} have no value in {column!r}; "
            "fill it, or leave them out."
        )
    return values


def _draw(
    units: Indexes,
    strata: npt.NDArray[Any],
    share: float,
    seed: int,
    name: str,
    cluster: str | None,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Return the units that are drawn, and the chance of each."""
    count = int(units.max(initial=-1)) + 1
    what = f"different {cluster!r}" if cluster is not None else "places"
    if count < _FEWEST:
        raise CubeError(
            f"A split needs {_FEWEST} {what} or more, got {count} in {name}."
        )
    first = np.unique(units, return_index=True)[1]
    of_unit = strata[first]
    torn = np.unique(units[strata != of_unit[units]])
    if torn.size:
        raise CubeError(
            f"Each of the {what} must be in one stratum, got {torn.size} in several in "
            f"{name}; they are drawn whole."
        )
    names, counts = np.unique(of_unit, return_counts=True)
    alone = names[counts < 2].tolist()
    if alone:
        raise CubeError(
            f"Each stratum of {name} must have 2 {what} or more, got one in "
            f"{alone[:_SHOWN]}; join it with another."
        )
    draw = np.random.default_rng(seed)
    chosen, chance = np.zeros(count, bool), np.zeros(count)
    for stratum, size in zip(names, counts, strict=True):
        own = np.flatnonzero(of_unit == stratum)
        least = 2 if size >= _FEWEST else 1
        number = int(np.clip(round(share * size), least, size - least))
        chosen[draw.choice(own, number, replace=False)] = True
        chance[own] = number / size
    return chosen, chance
