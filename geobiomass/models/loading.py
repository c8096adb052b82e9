"""Load a saved model, whichever class it is of: ``gb.load``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geobiomass.models.ensemble import read_model


def load(folder: str | Path) -> Any:
    """Load a model saved by ``save``, whichever of the two kinds it is.

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
        If the folder, or a file of it, is missing or broken.
    """
    return read_model(Path(folder))
