import subprocess
import sys

import pytest

import geobiomass.training


def test_the_face_is_complete():
    names = {
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
    }
    assert set(geobiomass.training.__all__) == names
    assert names <= set(dir(geobiomass.training))
    for name in names:
        assert getattr(geobiomass.training, name).__module__.startswith(
            "geobiomass.training."
        )


WITHOUT_TRAINING = """
import sys
from geobiomass.training import augment, estimator, losses, weights
heavy = {"lightning", "torchmetrics", "xarray", "dask", "rasterio"}
assert not heavy & set(sys.modules)
"""
TRAINING = """
import sys
from geobiomass.training import metrics
assert "lightning" not in sys.modules
from geobiomass.training import train
assert "lightning" in sys.modules
assert not {"xarray", "rasterio"} & set(sys.modules), "the core knows tensors only"
"""


@pytest.mark.parametrize(
    "script",
    [WITHOUT_TRAINING, pytest.param(TRAINING, marks=pytest.mark.slow)],
    ids=["without training", "training"],
)
def test_lightning_is_loaded_only_for_training(script):
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
