"""The chips of the BioMassters competition: local folders, and the public bucket."""
