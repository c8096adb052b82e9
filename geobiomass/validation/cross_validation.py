"""Cross-validation: each pixel is mapped by the model that did not train on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd
import xarray as xr

from geobiomass.cube import CubeError, open_cube
from geobiomass.cube.areas import pixel_size
from geobiomass.cube.convert import need_target
from geobiomass.data.folds import Folds, make_folds
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.reader import Reader
from geobiomass.evaluation.label_errors import tell_clipped
from geobiomass.evaluation.metrics import BOOTSTRAP, CONFIDENCE
from geobiomass.evaluation.residuals import MOST, TABLE, residuals, write_residuals
from geobiomass.metadata.record import note_provenance, weights_fingerprint
from geobiomass.models.ensemble import Ensemble
from geobiomass.models.fit import fit
from geobiomass.models.loading import load
from geobiomass.models.regressor import BiomassRegressor
from geobiomass.models.training_record import metrics_by_bin
from geobiomass.recipes.recipe import Recipe, find_recipe
from geobiomass.recipes.resume import identify
from geobiomass.recipes.schedule import TrainingPlan
from geobiomass.statistics.variogram import Variogram, fit_variogram, suggest_block
from geobiomass.training.disk_errors import told_of_disk
from geobiomass.training.given_paths import path_text
from geobiomass.training.one_writer import one_writer
from geobiomass.training.setting_names import explain_arguments
from geobiomass.validation.folder import (
    MODEL,
    RECORD,
    check_validation_folder,
    cube_address,
    read_record,
    sweep_folder,
    write_record,
)
from geobiomass.validation.held_out_map import calibrated_members, join_by_fold
from geobiomass.validation.held_out_metrics import held_out_metrics
from geobiomass.validation.saving import (
    check_unchanged,
    find_cube,
    folds_from_dict,
    folds_to_dict,
    open_predictions,
    write_predictions,
)

_CHIP_PIXEL = 10.0  # metres: BioMassters' chips, which have no georeference
_BLOCK = 1024  # pixels: side of the blocks that are mapped one by one


def cross_validate(
    cube: xr.Dataset | xr.DataArray,
    recipe: str | Recipe = "default",
    folds: int | Folds = 5,
    *,
    pixel: float | tuple[float, float] | None = None,
    at_once: int | None = None,
    announce: Callable[[TrainingPlan], object] | None = None,
    client: Any = None,
    **overrides: Any,
) -> CrossValidation:
    """Train a model for each fold, and map the fold's held-out pixels with it.

    Held-out data measure the error, so they must not also choose the best epoch. By
    default the weights of the last epoch are kept (``keep="last"``). With
    ``interval=`` another part of the training data chooses the best epoch.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene or chips, with ``agb``.
    recipe : str or Recipe
        As in :func:`fit`.
    folds : int or Folds
        Folds of :func:`make_folds`; or their number: folds are then of a scene's
        blocks (with the recipe's ``block``), of chips, or of the recipe's ``groups``
        of chips.
    pixel : float or tuple of float, optional
        Height and width of a pixel, metres: by default from the scene's coordinate
        reference system, and 10 for chips, as in BioMassters.
    at_once, announce, client, **overrides
        As in :func:`fit`. With ``folder=`` the same call continues where it stopped.

    Returns
    -------
    CrossValidation
        The models as one, the held-out map, its errors.

    Raises
    ------
    CubeError, ValueError
        As in :func:`fit` and :func:`make_folds`.

    Examples
    --------
    >>> import geobiomass as gb
    >>> cube = gb.open_cube("scene.zarr")  # doctest: +SKIP
    >>> folds = gb.make_folds(cube, 5, by="region", buffer=16)  # doctest: +SKIP
    >>> gb.cross_validate(cube, "quick", folds).evaluate()  # doctest: +SKIP
    """
    cube, chosen = need_target(cube), find_recipe(recipe, **overrides)
    if chosen.interval is None and "keep" not in overrides:
        chosen = chosen.with_changes(keep="last")
    if isinstance(folds, int):
        if "chip" in cube.dims:
            folds = make_folds(cube, folds, chosen.groups, seed=chosen.training.seed)
        else:
            seed = chosen.training.seed
            folds = make_folds(cube, folds, block=chosen.block, seed=seed)
    model = fit(
        cube, chosen, folds=folds, at_once=at_once, announce=announce, client=client
    )
    return CrossValidation(cube, model, folds, pixel)


@explain_arguments
class CrossValidation:
    """The models of a cross-validation, and their maps of held-out data.

    Parameters
    ----------
    cube : xarray.Dataset
        The training data.
    model : Ensemble
        A member for each fold, in their order.
    folds : Folds
        The folds that were held out.
    pixel : float or tuple of float, optional
        Height and width of a pixel, metres.
    **settings
        Settings of the map, as in ``model.predict``.

    Attributes
    ----------
    model : Ensemble
        All models as one, to map other scenes with.
    folds : Folds
        The folds; each member did not train on its own.

    Raises
    ------
    ValueError
        If the numbers of models and folds differ.
    """

    def __init__(
        self,
        cube: xr.Dataset,
        model: Ensemble,
        folds: Folds,
        pixel: float | tuple[float, float] | None = None,
        **settings: Any,
    ) -> None:
        folds.check(cube)
        if len(model.models) != folds.count:
            raise ValueError(
                f"model must have one member for each fold, {folds.count}, got "
                f"{len(model.models)}."
            )
        self.cube = cube
        self.model = model
        self.folds = folds
        self.pixel = pixel if pixel is not None else _pixel_of(cube)
        self._settings = {"block": _BLOCK} | settings
        self._suggested: int | None = None

    def __repr__(self) -> str:
        """Return the folds, and whether their blocks were large enough."""
        lines = [f"CrossValidation with {self.folds!r}"]
        return "\n".join([*lines, *([self.advice] if self._suggested else [])])

    @cached_property
    def predictions(self) -> xr.Dataset:
        """The held-out map, lazy: each pixel by the model that did not train on it.

        It has all layers of ``model.predict``; an interval is calibrated on the other
        folds. NaN in pixels of no fold: outside all regions or polygons. A block is
        computed on access, by the models of its folds only.
        """
        # The cube that they were trained on parts of: there is nothing to tell.
        settings = {"check": "off", **self._settings}
        maps = [member.predict(self.cube, **settings) for member in self._members]
        found = join_by_fold(maps, self.folds)
        note_provenance(found, self.model, self.cube, self._how(), held_out=True)
        return found

    @cached_property
    def _members(self) -> Sequence[BiomassRegressor]:
        """The models, an interval of each calibrated on the other folds."""
        return calibrated_members(self.model, self.folds, self.cube)

    def _how(self) -> dict[str, Any]:
        """Return the settings that the map depends on, and the folds."""
        settings = {k: repr(v) for k, v in self._settings.items() if k != "block"}
        fold = self.folds[0].to_dict()
        facts = {name: fold[name] for name in ("by", "count", "block", "buffer")}
        return {"held_out": facts | {"fingerprint": self.folds.identity}, **settings}

    def evaluate(
        self,
        by: str = "biomass",
        *,
        confidence: float = CONFIDENCE,
        bootstrap: int = BOOTSTRAP,
        label_errors: bool | None = None,
    ) -> pd.DataFrame:
        """Compare the held-out map with the labels, in one table over all folds.

        Parameters
        ----------
        by : "biomass", "predicted", "months" or "fold"
            The rows: as in :meth:`BiomassRegressor.evaluate`, or one for each fold.
        confidence, bootstrap
            As in :meth:`BiomassRegressor.evaluate`. Intervals are over the groups
            that were held out together: blocks, regions or chips.
        label_errors : bool, optional
            Whether labels weigh by their standard errors, as in
            :meth:`BiomassRegressor.evaluate`; by default as in the recipe.

        Returns
        -------
        pandas.DataFrame
            As from :meth:`BiomassRegressor.evaluate`; the first row is "all".

        Raises
        ------
        CubeError
            If there is no held-out label where the image has an observation.
        ValueError
            If a setting is out of range.

        Warns
        -----
        UserWarning
            If standard errors of labels are larger than the errors that are seen, or
            ``label_errors=True`` and there are none.
        """
        reader = Reader(self.cube, self.model.bands)
        weigh = self.model._weighs(label_errors, reader.has_errors)
        table = held_out_metrics(
            self.predictions, reader, self.folds, by, confidence, bootstrap, weigh
        )
        tell_clipped(table, stacklevel=3)
        return table

    def residuals(self, most: int = MOST, seed: int = 0) -> pd.DataFrame:
        """Return the held-out errors pixel by pixel.

        Parameters
        ----------
        most : int
            Largest number of rows; if there are more labels, about the
            same number is drawn from each unit.
        seed : int
            Seed of the draw.

        Returns
        -------
        pandas.DataFrame
            As from :func:`residuals`, with ``unit`` (the group that was held out
            together) and ``fold``.
        """
        return residuals(
            self.predictions,
            self.cube,
            folds=self.folds,
            most=most,
            pixel=self.pixel,
            seed=seed,
        )

    def variogram(self, **settings: Any) -> Variogram:
        """Fit a variogram to the held-out errors: over which distance they correlate.

        Parameters
        ----------
        **settings
            As in :func:`geobiomass.statistics.variogram.fit_variogram`.
        """
        found = explain_arguments(fit_variogram)(self.residuals(), **settings)
        if "chip" not in self.cube.dims:
            self._suggested = suggest_block(found, self.pixel)
        return found

    # --- save and load ---

    def save(
        self,
        folder: str | Path,
        *,
        cube: str | Path | None = None,
        progress: bool = True,
        overwrite: bool = False,
    ) -> None:
        """Write the models, the held-out map and its errors to a folder.

        The map is computed block by block: after an interruption the same call
        continues where it stopped.

        Parameters
        ----------
        folder : str or Path
            New, empty, or with this cross-validation.
        cube : str or Path, optional
            Path or address of the cube, written down for :meth:`load`, which otherwise
            needs it as an argument.
        progress : bool
            Show a progress bar.
        overwrite : bool
            Replace another cross-validation that is there.

        Raises
        ------
        FileExistsError
            If the folder holds another cross-validation and `overwrite` is false.
        ValueError
            If it holds anything else.
        IncompleteMapError
            If blocks of the map could not be computed; the others are kept.
        InUseError, DiskError
            If another process writes to it, or the disk cannot be written.
        """
        folder = Path(folder)
        check_validation_folder(folder)
        with told_of_disk(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with one_writer(folder):
                self._save(folder, cube, progress, overwrite)

    def _save(
        self, folder: Path, cube: str | Path | None, progress: bool, overwrite: bool
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        sweep_folder(folder)
        if overwrite:  # from here on the record may name files that are replaced
            (folder / RECORD).unlink(missing_ok=True)
        lazy, side = self.predictions.copy(), self._settings["block"]
        made_with = self._depends_on()
        note_provenance(lazy, self.model, self.cube, made_with, held_out=True)
        write_predictions(folder, lazy, made_with, side, progress, overwrite)
        stored = CrossValidation(
            self.cube, self.model, self.folds, self.pixel, **self._settings
        )
        stored.predictions = open_predictions(folder, self.cube, side)
        write_residuals(stored.residuals(), folder / TABLE)
        self.model.save(folder / MODEL)
        facts = {
            "cube": cube_address(cube) if cube else None,
            "identity": _identity(self.cube, self.model),
            "pixel": self.pixel,
            "settings": self._settings,
            "folds": folds_to_dict(self.folds),
            "errors": metrics_by_bin(stored.evaluate("fold", bootstrap=0)),
        }
        write_record(folder, facts)

    def _depends_on(self) -> dict[str, Any]:
        """Return all that the map's values depend on, as settings and hashes."""
        steps = [getattr(member, "calibration", None) for member in self._members]
        known = [step.to_dict() for step in steps if step is not None]
        return {
            "model": weights_fingerprint(self.model.network),
            "input": Reader(
                self.cube, self.model.bands, self.model.static_layers
            ).identity(),
            "grid": self.folds.grid,
            **({"calibrations": known} if known else {}),
            **self._how(),
        }

    @classmethod
    def load(
        cls, folder: str | Path, cube: str | Path | xr.Dataset | None = None
    ) -> Self:
        """Read a cross-validation that :meth:`save` wrote.

        Errors belong to the labels that were held out. If the cube's labels, months
        or grid have changed, no fold held out the present ones, so that is an error;
        the saved errors (``geobiomass info``, ``residuals.csv``) remain valid. If
        only its images have changed, the saved map and its errors remain valid too,
        so that is a warning: a new map by the models would differ. The check compares
        up to 64 chips, or blocks of a scene, from all over the cube, and the stored
        facts of its images.

        Parameters
        ----------
        folder : str or Path
            The folder that it was saved in.
        cube : str, Path or xarray.Dataset, optional
            The training data; by default at the path or address written down.

        Returns
        -------
        CrossValidation
            With the saved map, which is not computed again.

        Raises
        ------
        FileNotFoundError
            If the folder is no cross-validation, or not finished, or the cube is not
            at its path any more.
        ModelError
            If the models are missing or damaged.
        CubeError, ValueError
            If the cube is a different one or has changed, or the folder is damaged.

        Warns
        -----
        UserWarning
            If the cube's images have changed since, and its labels have not.
        """
        folder = Path(path_text(folder, "The folder of a cross-validation"))
        record = read_record(folder)
        if cube is None:
            cube = find_cube(record["cube"], folder)
        given = isinstance(cube, xr.Dataset)
        data = need_target(cube if isinstance(cube, xr.Dataset) else open_cube(cube))
        folds = folds_from_dict(record["folds"], data)
        pixel, settings = record["pixel"], record["settings"]
        pixel = tuple(pixel) if isinstance(pixel, list) else pixel
        found = cls(data, load(folder / MODEL), folds, pixel, **settings)
        now = _identity(data, found.model)
        where = "The cube that was given" if given else f"The cube {cube}"
        check_unchanged(record.get("identity", {}), now, where, folder)
        found.predictions = open_predictions(folder, data, found._settings["block"])
        return found

    # --- how large blocks must be ---

    @property
    def suggested_block(self) -> int:
        """Side of blocks beyond which errors are hardly correlated, pixels.

        Raises
        ------
        CubeError
            For chips: they are held out whole.
        """
        if "chip" in self.cube.dims:
            raise CubeError(
                "Chips are held out whole; blocks are of scenes. Hold out whole "
                "regions of chips where neighbours are similar: by='region'."
            )
        if self._suggested is None:
            self.variogram()
        assert self._suggested is not None
        return self._suggested

    @property
    def advice(self) -> str:
        """A sentence on whether blocks were as large as errors are correlated."""
        suggested, block = self.suggested_block, self.folds.block
        if block is None:
            return f"errors are correlated within {suggested} pixels"
        if block + self.folds.buffer >= suggested:
            return (
                f"blocks of {block} pixels with a buffer of {self.folds.buffer} are as "
                f"large as the {suggested} pixels within which errors are correlated"
            )
        return (
            f"blocks of {block} pixels with a buffer of {self.folds.buffer} are "
            f"smaller than the {suggested} pixels within which errors are correlated, "
            f"so these errors may be too small: gb.make_folds(cube, block={suggested})"
        )


def _pixel_of(cube: xr.Dataset) -> float | tuple[float, float]:
    return _CHIP_PIXEL if "chip" in cube.dims else pixel_size(cube)


def _identity(cube: xr.Dataset, model: Ensemble) -> dict[str, str]:
    """Return what distinguishes a cube, as the model reads it, from another one."""
    data = LabelledCube.open(cube, model.bands).with_layers(model.static_layers)
    return identify(data)
