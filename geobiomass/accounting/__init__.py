"""Totals and change of biomass over areas, with confidence intervals."""
