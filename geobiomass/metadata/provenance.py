"""Reading where a map comes from, from the map alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from geobiomass.maps import MADE_WITH
from geobiomass.maps.destination import Destination
from geobiomass.maps.origin import PROVENANCE
from geobiomass.metadata.text import Facts, facts_of, main_facts_of
from geobiomass.summary import Summary


class Provenance(Mapping[str, Any]):
    """Where a map comes from.

    A mapping of "model", "input", "settings", "region", "software" and "notes" to what
    the map says of them. Prints as a table, and shows itself as one in Jupyter.

    Parameters
    ----------
    note : mapping
        As a map carries it.
    """

    def __init__(self, note: Mapping[str, Any]) -> None:
        self._note = dict(note)

    def __getitem__(self, name: str) -> Any:
        """Give a part."""
        return self._note[name]

    def __iter__(self) -> Iterator[str]:
        """Give the names of the parts."""
        return iter(self._note)

    def __len__(self) -> int:
        """Count the parts."""
        return len(self._note)

    def facts(self) -> Facts:
        """Give headings and texts, as they are printed."""
        return facts_of(self._note)

    def main_facts(self) -> Facts:
        """Give those that say in a few lines what the map rests on."""
        return main_facts_of(self._note)

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as JSON has it, a copy."""
        copied: dict[str, Any] = json.loads(json.dumps(self._note))
        return copied

    def __str__(self) -> str:
        """Give it as text, a line a fact."""
        return str(Summary({"what": "provenance of a map", **self.facts()}))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Show itself in Jupyter."""
        return Summary({"what": "provenance of a map", **self.facts()}).to_html()


def provenance(
    map: str | Path | xr.Dataset | xr.DataArray,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> Provenance:
    """Say where a map comes from: model, training data, scenes, settings, software.

    Parameters
    ----------
    map : str, Path, xarray.Dataset or xarray.DataArray
        What :meth:`BiomassRegressor.predict` gave or
        :meth:`BiomassRegressor.predict_to` wrote, as Zarr or GeoTIFF, finished or
        not, here or at an address; or such a file as xarray or rioxarray opens it.
    storage_options : mapping, optional
        What fsspec needs for the address.

    Returns
    -------
    Provenance
        A mapping that prints itself as a table; ``to_dict()`` gives JSON. Maps by
        versions before there was one say what their values depend on, no more.

    Raises
    ------
    FileNotFoundError
        If nothing is at the path.
    ValueError
        If the map does not say where it comes from: another program made it, or
        attributes were lost in working on it.

    Examples
    --------
    >>> import geobiomass as gb
    >>> found = gb.provenance("map.tif")  # doctest: +SKIP
    >>> found["model"]["fingerprint"]  # doctest: +SKIP
    """
    if isinstance(map, xr.Dataset | xr.DataArray):
        attrs: Mapping[str, Any] | None = map.attrs
        name = f"The {type(map).__name__}"
    else:
        attrs, name = _attributes_at(map, storage_options), str(map)
    if attrs is None:
        raise FileNotFoundError(f"There is nothing at {name}.")
    found = provenance_in(attrs)
    if found is None:
        raise ValueError(
            f"{name} does not say where it comes from: it must have the attribute or "
            f"tag {PROVENANCE!r}, got {sorted(attrs)[:10]}. A variable of a map has "
            "not got it; give the dataset or the file that predict_to wrote."
        )
    return found


def provenance_in(attrs: Mapping[str, Any]) -> Provenance | None:
    """Give what attributes or tags of a map say; None where they say nothing."""
    if PROVENANCE in attrs:
        return Provenance(json.loads(attrs[PROVENANCE]))
    made_with = attrs.get(MADE_WITH)
    if not isinstance(made_with, Mapping):
        return None
    rest = dict(made_with)
    model = {"fingerprint": rest.pop("model"), "bands": rest.pop("bands")}
    source = {"fingerprint": rest.pop("input"), "grid": rest.pop("grid", None)}
    return Provenance(
        {"model": model, "input": source, "settings": rest, "software": []}
    )


def _attributes_at(
    path: str | Path, options: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    place = Destination.of(path, options)
    tags = place.raster_tags()
    return tags if tags is not None else place.attrs()
