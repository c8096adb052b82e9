"""What a map says of where it comes from, while it is written and after."""

from __future__ import annotations

import json

PROVENANCE = "geobiomass_provenance"
"""Attribute of a map, and tag of a GeoTIFF: where it comes from, JSON."""


def with_software_of(there: str, here: str) -> str:
    """Give what a map says, with the software that goes on with it noted too.

    Parameters
    ----------
    there, here : str
        Provenance of the map that was begun, and of the call that goes on, JSON.
        Values do not depend on versions of packages on purpose, so others are no
        reason to refuse; who reads the map shall know of all of them.

    Returns
    -------
    str
        JSON; `there` itself where nothing is new.
    """
    begun = json.loads(there)
    used = begun["software"]
    new = [one for one in json.loads(here)["software"] if one not in used]
    return json.dumps(begun | {"software": used + new}) if new else there
