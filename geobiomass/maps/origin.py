"""The provenance attribute of a map, for maps that are continued, and its counts."""

from __future__ import annotations

import json

from geobiomass.training.json_files import parse_json

MADE_WITH = "made_with"
"""Attribute of a map: what its values depend on, as text and fingerprints."""

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
    name = f"The attribute {PROVENANCE}"
    begun = parse_json(there, name, dict)
    used = begun["software"]
    here_used = parse_json(here, name, dict)["software"]
    new = [one for one in here_used if one not in used]
    return json.dumps(begun | {"software": used + new}) if new else there
