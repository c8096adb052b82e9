"""What trains and maps read: windows of a cube, data loaders, splits, folds."""
