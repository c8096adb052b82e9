"""The contract that both regressors keep: settings, fitted, save, load.

A model on disk is a folder of three files: ``config.json`` says what it is,
``weights.safetensors`` what it learnt, ``history.csv`` how. None can run code.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd
from torch import nn

from .weights import load_weights, save_weights

__all__ = ["ModelError", "NotFittedError", "Regressor", "read_config"]

CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
HISTORY = "history.csv"
_FORMAT = 1
_PACKAGES = ("geobiomass", "torch", "timm", "numpy", "pandas")


class ModelError(ValueError):
    """A model's folder is not one, or is damaged; the message says what to do."""


class NotFittedError(ValueError, AttributeError):
    """A regressor is asked for what it has not learnt yet."""


class Regressor(ABC):
    """What learns from examples and predicts, and can be kept in a folder.

    A subclass sets `network` and `history` in its ``__init__``, supplies `_settings`
    and `_from_settings`, and sets `fitted` when its network has learnt.

    Attributes
    ----------
    network
        The module that predicts.
    history
        A row an epoch; empty before `fit`.
    fitted
        Whether the network's weights were learnt or loaded.
    loader
        How a user loads this class, for messages: ``"gb.load(folder)"``.
    """

    network: nn.Module
    history: pd.DataFrame
    fitted: bool = False
    loader: ClassVar[str] = ""

    @abstractmethod
    def _settings(self) -> Mapping[str, Any]:
        """Everything that builds this object again untrained, fit for JSON."""

    @classmethod
    @abstractmethod
    def _from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Build the untrained object that `_settings` describes."""

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that builds this object again untrained, as JSON has it."""
        plain: dict[str, Any] = json.loads(json.dumps(dict(self._settings())))
        return plain

    def check_fitted(self) -> None:
        """Refuse to go on without learnt weights.

        Raises
        ------
        NotFittedError
            Neither fitted nor loaded.
        """
        if not self.fitted:
            raise NotFittedError(
                f"this {type(self).__name__} is not fitted yet; call fit first, or "
                "load a saved model"
            )

    def save(self, folder: str | Path) -> None:
        """Write the model; the folder appears whole or not at all.

        Parameters
        ----------
        folder
            A new or empty folder, or one that holds a model, which is replaced.

        Raises
        ------
        NotFittedError
            There is nothing to save yet.
        ModelError
            The folder holds something other than a model.
        """
        self.check_fitted()
        folder = Path(folder).absolute()
        _check_replaceable(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
        part.mkdir()
        try:
            self._write(part)
            _replace(folder, part)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        config = {
            "format": _FORMAT,
            "class": type(self).__name__,
            "loader": self.loader,
            "settings": self.settings,
            "packages": _versions(),
        }
        text = json.dumps(config, indent=2, allow_nan=False)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
        save_weights(self.network, folder / WEIGHTS)
        self.history.to_csv(folder / HISTORY, index=False)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a model that `save` wrote.

        Parameters
        ----------
        folder
            The model's folder.

        Returns
        -------
        Regressor
            Fitted, its network in evaluation mode on the CPU; it predicts the
            same bits as the one that was saved.

        Raises
        ------
        ModelError
            A file is missing or damaged, or holds another class; the message
            names it and says what to do.
        """
        folder = Path(folder)
        config = read_config(folder)
        if config["class"] != cls.__name__:
            advice = config.get("loader") or f"{config['class']}.load(folder)"
            raise ModelError(
                f"{folder} must hold a {cls.__name__}, got a {config['class']}; load "
                f"it with {advice}"
            )
        model = cls._build(folder, config["settings"])
        try:
            load_weights(model.network, folder / WEIGHTS)
        except (FileNotFoundError, ValueError) as error:
            raise _broken(folder / WEIGHTS, error) from error
        model.history = _read_history(folder / HISTORY)
        model.network.eval()
        model.fitted = True
        return model

    @classmethod
    def _build(cls, folder: Path, settings: Mapping[str, Any]) -> Self:
        try:
            return cls._from_settings(settings)
        except (KeyError, TypeError, ValueError) as error:
            raise _broken(folder / CONFIG, error) from error


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read what a model's folder says of itself.

    Parameters
    ----------
    folder
        The model's folder.

    Returns
    -------
    dict
        "format", "class", "loader", "settings" and "packages" (versions).

    Raises
    ------
    ModelError
        There is no such folder, no ``config.json``, or it cannot be read.
    """
    path = Path(folder) / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(path, error) from error
    expected = {"format": int, "class": str, "settings": dict}
    for key, kind in expected.items():
        if not isinstance(config, dict) or not isinstance(config.get(key), kind):
            raise _broken(path, f"it has no {key}")
    if config["format"] != _FORMAT:
        raise ModelError(
            f"{path} must be of format {_FORMAT}, got {config['format']}; install the "
            f"version of geobiomass that wrote it: {config.get('packages')}"
        )
    return dict(config)


def _broken(path: Path, reason: object) -> ModelError:
    state = "is damaged" if path.is_file() else "is missing"
    return ModelError(
        f"{path} {state} ({reason}); give the folder of a saved model, or copy the "
        "model again from where it was made"
    )


def _read_history(path: Path) -> pd.DataFrame:
    """Read numbers as Python does: releases of pandas differ in the last bit."""
    try:
        text = pd.read_csv(path, dtype=str, keep_default_na=False)
        return pd.DataFrame(
            {name: [_number(cell) for cell in text[name]] for name in text.columns}
        )
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (OSError, ValueError) as error:
        raise _broken(path, error) from error


def _number(cell: str) -> float | str:
    """Read a cell: a number, NaN where there is nothing, or the name of a stage."""
    if cell.removeprefix("-").isdecimal():
        return int(cell)
    try:
        return float(cell or "nan")
    except ValueError:
        return cell


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    found = {file.name for file in folder.iterdir()} if folder.is_dir() else {"a file"}
    strangers = sorted(found - {CONFIG, WEIGHTS, HISTORY})
    if strangers or (found and CONFIG not in found):
        raise ModelError(
            f"{folder} must be new, empty or a saved model, got a place with "
            f"{', '.join(strangers or sorted(found))}; give another folder, as saving "
            "would delete what is there"
        )


def _replace(folder: Path, part: Path) -> None:
    """Put the new folder in the place of the old one."""
    if not folder.exists():
        os.rename(part, folder)
        return
    old = part.with_suffix(".old")
    os.rename(folder, old)
    os.rename(part, folder)
    shutil.rmtree(old)


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
