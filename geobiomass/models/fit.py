"""Train a model, or one for each fold: ``gb.fit``.

Imports of PyTorch are in the function: a wrong setting is an error before they begin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

from geobiomass.recipes.asked import asked_recipe
from geobiomass.recipes.recipe import Recipe

if TYPE_CHECKING:
    import xarray as xr

    from geobiomass.data.folds import Folds
    from geobiomass.models.ensemble import Ensemble
    from geobiomass.models.regressor import BiomassRegressor
    from geobiomass.recipes.schedule import TrainingPlan
    from geobiomass.recipes.split import Validation


@overload
def fit(
    cube: xr.Dataset | xr.DataArray,
    recipe: str | Recipe | None = None,
    validation: Validation = None,
    *,
    folds: None = None,
    at_once: int | None = None,
    announce: Callable[[TrainingPlan], object] | None = None,
    client: Any = None,
    minutes: float | None = None,
    **overrides: Any,
) -> BiomassRegressor: ...


@overload
def fit(
    cube: xr.Dataset | xr.DataArray,
    recipe: str | Recipe | None = None,
    validation: None = None,
    *,
    folds: int | Folds,
    at_once: int | None = None,
    announce: Callable[[TrainingPlan], object] | None = None,
    client: Any = None,
    minutes: float | None = None,
    **overrides: Any,
) -> Ensemble: ...


def fit(
    cube: xr.Dataset | xr.DataArray,
    recipe: str | Recipe | None = None,
    validation: Validation = None,
    *,
    folds: int | Folds | None = None,
    at_once: int | None = None,
    announce: Callable[[TrainingPlan], object] | None = None,
    client: Any = None,
    minutes: float | None = None,
    **overrides: Any,
) -> BiomassRegressor | Ensemble:
    """Train a biomass regressor on a cube.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene or chips, with ``agb``; NaN where unlabelled, sparse labels are fine.
        All its bands are used. Other xarray data is converted by :func:`as_cube`.
    recipe : str or Recipe, optional
        ``"default"``, ``"quick"`` (minutes on two cores), ``"sparse"`` (a small
        network for few labels), ``"pixels"`` (trees and a kernel, in seconds),
        ``"biomassters"`` (the network and settings of the competition's winner), or
        your own. None or ``"auto"``: dense labels train
        ``"default"``; with fewer, learners are compared on held-out labels, and the
        simplest is kept that is not worse than the best by a standard error
        (``model.choice``). Settings of networks alone, as ``epochs=``, mean
        ``"default"``; those of the learner by pixel mean ``"pixels"``.
    validation : optional
        Held-out data that chooses the best epoch. None: a tenth of the chips, or of
        the blocks of a scene (nothing, with a warning, if there is only one). A
        number: that fraction, 0 for no validation. A sequence of chip ids: those
        chips. A :class:`~geobiomass.data.folds.Fold`: its held-out pixels. Another
        cube: the whole cube.
    folds : int or Folds, optional
        Train this number of models, each with a different part of the chips or blocks
        held out, and return their ensemble. :func:`make_folds` holds out by region, or
        with a buffer, and :func:`cross_validate` keeps the predictions of held-out
        pixels. With ``folder=`` each model has its own folder there, and the same call
        resumes an interrupted training.
        With ``interval=`` no model uses its held-out part: another part chooses the
        best epoch, and the held-out parts of all models calibrate the interval.
    at_once : int, optional
        Number of these models that train at the same time, each in a process of its
        own; by default the number of GPUs, or one.
    announce : callable, optional
        Called with the :class:`~geobiomass.recipes.schedule.TrainingPlan` (stages,
        steps, hours) before training begins; some steps are timed for it:
        ``announce=print``. With `folds` once, for the first member: the others take
        as long. Without a recipe it is called with the
        :class:`~geobiomass.models.choice_record.ChoicePlan`, which prints itself, and
        where labels are dense then with the plan of the training.
    client : distributed.Client, optional
        Read chips on its workers, which must reach the cube under the same path; the
        network stays in this process.
    minutes : float, optional
        Time on this machine that comparing with the network may take, with the last
        training; by default 30 from 1,000 labels on, and nothing for fewer.
    **overrides
        Any setting of the recipe or of its training: ``epochs=10``, ``seed=1``,
        ``encoder="resnet18"``, ``folder="runs/first"`` to be able to resume,
        ``interval=0.9`` for maps of uncertainty, ``agb_lower`` and ``agb_upper``,
        calibrated on held-out chips or blocks.

    Returns
    -------
    BiomassRegressor or Ensemble
        Trained; ``.history`` has a row for each epoch. With `folds` an
        :class:`Ensemble`.

    Raises
    ------
    CubeError
        If `cube` is not a cube, has no ``agb`` or no label, shares chips or ground
        with the validation cube, or has too few chips or blocks for the interval.
    ValueError
        If a recipe or setting is unknown or out of range; `folds` and `validation`, or
        a recipe and `minutes`, are both given; or the folder holds a training with
        other settings or of other data. Only settings of memory may differ, and with
        ``schedule="constant"`` the number of epochs. This is checked before any image
        is read, with `folds` for all members.
    KeyboardInterrupt
        If a cell is interrupted, or on Ctrl-C. The last step is kept, also without
        ``folder=``: the message names a folder, and the same call with it continues.

    Warns
    -----
    UserWarning
        If there are too few `groups` to calibrate the interval by group, or what was
        chosen is no better than the mean of the labels.

    Examples
    --------
    >>> import geobiomass as gb
    >>> model = gb.fit(gb.open_cube("plots.zarr"))  # doctest: +SKIP
    >>> model.choice  # doctest: +SKIP
    >>> model = gb.fit(gb.open_cube("chips.zarr"), "quick")  # doctest: +SKIP
    """
    # First, because the rest imports PyTorch, which takes seconds.
    chosen = asked_recipe(recipe, minutes, overrides)
    if folds is not None and validation is not None:
        raise ValueError("validation must be left out where folds is given.")
    from geobiomass.data.labelled_cube import LabelledCube

    if chosen is None:
        from geobiomass.models.choice import fit_best

        return fit_best(
            LabelledCube.open(cube),
            overrides,
            validation,
            folds=folds,
            at_once=at_once,
            announce=announce,
            client=client,
            minutes=minutes,
        )
    from geobiomass.models.choice_record import check_not_chosen
    from geobiomass.models.fit_members import fit_folds, fit_one, forget_folder
    from geobiomass.training.kept_folder import kept_if_interrupted

    data = LabelledCube.open(cube)
    check_not_chosen(chosen.training.folder, chosen.training.resume)
    with kept_if_interrupted(chosen.training.folder) as folder:
        kept = chosen.with_changes(folder=chosen.training.folder or folder)
        if chosen.by_pixel and folds is None:
            kept = chosen  # a learner by pixel has no steps to go on from
        if folds is not None:
            model = fit_folds(data, kept, folds, at_once, announce, client)
            return forget_folder(model, chosen)
        return forget_folder(fit_one(data, kept, validation, announce, client), chosen)
