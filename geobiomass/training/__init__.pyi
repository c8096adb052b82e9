from .core import RegressionTask, TrainingConfig, TrainingResult, train
from .weights import average_weights

__all__ = [
    "RegressionTask",
    "TrainingConfig",
    "TrainingResult",
    "average_weights",
    "train",
]
