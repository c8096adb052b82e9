"""Cubes from raster files, month by month."""
