from .core import RegressionTask, TrainingConfig, TrainingResult, train
from .interruption import TrainingInterrupted
from .measuring import measure_steps
from .stages import Stage, check_folder, train_stages
from .weights import average_weights

__all__ = [
    "RegressionTask",
    "Stage",
    "TrainingConfig",
    "TrainingInterrupted",
    "TrainingResult",
    "average_weights",
    "check_folder",
    "measure_steps",
    "train",
    "train_stages",
]
