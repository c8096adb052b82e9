"""From maps to numbers for areas: totals and change with intervals."""
