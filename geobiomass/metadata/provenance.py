"""Reading the provenance of a map, from the map alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geobiomass.cube.plain_attributes import mapping_in
from geobiomass.maps.destination import Destination
from geobiomass.maps.origin import MADE_WITH, PROVENANCE
from geobiomass.metadata.text import Facts, facts_of, main_facts_of
from geobiomass.summary import Summary
from geobiomass.training.json_files import parse_json
from geobiomass.training.setting_names import explain_arguments

if TYPE_CHECKING:
    import xarray as xr


class Provenance(Mapping[str, Any]):
    """The provenance of a map: its model, input, settings and software.

    A mapping with the keys "model", "input", "settings", "region", "software" and
    "notes". Prints as a table; Jupyter displays it as one.

    Parameters
    ----------
    note : mapping
        The map's attribute.
    """

    def __init__(self, note: Mapping[str, Any]) -> None:
        self._note = dict(note)

    def __getitem__(self, name: str) -> Any:
        """Return a part."""
        return self._note[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the parts."""
        return iter(self._note)

    def __len__(self) -> int:
        """Count the parts."""
        return len(self._note)

    def facts(self) -> Facts:
        """Return headings and texts, as they are printed."""
        return self._in_words(facts_of)

    def main_facts(self) -> Facts:
        """Return the most important headings and texts, a few lines."""
        return self._in_words(main_facts_of)

    def _in_words(self, words: Callable[[Mapping[str, Any]], Facts]) -> Facts:
        try:
            return words(self._note)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # Another version, or another program, wrote it in another form.
            return {"provenance": f"cannot be read ({error!r})"}

    def to_dict(self, but: str | None = None) -> dict[str, Any]:
        """Return a copy of all parts, or all but one, as JSON values."""
        kept = {name: part for name, part in self._note.items() if name != but}
        copied: dict[str, Any] = json.loads(json.dumps(kept))
        return copied

    def __str__(self) -> str:
        """Return the facts as text, a line each."""
        return str(Summary({"what": "provenance of a map", **self.facts()}))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the facts as HTML, for Jupyter."""
        return Summary({"what": "provenance of a map", **self.facts()}).to_html()


@explain_arguments
def provenance(
    map: str | Path | xr.Dataset | xr.DataArray,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> Provenance:
    """Read a map's provenance: model, training data, scenes, settings, software.

    Parameters
    ----------
    map : str, Path, xarray.Dataset or xarray.DataArray
        A map of :meth:`BiomassRegressor.predict`; or a path or address of one that
        :meth:`BiomassRegressor.predict_to` wrote, as Zarr or GeoTIFF, finished or
        not; or such a map, opened with xarray or rioxarray.
    storage_options : mapping, optional
        Options of fsspec for the address.

    Returns
    -------
    Provenance
        A mapping that prints as a table; ``to_dict()`` returns JSON. Maps of early
        versions, without this attribute, contain only what their values depend on.

    Raises
    ------
    FileNotFoundError
        If nothing is at the path.
    ValueError
        If the map has no provenance: other software made it, or its attributes were
        lost in later processing.

    Examples
    --------
    >>> import geobiomass as gb
    >>> found = gb.provenance("map.tif")  # doctest: +SKIP
    >>> found["model"]["fingerprint"]  # doctest: +SKIP
    """
    import xarray as xr

    if isinstance(map, xr.Dataset | xr.DataArray):
        attrs: Mapping[str, Any] | None = map.attrs
        name = f"The {type(map).__name__}"
    else:
        attrs, name = attributes_at(map, storage_options), str(map)
    if attrs is None:
        raise FileNotFoundError(f"There is nothing at {name}; give the path of a map.")
    found = provenance_in(attrs)
    if found is None:
        raise ValueError(
            f"{name} does not say where it comes from: it must have the attribute or "
            f"tag {PROVENANCE!r}, got {sorted(attrs)[:10]}. A variable of a map does "
            "not have it; pass the dataset, or the file that predict_to wrote."
        )
    return found


def provenance_in(attrs: Mapping[str, Any]) -> Provenance | None:
    """Return the provenance in attributes or tags, None if there is none."""
    if PROVENANCE in attrs:
        name = f"The attribute {PROVENANCE}"
        return Provenance(parse_json(attrs[PROVENANCE], name, dict))
    rest = mapping_in(attrs.get(MADE_WITH))
    if rest is None:
        return None
    model = {"fingerprint": rest.pop("model"), "bands": rest.pop("bands")}
    source = {"fingerprint": rest.pop("input"), "grid": rest.pop("grid", None)}
    return Provenance(
        {"model": model, "input": source, "settings": rest, "software": []}
    )


def attributes_at(
    path: str | Path, options: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """Return the attributes, or tags, of the map at a path; None if none is there."""
    destination = Destination.of(path, options)
    tags = destination.raster_tags()
    return tags if tags is not None else destination.attrs()
