"""Loading of saved pasture models of any kind: ``pasture.load``."""

from __future__ import annotations

from pathlib import Path

from geobiomass.training.estimator import ModelError, read_config
from geobiomass.training.folder_exchange import whole_folder
from geobiomass.training.given_paths import path_text
from geobiomass.training.setting_names import explain_arguments

from .adaptation import AdaptedModel
from .ensemble import PastureEnsemble
from .model import PastureModel
from .regressor import PastureRegressor

__all__ = ["load"]

_KINDS: tuple[type[PastureModel], ...] = (
    PastureRegressor,
    PastureEnsemble,
    AdaptedModel,
)


@explain_arguments
def load(folder: str | Path) -> PastureModel:
    """Load a saved pasture model.

    Parameters
    ----------
    folder
        The folder that `save` wrote.

    Returns
    -------
    PastureRegressor, PastureEnsemble or AdaptedModel
        The model. Its predictions have the same bits as those of the saved one.

    Raises
    ------
    ModelError
        A file is missing or damaged, or the folder holds another kind of model. The
        message names the file or the kind.
    """
    folder = whole_folder(Path(path_text(folder, "A model's folder", ModelError)))
    config = read_config(folder)
    for kind in _KINDS:
        if config["class"] == kind.__name__:
            return kind.load(folder)
    raise ModelError(
        f"{folder} must hold a model of pasture, got a {config['class']}; load it with "
        f"{config.get('loader') or 'the library that saved it'}"
    )
