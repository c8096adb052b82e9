"""Recipes, and the training they describe: split, data, scaling, stages, resuming."""
