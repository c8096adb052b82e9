"""The provenance attribute of a map, for maps that are continued, and its counts."""

from __future__ import annotations

import json

PROVENANCE = "geobiomass_provenance"
"""Attribute of a map, and tag of a GeoTIFF: its provenance as JSON."""

MAP_CHECKS = "map_checks"
"""Attribute of a map, and tag of a GeoTIFF: counts of its pixels as JSON."""


def with_software_of(there: str, here: str) -> str:
    """Return a map's provenance, with the software that continues the map added.

    Parameters
    ----------
    there, here : str
        Provenance of the map that was begun, and of the call that continues it, JSON.
        Another version of a package is no reason to refuse; the map then names all
        versions that wrote it.

    Returns
    -------
    str
        JSON; `there` itself if nothing is new.
    """
    begun = json.loads(there)
    used = begun["software"]
    new = [one for one in json.loads(here)["software"] if one not in used]
    return json.dumps(begun | {"software": used + new}) if new else there
