"""Biomass maps from monthly satellite images."""
