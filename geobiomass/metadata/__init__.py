"""Metadata of maps: provenance, STAC items, the footprint of a map's values."""
