"""Cubes from Sentinel images in open archives that speak STAC."""
