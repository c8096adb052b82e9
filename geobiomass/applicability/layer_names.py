"""Names of the layers that tell how far a map is from the training data."""

INDEX, INSIDE = "dissimilarity", "applicable"
