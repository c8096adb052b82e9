"""How good a map is: metrics, and residuals pixel by pixel."""
