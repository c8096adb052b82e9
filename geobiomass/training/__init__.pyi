from .core import TrainingResult, train
from .freezing import Frozen
from .interruption import TrainingInterrupted
from .measuring import measure_steps
from .settings import Stage, TrainingConfig
from .stages import check_folder, train_stages
from .task import RegressionTask
from .weights import average_weights

__all__ = [
    "Frozen",
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
