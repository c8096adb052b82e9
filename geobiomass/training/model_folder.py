"""Folder of a saved model: its files, and how they are read and replaced.

``config.json`` contains the class and the settings, ``weights.safetensors`` the
weights, ``history.csv`` the history of the training, ``README.md`` a description, and
the checksums of the other files.
Models of geobiomass add ``domain.safetensors``, the training data that maps are
compared with. Models of pasture add ``held_out.csv``, predictions of photos that they
were not trained on, and ``moved.csv``, the change of predictions by adaptation. An
ensemble has one folder for each member: ``member-1``, ``member-2``, ... No file can run
code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .json_files import read_json

__all__ = ["ModelError", "package_versions", "read_config"]

CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
HISTORY = "history.csv"
CARD = "README.md"
DOMAIN = "domain.safetensors"
HELD_OUT = "held_out.csv"
MOVED = "moved.csv"
FILES = frozenset({CONFIG, WEIGHTS, HISTORY, CARD, DOMAIN, HELD_OUT, MOVED})
FORMAT = 1  # of the folder, written to ``config.json``

MEMBER = re.compile(r"member-[1-9]\d*")
# A file that was being written, by this package or by safetensors.
_BEGUN = re.compile(r"\..+\.[0-9a-f]{32}\..+|\.tmp\w{6}")
_PACKAGES = ("geobiomass", "torch", "lightning", "timm", "numpy", "pandas")


# What Python raises where the settings of a model have values of another kind.
WRONG_SETTINGS = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
)


class ModelError(ValueError):
    """Error of a model's folder that is missing, damaged or of another kind."""


def member_name(number: int) -> str:
    """Return the name of the folder of a member, counted from 1."""
    return f"member-{number}"


def patterns() -> list[str]:
    """Return the patterns of all files of a model, for downloads."""
    names = sorted(FILES)
    return names + [f"member-*/{name}" for name in names]


def write_config(folder: Path, content: dict[str, Any]) -> None:
    """Write ``config.json``: the format, the versions of packages, and `content`."""
    config = {"format": FORMAT, **content, "packages": package_versions()}
    text = json.dumps(config, indent=2, allow_nan=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read the ``config.json`` of a model.

    Parameters
    ----------
    folder
        The model's folder.

    Returns
    -------
    dict
        "format", "class", "loader", "settings" and "packages" (versions), and
        "provenance", which early models lack.

    Raises
    ------
    ModelError
        If there is no such folder, no ``config.json``, or it cannot be read.
    """
    path = Path(folder) / CONFIG
    try:
        config = read_json(path, dict)
    except (OSError, ValueError) as error:
        raise broken(path, error) from error
    expected = {"format": int, "class": str, "settings": dict}
    for key, kind in expected.items():
        if not isinstance(config.get(key), kind):
            raise broken(path, f"it has no {key}")
    # Early models have no provenance.
    for key, kind in {"provenance": dict, "packages": dict, "loader": str}.items():
        if not isinstance(config.get(key, kind()), kind):
            raise broken(path, f"its {key} is a {type(config[key]).__name__}")
    if config["format"] != FORMAT:
        raise ModelError(
            f"{path} must be of format {FORMAT}, got {config['format']}; install the "
            f"version of geobiomass that wrote it: {config.get('packages')}"
        )
    return dict(config)


def broken(path: Path, reason: object) -> ModelError:
    """Return the error of a file of a model that is missing or damaged."""
    state = "is damaged" if path.is_file() else "is missing"
    return ModelError(
        f"{path} {state} ({reason}); give the folder of a saved model, or copy the "
        "model again from where it was made"
    )


def check_replaceable(folder: Path) -> None:
    """Check that a folder is new, empty or a model, which saving may replace.

    Raises
    ------
    ModelError
        If it contains anything else, which the message names.
    """
    try:
        found = {file.name for file in folder.iterdir()}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise _refusal(folder, ["a file"]) from None
    members = {name for name in found if MEMBER.fullmatch(name)}
    strangers = sorted(found - members - FILES)
    # Other programs write a config.json and a README.md too.
    rest = members or found & {WEIGHTS, HISTORY}
    ours = CONFIG in found and (CARD not in found or rest)
    if strangers or (found and not ours):
        raise _refusal(folder, strangers or sorted(found))
    for name in members:
        check_replaceable(folder / name)


def _refusal(folder: Path, found: list[str]) -> ModelError:
    return ModelError(
        f"{folder} must be new, empty or a saved model, got a folder with "
        f"{', '.join(found)}; give another folder, as saving would delete what is "
        "there"
    )


def holds_model_files(folder: Path) -> bool:
    """Return whether a folder has nothing but files of a model, not always all."""
    for path in folder.iterdir():
        if path.is_dir():
            if not (MEMBER.fullmatch(path.name) and holds_model_files(path)):
                return False
        elif path.name not in FILES and not _BEGUN.fullmatch(path.name):
            return False
    return True


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that a model's values depend on."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def member_folders(folder: Path, settings: Mapping[str, Any]) -> list[Path]:
    """Return the folders of the members of an ensemble, in their order.

    Parameters
    ----------
    folder : Path
        The ensemble's folder.
    settings : mapping
        The content of its ``config.json``.

    Raises
    ------
    ModelError
        If the settings name no members, or others than member-1, member-2, ...
    """
    names = settings.get("members")
    if not isinstance(names, list) or not names:
        raise broken(folder / CONFIG, "it names no members")
    if any(member_name(number) != name for number, name in enumerate(names, 1)):
        raise broken(folder / CONFIG, f"members are {names}")
    return [folder / name for name in names]
