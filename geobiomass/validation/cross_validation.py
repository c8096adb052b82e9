"""Cross-validation: every place mapped by the model that did not see it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.cube import CubeError, open_cube
from geobiomass.cube.areas import pixel_size
from geobiomass.cube.convert import need_target
from geobiomass.cube.store import is_local
from geobiomass.data.folds import Folds, make_folds
from geobiomass.data.groups import NOWHERE
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.reader import Reader
from geobiomass.evaluation.metrics import (
    BOOTSTRAP,
    CONFIDENCE,
    Bins,
    Tally,
    interval_of,
    months_seen,
)
from geobiomass.evaluation.residuals import MOST, TABLE, residuals, write_residuals
from geobiomass.metadata.record import note_provenance, weights_fingerprint
from geobiomass.models.calibration import calibration_of
from geobiomass.models.ensemble import Ensemble
from geobiomass.models.fit import fit
from geobiomass.models.loading import load
from geobiomass.models.regressor import BiomassRegressor, units_left_out
from geobiomass.models.training_record import metrics_by_bin
from geobiomass.recipes.recipe import Recipe, find_recipe
from geobiomass.recipes.resume import identify
from geobiomass.recipes.schedule import TrainingPlan
from geobiomass.recipes.split import grouped_by, held_samples
from geobiomass.statistics.variogram import Variogram, fit_variogram, suggest_block
from geobiomass.tiles import EVALUATION_BLOCK, Sample, Window, blocks
from geobiomass.validation.folder import (
    MODEL,
    RECORD,
    check_place,
    place_of,
    read_record,
    write_record,
)
from geobiomass.validation.saving import (
    folds_from_dict,
    folds_to_dict,
    open_predictions,
    write_predictions,
)

_CHIP_PIXEL = 10.0  # metres: BioMassters' chips, which say nothing of their place
_BLOCK = 1024  # pixels: side of what is mapped at once


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
    """Train a model for each fold, and keep what it says of ground it has not seen.

    What is held out judges, so it must not choose: weights are those of the last epoch
    (``keep="last"``) unless `overrides` say otherwise, not of the epoch that was
    best on the held-out ground. With ``interval=`` another part of the training
    ground chooses.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene or chips, with ``agb``.
    recipe : str or Recipe
        As :func:`fit` takes it.
    folds : int or Folds
        What :func:`make_folds` gives. A number: so many folds of a scene's blocks
        (of the recipe's ``block``), of chips, or of the recipe's ``groups`` of chips.
    pixel : float or tuple of float, optional
        Metres a pixel, down and across: by default as the scene's reference system
        says, and 10 for chips, as BioMassters' are.
    at_once, announce, client, **overrides
        As :func:`fit` takes them. With ``folder=`` the same call goes on where it
        stopped.

    Returns
    -------
    CrossValidation
        The models as one, the map that none of them knew, its errors.

    Raises
    ------
    CubeError, ValueError
        As :func:`fit` and :func:`make_folds` do.

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


class CrossValidation:
    """Models of a cross-validation, and what each says of the ground it has not seen.

    Parameters
    ----------
    cube : xarray.Dataset
        That was learnt from.
    model : Ensemble
        A member a fold, in their order.
    folds : Folds
        What was held out.
    pixel : float or tuple of float, optional
        Metres down and across.
    **settings
        How to map: what ``model.predict`` takes.

    Attributes
    ----------
    model : Ensemble
        All models as one, to map other scenes with.
    folds : Folds
        What each of them did not see.

    Raises
    ------
    ValueError
        If there are not as many models as folds.
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
                f"model must have a member a fold, {folds.count}, got "
                f"{len(model.models)}."
            )
        self.cube = cube
        self.model = model
        self.folds = folds
        self.pixel = pixel if pixel is not None else _pixel_of(cube)
        self._settings = {"block": _BLOCK} | settings
        self._suggested: int | None = None

    def __repr__(self) -> str:
        """Say what was held out, and whether its blocks were large enough."""
        lines = [f"CrossValidation with {self.folds!r}"]
        return "\n".join([*lines, *([self.advice] if self._suggested else [])])

    @cached_property
    def predictions(self) -> xr.Dataset:
        """The map of each place by the model that did not see it, lazy.

        As ``model.predict`` gives it, with all its layers; an interval is calibrated
        on what the other folds held out. NaN where no model left the
        place out: outside of all regions or polygons. Only what is looked at is
        computed, of each block by those models alone that it needs.
        """
        maps = [member.predict(self.cube, **self._settings) for member in self._members]
        layers = {str(n): self._unseen([each[n] for each in maps]) for n in maps[0]}
        found = cast(xr.Dataset, maps[0].assign(layers))
        note_provenance(found, self.model, self.cube, self._how())
        return found

    @cached_property
    def _members(self) -> Sequence[Any]:
        """The models, an interval of each calibrated on what the others left out."""
        models = cast(Sequence[BiomassRegressor], self.model.models)
        found = (getattr(model, "recipe", None) for model in models)
        recipes = [recipe for recipe in found if recipe is not None]
        if self.model.calibration is None or len(recipes) < len(models):
            return models
        groups = grouped_by(recipes[0], self.folds[0])
        opened = {
            bands: LabelledCube.open(self.cube, bands)
            for bands in {model.bands for model in models}
        }
        units = [
            units_left_out(
                model,
                held_samples(opened[model.bands], recipe, fold),
                fold.validates,
                opened[model.bands],
                groups,
            )
            for model, recipe, fold in zip(models, recipes, self.folds, strict=True)
        ]
        members = []
        for number, model in enumerate(models):
            others = [u for k, own in enumerate(units) if k != number for u in own]
            member = copy.copy(model)
            member.calibration = calibration_of(
                others,
                opened[models[0].bands].reader,
                self.model.calibration.interval,
                folds=len(models) - 1,
                groups=groups,
            )
            members.append(member)
        return members

    def _how(self) -> dict[str, Any]:
        """Give the settings that the map depends on, and what was held out."""
        settings = {k: repr(v) for k, v in self._settings.items() if k != "block"}
        fold = self.folds[0].to_dict()
        told = {name: fold[name] for name in ("by", "count", "block", "buffer")}
        return {"held_out": told | {"fingerprint": self.folds.identity}, **settings}

    def _unseen(self, maps: Sequence[xr.DataArray]) -> xr.DataArray:
        """Put one layer together: a task a block, on the blocks of the models' maps."""
        import dask.array as da
        from dask.highlevelgraph import HighLevelGraph

        arrays = [each.data for each in maps]
        name = f"unseen-{arrays[0].name}"
        graph: dict[Any, Any] = {}
        for index, sample in _places(arrays[0].chunks):
            numbers = self._folds_in(sample)
            keys = [(arrays[number].name, *index) for number in numbers]
            task = partial(_choose, self.folds, sample, numbers)
            graph[name, *index] = (task, *keys)
        layers = HighLevelGraph.from_collections(name, graph, dependencies=arrays)
        array = da.Array(layers, name, arrays[0].chunks, meta=arrays[0]._meta)
        return maps[0].copy(data=array)

    def _folds_in(self, sample: Sample) -> tuple[int, ...]:
        found = np.unique(self.folds.numbers(sample))
        return tuple(int(number) for number in found if number != NOWHERE)

    def evaluate(
        self,
        by: str = "biomass",
        *,
        confidence: float = CONFIDENCE,
        bootstrap: int = BOOTSTRAP,
    ) -> pd.DataFrame:
        """Give one table over all pixels, each mapped by a model that did not see it.

        Parameters
        ----------
        by : "biomass", "predicted", "months" or "fold"
            Rows: as :meth:`BiomassRegressor.evaluate` takes it, or each fold, over what
            its model did not see.
        confidence, bootstrap
            As :meth:`BiomassRegressor.evaluate` takes them. Intervals are over what
            was held out together: blocks, regions or chips.

        Returns
        -------
        pandas.DataFrame
            As :meth:`BiomassRegressor.evaluate` gives it; the first row is "all".

        Raises
        ------
        CubeError
            If there is no held-out label where the image has an observation.
        ValueError
            If a setting is out of range.
        """
        reader = Reader(self.cube, self.model.bands)
        folds = range(self.folds.count) if by == "fold" else ()
        tally = Tally(Bins("biomass" if by == "fold" else by, reader.months))
        each = {number: Tally() for number in folds}
        for sample in _blocks_of(reader):
            truth = reader.labels(sample).astype(np.float64)
            truth[self.folds.numbers(sample) == NOWHERE] = np.nan
            if not np.isfinite(truth).any():
                continue
            layers = self._layers(sample)
            months = months_seen(reader, sample) if by == "months" else None
            for unit, part, inside in self._units(sample):
                own = each.get(self.folds.fold_of[unit])
                for one in (tally,) if own is None else (tally, own):
                    one.add(
                        layers["agb"][part],
                        np.where(inside, truth[part], np.nan),
                        unit=unit,
                        months=None if months is None else months[part],
                        interval=_cut(interval_of(layers), part),
                    )
        if tally.count == 0:
            raise CubeError(
                "No held-out label lies where the image has an observation; nothing to "
                "compare."
            )
        table = tally.table(confidence, bootstrap)
        if by != "fold":
            return table
        rows = {"all": table.loc["all"]} | {
            str(number): one.table(confidence, bootstrap).loc["all"]
            for number, one in each.items()
            if one.count
        }
        found = pd.DataFrame(rows).T.rename_axis("fold")
        return found.astype(table.dtypes[found.columns])

    def _layers(self, sample: Sample) -> dict[str, npt.NDArray[np.float64]]:
        window = sample.window
        where: dict[str, Any] = {"y": window.rows, "x": window.columns}
        if sample.chip is not None:
            where["chip"] = sample.chip
        computed = self.predictions.isel(where).compute()
        return {str(n): v.values.astype(np.float64) for n, v in computed.items()}

    def _units(
        self, sample: Sample
    ) -> Iterator[tuple[int, tuple[slice, slice], npt.NDArray[np.bool_]]]:
        """Go through the parts of a block that are of one group, 256 pixels at most."""
        groups = self.folds.ground.groups(sample)
        height, width = groups.shape
        for part in blocks(height, width, EVALUATION_BLOCK):
            here = part.rows, part.columns
            for group in np.unique(groups[here]):
                if group != NOWHERE:
                    yield int(group), here, groups[here] == group

    def residuals(self, most: int = MOST, seed: int = 0) -> pd.DataFrame:
        """Give held-out errors pixel by pixel.

        Parameters
        ----------
        most : int
            Rows at most; of more labels an even share of each unit is drawn.
        seed : int
            Of the draw.

        Returns
        -------
        pandas.DataFrame
            As :func:`residuals` gives it, with ``unit`` (what was held out together)
            and ``fold``.
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
        """Fit a variogram to the held-out errors: how far they are alike.

        Parameters
        ----------
        **settings
            What :func:`geobiomass.statistics.variogram.fit_variogram` takes.
        """
        found = fit_variogram(self.residuals(), **settings)
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
        """Write the models, the map that none of them knew and its errors to a folder.

        The map is computed block by block: interrupted, the same call goes on where it
        stopped.

        Parameters
        ----------
        folder : str or Path
            New, empty, or with this cross-validation.
        cube : str or Path, optional
            Where the cube is: noted for :meth:`load`, which else has to be given it.
        progress : bool
            Show a progress bar.
        overwrite : bool
            Replace another cross-validation that is there.

        Raises
        ------
        FileExistsError
            If the folder holds another cross-validation, and not `overwrite`.
        ValueError
            If it holds anything else.
        IncompleteMapError
            If blocks of the map could not be computed; the others are kept.
        """
        folder = Path(folder)
        check_place(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if overwrite:  # from here on what the record says may not be there any more
            (folder / RECORD).unlink(missing_ok=True)
        lazy, side = self.predictions.copy(), self._settings["block"]
        made_with = self._depends_on()
        note_provenance(lazy, self.model, self.cube, made_with)
        write_predictions(folder, lazy, made_with, side, progress, overwrite)
        stored = CrossValidation(
            self.cube, self.model, self.folds, self.pixel, **self._settings
        )
        stored.predictions = open_predictions(folder, self.cube, side)
        write_residuals(stored.residuals(), folder / TABLE)
        self.model.save(folder / MODEL)
        facts = {
            "cube": place_of(cube) if cube else None,
            "identity": identify(LabelledCube.open(self.cube, self.model.bands)),
            "pixel": self.pixel,
            "settings": self._settings,
            "folds": folds_to_dict(self.folds),
            "errors": metrics_by_bin(stored.evaluate("fold", bootstrap=0)),
        }
        write_record(folder, facts)

    def _depends_on(self) -> dict[str, Any]:
        """Give all that the map's values depend on, in words and hashes."""
        steps = [getattr(member, "calibration", None) for member in self._members]
        known = [step.to_dict() for step in steps if step is not None]
        return {
            "model": weights_fingerprint(self.model.network),
            "input": Reader(self.cube, self.model.bands).identity(),
            "grid": self.folds.grid,
            **({"calibrations": known} if known else {}),
            **self._how(),
        }

    @classmethod
    def load(
        cls, folder: str | Path, cube: str | Path | xr.Dataset | None = None
    ) -> Self:
        """Read a cross-validation that :meth:`save` wrote.

        Errors are of the labels that were held out: where a cube has others by now, or
        other months or places, each figure would be of something that nobody held out,
        so that is an error; the errors that were saved (``geobiomass info``,
        ``residuals.csv``) still hold. Of other images alone the saved map and its
        errors hold too, so that is a warning: only a new map of that cube by the models
        would differ. Up to 64 chips, or blocks of a scene, from all over the cube are
        compared, and what the cube knows of its images.

        Parameters
        ----------
        folder : str or Path
            What it was saved in.
        cube : str, Path or xarray.Dataset, optional
            That was learnt from; by default where it was then.

        Returns
        -------
        CrossValidation
            With the map as it was saved, not made again.

        Raises
        ------
        FileNotFoundError
            If the folder is none, or not finished, or the cube is not where it was.
        ModelError
            If the models are missing or damaged.
        CubeError, ValueError
            If the cube is another, or has changed since, or the folder is damaged.

        Warns
        -----
        UserWarning
            If the cube's images have changed since, and its labels have not.
        """
        folder = Path(folder)
        record = read_record(folder)
        if cube is None:
            cube = _cube_of(record["cube"], folder)
        given = isinstance(cube, xr.Dataset)
        data = need_target(cube if isinstance(cube, xr.Dataset) else open_cube(cube))
        folds = folds_from_dict(record["folds"], data)
        pixel, settings = record["pixel"], record["settings"]
        pixel = tuple(pixel) if isinstance(pixel, list) else pixel
        found = cls(data, load(folder / MODEL), folds, pixel, **settings)
        now = identify(LabelledCube.open(data, found.model.bands))
        where = "The cube that was given" if given else f"The cube {cube}"
        _check_unchanged(record.get("identity", {}), now, where, folder)
        found.predictions = open_predictions(folder, data, found._settings["block"])
        return found

    # --- how large blocks must be ---

    @property
    def suggested_block(self) -> int:
        """Side of blocks beyond which errors are hardly alike, pixels.

        Raises
        ------
        CubeError
            For chips: they are held out whole.
        """
        if "chip" in self.cube.dims:
            raise CubeError(
                "Chips are held out whole; blocks are of scenes. Hold out whole "
                "regions of chips where neighbours are alike: by='region'."
            )
        if self._suggested is None:
            self.variogram()
        assert self._suggested is not None
        return self._suggested

    @property
    def advice(self) -> str:
        """Whether blocks were as large as errors are alike, in a sentence."""
        suggested, block = self.suggested_block, self.folds.block
        if block is None:
            return f"errors are alike within {suggested} pixels"
        if block + self.folds.buffer >= suggested:
            return f"blocks of {block} pixels are as large as errors are alike"
        return (
            f"blocks of {block} pixels with a buffer of {self.folds.buffer} are "
            f"smaller than the {suggested} pixels within which errors are alike, so "
            f"these errors may flatter: gb.make_folds(cube, block={suggested})"
        )


def _cube_of(noted: str | None, folder: Path) -> str:
    """Give the place that was noted of a cube, if there still is something."""
    if noted is not None and (not is_local(noted) or Path(noted).exists()):
        return noted
    where = "nobody noted where" if noted is None else f"which is not at {noted}"
    raise FileNotFoundError(
        f"{folder} needs the cube that it was made of, {where}; give it: "
        "gb.CrossValidation.load(folder, cube)."
    )


def _check_unchanged(
    before: Mapping[str, str], now: Mapping[str, str], where: str, folder: Path
) -> None:
    """Refuse other labels, warn of other images; what one does not say may be."""
    changed = {k: v for k, v in before.items() if k in now and now[k] != v}
    if "data" in changed:
        raise CubeError(
            f"{where} must be as it was when {folder} was made, got other labels, "
            f"months or places: it was {before['data']} and is {now['data']}. Give the "
            "cube as it was, gb.CrossValidation.load(folder, cube), or validate again, "
            "in another folder."
        )
    for name, known in changed.items():
        warnings.warn(
            f"{where} has other images than when {folder} was made, the same labels: "
            f"{name} was {known} and is {now[name]}. The saved map and its errors hold "
            "for the images as they were; validate again for these.",
            stacklevel=3,
        )


def _pixel_of(cube: xr.Dataset) -> float | tuple[float, float]:
    return _CHIP_PIXEL if "chip" in cube.dims else pixel_size(cube)


def _places(
    chunks: tuple[tuple[int, ...], ...],
) -> Iterator[tuple[tuple[int, ...], Sample]]:
    """Go through the blocks of a lazy map: index, and place in the cube."""
    edges = [np.concatenate([[0], np.cumsum(sizes)]).tolist() for sizes in chunks]
    for index in np.ndindex(*map(len, chunks)):
        rows, columns = index[-2:]
        window = Window(
            edges[-2][rows],
            edges[-1][columns],
            edges[-2][rows + 1],
            edges[-1][columns + 1],
        )
        yield index, Sample(window, index[0] if len(index) == 3 else None)


def _choose(
    folds: Folds,
    sample: Sample,
    numbers: tuple[int, ...],
    *maps: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Take each pixel from the map of its fold; NaN where there is none."""
    held = folds.numbers(sample)
    if sample.chip is not None:
        held = held[None]
    chosen = np.full(held.shape, np.nan, np.float32)
    for number, values in zip(numbers, maps, strict=True):
        np.copyto(chosen, values, where=held == number)
    return chosen


def _cut(
    interval: tuple[Any, Any] | None, part: tuple[slice, slice]
) -> tuple[Any, Any] | None:
    return None if interval is None else (interval[0][part], interval[1][part])


def _blocks_of(reader: Reader) -> Iterator[Sample]:
    windows = blocks(reader.height, reader.width, _BLOCK)
    chips: Sequence[int | None] = range(reader.count) if reader.chips else [None]
    return (Sample(window, chip) for chip in chips for window in windows)
