"""The folder of a cross-validation: the files in it, and its record.

``model`` has the models as one, ``predictions.zarr`` the held-out map,
``residuals.csv`` its errors. ``validation.json`` records the folds and is written
last: where it exists, the other files are complete. The command line keeps
``checkpoints`` there, to resume from, and until the end ``begun.json``, which records
the command. No file can run code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geobiomass.cube.store import is_local
from geobiomass.evaluation.residuals import TABLE
from geobiomass.training.checksums import OWN, agrees, with_checksum
from geobiomass.training.disk_errors import told_of_disk
from geobiomass.training.files import replacing, sweep
from geobiomass.training.json_files import read_json
from geobiomass.training.model_folder import package_versions

RECORD = "validation.json"
BEGUN = "begun.json"
MODEL = "model"
PREDICTIONS = "predictions.zarr"
CHECKPOINTS = "checkpoints"
_OURS = (RECORD, BEGUN, MODEL, PREDICTIONS, CHECKPOINTS, TABLE)
_FORMAT = 1


def check_validation_folder(folder: Path) -> None:
    """Check that a folder is new, is empty or contains a cross-validation.

    Raises
    ------
    ValueError
        If it holds anything else; the message names it.
    """
    if not folder.exists():
        return
    found = [folder.name] if not folder.is_dir() else [f.name for f in folder.iterdir()]
    # Locks, and parts of files that are being written, have the same names with a dot.
    strangers = [name for name in found if not name.lstrip(".").startswith(_OURS)]
    if strangers or not folder.is_dir():
        raise ValueError(
            f"{folder} must be new, empty or the folder of a cross-validation, got "
            f"one with {', '.join(sorted(strangers or found))}; give another folder."
        )


def cube_address(cube: str | Path) -> str:
    """Return an address as it is, or the absolute path of a local cube."""
    return str(Path(cube).resolve()) if is_local(cube) else str(cube)


def is_begun(folder: Path) -> bool:
    """Return whether a folder contains a cross-validation, finished or not."""
    trained = (folder / CHECKPOINTS).glob("member-*")
    named = any((folder / name).exists() for name in (RECORD, BEGUN, PREDICTIONS))
    return named or any(trained)


def write_beginning(folder: Path, facts: Mapping[str, Any], overwrite: bool) -> None:
    """Write ``begun.json``: `facts` of a cross-validation that is not finished.

    Where something is trained already, the file stays as it is unless `overwrite`: a
    command that resumes has nothing to add, and one that fails must not be recorded.
    """
    if (folder / CHECKPOINTS).exists() and not overwrite:
        return
    plain = json.loads(json.dumps(dict(facts)))
    with told_of_disk(folder, "give the same command again"):
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / BEGUN, with_checksum(plain))


def sweep_folder(folder: Path) -> None:
    """Delete parts of the records that killed calls left; the caller has its lock."""
    for name in (RECORD, BEGUN):
        sweep(folder / name)


def read_beginning(folder: Path) -> dict[str, Any]:
    """Read the facts of :func:`write_beginning`; empty where there is no file.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    path = folder / BEGUN
    if not path.is_file():
        return {}
    try:
        facts = dict(read_json(path, dict))
        lacking = {"cube", "count", "held_out", "command", "directory"} - set(facts)
        if lacking:
            raise ValueError(f"it lacks {sorted(lacking)}")
        if OWN in facts and not agrees(facts):
            raise ValueError("its checksum differs")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it: it is only shown to users."
        ) from error
    facts.pop(OWN, None)
    return facts


def write_record(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write ``validation.json``: format, `facts`, versions of packages, a checksum.

    A record of the same facts stays as it is, also one of an earlier release.
    """
    content = {"format": _FORMAT, **facts, "packages": package_versions()}
    plain = json.loads(json.dumps(content, allow_nan=False))
    if not _is_written(folder / RECORD, plain):
        _write(folder / RECORD, {**plain, OWN: _checksum(plain)})
    (folder / BEGUN).unlink(missing_ok=True)


def _is_written(path: Path, content: Mapping[str, Any]) -> bool:
    """Return whether a record has the same facts, written by any release."""
    try:
        there = read_json(path, dict)
    except (OSError, ValueError):
        return False
    besides = {OWN, "packages"}
    one, other = (
        {name: fact for name, fact in each.items() if name not in besides}
        for each in (there, content)
    )
    return one == other and _agrees(there)


def _checksum(record: Mapping[str, Any]) -> str:
    # Without the place of the cube, which a person may move.
    fixed = {name: fact for name, fact in record.items() if name != "cube"}
    return str(with_checksum(fixed)[OWN])


def _agrees(record: Mapping[str, Any]) -> bool:
    return OWN not in record or record[OWN] == _checksum(record)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any]:
    """Read the record that :func:`write_record` wrote.

    Raises
    ------
    FileNotFoundError
        If the folder holds no cross-validation, or one that was not finished.
    ValueError
        If it is damaged, or of another format.
    """
    path = folder / RECORD
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} must be the folder of a cross-validation, "
            + (
                "got one that was not finished; the same call continues."
                if is_begun(folder)
                else f"got a folder without {RECORD}; geobiomass validate makes one."
            )
        )
    try:
        facts = read_json(path, dict)
        kinds = {"format": int, "folds": dict, "settings": dict}
        wrong = [name for name, kind in kinds.items() if type(facts[name]) is not kind]
        if wrong or "pixel" not in facts or "cube" not in facts:
            raise ValueError(f"it has {sorted(facts)}, of which {wrong} are wrong")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}); copy the folder again from where it was "
            "made, or make the cross-validation again."
        ) from error
    if facts["format"] != _FORMAT:
        raise ValueError(
            f"{path} must be of format {_FORMAT}, got {facts['format']}; install the "
            f"version of geobiomass that wrote it: {facts.get('packages')}"
        )
    if not _agrees(facts):
        raise ValueError(
            f"{path}: folds, settings and errors that were saved are damaged (its "
            "checksum differs); copy the folder again from where it was made, or make "
            "the cross-validation again."
        )
    return dict(facts)
