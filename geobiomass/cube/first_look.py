"""What a cube on a disk says of itself in ``zarr.json``, read without Zarr and xarray.

Both take most of the time in which a command tells that a cube lacks labels or a band.
Only a finished cube of this package is read so, whose ``zarr.json`` has its checksum.
All else (Zarr v2, other software, damage, a writer at work, an address) is for
:func:`geobiomass.cube.store.inspect_cube`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geobiomass.cube.addresses import check_exists, is_local
from geobiomass.cube.errors import missing_target
from geobiomass.cube.known_bands import missing_bands
from geobiomass.cube.static_layers import PIXELS
from geobiomass.cube.store_seal import ROOT, SEAL, UNFINISHED, root_sum
from geobiomass.training.checksums import agrees

_COORDINATES = {
    *("chip", "month", "band", "layer", "y", "x", "spatial_ref", "multiplier")
}
_WRONG = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass(frozen=True)
class FirstLook:
    """What ``zarr.json`` says of a cube.

    Parameters
    ----------
    bands : tuple of str
        Names of its bands.
    labelled : bool
        Whether it has labels.
    """

    bands: tuple[str, ...]
    labelled: bool


def look(path: str | Path) -> FirstLook | None:
    """Return what a cube says of itself, None where that takes more than a look.

    Raises
    ------
    FileNotFoundError
        If nothing is at a path.
    """
    check_exists(path)
    if not is_local(path):
        return None
    try:
        root = _checked_root(Path(path))
        attributes = root["attributes"]
        members = root["consolidated_metadata"]["metadata"]
        named = {n for n, m in members.items() if m["node_type"] == "array"}
        variables = {n for n in named if "/" not in n} - _COORDINATES
        bands = json.loads(attributes["band_statistics"])["bands"]
        plain = "image" in variables and variables <= {*PIXELS, "agb_se"}
        whole = members["band"]["shape"] == [len(bands)]
    except _WRONG:
        return None
    if UNFINISHED in attributes or not plain or not whole:
        return None
    return FirstLook(tuple(bands), "agb" in variables)


def _checked_root(folder: Path) -> Any:
    """Return the content of ``zarr.json``; raise ValueError if it has no right sum."""
    content = (folder / ROOT).read_bytes()
    sealed = json.loads((folder / SEAL).read_bytes())["attributes"]
    if not agrees(sealed) or root_sum(content) != sealed["files"][ROOT]:
        raise ValueError(f"{folder / ROOT} is not as it was written")
    return json.loads(content)


def check_quickly(
    path: str | Path, *, labels: bool = False, bands: Sequence[str] = ()
) -> None:
    """Check that a cube has labels and bands, as far as a look at it tells.

    Raises
    ------
    FileNotFoundError
        If nothing is at a path.
    CubeError
        If labels or bands are missing.
    """
    found = look(path)
    if found is None:
        return
    if labels and not found.labelled:
        raise missing_target(["image"])
    lacking = [band for band in bands if band not in found.bands]
    if lacking:
        raise missing_bands(lacking, found.bands, bands)
