"""The map on disk: Zarr or cloud-optimised GeoTIFF, written block by block."""

from geobiomass.maps.blocks import Block
from geobiomass.maps.competition import write_competition
from geobiomass.maps.completion import describe_progress, in_one_state
from geobiomass.maps.finished import MADE_WITH
from geobiomass.maps.lock import MapInUseError
from geobiomass.maps.map_writer import (
    IncompleteMapError,
    fingerprint_of,
    write_map,
)

__all__ = [
    "MADE_WITH",
    "Block",
    "IncompleteMapError",
    "MapInUseError",
    "describe_progress",
    "fingerprint_of",
    "in_one_state",
    "write_competition",
    "write_map",
]
