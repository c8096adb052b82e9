"""What recipes know of bands: the winner's ranges, and the sensor pass of each."""

from __future__ import annotations

from collections.abc import Sequence

# Minimum and maximum of each band in the winner's scaling, dB and reflectance x 10^4.
BIOMASSTERS_RANGE: dict[str, tuple[float, float]] = {
    "VV_asc": (-25, 29),
    "VH_asc": (-62, 28),
    "VV_desc": (-25, 30),
    "VH_desc": (-60, 22),
    "B02": (0, 19616),
    "B03": (0, 18400),
    "B04": (0, 17536),
    "B05": (0, 17097),
    "B06": (0, 16928),
    "B07": (0, 16768),
    "B08": (0, 16593),
    "B8A": (0, 16492),
    "B11": (0, 15401),
    "B12": (0, 15226),
    "CLP": (0, 255),
}


def sensor_passes(bands: Sequence[str]) -> tuple[int, ...]:
    """Return the number of the sensor pass of each band, 0 for all optical ones.

    Bands of one pass are missing together. Radar bands end in ``_asc`` or ``_desc``,
    as VV_asc; 1 is the pass of the first of them, 2 the other.
    """
    ends = [next((e for e in ("_asc", "_desc") if b.endswith(e)), "") for b in bands]
    met = [end for end in dict.fromkeys(ends) if end]
    return tuple(met.index(end) + 1 if end else 0 for end in ends)
