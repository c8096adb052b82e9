"""Where a map comes from: noted while it is made, read from the map alone."""

from geobiomass.lineage.reading import Provenance, provenance, provenance_in
from geobiomass.lineage.record import (
    check_notes,
    note_provenance,
    weights_fingerprint,
)

__all__ = [
    "Provenance",
    "check_notes",
    "note_provenance",
    "provenance",
    "provenance_in",
    "weights_fingerprint",
]
