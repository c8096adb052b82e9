"""How good a model is on ground that it has not seen: folds, cross-validation."""
