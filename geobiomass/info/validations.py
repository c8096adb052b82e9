"""Description of a cross-validation's folder: folds, progress, errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from geobiomass.cube.quantity import AGB, Quantity
from geobiomass.cube.store import is_local
from geobiomass.data.folds import folds_in_words
from geobiomass.evaluation.residuals import TABLE
from geobiomass.maps import describe_progress
from geobiomass.models.summary import describe_folder, errors_of
from geobiomass.summary import Table
from geobiomass.training.checkpoint_record import LAST, read_training_record
from geobiomass.training.model_folder import CONFIG, read_config
from geobiomass.validation.folder import (
    CHECKPOINTS,
    MODEL,
    PREDICTIONS,
    RECORD,
    read_beginning,
    read_record,
)

Facts = dict[str, str | Table]

_OF_MODELS = ("bands", "months", "maps", "interval")


def describe_validation(path: Path) -> Facts:
    """Return the facts of a cross-validation's folder; it reads no pixels.

    Parameters
    ----------
    path : Path
        The folder of ``geobiomass validate --folder`` or :meth:`CrossValidation.save`,
        finished or not.

    Raises
    ------
    ValueError
        If its record, or a checkpoint, is damaged.
    """
    facts: Facts = {"what": "cross-validation"}
    begun = read_beginning(path)
    if not (path / RECORD).is_file():
        return facts | _unfinished(path, begun)
    record = read_record(path)
    since = "; a later one was begun here and is not finished" if begun else ""
    facts["state"] = f"finished{since}"
    facts["held out"] = folds_in_words(record["folds"])
    facts["cube"] = _cube_in_words(record["cube"])
    facts |= _models(path / MODEL, record["folds"]["count"])
    facts["map"] = _map_in_words(path)
    table = path / TABLE
    facts["residuals"] = TABLE if table.is_file() else f"missing, {table}"
    if begun:
        facts["what to do"] = _how_to_continue(begun)
    if "errors" not in record:  # written by an early version
        load = f"gb.CrossValidation.load({str(path)!r})"
        return facts | {"errors": f"not recorded, {load}"}
    units = _units_of(path / MODEL)
    return facts | {"errors": errors_of(record["errors"], "fold", units)}


def _unfinished(path: Path, begun: Mapping[str, Any]) -> Facts:
    facts: Facts = {}
    done = _epochs(path / CHECKPOINTS)
    mapped = describe_progress(path / PREDICTIONS)
    of = f" of {begun['count']}" if begun else ""
    if mapped is not None:
        facts["state"] = f"unfinished, models are trained, map {_progress(mapped)}"
    elif not done:
        facts["state"] = "unfinished, no model is begun"
    else:
        facts["state"] = f"unfinished, {len(done)}{of} models begun"
    if begun:
        facts["held out"] = begun["held_out"]
        facts["cube"] = _cube_in_words(begun["cube"])
    facts["what to do"] = _how_to_continue(begun)
    if done:
        facts["epochs"] = _table(done)
    return facts


def _how_to_continue(begun: Mapping[str, Any]) -> str:
    if not begun:
        return "repeat the same call, which continues where it stopped"
    return f"the same command continues, in {begun['directory']}: {begun['command']}"


def _epochs(checkpoints: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the finished epochs of each model, by stage."""
    found: dict[str, list[dict[str, Any]]] = {}
    folders = sorted(checkpoints.glob("member-*"), key=lambda f: (len(f.name), f.name))
    for folder in folders:
        found[folder.name] = []
        for file in sorted([*folder.glob(LAST), *folder.glob(f"*/{LAST}")]):
            known, _ = read_training_record(file)
            stage = "" if file.parent == folder else file.parent.name
            part = {"stage": stage, "done": known.epochs, "of": known.run["epochs"]}
            found[folder.name].append(part)
    return found


def _table(done: Mapping[str, list[dict[str, Any]]]) -> Table:
    rows = {
        " ".join(filter(None, (name, part["stage"]))): (part["done"], part["of"])
        for name, parts in done.items()
        for part in parts or [{"stage": "", "done": 0, "of": None}]
    }
    index = pd.Index(list(rows), name="model")
    frame = pd.DataFrame(list(rows.values()), index, ["done", "of"])
    return Table(frame.astype("Int64").astype(object))


def _cube_in_words(noted: str | None) -> str:
    if noted is None:
        return "path not recorded; gb.CrossValidation.load(folder, cube)"
    if not is_local(noted):
        return f"{noted}, not checked"
    if Path(noted).exists():
        return noted
    return f"{noted}, no longer there; gb.CrossValidation.load(folder, cube)"


def _models(path: Path, count: int) -> Facts:
    if not (path / CONFIG).is_file():
        return {"models": f"missing, {path}"}
    facts = describe_folder(path)
    known = {name: facts[name] for name in _OF_MODELS if name in facts}
    return {"models": f"{count} as one, {path}", **known}


def _units_of(path: Path) -> str:
    """Return the units of what the models predict."""
    if not (path / CONFIG).is_file():
        return AGB.units
    return Quantity.of_settings(read_config(path)["settings"]).units


def _map_in_words(path: Path) -> str:
    found = describe_progress(path / PREDICTIONS)
    if found is None:
        return f"missing, {path / PREDICTIONS}"
    if found["finished"]:
        return f"{PREDICTIONS}, finished"
    return f"{PREDICTIONS}, unfinished, {_progress(found)}"


def _progress(mapped: Mapping[str, Any]) -> str:
    return f"{mapped['written']} of {mapped['blocks']} blocks written"
