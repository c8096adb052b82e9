"""The contract of a regressor, as tests that each regressor's own tests inherit.

A subclass supplies three fixtures: `make` (settings as keywords -> an untrained
regressor with few weights), `fit` (regressor, data -> the same regressor, trained
under a fixed seed in a few seconds) and `data`; and the method `predict`
(regressor, data -> numpy array).
"""

import copy
import json

import numpy as np
import pytest

from geobiomass.training.estimator import ModelError, NotFittedError, Regressor

FILES = ("config.json", "weights.safetensors", "history.csv", "README.md")


class Reached(Exception):
    """The core of the trainer was called."""


class RegressorContract:
    """Inherit as ``class TestMyRegressor(RegressorContract)``."""

    # Python source that prints the bytes of a prediction as hexadecimal digits;
    # `folder` holds the model and `data_file` what `write_data` wrote.
    predict_elsewhere = ""

    # What a saved model's folder holds.
    files = FILES

    # False where the caller of ``__init__`` vouches for the network he brings.
    starts_unfitted = True

    def predict(self, model, data) -> np.ndarray:
        raise AssertionError("a contract needs predict(model, data)")

    def write_data(self, data, path) -> None:
        raise AssertionError("a contract needs write_data(data, path)")

    def same_data(self, one, other) -> bool:
        raise AssertionError("a contract needs same_data(one, other)")

    @pytest.fixture
    def fitted(self, make, fit, data):
        return fit(make(), data)

    def test_it_trains_through_the_shared_core(self, make, fit, data, monkeypatch):
        def reached(task, plan, writer, *others):
            raise Reached

        monkeypatch.setattr("geobiomass.training.core._train", reached)
        with pytest.raises(Reached):
            fit(make(), data)

    def test_refit_under_a_seed_is_identical(self, make, fit, data):
        one, other = fit(make(), data), fit(make(), data)
        weights = one.network.state_dict()
        for name, value in other.network.state_dict().items():
            assert value.equal(weights[name]), name
        np.testing.assert_array_equal(
            self.predict(one, data), self.predict(other, data)
        )

    def test_input_is_untouched(self, make, fit, data):
        before = copy.deepcopy(data)
        model = fit(make(), data)
        self.predict(model, data)
        assert self.same_data(before, data)

    def test_fit_returns_itself_and_learns_something(self, make, fit, data):
        model = make()
        assert model.fitted is not self.starts_unfitted
        before = {k: v.clone() for k, v in model.network.state_dict().items()}
        assert fit(model, data) is model
        assert model.fitted
        assert len(model.history) > 0
        after = model.network.state_dict()
        assert any(not value.equal(before[name]) for name, value in after.items())

    def test_not_fitted_is_one_clear_error(self, make, data, tmp_path):
        if not self.starts_unfitted:
            assert np.isfinite(self.predict(make(), data)).any()
            return
        with pytest.raises(NotFittedError, match="not fitted"):
            self.predict(make(), data)
        with pytest.raises(NotFittedError, match="not fitted"):
            make().save(tmp_path / "model")
        assert not (tmp_path / "model").exists()

    def test_saved_is_loaded(self, fitted, data, tmp_path):
        fitted.save(tmp_path / "model")
        assert {file.name for file in (tmp_path / "model").iterdir()} == set(self.files)
        loaded = type(fitted).load(tmp_path / "model")
        assert loaded.fitted
        assert loaded.settings == fitted.settings
        assert loaded.history.equals(fitted.history)
        np.testing.assert_array_equal(
            self.predict(loaded, data), self.predict(fitted, data)
        )

    def test_a_new_process_predicts_the_same_bits(
        self, fitted, data, tmp_path, new_process
    ):
        fitted.save(tmp_path / "model")
        self.write_data(data, tmp_path / "data")
        script = (
            f"folder = {str(tmp_path / 'model')!r}\n"
            f"data_file = {str(tmp_path / 'data')!r}\n" + self.predict_elsewhere
        )
        result = new_process(script)
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == self.predict(fitted, data).tobytes().hex()

    def test_settings_are_plain(self, make):
        settings = make().settings
        assert json.loads(json.dumps(settings)) == settings
        rebuilt = type(make())._from_settings(settings)
        assert isinstance(rebuilt, Regressor)
        assert rebuilt.settings == settings

    @pytest.mark.parametrize(
        "name", ["config.json", "weights.safetensors", "history.csv"]
    )
    @pytest.mark.parametrize("damage", ["missing", "cut"])
    def test_a_broken_model_is_named(self, fitted, tmp_path, name, damage):
        fitted.save(tmp_path / "model")
        file = tmp_path / "model" / name
        if damage == "missing":
            file.unlink()
        else:
            file.write_bytes(b'"\x00' + file.read_bytes()[:10])
        with pytest.raises(ModelError, match=f"{name} is (missing|damaged)"):
            type(fitted).load(tmp_path / "model")

    def test_nothing_but_a_model_is_overwritten(self, fitted, tmp_path):
        precious = tmp_path / "thesis" / "chapter.txt"
        precious.parent.mkdir()
        precious.write_text("ten years of work")
        with pytest.raises(ModelError, match=r"chapter\.txt"):
            fitted.save(precious.parent)
        (precious.parent / "config.json").write_text("{}")
        with pytest.raises(ModelError, match=r"chapter\.txt"):
            fitted.save(precious.parent)
        assert precious.read_text() == "ten years of work"
        with pytest.raises(ModelError, match="a file"):
            fitted.save(precious)

    def test_a_model_is_replaced_whole(self, fitted, tmp_path):
        fitted.save(tmp_path / "model")
        fitted.save(tmp_path / "model")
        assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
        type(fitted).load(tmp_path / "model")
