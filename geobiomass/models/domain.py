"""The domain of applicability that a model learns from its training data."""

from __future__ import annotations

import dataclasses

from torch import nn

from geobiomass.applicability import Domain
from geobiomass.applicability.learning import learn_domain
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.splits import groups_of
from geobiomass.recipes.datasets import DataLoaders
from geobiomass.recipes.objective import augmentation_of


def domain_of(
    network: nn.Module, data: LabelledCube, loaders: DataLoaders
) -> Domain | None:
    """Learn the domain of a network at the end of its training.

    Parameters
    ----------
    network : torch.nn.Module
        Trained with the data loaders.
    data : LabelledCube
        That the data loaders read.
    loaders : DataLoaders
        Samples that were held out to the end are not read.

    Returns
    -------
    Domain or None
        None where the recipe asks for none, or there are too few labels.
    """
    recipe = loaders.recipe
    if not recipe.domain_cells:
        return None
    loader = loaders.everything if recipe.ends_with_everything else loaders.training
    samples = list(dict.fromkeys(loader.samples))  # crops repeat them
    groups = groups_of(data.cube, samples, recipe.groups)
    # Of the augmentation only the parts that leave out months and passes are kept.
    augment = dataclasses.replace(
        augmentation_of(recipe, loader), orientations=False, rotation=0.0
    )
    drops = (recipe.month_dropout, recipe.pattern_dropout, recipe.pass_dropout)
    return learn_domain(
        network,
        loader.reader,
        samples,
        recipe.domain_cells,
        recipe.training.seed,
        groups=None if groups is None else dict(zip(samples, groups, strict=True)),
        marks=loader.marks,
        augment=augment if any(drops) else None,
        skip=recipe.damaged == "skip",
    )
