"""Training data that no model can learn from: refused before a network is trained."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from geobiomass.cube import CubeError, DamagedError
from geobiomass.data.reader import Reader
from geobiomass.tiles import Sample

_FEW = 5  # labelled pixels: an error of so few says nothing


def check_training_data(
    labels: pd.DataFrame,
    scales: Sequence[float],
    unknown: float,
    reader: Reader,
    samples: Sequence[Sample],
    skip: bool,
) -> None:
    """Check that there is something to learn, and to learn it from.

    Parameters
    ----------
    labels : pandas.DataFrame
        Statistics of the training labels: one row with count, minimum, maximum.
    scales : sequence of float
        Of the bands.
    unknown : float
        The scale of a band without any value, or of one value.
    reader, samples, skip
        As :func:`.measure_statistics` takes them.

    Raises
    ------
    CubeError
        If all labels are equal, no band has two values, or no label is on a pixel with
        an image.

    Warns
    -----
    UserWarning
        If there are fewer than five labels.
    """
    ((count, lowest, highest),) = labels[["count", "minimum", "maximum"]].to_numpy()
    if lowest == highest:
        many = "1 label, of" if count == 1 else f"{int(count):,} labels, all of"
        raise CubeError(
            f"Labels to train on must have two values at least, got {many} "
            f"{lowest:g}: a model would map this value everywhere. Give labels of more "
            "places, or check their column, units and nodata value."
        )
    if all(scale == unknown for scale in scales):
        raise CubeError(
            "Images to train on must have values, got none, or one value only, in all "
            f"of the {len(scales)} bands: a model would map the mean everywhere. Check "
            "the nodata value of the images, and that they overlap the labels."
        )
    if not any(_label_has_image(reader, sample, skip) for sample in samples):
        raise CubeError(
            f"Labels to train on must be on pixels with an image, got {int(count):,} "
            "of which none is: every month and band is missing there. Check that "
            "labels and images overlap, and their reference systems."
        )
    if count < _FEW:
        warnings.warn(
            f"{int(count)} labelled pixels train the model: its error on them says "
            "nothing of other places. Give more labels.",
            stacklevel=7,
        )


def _label_has_image(reader: Reader, sample: Sample, skip: bool) -> bool:
    """Return whether a label of a sample is on a pixel with a value.

    Of sound data the first sample has one, and no other is read.
    """
    try:
        labelled = np.isfinite(reader.labels(sample))
        if not labelled.any():
            return False
        image: Any = reader.read(sample)
    except DamagedError:
        if skip:
            return False
        raise
    return bool((np.isfinite(image).any(axis=(0, 1)) & labelled).any())
