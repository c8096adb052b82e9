"""Grams of grass from photos of pasture."""
