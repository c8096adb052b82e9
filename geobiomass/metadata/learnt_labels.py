"""Which plots a model learnt from: what its maps remember, and plots found in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.data.label_places import (
    LABEL_PLACES,
    LabelPlaces,
    PlacesOnGrid,
    positions_on,
)
from geobiomass.metadata.provenance import attributes_at, provenance_in
from geobiomass.sources.footprints import label_pixels
from geobiomass.sources.plot_table import Plots

Mask = npt.NDArray[np.bool_]


def places_in(known: Mapping[str, Any]) -> LabelPlaces | None:
    """Return the places of labels in the provenance of a model or map; None without.

    Raises
    ------
    ValueError
        If they are damaged.
    """
    found = known.get(LABEL_PLACES)
    return None if found is None else LabelPlaces.from_dict(found)


def places_of_map(map: Any) -> LabelPlaces | None:
    """Return the places of the labels that a map's model learnt from.

    Parameters
    ----------
    map : xarray.Dataset, xarray.DataArray, str or Path
        A map, or its path.

    Returns
    -------
    LabelPlaces or None
        None where the map does not say: other software made it, an earlier release, a
        model that keeps no places, or its attributes were lost.

    Raises
    ------
    ValueError
        If the map's record is damaged.
    """
    if isinstance(map, str | os.PathLike):
        path = os.fspath(map)
        if not path.rstrip("/").lower().endswith((".zarr", ".tif", ".tiff")):
            return None
        attrs = attributes_at(path, None)
    else:
        attrs = map.attrs if isinstance(map, xr.Dataset | xr.DataArray) else None
    found = None if attrs is None else provenance_in(attrs)
    return None if found is None else places_in(found)


def plots_learnt(places: LabelPlaces, plots: Plots) -> tuple[Mask, bool]:
    """Return which plots a model learnt from: where a pixel of theirs had a label.

    Parameters
    ----------
    places : LabelPlaces
        What the model remembers.
    plots : Plots
        Points and polygons, in any CRS.

    Returns
    -------
    learnt : numpy.ndarray
        (plot,) bool.
    complete : bool
        Whether all that is remembered has coordinates. Chips have none, so that a plot
        within one of them is not found.
    """
    found = np.zeros(len(plots.geometries), bool)
    scenes = [part for part in places.parts if part.grid is not None]
    for part in scenes:
        found |= _on_grid(part, plots)
    return found, len(scenes) == len(places.parts)


def _on_grid(part: PlacesOnGrid, plots: Plots) -> Mask:
    import shapely
    from odc.geo.geobox import GeoBox

    grid = part.grid
    assert grid is not None
    box = GeoBox((grid.height, grid.width), grid.transform, part.crs)
    centres = shapely.centroid(plots.geometries_on(box))
    x, y = shapely.get_coordinates(centres).T
    found = part.contain_positions(*positions_on(part, x, y))
    pixels, which = label_pixels(plots, box, None, all_touched=False)
    rows, columns = np.divmod(pixels, grid.width)
    found[which[part.contain(rows, columns)]] = True
    return found
