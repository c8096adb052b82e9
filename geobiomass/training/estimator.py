"""The contract that both regressors keep: settings, fitted, save, load.

What is in a model's folder: ``geobiomass/training/model_folder.py``.
"""

from __future__ import annotations

import json
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import pandas as pd
from huggingface_hub import ModelHubMixin, snapshot_download
from torch import nn

from .model_folder import (
    CARD,
    CONFIG,
    HISTORY,
    WEIGHTS,
    ModelError,
    broken,
    check_replaceable,
    patterns,
    read_config,
    replace,
    write_config,
)
from .weights import load_weights, save_weights

STAGE = "stage"
"""Column of a history that is not a number: the stage that an epoch is of."""

__all__ = ["ModelError", "NotFittedError", "Regressor", "SavedModel", "read_config"]


class NotFittedError(ValueError, AttributeError):
    """A regressor is asked for what it has not learnt yet."""


class SavedModel(ModelHubMixin, ABC):
    """What is kept in a folder, or in a repository of the Hugging Face Hub.

    A subclass supplies `_write` and `_read`.

    Attributes
    ----------
    loader
        How a user loads this class, for messages: ``"gb.load(folder)"``.
    """

    load_call: ClassVar[str] = ""
    # Else the mixin notes the arguments of ``__init__``; a model says what it is.
    _hub_mixin_config: dict[str, Any] = {}  # noqa: RUF012  (as the mixin has it)

    @abstractmethod
    def _write(self, folder: Path) -> None:
        """Write the files of the model into an empty folder."""

    @classmethod
    @abstractmethod
    def _read(cls, folder: Path, config: Mapping[str, Any]) -> Self:
        """Build the model from its folder and what ``config.json`` holds."""

    def _check_savable(self) -> None:
        """Refuse to save what is not worth it."""

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
        self._check_savable()
        folder = Path(folder).absolute()
        check_replaceable(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
        part.mkdir()
        try:
            self._write(part)
            replace(folder, part)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a model that `save` wrote.

        Parameters
        ----------
        folder
            The model's folder.

        Returns
        -------
        SavedModel
            In evaluation mode on the CPU; it predicts the same bits as the one
            that was saved.

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
        return cls._read(folder, config)

    # --- the Hugging Face Hub ---

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: Any = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: Any = None,
        **hub: Any,
    ) -> str | None:
        """Write the model as `save` does, and on demand push it to the hub.

        Parameters
        ----------
        save_directory
            As `folder` of `save`.
        config
            Of no effect: the model says itself what it is.
        repo_id
            The repository to push to; by default named as the folder.
        push_to_hub
            Push it, as ``push_to_hub`` does, with what else it takes as keywords.
        model_card_kwargs
            Of no effect, as `config`.
        **hub
            As ``push_to_hub`` takes it.

        Returns
        -------
        str or None
            The address of what was pushed.

        Raises
        ------
        NotFittedError, ModelError
            As `save` does.
        """
        # The mixin's own deletes config.json of whatever is there before it writes.
        self.save(save_directory)
        if not push_to_hub:
            return None
        return str(self.push_to_hub(repo_id or Path(save_directory).name, **hub))

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **hub: Any
    ) -> Self:
        """Load a model from a folder, or from a repository of the hub.

        Parameters
        ----------
        pretrained_model_name_or_path
            A folder that `save` wrote, or a repository's name, ``"owner/name"``.
        **hub
            What the hub takes: ``revision``, ``token``, ``cache_dir``,
            ``local_files_only``, ``force_download``.

        Returns
        -------
        SavedModel
            As `load` gives it.

        Raises
        ------
        ModelError
            As `load` does.
        huggingface_hub.errors.HfHubHTTPError
            There is no such repository, or it is not to be reached.
        """
        path = Path(pretrained_model_name_or_path)
        if path.is_dir():
            return cls.load(path)
        return cls._from_pretrained(model_id=str(pretrained_model_name_or_path), **hub)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **hub: Any) -> Self:
        folder = snapshot_download(model_id, allow_patterns=patterns(), **hub)
        return cls.load(folder)


class Regressor(SavedModel):
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
    provenance
        Where the weights come from, fit for JSON: data, scaling, metrics, versions.
        Empty where nobody said. It is kept in ``config.json``.
    """

    network: nn.Module
    history: pd.DataFrame
    fitted: bool = False
    provenance: Mapping[str, Any] = MappingProxyType({})

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

    def _card(self) -> str:
        """Describe the model to a reader, in Markdown."""
        settings = json.dumps(self.settings, indent=2)
        return (
            f"---\nlibrary_name: geobiomass\n---\n\n# {type(self).__name__}\n\n"
            f"Made by geobiomass. Load it with `{self.load_call}`.\n\n"
            f"```json\n{settings}\n```\n"
        )

    def _check_savable(self) -> None:
        self.check_fitted()

    def _write(self, folder: Path) -> None:
        content = {
            "class": type(self).__name__,
            "loader": self.load_call,
            "settings": self.settings,
            "provenance": dict(self.provenance),
        }
        write_config(folder, content)
        (folder / CARD).write_text(self._card(), encoding="utf-8")
        save_weights(self.network, folder / WEIGHTS)
        self.history.to_csv(folder / HISTORY, index=False)

    @classmethod
    def _read(cls, folder: Path, config: Mapping[str, Any]) -> Self:
        model = cls._build(folder, config["settings"])
        try:
            load_weights(model.network, folder / WEIGHTS)
        except (FileNotFoundError, ValueError) as error:
            raise broken(folder / WEIGHTS, error) from error
        model.provenance = dict(config.get("provenance", {}))
        model.history = _read_history(folder / HISTORY)
        model.network.eval()
        model.fitted = True
        return model

    @classmethod
    def _build(cls, folder: Path, settings: Mapping[str, Any]) -> Self:
        try:
            return cls._from_settings(settings)
        except (KeyError, TypeError, ValueError) as error:
            raise broken(folder / CONFIG, error) from error


def _read_history(path: Path) -> pd.DataFrame:
    """Read numbers as Python does: releases of pandas differ in the last bit."""
    try:
        text = pd.read_csv(path, dtype=str, keep_default_na=False)
        return pd.DataFrame({name: _numbers(name, text[name]) for name in text.columns})
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (OSError, ValueError) as error:
        raise broken(path, error) from error


def _numbers(name: str, cells: pd.Series) -> list[float] | list[str]:
    """Read a column; the names of stages are words even where they are digits."""
    return list(cells) if name == STAGE else [_number(cell) for cell in cells]


def _number(cell: str) -> float:
    if cell.removeprefix("-").isdecimal():
        return int(cell)
    return float(cell or "nan")
