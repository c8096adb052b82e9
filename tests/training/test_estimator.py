import json
import os
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from contract import RegressorContract
from earlier_models import without_checksums
from torch import nn

from geobiomass.training import RegressionTask, TrainingConfig, train
from geobiomass.training.estimator import ModelError, Regressor, read_config


class Line(Regressor):
    """A small regressor: columns of numbers to one number."""

    load_call = "Line.load(folder)"

    def __init__(self, width: int = 3) -> None:
        torch.manual_seed(0)
        self.width = width
        self.network = nn.Sequential(nn.Linear(width, 5), nn.Tanh(), nn.Linear(5, 1))
        self.history = pd.DataFrame()

    def _settings(self):
        return {"width": self.width}

    @classmethod
    def _from_settings(cls, settings):
        return cls(settings["width"])

    def fit(self, table: np.ndarray) -> "Line":
        rows = torch.tensor(table, dtype=torch.float32)
        task = RegressionTask(self.network, nn.functional.mse_loss)
        batches = [(rows, rows.sum(1, keepdim=True))]
        config = TrainingConfig(epochs=3, accelerator="cpu", progress=False)
        self.history = train(task, batches, batches, config).history
        self.fitted = True
        return self

    def predict(self, table: np.ndarray) -> np.ndarray:
        self.check_fitted()
        with torch.no_grad():
            return self.network(torch.tensor(table, dtype=torch.float32)).numpy()


class Curve(Line):
    """Another class, for mistaking one for the other."""


class TestLine(RegressorContract):
    predict_elsewhere = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
from test_estimator import Line
print(Line.load(folder).predict(np.load(data_file + ".npy")).tobytes().hex())
"""

    @pytest.fixture
    def make(self):
        return Line

    @pytest.fixture
    def fit(self):
        return lambda model, data: model.fit(data)

    @pytest.fixture
    def data(self):
        return np.random.default_rng(0).normal(size=(20, 3))

    def predict(self, model, data):
        return model.predict(data)

    def write_data(self, data, path):
        np.save(path, data)

    def same_data(self, one, other):
        return np.array_equal(one, other)


@pytest.fixture
def saved(tmp_path) -> Path:
    model = Line().fit(np.ones((4, 3)))
    model.save(tmp_path / "model")
    return tmp_path / "model"


def edit(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_config_says_what_wrote_it(saved):
    config = read_config(saved)
    assert config["class"] == "Line"
    assert config["format"] == 1
    assert config["packages"]["torch"] == version("torch")


def test_another_class_names_the_right_loader(saved):
    with pytest.raises(ModelError, match=r"must hold a Curve.*Line\.load\(folder\)"):
        Curve.load(saved)


def test_a_later_format_is_refused(saved):
    edit(saved, format=2)
    with pytest.raises(ModelError, match=r"format 1, got 2"):
        Line.load(saved)


@pytest.mark.parametrize("settings", [{}, {"width": "wide"}, {"width": 4}, 3])
def test_settings_that_do_not_fit_are_refused(saved, settings):
    edit(saved, settings=settings)
    with pytest.raises(ModelError, match="damaged"):
        Line.load(saved)


def test_a_missing_folder_is_a_clear_error(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere.*is missing"):
        Line.load(tmp_path / "nowhere")


def test_an_interrupted_save_leaves_the_old_model(saved, monkeypatch):
    model = Line.load(saved)
    before = {file.name: file.read_bytes() for file in saved.iterdir()}

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("geobiomass.training.estimator.save_weights", stop)
    with pytest.raises(KeyboardInterrupt):
        model.save(saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    assert os.listdir(saved.parent) == ["model"]


def test_an_empty_history_survives(tmp_path):
    model = Line()
    model.fitted = True
    model.save(tmp_path / "model")
    assert Line.load(tmp_path / "model").history.empty


def test_where_weights_come_from_is_kept(tmp_path):
    model = Line().fit(np.ones((4, 3)))
    model.provenance = {"data": {"rows": 4}, "validation": {"all": {"r2": None}}}
    model.save(tmp_path / "model")
    assert Line.load(tmp_path / "model").provenance == model.provenance
    assert read_config(tmp_path / "model")["provenance"] == model.provenance
    assert "Line.load(folder)" in (tmp_path / "model" / "README.md").read_text()


def test_a_model_of_before_cards_still_loads(saved):
    expected = Line.load(saved).predict(np.ones((2, 3)))
    without_checksums(saved)
    config = json.loads((saved / "config.json").read_text())
    del config["provenance"]
    (saved / "config.json").write_text(json.dumps(config))
    model = Line.load(saved)
    assert model.provenance == {}
    np.testing.assert_array_equal(model.predict(np.ones((2, 3))), expected)
    model.save(saved)
    assert (saved / "README.md").is_file()


def test_names_of_stages_survive_in_the_history(tmp_path):
    model = Line().fit(np.ones((4, 3)))
    model.history.insert(0, "stage", ["1", "1", "cool-down"])
    model.save(tmp_path / "model")
    assert Line.load(tmp_path / "model").history.equals(model.history)


@pytest.mark.parametrize("way", ["save", "save_pretrained"])
def test_a_project_of_another_program_is_left_alone(tmp_path, way):
    model = Line().fit(np.ones((4, 3)))
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("My project")
    with pytest.raises(ModelError, match=r"README\.md"):
        getattr(model, way)(folder)
    assert (folder / "config.json").read_text() == "{}"
    assert (folder / "README.md").read_text() == "My project"


def test_the_hubs_words_for_save_and_load(tmp_path, saved):
    model = Line.load(saved)
    assert model.save_pretrained(tmp_path / "other") is None
    back = Line.from_pretrained(tmp_path / "other")
    table = np.ones((2, 3))
    np.testing.assert_array_equal(back.predict(table), model.predict(table))
    model.save_pretrained(tmp_path / "other")  # replaced, as by save
    with pytest.raises(ModelError, match="must hold a Curve"):
        Curve.from_pretrained(str(saved))


def test_processes_may_save_one_model_at_once(tmp_path):
    model = Line().fit(np.random.default_rng(0).normal(size=(20, 3)))
    folder = tmp_path / "model"
    with ThreadPoolExecutor(4) as pool:
        for job in [pool.submit(model.save, folder) for _ in range(40)]:
            job.result()
    assert Line.load(folder).fitted
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
