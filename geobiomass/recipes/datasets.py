"""From a cube and a recipe to the data loaders of the trainer."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from geobiomass.cube import CubeError, DamagedError
from geobiomass.data.folds import Fold
from geobiomass.data.labelled_cube import LabelledCube, LabelledSamples
from geobiomass.data.loader import ChipLoader
from geobiomass.data.reader import Reader, Sample
from geobiomass.data.splits import (
    check_no_overlap,
    fixed_crops,
    repeated,
    samples_of,
)
from geobiomass.recipes.label_weights import LabelWeights, weights_of_samples
from geobiomass.recipes.recipe import Recipe
from geobiomass.recipes.scaling import (
    Statistics,
    measure_layers,
    measure_statistics,
)
from geobiomass.recipes.split import HeldOut, Split, split_samples, units_to_split
from geobiomass.recipes.tall_forest import LabelBalance, balance_of, chances_of
from geobiomass.tiles import EVALUATION_BLOCK

_LEAST_CROP = 4  # pixels: below it there are no neighbours to learn from


@dataclass(frozen=True)
class DataLoaders:
    """The data loaders of a training.

    Parameters
    ----------
    training : ChipLoader
        Without held-out samples.
    validation : ChipLoader or None
        Held-out samples, or the user's validation cube.
    everything : ChipLoader
        Training and validation samples, for stages that train on all.
    recipe : Recipe
        With a crop that fits into the cube.
    calibration : list of Sample
        Chips or blocks that none of these holds, to calibrate an interval.
    images : ChipLoader or None
        Crops of all images but those that validate or calibrate, where the recipe has a
        self-supervised start.
    weights : LabelWeights or None
        Of the labels of training and everything, where their errors weigh.
    balance : LabelBalance or None
        Weights of labels by their own value, in the loss.
    """

    training: ChipLoader
    validation: ChipLoader | None
    everything: ChipLoader
    recipe: Recipe
    calibration: list[Sample]
    images: ChipLoader | None = None
    weights: LabelWeights | None = None
    balance: LabelBalance | None = None

    @property
    def problems(self) -> dict[str, str]:
        """Samples that could not be read, by name, with the reason."""
        loaders = (self.training, self.validation, self.everything, self.images)
        return {
            k: v for loader in loaders if loader for k, v in loader.problems.items()
        }

    def measure(self) -> Statistics:
        """Measure how to scale bands and labels, on the training data alone."""
        recipe = self.recipe
        samples = list(dict.fromkeys(self.training.samples))  # crops repeat them
        reader, skip = self.training.reader, recipe.damaged == "skip"
        found = measure_statistics(reader, samples, skip, recipe.training.progress)
        if not reader.static_layers:
            return found
        return dataclasses.replace(found, static=measure_layers(reader, samples, skip))


def make_loaders(
    data: LabelledCube,
    recipe: Recipe,
    held: HeldOut = None,
    client: Any = None,
    calibrate: bool = True,
) -> DataLoaders:
    """Build the data loaders that train and validate.

    Parameters
    ----------
    data : LabelledCube
        To train on, with the bands of the network.
    recipe : Recipe
        How to split, crop and batch.
    held : optional
        The validation, as :func:`.split.open_validation` returns it.
    client : distributed.Client, optional
        Reads chips on its workers.
    calibrate : bool
        Whether the model is calibrated alone, not together with models of other folds.

    Raises
    ------
    CubeError, ValueError
        As :func:`geobiomass.fit` says.
    """
    skip = recipe.damaged == "skip"
    units = units_to_split(data, recipe, held, calibrate)
    recipe = _with_crop_that_fits(recipe, units, data.reader)
    every = LabelledSamples.find(_training_reader(data, recipe), units, skip)
    split = split_samples(data, every, recipe, held, calibrate)
    validation = split.validation
    if isinstance(held, LabelledCube):
        check_no_overlap(data.cube, held.cube)
        blocks = samples_of(held.reader, EVALUATION_BLOCK)
        validation = LabelledSamples.find(_training_reader(held, recipe), blocks, skip)
    load = partial(
        ChipLoader,
        batch_size=recipe.training.batch_size,
        seed=recipe.training.seed,
        memory=recipe.read_ahead,
        damaged=recipe.damaged,
        client=client,
    )

    weights = weights_of_samples(split.training, recipe)

    def draw(part: LabelledSamples, weigh: LabelWeights | None = None) -> ChipLoader:
        """Return the loader that draws random crops."""
        crops = part.crops(recipe.crop)
        if recipe.crops is not None:
            crops = repeated(crops, recipe.crops)
        reader = part.reader if weigh is None else part.reader.with_weights(weigh)
        return load(reader, crops, crop=recipe.crop, marks=part.marks)

    def learn(part: LabelledSamples) -> ChipLoader:
        """Return the loader that draws crops with labels, as the recipe asks for."""
        loader = draw(part, weights)
        chances = chances_of(part, loader.samples, recipe)
        return dataclasses.replace(loader, chances=chances)

    def cover(part: LabelledSamples) -> ChipLoader:
        """Return the loader of crops that cover all samples, in their order."""
        crop = _common_crop(part.samples, recipe.crop)
        crops = fixed_crops(part.samples, crop, part.marks)
        return load(part.reader, crops, shuffle=False)

    images = None
    if recipe.self_supervised:
        there = _images_to_learn(units, split, every, held)
        # Layers are no images: what is hidden is not to be guessed from the ground.
        images = draw(LabelledSamples(every.reader.with_layers(()), there, {}))
    return DataLoaders(
        learn(split.training),
        None if validation is None else cover(validation),
        learn(split.everything),
        recipe,
        split.calibration,
        images,
        weights,
        balance_of(split.training, recipe),
    )


def _images_to_learn(
    units: Sequence[Sample], split: Split, every: LabelledSamples, held: HeldOut
) -> list[Sample]:
    """Return the chips or blocks whose images train without labels.

    Of a fold those that train, since ground without a label may lie beside, or in, what
    it holds out. Otherwise also all without a label.
    """
    training = set(split.training.samples)
    if isinstance(held, Fold):
        return [unit for unit in units if unit in training]
    labelled = set(every.samples)
    return [unit for unit in units if unit in training or unit not in labelled]


def _training_reader(data: LabelledCube, recipe: Recipe) -> Reader:
    """Return a reader with the recipe's cache, decoded for its device."""
    reader = copy.copy(data.reader)
    try:
        reader.cache(recipe.cache)
    except DamagedError:
        if recipe.damaged == "raise":
            raise
        # Read chip by chip, those that cannot be read are left out.
    return reader.decoded() if recipe.training.device == "cpu" else reader


def _with_crop_that_fits(
    recipe: Recipe, units: Sequence[Sample], reader: Reader
) -> Recipe:
    """Return the recipe with a crop no larger than the smallest chip or block."""
    if recipe.crop is not None:
        crop = _common_crop(units, recipe.crop)
        if crop is not None and crop < _LEAST_CROP:
            raise CubeError(
                f"Chips, and blocks of a scene, to train on must have {_LEAST_CROP} "
                f"pixels along each side, got {crop}; give a larger scene, or crop=."
            )
        return dataclasses.replace(recipe, crop=crop)
    if not reader.chips:
        raise ValueError(
            "crop must be a number of pixels to train on a scene, got None; "
            "blocks of a scene differ in size."
        )
    return recipe


def _common_crop(samples: Sequence[Sample], crop: int | None) -> int | None:
    if crop is None:
        return None
    return int(min(crop, *(min(p.window.height, p.window.width) for p in samples)))
