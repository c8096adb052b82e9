"""What the names of bands say: which indices can be computed, which sensor they are."""

from __future__ import annotations

import re
from collections.abc import Sequence

_COLOURS = {
    "blue": "B02", "green": "B03", "red": "B04", "rededge1": "B05", "nir": "B08",
    "nir08": "B8A", "swir1": "B11", "swir16": "B11", "swir2": "B12", "swir22": "B12",
}  # fmt: skip
# (a - b) / (a + b). NDVI: Rouse et al. 1974; NDMI: Gao 1996; NBR: Key and Benson 2006;
# NDRE: Gitelson and Merzlyak 1994.
_DIFFERENCES = {
    "NDVI": ("B08", "B04"),
    "NDMI": ("B08", "B11"),
    "NBR": ("B08", "B12"),
    "NDRE": ("B08", "B05"),
}
_RADAR = re.compile(r"(VV|VH|HH|HV)(?![A-Z0-9])(.*)", re.IGNORECASE)


def optical_name(name: str) -> str | None:
    """Return the name of a band of Sentinel-2, such as B08; None for other bands."""
    text = re.sub(r"[-_ .]", "", name.strip())
    found = re.fullmatch(r"[Bb](?:and)?0?(\d{1,2})([aA]?)", text)
    if found is None:
        return _COLOURS.get(text.lower())
    return "B8A" if found[2] else f"B{int(found[1]):02d}"


def normalised_differences(bands: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the indices that bands have, by name: the positions of their two bands."""
    known: dict[str, int] = {}
    for position, name in enumerate(bands):
        known.setdefault(optical_name(name) or "", position)
    if "B08" not in known and "B8A" in known:
        known["B08"] = known["B8A"]
    return {
        name: (known[first], known[second])
        for name, (first, second) in _DIFFERENCES.items()
        if first in known and second in known
    }


def cross_polarised(bands: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the positions of VH and VV of each pass of a radar, in dB, by name."""
    found: dict[tuple[str, str], int] = {}
    for position, name in enumerate(bands):
        match = _RADAR.fullmatch(name.strip())
        if match is not None:
            found.setdefault((match[2], match[1].upper()), position)
    return {
        f"VH-VV{end}": (found[end, "VH"], found[end, "VV"])
        for end in dict.fromkeys(end for end, _ in found)
        if (end, "VH") in found and (end, "VV") in found
    }


def sensors(bands: Sequence[str]) -> dict[str, list[int]]:
    """Return the positions of the bands that are observed together, by name."""
    found: dict[str, list[int]] = {}
    for position, name in enumerate(bands):
        match = _RADAR.fullmatch(name.strip())
        kind = "optical" if optical_name(name) else "other"
        found.setdefault(f"radar{match[2]}" if match else kind, []).append(position)
    return found
