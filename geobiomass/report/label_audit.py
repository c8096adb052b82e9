"""Labels that predictions of held-out data make suspicious, with pictures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from markupsafe import Markup

from geobiomass.cube import CubeError, open_cube
from geobiomass.cube.convert import need_target
from geobiomass.cube.target import in_units_of, settled
from geobiomass.evaluation.residuals import MOST, residuals
from geobiomass.models.ensemble import Ensemble
from geobiomass.models.regressor import BiomassRegressor
from geobiomass.plots.images import true_colour
from geobiomass.report.page import figure, join, page, paragraph
from geobiomass.sources.label_errors import ERRORS
from geobiomass.summary import Table
from geobiomass.training.files import write_whole
from geobiomass.training.own_files import check_own_file
from geobiomass.training.setting_names import explain_arguments
from geobiomass.validation.cross_validation import CrossValidation, cross_validate

Numbers = npt.NDArray[np.float64]

THRESHOLD = 3.5
"""Score of a suspicious label: Iglewicz and Hoaglin, How to Detect and Handle Outliers,
1993, for their modified z-score."""
_TO_DEVIATION = 1.4826  # of a normal distribution, over its median absolute deviation
_BIN = 30  # labels of a bin of predictions at least
_BINS = 10
_FEWEST = 20  # labels that say how large errors usually are
_SIDE = 48  # pixels of a picture
_VISIBLE = ("B02", "B03", "B04")
_GENERATOR = "<!-- geobiomass label audit -->"


@explain_arguments
@dataclass(frozen=True)
class LabelAudit:
    """Suspicious labels; shown with a picture each in Jupyter.

    Parameters
    ----------
    table : pandas.DataFrame
        A row a suspicious label, the most suspicious first: ``x``, ``y`` (of the pixel,
        in the scene's coordinates), ``row``, ``column``, of chips ``chip``;
        ``observed``, ``predicted``, ``difference`` (observed less predicted), in
        ``attrs["units"]``; ``score``, the difference over its usual size among labels
        that are predicted alike.
    labels : int
        Number of labels that were compared.
    cube : xarray.Dataset
        The cube, for pictures.
    pictures : int
        Number of labels that get a picture.
    """

    table: pd.DataFrame
    labels: int
    cube: xr.Dataset
    pictures: int = 20

    def __len__(self) -> int:
        """Return the number of suspicious labels."""
        return len(self.table)

    def __str__(self) -> str:
        """Return the table as text."""
        if not len(self.table):
            return self.words
        places = {name: "{:.10g}".format for name in ("x", "y") if name in self.table}
        text = self.table.to_string(formatters=places, float_format="%.4g")
        return f"{self.words}\n{text}"

    __repr__ = __str__

    @property
    def words(self) -> str:
        """What was found, in a sentence or two."""
        found = (
            f"{len(self.table)} of {self.labels:,} labels differ from what models "
            "predict that did not see them by more than "
            f"{self.table.attrs['threshold']:g} times the usual."
        )
        if not len(self.table):
            return found
        return (
            f"{found} A label may be wrong, be of another place, or be right where the "
            "image does not show it: look before you leave it out."
        )

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the table and pictures as one HTML file, and return its path.

        Parameters
        ----------
        path : path
            Where to write it; a file that another program wrote is not replaced.

        Raises
        ------
        FileExistsError
            If another file is there.
        """
        path = Path(path)
        check_own_file(path, "audit of labels", _is_ours)
        text = page("Suspicious labels", [("Labels", self._content)])
        write_whole(path, f"{text}\n{_GENERATOR}\n")
        return path

    def _repr_html_(self) -> str:
        return str(self._content)

    @cached_property
    def _content(self) -> Markup:
        parts: list[Any] = [paragraph(self.words)]
        if len(self.table):
            shown = self.table.set_axis([str(n + 1) for n in range(len(self.table))])
            parts.append(Table(shown))
            rows = self.table.head(self.pictures)
            parts += [
                self._picture(n, row) for n, row in enumerate(rows.itertuples(), 1)
            ]
            rest = len(self.table) - len(rows)
            if rest:
                parts.append(paragraph(f"{rest} more have no picture here: pictures=."))
        return join(parts)

    def _picture(self, number: int, row: Any) -> Markup:
        """Return the surroundings of a label, with a cross at its pixel."""
        cube = self.cube
        if "chip" in cube.dims:
            cube = cube.isel(chip=row.chip_number)
        around = {}
        for dim, at in (("y", row.row), ("x", row.column)):
            start = int(np.clip(at - _SIDE // 2, 0, max(0, cube.sizes[dim] - _SIDE)))
            around[dim] = slice(start, start + _SIDE)
        part = cube.isel(around)
        units = self.table.attrs["units"]
        caption = (
            f"{number}: observed {row.observed:.4g}, predicted {row.predicted:.4g} "
            f"{units}, score {row.score:.3g}"
        )

        def draw(axes: Any) -> None:
            if set(_VISIBLE) <= set(map(str, part["band"].values)):
                true_colour(part, ax=axes)
            else:
                values = part["image"].isel(band=0).mean("month", skipna=True).values
                axes.imshow(values, cmap="gray")
                axes.set_title(f"{part['band'].values[0]}, mean of the months")
            x, y = _place(part, row, around, axes)
            axes.plot(x, y, "+", color="red", markersize=14, markeredgewidth=1.5)

        return figure(caption, draw, (3.6, 3.4))


def audit(
    data: Any,
    cube: xr.Dataset | None = None,
    *,
    folds: Any = 5,
    threshold: float = THRESHOLD,
    pictures: int = 20,
    most: int = MOST,
    progress: bool = True,
    **settings: Any,
) -> LabelAudit:
    """Return labels that predictions of held-out data make suspicious.

    Parameters
    ----------
    data : xarray.Dataset, path, CrossValidation, or model
        A cube with labels, or its path: the recipe ``"pixels"`` is trained for each of
        `folds`. A model: the same with its recipe, on `cube`. A cross-validation is
        taken as it is.
    cube : xarray.Dataset, optional
        With a model, the cube with its labels.
    folds : int or Folds
        As in :func:`geobiomass.cross_validate`.
    threshold : float
        Least score of a suspicious label. By default 3.5, which one of about 2,000
        labels reaches whose errors are normally distributed.
    pictures : int
        Number of labels that get a picture.
    most : int
        Number of labels to compare at most; of more, so many are drawn at random.
    progress : bool
        Whether to show the progress of the trainings.
    **settings
        Settings of the recipe, such as ``groups="site"``, as in
        :func:`geobiomass.fit`.

    Returns
    -------
    LabelAudit
        ``.table`` has a row a suspicious label. In Jupyter it is shown with pictures,
        and ``.write("labels.html")`` writes these as one file.

    Raises
    ------
    CubeError
        If there are no labels, or fewer than 20 that a model predicts which did not
        see them; or a model comes without its cube.
    ValueError
        If `threshold` is not above 0.

    Notes
    -----
    The score is the difference of a label from its prediction, less the median of such
    differences, over 1.4826 times their median absolute deviation, among the labels of
    similar predictions (tenths, of 30 labels or more). With standard errors of the
    labels (``agb_se``) the square root of both variances' sum takes its place.
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be above 0, such as 3.5, got {threshold!r}.")
    held_out = _held_out(data, cube, folds, {"progress": progress} | settings)
    table = residuals(
        held_out.predictions, held_out.cube, pixel=held_out.pixel, most=most
    )
    if len(table) < _FEWEST:
        raise CubeError(
            f"An audit needs {_FEWEST} labels or more that are predicted by models "
            f"which did not see them, got {len(table)}."
        )
    found = _placed(table, held_out.cube)
    known = settled(held_out.cube)
    converted = in_units_of(known, held_out.model.target, "The model predicts")
    errors = _errors_at(converted, found)
    found["score"] = scores(
        table["observed"].to_numpy(), table["predicted"].to_numpy(), errors
    )
    suspicious = found[found["score"].abs() >= threshold]
    order = suspicious["score"].abs().sort_values(ascending=False).index
    suspicious = suspicious.loc[order].reset_index(drop=True)
    units = table.attrs.get("units", "Mg/ha")
    suspicious.attrs = {"units": units, "threshold": float(threshold)}
    return LabelAudit(suspicious, len(table), held_out.cube, pictures)


def scores(
    observed: Numbers, predicted: Numbers, errors: Numbers | None = None
) -> Numbers:
    """Return how unusual each difference is among labels of similar predictions.

    Parameters
    ----------
    observed, predicted : numpy.ndarray
        (label,).
    errors : numpy.ndarray, optional
        (label,) standard errors of the labels.
    """
    difference = observed - predicted
    made = np.zeros(len(difference))
    count = int(np.clip(len(difference) // _BIN, 1, _BINS))
    for own in np.array_split(np.argsort(predicted, kind="stable"), count):
        middle = np.median(difference[own])
        usual = _TO_DEVIATION * np.median(np.abs(difference[own] - middle))
        spread = np.full(len(own), usual)
        if errors is not None:
            spread = np.hypot(spread, errors[own])
        least = 1e-6 * max(1.0, float(np.abs(observed[own]).max()))
        made[own] = (difference[own] - middle) / np.maximum(spread, least)
    return made


def _held_out(
    data: Any, cube: xr.Dataset | None, folds: Any, settings: dict[str, Any]
) -> CrossValidation:
    """Return the cross-validation that was given, or that of a cube."""
    if isinstance(data, CrossValidation):
        return data
    if isinstance(data, BiomassRegressor | Ensemble):
        if cube is None:
            raise CubeError(
                "A model has seen its labels, so it says little of them: give the "
                "cube too, gb.labels.audit(model, cube), on which its recipe is "
                "trained in folds."
            )
        one: Any = data.models[0] if isinstance(data, Ensemble) else data
        recipe = one.recipe
        return cross_validate(need_target(cube), recipe, folds, **settings)
    if isinstance(data, str | os.PathLike):
        data = open_cube(os.fspath(data))
    return cross_validate(need_target(data), "pixels", folds, **settings)


def _placed(table: pd.DataFrame, cube: xr.Dataset) -> pd.DataFrame:
    """Return labels with the place of their pixel in the cube."""
    down, across = table.attrs["pixel"]
    rows = np.rint(table["y"].to_numpy() / down).astype(int)
    columns = np.rint(table["x"].to_numpy() / across).astype(int)
    made: dict[str, Any] = {}
    if "chip" in cube.dims:
        names = [str(chip) for chip in cube["chip"].values]
        number = {name: at for at, name in enumerate(names)}
        made["chip"] = table["unit"].to_numpy()
        made["chip_number"] = [number[str(name)] for name in table["unit"]]
    elif {"x", "y"} <= set(cube.coords):
        made["x"], made["y"] = cube["x"].values[columns], cube["y"].values[rows]
    made["row"], made["column"] = rows, columns
    for name in ("observed", "predicted"):
        made[name] = table[name].to_numpy()
    made["difference"] = made["observed"] - made["predicted"]
    return pd.DataFrame(made)


def _errors_at(cube: xr.Dataset, found: pd.DataFrame) -> Numbers | None:
    """Return the standard errors of labels, None where the cube has none."""
    if ERRORS not in cube:
        return None
    at: dict[Any, Any] = {
        "y": xr.DataArray(found["row"].to_numpy(), dims="label"),
        "x": xr.DataArray(found["column"].to_numpy(), dims="label"),
    }
    if "chip" in cube.dims:
        at["chip"] = xr.DataArray(found["chip_number"].to_numpy(), dims="label")
    values = cube[ERRORS].isel(at).values.astype(np.float64)
    return np.nan_to_num(values, nan=0.0)


def _place(part: xr.Dataset, row: Any, around: Any, axes: Any) -> tuple[float, float]:
    """Return where a pixel is on axes that show a part of a cube."""
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    across = (row.column - around["x"].start + 0.5) / part.sizes["x"]
    down = (row.row - around["y"].start + 0.5) / part.sizes["y"]
    return left + across * (right - left), top + down * (bottom - top)


def _is_ours(_: bytes, end: bytes) -> bool:
    return _GENERATOR.encode() in end
