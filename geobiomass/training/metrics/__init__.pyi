from .classes import R2, AverageRMSE, Bias, MeanAbsoluteError, PixelRMSE, WeightedR2
from .functions import (
    average_rmse,
    bias,
    mean_absolute_error,
    pixel_rmse,
    r2,
    weighted_r2,
)

__all__ = [
    "R2",
    "AverageRMSE",
    "Bias",
    "MeanAbsoluteError",
    "PixelRMSE",
    "WeightedR2",
    "average_rmse",
    "bias",
    "mean_absolute_error",
    "pixel_rmse",
    "r2",
    "weighted_r2",
]
