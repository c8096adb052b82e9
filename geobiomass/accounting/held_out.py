"""Held-out errors of a model: tables, error models, or paths of either."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from geobiomass.accounting.error_model import ErrorModel
from geobiomass.cube.areas import pixel_size
from geobiomass.evaluation.residuals import read_residuals
from geobiomass.statistics.residual_columns import check_residuals
from geobiomass.training.json_files import read_json


def errors_of(given: Any, layer: xr.DataArray) -> pd.DataFrame | ErrorModel:
    """Return errors as a table of residuals or as an error model.

    Parameters
    ----------
    given : pandas.DataFrame, ErrorModel, str, Path or object
        A table or a model; the path of a CSV, of an error model as JSON, or of a
        folder of :meth:`geobiomass.CrossValidation.save`; or an object with the method
        ``residuals()``.
    layer : xarray.DataArray
        The map, (y, x). A table without ``attrs["pixel"]`` has pixels of the map's
        size.

    Returns
    -------
    pandas.DataFrame or ErrorModel

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        If `given` is something else, or the file is damaged.
    """
    errors: pd.DataFrame | ErrorModel
    if isinstance(given, str | os.PathLike):
        errors = _read(Path(given))
    elif callable(getattr(given, "residuals", None)):
        errors = given.residuals()
    else:
        errors = given
    if isinstance(errors, ErrorModel):
        return errors
    if not isinstance(errors, pd.DataFrame):
        raise ValueError(
            "residuals must be a table of residuals, an ErrorModel, a path of either, "
            f"or an object with .residuals(), got a {type(errors).__name__}."
        )
    named = isinstance(given, str | os.PathLike)
    what = f"Residuals in {given}" if named else "Residuals"
    check_residuals(errors, what=what, pixel="pixel" in errors.attrs)
    if "pixel" not in errors.attrs:
        errors = errors.copy()
        errors.attrs["pixel"] = pixel_size(layer)
    return errors


def _read(path: Path) -> pd.DataFrame | ErrorModel:
    if path.suffix != ".json":
        return read_residuals(path)
    try:
        return ErrorModel.from_dict(read_json(path, dict))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"There is nothing at {path}; give the path of an error model, as JSON."
        ) from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} must be an error model, written from ErrorModel.to_dict(), got "
            f"other content ({error!r}); residuals are a CSV."
        ) from error
