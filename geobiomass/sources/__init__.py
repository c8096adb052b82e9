"""Where cubes come from: one module a source."""
