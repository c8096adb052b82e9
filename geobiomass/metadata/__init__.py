"""What a map says of itself: provenance, a STAC item, the outline of its values."""
