"""Summary of a model: bands, maps, recipe, training data, errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from geobiomass.cube.quantity import AGB, Quantity
from geobiomass.inference.steps import density
from geobiomass.metadata.text import FIRST_WEIGHTS, remembered, training_in_words
from geobiomass.models.choice_record import CHOICE, choice_table, shown_choice
from geobiomass.models.map_error import MapError
from geobiomass.statistics.conformal import Calibration
from geobiomass.summary import Table
from geobiomass.training.model_checksums import check_checksums
from geobiomass.training.model_folder import (
    CONFIG,
    WRONG_SETTINGS,
    broken,
    member_folders,
    read_config,
)

Facts = dict[str, str | Table]


def describe_folder(path: Path) -> Facts:
    """Return the summary of a saved model, whose files are compared with checksums.

    Raises
    ------
    ModelError
        If its ``config.json`` is not a model's, or a file has changed since the model
        was saved.
    """
    config = read_config(path)
    compared = check_checksums(path, members=True)
    try:
        settings, made = config["settings"], config.get("provenance") or {}
        stopped = {"interrupted": config.get("interrupted", "")}
        if "members" in settings:  # each of them knows the choice
            first = next(iter(member_folders(path, settings)))
            made = read_config(first).get("provenance") or {}
            made = {k: v for k, v in made.items() if k == CHOICE}
        facts = _facts(config["class"], settings | stopped, made)
    except WRONG_SETTINGS as error:
        raise broken(path / CONFIG, repr(error)) from error
    if compared:
        facts["checksums"] = f"{compared} files are as they were saved"
    return facts


def describe_model(model: Any) -> Facts:
    """Return the summary of a model in memory."""
    kind = type(model).__name__
    members = getattr(model, "models", None)
    stopped = {"interrupted": getattr(model, "interrupted", "")}
    if members is not None:
        network = {"members": len(members)}
        known = getattr(members[0], "provenance", {})
        made = {k: v for k, v in known.items() if k == CHOICE}
        facts = _facts(kind, _settings(model) | {"network": network} | stopped, made)
        return facts | {f"member {i}": repr(m) for i, m in enumerate(members, 1)}
    settings = getattr(model, "settings", None) or _settings(model)
    made = getattr(model, "provenance", None) or {}
    facts = _facts(kind, settings | stopped, made)
    history = getattr(model, "history", None)
    if history is not None and "share" in history:
        facts["out-of-fold RMSE"] = ", ".join(
            f"{row.stage} {row.rmse:.4g}"
            for row in history.itertuples()
            if row.rmse == row.rmse
        )
    elif history is not None and len(history):
        facts["trained"] = f"{len(history)} epoch{'s' * (len(history) > 1)}"
    return facts


def _settings(model: Any) -> dict[str, Any]:
    """Return the settings that every predictor has."""
    names = ("bands", "months", "outputs")
    network = {"class": type(model.network).__name__}
    calibration = getattr(model, "calibration", None)
    known = {} if calibration is None else {"calibration": calibration.to_dict()}
    what = getattr(model, "target", AGB).settings
    own = {name: getattr(model, name) for name in names}
    return {"network": network} | own | what | known


def _facts(kind: str, settings: Mapping[str, Any], made: Mapping[str, Any]) -> Facts:
    recipe = settings.get("recipe") or {}
    target = Quantity.of_settings(settings)
    network = _network(settings["network"])
    facts: Facts = {
        "what": f"model, {kind}",
        "network": ", ".join(f"{k} {v}" for k, v in network.items()),
        "bands": " ".join(settings["bands"]),
        "months": str(settings["months"]),
        "maps": ", ".join(map_names(settings.get("outputs", ("agb",)), settings))
        + f", {target.units}",
        "recipe": str(recipe.get("name", "none")),
    }
    if settings.get("calibration"):
        facts["interval"] = str(Calibration.from_dict(settings["calibration"]))
    if settings.get("interrupted"):
        facts["not fully trained"] = settings["interrupted"]
    for name in FIRST_WEIGHTS:
        if made.get(name):
            facts[name] = made[name]
    data = made.get("data")
    if data:
        facts["trained on"] = training_in_words(data)
    facts |= remembered(made)
    if made.get("validation"):
        by_fold = (made.get("learner") or {}).get("held out") == "out of fold"
        heading = "out of fold" if by_fold else "held out"
        facts[heading] = errors_of(made["validation"], units=target.units)
    facts |= _choice(made)
    if settings.get("map_error"):
        error = MapError.from_dict(settings["map_error"])
        facts["error of maps"] = str(error)
        if error.problem is not None:
            facts["warning"] = error.problem
    return facts


def _choice(made: Mapping[str, Any]) -> Facts:
    """Return the comparison that a model was chosen by, if it was."""
    table = choice_table(made)
    if table is None:
        return {}
    why = str(table.attrs["why"])
    return {"chosen among": Table(shown_choice(made[CHOICE]), why)}


def _network(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a network that are shown."""
    if "learner" not in settings:
        shown = {
            name: value
            for name, value in settings.items()
            if value is not None and name not in ("bands", "passes", "static")
        }
        if layers := settings.get("static"):
            shown["static layers"] = "/".join(layers)
        return shown
    own = (settings.get("own") or {}).get("name")
    known = {"by pixel:": own or settings["learner"]}
    known |= {f"{count}": kind for kind, count in settings["kinds"].items()}
    if settings.get("inner"):
        known["map of"] = settings["inner"]["encoder"]
    if layers := settings["features"].get("layers"):
        known["static layers"] = "/".join(layers)
    sides = settings["features"]["neighbourhoods"]
    return known | {"squares of": "/".join(map(str, sides)) or "none"}


def errors_of(
    table: Mapping[str, Mapping[str, Any]],
    rows_are: str | None = None,
    units: str = AGB.units,
) -> Table:
    """Return a table of metrics of held-out data, without rows that have no pixel.

    Parameters
    ----------
    table : mapping of str to mapping
        Metrics by row, as JSON has them.
    rows_are : str
        Heading of the column with the names of the rows; by default bins of observed
        values.
    units : str
        Units of the errors.
    """
    columns = {
        "pixels": "pixels",
        "average_rmse": "average RMSE",
        "pixel_rmse": "pixel RMSE",
        "bias": "bias",
    }
    rows = {name: row for name, row in table.items() if row["pixels"]}
    frame = pd.DataFrame(
        [[row[column] for column in columns] for row in rows.values()],
        pd.Index(list(rows), name=rows_are or f"observed, {units}"),
        list(columns.values()),
    )
    note = f"all but pixels in {units}"
    digits = 1 if units == AGB.units else 2
    return Table(frame.astype({"pixels": int}), note, decimals=digits)


def map_names(outputs: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """Return the names of the layers of a model's maps.

    Parameters
    ----------
    outputs : sequence of str
        The outputs of its network.
    settings : mapping
        Its settings, with ``calibration`` if it has one.
    """
    calibration = settings.get("calibration")
    if calibration is None:
        return list(outputs)
    found = density(outputs, Quantity.of_settings(settings))
    return list(Calibration.from_dict(calibration).layers(found))
