"""From a recipe to a training: settings, data sets, scaling, stages, resuming."""
