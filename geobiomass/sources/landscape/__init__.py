"""A synthetic landscape with known biomass, for tests, examples and the demo."""
