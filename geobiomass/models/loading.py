"""Load a saved model of any class: ``gb.load``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from geobiomass.training.folder_exchange import whole_folder
from geobiomass.training.given_paths import path_text
from geobiomass.training.model_folder import ModelError, read_config
from geobiomass.training.setting_names import explain_arguments

# By name: an ensemble loads its members with this module, so that the module cannot
# import the ensemble itself. And only the class that is needed is imported.
_MODULES = {
    "BiomassRegressor": "geobiomass.models.regressor",
    "PixelRegressor": "geobiomass.models.pixel_regressor",
    "StackRegressor": "geobiomass.models.stack_regressor",
    "AdaptedRegressor": "geobiomass.models.adapted_regressor",
    "Ensemble": "geobiomass.models.ensemble",
}


@explain_arguments
def load(folder: str | Path) -> Any:
    """Load a model saved by ``save``, a single one or an ensemble.

    Parameters
    ----------
    folder : str or Path
        The model's folder. For a repository of the Hugging Face Hub there is
        ``gb.BiomassRegressor.from_pretrained("owner/name")``.

    Returns
    -------
    BiomassRegressor or Ensemble
        As it was saved; it predicts the same bits.

    Raises
    ------
    ModelError
        If the folder or one of its files is missing or damaged.
    """
    folder = whole_folder(Path(path_text(folder, "A model's folder", ModelError)))
    saved = read_config(folder)["class"]
    # Of any other class, such as pasture's, the regressor says how to load it.
    kind = saved if saved in _MODULES else "BiomassRegressor"
    return getattr(import_module(_MODULES[kind]), kind).load(folder)
