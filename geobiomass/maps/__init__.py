"""The map on disk: Zarr or cloud-optimised GeoTIFF, written block by block."""

from geobiomass.maps.writing import (
    Block,
    IncompleteMapError,
    describe_progress,
    fingerprint_of,
    write_map,
)

__all__ = [
    "Block",
    "IncompleteMapError",
    "describe_progress",
    "fingerprint_of",
    "write_map",
]
