"""Metrics of arrays or tensors, as functions."""

from __future__ import annotations

from .sums import (
    ONE_COLUMN,
    Array,
    absolute_errors,
    aligned_pair,
    as_columns,
    as_one_column,
    chip_roots,
    column_weights,
    mean_r2,
    moments_of,
    pooled_r2,
    ratio,
    signed_errors,
    squared_errors,
)


def average_rmse(prediction: Array, target: Array) -> float:
    """Return the root mean squared error of each chip, averaged over the chips.

    The metric of the BioMassters challenge. Chips without a valid pixel are left out.

    Parameters
    ----------
    prediction, target
        (batch, ...) of the same shape, Mg/ha; NaN targets where unlabelled.
    """
    return float(ratio(chip_roots(*aligned_pair(prediction, target))))


def pixel_rmse(prediction: Array, target: Array) -> float:
    """Return the root of the mean squared error over all valid pixels together.

    It is never lower than `average_rmse` if all chips have equally many valid pixels.

    Parameters
    ----------
    prediction, target
        The same shape, any; NaN targets where unlabelled.
    """
    return float(ratio(squared_errors(*aligned_pair(prediction, target))).sqrt())


def mean_absolute_error(prediction: Array, target: Array) -> float:
    """Return the mean absolute error over all valid pixels.

    Parameters
    ----------
    prediction, target
        The same shape, any; NaN targets where unlabelled.
    """
    return float(ratio(absolute_errors(*aligned_pair(prediction, target))))


def bias(prediction: Array, target: Array) -> float:
    """Return the mean of prediction minus target over all valid pixels.

    Parameters
    ----------
    prediction, target
        The same shape, any; NaN targets where unlabelled.
    """
    return float(ratio(signed_errors(*aligned_pair(prediction, target))))


def r2(prediction: Array, target: Array) -> float:
    """Return R2, the share of the targets' variance that the predictions explain.

    1 - sum (y - f)^2 / sum (y - mean(y))^2 over all valid pixels; NaN if all
    targets are equal.

    Parameters
    ----------
    prediction, target
        The same shape, any; NaN targets where unlabelled.
    """
    return float(
        pooled_r2(
            moments_of(*as_one_column(*aligned_pair(prediction, target))), ONE_COLUMN
        )
    )


def weighted_r2(
    prediction: Array,
    target: Array,
    weights: Array,
    pooled: bool = True,
) -> float:
    """Return R2 over several targets with weights.

    Parameters
    ----------
    prediction, target
        (batch, targets) of the same shape; NaN target where unknown.
    weights
        (targets,), the weight of each column.
    pooled
        True: 1 - sum w (y - f)^2 / sum w (y - m)^2 over all pairs together, with
        m = sum w y / sum w, the metric of the CSIRO pasture challenge. False: the
        weighted mean of the columns' own R2, which has a different value; columns whose
        targets are all equal or all unknown are left out.

    Raises
    ------
    ValueError
        If the shapes differ, or the weights do not match the columns.
    """
    share = column_weights(weights)
    moments = moments_of(*as_columns(*aligned_pair(prediction, target), len(share)))
    return float((pooled_r2 if pooled else mean_r2)(moments, share))
