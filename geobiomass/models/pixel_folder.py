"""The folder of a training by pixel: the finished model, and what it was learnt from."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.learner.own_estimator import describe
from geobiomass.recipes.recipe import BY_PIXEL, Recipe
from geobiomass.recipes.resume import learnt_from
from geobiomass.recipes.split import HeldOut
from geobiomass.training import TrainingConfig
from geobiomass.training.estimator import SavedModel
from geobiomass.training.files import replacing
from geobiomass.training.json_files import read_json
from geobiomass.training.model_folder import CONFIG

RECORD = "learnt.json"
MODEL = "model"


def identity_of(
    data: LabelledCube, recipe: Recipe, held: HeldOut = None
) -> dict[str, Any]:
    """Return everything that affects a learner by pixel, as JSON has it.

    Parameters
    ----------
    data : LabelledCube
        To learn from.
    recipe : Recipe
        As the user asks for it.
    held : optional
        What validates.
    """
    stub = cast(Any, SimpleNamespace(settings={}))
    known = learnt_from(data, stub, recipe, held)
    own = {name: getattr(recipe, name) for name in BY_PIXEL}
    if not isinstance(own["learner"], str):
        own["learner"] = describe(own["learner"])
    given = known | own | {"seed": recipe.training.seed}
    given["validation_fraction"] = recipe.validation_fraction
    return cast(dict[str, Any], json.loads(json.dumps(given, default=str)))


def find_finished(config: TrainingConfig, given: dict[str, Any]) -> Path | None:
    """Return the finished model in the folder of a training; None if there is none.

    Raises
    ------
    ValueError
        If the folder has a model of other data or settings.
    """
    if config.folder is None or not config.resume:
        return None
    path = Path(config.folder) / RECORD
    if not path.exists():
        return None
    known = read_json(path, dict)
    differ = sorted(k for k in given | known if given.get(k) != known.get(k))
    if differ:
        raise ValueError(
            f"folder must be new or of the same training, got {str(config.folder)!r}, "
            f"which differs in {', '.join(map(repr, differ[:5]))}; give another "
            "folder, or resume=False to learn again."
        )
    model = Path(config.folder) / MODEL
    return model if (model / CONFIG).exists() else None


def keep_finished(
    model: SavedModel, config: TrainingConfig, given: dict[str, Any]
) -> None:
    """Save a finished model in the folder of its training, if it has one."""
    if config.folder is None:
        return
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    # The record last: with it the model is known to be whole.
    (folder / RECORD).unlink(missing_ok=True)
    model.save(folder / MODEL)
    with replacing(folder / RECORD) as part:
        part.write_text(json.dumps(given, indent=2), encoding="utf-8")
