"""Reading of cubes for training and maps: windows, data loaders, splits, folds."""
