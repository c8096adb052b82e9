"""Base classes of the regressors: settings, fitted, save, load.

``geobiomass/training/model_folder.py`` documents the files of a model's folder.
"""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import pandas as pd

from geobiomass.training.setting_names import explain_arguments

from .disk_errors import told_of_disk
from .folder_exchange import new_part, replace_folder, sweep_parts, whole_folder
from .given_paths import path_text
from .model_checksums import NOTED, check_checksums, write_checksums
from .model_folder import (
    CARD,
    CONFIG,
    HISTORY,
    WEIGHTS,
    WRONG_SETTINGS,
    ModelError,
    broken,
    check_replaceable,
    holds_model_files,
    patterns,
    read_config,
    write_config,
)
from .one_writer import one_writer
from .weights import check_shapes, load_weights, save_weights, without_memory

if TYPE_CHECKING:
    from torch import nn

_WAIT = 60.0  # seconds: another process that saves the same model takes less

STAGE = "stage"
"""Column of a history with text: the stage of each epoch."""

__all__ = ["ModelError", "NotFittedError", "Regressor", "SavedModel", "read_config"]


class NotFittedError(ValueError, AttributeError):
    """Error of a regressor that is used before it is fitted."""


@explain_arguments
class SavedModel(ABC):
    """Model that is saved in a folder, or in a repository of the Hugging Face Hub.

    A subclass implements `_write` and `_read`.

    Attributes
    ----------
    load_call
        The call that loads this class, for messages: ``"gb.load(folder)"``.
    interrupted
        Where its training was interrupted: "interrupted at epoch 3 of 10"; empty for a
        whole training. It is saved in ``config.json``.
    """

    load_call: ClassVar[str] = ""
    interrupted: str = ""
    # A model of an earlier release is saved with the files that it was loaded from.
    _checksums_twice: bool = True

    @abstractmethod
    def _write(self, folder: Path) -> None:
        """Write the files of the model into an empty folder."""

    @classmethod
    @abstractmethod
    def _read(cls, folder: Path, config: Mapping[str, Any]) -> Self:
        """Build the model from its folder and the content of ``config.json``."""

    def _check_savable(self) -> None:  # noqa: B027  (by default all can be saved)
        """Check that there is something to save."""

    def save(self, folder: str | Path) -> None:
        """Write the model; the folder is written whole or not at all.

        Parameters
        ----------
        folder
            A new or empty folder, or one that contains a model, which is replaced.

        Raises
        ------
        NotFittedError
            If the model is not fitted.
        ModelError
            If the folder contains something other than a model.
        InUseError
            If another process is saving to it, for more than a minute.
        DiskError
            If the disk is full or cannot be written; the old model is kept.
        """
        self._check_savable()
        folder = Path(path_text(folder, "A model's folder", ModelError)).resolve()
        check_replaceable(folder)
        with told_of_disk(folder, "save it again"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            # The processes of a training may save the same model, one after the other.
            with one_writer(folder, wait=_WAIT):
                check_replaceable(folder)
                sweep_parts(folder, holds_model_files)
                part = new_part(folder)
                part.mkdir()
                try:
                    self._write(part)
                    write_checksums(part, self._checksums_twice)
                    replace_folder(folder, part)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
                sweep_parts(folder, holds_model_files)

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
            In evaluation mode on the CPU; it predicts the same bits as the saved
            model.

        Raises
        ------
        ModelError
            If a file is missing or damaged, has changed since it was saved, or
            contains another class; the message names the file and the remedy.
        """
        folder = whole_folder(Path(path_text(folder, "A model's folder", ModelError)))
        config = read_config(folder)
        if config["class"] != cls.__name__:
            advice = config.get("loader") or f"{config['class']}.load(folder)"
            raise ModelError(
                f"{folder} must hold a {cls.__name__}, got a {config['class']}; load "
                f"it with {advice}"
            )
        check_checksums(folder)
        model = cls._read(folder, config)
        model.interrupted = str(config.get("interrupted", ""))
        model._checksums_twice = NOTED in config
        return model

    def _marked(self) -> dict[str, str]:
        """Return the entry of ``config.json`` that says where training stopped."""
        return {"interrupted": self.interrupted} if self.interrupted else {}

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
        """Write the model as `save` does, and optionally push it to the hub.

        Parameters
        ----------
        save_directory
            As `folder` of `save`.
        config
            Without effect: the model writes its own settings.
        repo_id
            The repository to push to; by default it has the folder's name.
        push_to_hub
            Also push the model, as `push_to_hub` does.
        model_card_kwargs
            Without effect, like `config`.
        **hub
            Further arguments of `push_to_hub`.

        Returns
        -------
        str or None
            The address of the commit.

        Raises
        ------
        NotFittedError, ModelError
            As `save` does.
        """
        self.save(save_directory)
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or Path(save_directory).name, **hub)

    def push_to_hub(self, repo_id: str, **hub: Any) -> str:
        """Write the model to a repository of the hub, and create it if necessary.

        Parameters
        ----------
        repo_id
            The repository's name, ``"owner/name"``.
        **hub
            Arguments of ``huggingface_hub.ModelHubMixin.push_to_hub``:
            ``commit_message``, ``private``, ``token``, ``branch``, ``create_pr``,
            ``allow_patterns``, ``ignore_patterns``, ``delete_patterns``.

        Returns
        -------
        str
            The address of the commit.

        Raises
        ------
        NotFittedError
            If the model is not fitted.
        huggingface_hub.errors.HfHubHTTPError
            If the hub refuses it, or cannot be reached.
        """
        # Not a base class: its import is as slow as importing pandas, and few push.
        from huggingface_hub import ModelHubMixin

        return str(ModelHubMixin.push_to_hub(cast(Any, self), repo_id, **hub))

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
            Arguments of ``huggingface_hub.snapshot_download``: ``revision``,
            ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

        Returns
        -------
        SavedModel
            As `load` returns it.

        Raises
        ------
        ModelError
            As `load` does.
        huggingface_hub.errors.HfHubHTTPError
            If there is no such repository, or it cannot be reached.
        """
        path = Path(pretrained_model_name_or_path)
        if path.is_dir():
            return cls.load(path)
        from huggingface_hub import snapshot_download

        name = str(pretrained_model_name_or_path)
        return cls.load(snapshot_download(name, allow_patterns=patterns(), **hub))


@explain_arguments
class Regressor(SavedModel):
    """Model that learns from examples and predicts, and can be saved in a folder.

    A subclass sets `network` and `history` in its ``__init__``, implements `_settings`
    and `_from_settings`, and sets `fitted` when its network is trained.

    Attributes
    ----------
    network
        The network.
    history
        One row per epoch; empty before `fit`.
    fitted
        Whether the network's weights are trained or loaded.
    provenance
        Origin of the weights, fit for JSON: data, scaling, metrics, versions. Empty if
        it is not known. It is saved in ``config.json``.
    """

    network: nn.Module
    history: pd.DataFrame
    fitted: bool = False
    provenance: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def _settings(self) -> Mapping[str, Any]:
        """Return all settings of the untrained object, fit for JSON."""

    @classmethod
    @abstractmethod
    def _from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Build the untrained object that `_settings` describes."""

    @property
    def settings(self) -> dict[str, Any]:
        """All settings of the untrained object, as JSON returns them."""
        plain: dict[str, Any] = json.loads(json.dumps(dict(self._settings())))
        return plain

    def check_fitted(self) -> None:
        """Check that the weights are trained or loaded.

        Raises
        ------
        NotFittedError
            If they are neither.
        """
        if not self.fitted:
            raise NotFittedError(
                f"this {type(self).__name__} is not fitted yet; call fit first, or "
                "load a saved model"
            )

    def _card(self) -> str:
        """Return the text of the model's ``README.md``."""
        settings = json.dumps(self.settings, indent=2)
        stopped = ""
        if self.interrupted:
            stopped = f"**Not fully trained**: {self.interrupted}.\n\n"
        return (
            f"---\nlibrary_name: geobiomass\n---\n\n# {type(self).__name__}\n\n"
            f"Made by geobiomass. Load it with `{self.load_call}`.\n\n{stopped}"
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
            **self._marked(),
        }
        write_config(folder, content)
        (folder / CARD).write_text(self._card(), encoding="utf-8")
        save_weights(self.network, folder / WEIGHTS)
        self.history.to_csv(folder / HISTORY, index=False)

    @classmethod
    def _read(cls, folder: Path, config: Mapping[str, Any]) -> Self:
        settings = config["settings"]
        try:
            # Before memory is taken: settings may claim any size.
            with without_memory():
                claimed = cls._build(folder, settings).network.state_dict()
            check_shapes(claimed, folder / WEIGHTS)
            model = cls._build(folder, settings)
            load_weights(model.network, folder / WEIGHTS)
        except ModelError:
            raise
        except (OSError, ValueError) as error:
            raise broken(folder / WEIGHTS, error) from error
        model.provenance = dict(config.get("provenance", {}))
        model.history = _read_history(folder / HISTORY)
        if config.get("interrupted"):
            model.history.attrs["interrupted"] = str(config["interrupted"])
        model.network.eval()
        model.fitted = True
        return model

    @classmethod
    def _build(cls, folder: Path, settings: Mapping[str, Any]) -> Self:
        try:
            return cls._from_settings(settings)
        except WRONG_SETTINGS as error:
            raise broken(folder / CONFIG, repr(error)) from error


def _read_history(path: Path) -> pd.DataFrame:
    """Read the history of a model."""
    # Numbers are parsed by Python: releases of pandas differ in the last bit.
    try:
        text = pd.read_csv(path, dtype=str, keep_default_na=False)
        return pd.DataFrame({name: _numbers(name, text[name]) for name in text.columns})
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (OSError, ValueError) as error:
        raise broken(path, error) from error


def _numbers(name: str, cells: pd.Series) -> list[float] | list[str]:
    """Return a column as numbers; names of stages are text, even if they are digits."""
    return list(cells) if name == STAGE else [_number(cell) for cell in cells]


def _number(cell: str) -> float:
    if cell.removeprefix("-").isdecimal():
        return int(cell)
    return float(cell or "nan")
