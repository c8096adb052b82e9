"""The report: one page to assess a model and its map of a cube.

The page is a single HTML file without links to other files. It consists of sections;
each is a function that returns its HTML, which may be empty.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from markupsafe import Markup

from geobiomass.accounting.totals import totals as totals_of
from geobiomass.cube import CubeError, as_cube, open_cube
from geobiomass.cube.target import in_units_of
from geobiomass.maps.reading import open_map
from geobiomass.models.loading import load
from geobiomass.models.predictor import Predictor
from geobiomass.report import audit, sections
from geobiomass.report.material import BLOCK, Material
from geobiomass.report.page import page
from geobiomass.training.files import check_writable, write_whole
from geobiomass.training.given_paths import path_text
from geobiomass.validation.cross_validation import CrossValidation

__all__ = ["write_report"]

_SECTIONS: dict[str, Callable[[Material], Markup]] = {
    "About": sections.about,
    "Data and split": audit.split,
    "Error": sections.metrics,
    "Error plots": sections.errors,
    "Prediction interval": audit.calibration,
    "Area of applicability": audit.applicability,
    "Totals": audit.totals,
    "The map": audit.maps,
    "Examples": sections.pictures,
    "Months": sections.months,
    "Training": sections.training,
    "The cube": sections.data,
    "The model": sections.card,
    "Provenance": audit.origin,
}


def write_report(
    model: str | Path | Predictor,
    cube: str | Path | xr.Dataset,
    path: str | Path,
    *,
    map: str | Path | xr.Dataset | None = None,
    regions: Any = None,
    plots: Any = None,
    residuals: Any = None,
    validation: CrossValidation | str | Path | None = None,
    samples: int | None = None,
    progress: bool = True,
    **totals: Any,
) -> Path:
    """Write a report on a model and its map of a cube, as one HTML file.

    It has the data and split, errors by biomass, prediction intervals and their
    coverage, the area of applicability, totals, images, months, the model's card and
    the provenance of the map.

    Parameters
    ----------
    model : str, Path or Predictor
        A model, or its folder.
    cube : str, Path or xarray.Dataset
        A cube with all bands that the model needs. Without ``agb`` the report has maps,
        but no errors.
    path : str or Path
        The destination, ``.html``; an earlier report is replaced.
    map : str, Path or xarray.Dataset, optional
        A map of the cube by this model from ``predict_to``, best with
        ``applicability=True``; by default the map is computed.
    regions, plots, residuals : optional
        For a table of totals, as in :func:`geobiomass.totals`.
    validation : CrossValidation, str or Path, optional
        The result of :func:`geobiomass.cross_validate`, or its folder: its errors are
        shown, and totals use its residuals if there are neither plots nor residuals.
    samples : int, optional
        Largest number of chips, or of blocks of 1,024 pixels of a scene, that errors
        and images are from, evenly spread over the cube; by default all of them. Totals
        are always of the whole map.
    progress : bool
        Show a progress bar.
    **totals
        Other arguments of :func:`geobiomass.totals`: ``estimator``, ``strata``,
        ``name``, ``confidence``, ...

    Returns
    -------
    Path
        The file.

    Raises
    ------
    CubeError
        If `cube` is not a cube, lacks a band, or cannot be read; if the map is not on
        its grid, or regions or plots cannot be used.
    ModelError
        If the folder of `model` has no model.
    FileExistsError
        If something else than a report is at `path`.
    FileNotFoundError
        If a path does not exist, or the cube of `validation` is not at its path.
    ValueError
        If `path` does not end with .html, `samples` is below 1, or there are regions
        without plots, residuals or a validation.
    """
    path = Path(path_text(path, "path of a report"))
    if path.suffix not in (".html", ".htm"):
        raise ValueError(f"path of a report must end with .html, got {path}.")
    check_writable(path)
    _check_replaceable(path)
    if samples is not None and samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}.")
    if isinstance(validation, str | Path):
        validation = CrossValidation.load(validation)
    wanted = regions is not None or plots is not None or residuals is not None
    if plots is None and residuals is None:
        residuals = validation
    if wanted and plots is None and residuals is None:
        raise ValueError(
            "Totals of regions need plots=, residuals= or validation= for their "
            "interval, got none of them."
        )
    predictor = model if isinstance(model, Predictor) else load(model)
    data = as_cube(cube if isinstance(cube, xr.Dataset) else open_cube(cube))
    if "agb" in data:
        data = in_units_of(data, predictor.target, "The model predicts")
    material = Material(
        predictor,
        data,
        _layers(predictor, data, map),
        "" if isinstance(model, Predictor) else str(model),
        "" if isinstance(cube, xr.Dataset) else str(cube),
        str(map) if isinstance(map, str | Path) else "",
        validation,
    )
    with tempfile.TemporaryDirectory() as folder:
        if wanted:
            # By its path, since a GeoTIFF in memory lacks what the file says of labels.
            source = material.layers if map is None else map
            if map is None:  # written once, because it is read by sections and totals
                made = predictor.predict_to(
                    Path(folder) / "map.zarr",
                    data,
                    applicability=predictor.domain is not None,
                    progress=progress,
                )
                material.layers = open_map(str(made))
                source = made
            terms = {"progress": progress, **totals}
            if plots is None:
                terms["residuals"] = residuals
            material.totals = totals_of(source, regions, plots, **terms)
        material.gather(samples, progress)
        text = page(_title(material), list(_written(material, progress)))
    write_whole(path, text)
    return path


def _check_replaceable(path: Path) -> None:
    """Check that a path is free, or has an earlier report.

    Raises
    ------
    FileExistsError
        If anything else is there.
    """
    if not path.exists():
        return
    # Its style sheet names the package near the start, in early reports too.
    if path.is_file():
        with path.open("rb") as file:
            if b"geobiomass" in file.read(4096):
                return
    raise FileExistsError(
        f"{path} holds something that is no report of geobiomass, so it is not "
        "replaced; choose another path, or move or delete it yourself."
    )


def _layers(
    predictor: Predictor, cube: xr.Dataset, map: str | Path | xr.Dataset | None
) -> xr.Dataset:
    """Return the layers of the map, after a check that it is on the cube's grid."""
    if map is None:
        known = predictor.domain is not None
        return predictor.predict(cube, block=BLOCK, applicability=known)
    layers = map if isinstance(map, xr.Dataset) else open_map(str(map))
    for dim in ("chip", "y", "x"):
        if layers.sizes.get(dim) != cube.sizes.get(dim):
            raise CubeError(
                f"map must be of the cube, with {cube.sizes.get(dim)} along {dim!r}, "
                f"got {layers.sizes.get(dim)}."
            )
        if dim in cube.coords and not _same(layers[dim].values, cube[dim].values):
            raise CubeError(
                f"map must be of the cube, got another {dim!r}: it begins at "
                f"{layers[dim].values[0]}, the cube's at {cube[dim].values[0]}."
            )
    map_names = [str(name) for name in layers]
    name = predictor.target.name
    if name not in layers:
        raise CubeError(f"map must have {name!r}, got {sorted(map_names)}.")
    return layers


def _same(one: Any, other: Any) -> bool:
    if one.dtype.kind in "iuf" and other.dtype.kind in "iuf":
        return bool(np.allclose(one, other, rtol=1e-9))
    return bool((one.astype(str) == other.astype(str)).all())


def _title(material: Material) -> str:
    word = material.target.short
    return f"{word[:1].upper()}{word[1:]}: {material.model_path or 'a model'} on " + (
        material.cube_path or "a cube"
    )


def _written(material: Material, progress: bool) -> Iterator[tuple[str, Markup]]:
    from matplotlib import rc_context
    from tqdm.auto import tqdm

    parts = tqdm(_SECTIONS.items(), "Writing", unit="section", disable=not progress)
    # Names and units come with the data: they are no formulas between dollars.
    with rc_context({"text.parse_math": False}):
        for name, write in parts:
            if content := write(material):
                yield name, content
