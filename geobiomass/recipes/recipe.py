"""Recipes: the named hyperparameters of a training, as frozen dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from geobiomass.network.missing import Missing
from geobiomass.network.static_planes import StaticLevels
from geobiomass.recipes.by_pixel import BY_PIXEL, check_by_pixel, check_kind
from geobiomass.recipes.freezing import check_frozen
from geobiomass.recipes.setting_checks import check_settings, check_tall_forest
from geobiomass.training import Stage, TrainingConfig
from geobiomass.training.setting_names import explain_arguments, unknown_name

_LISTED = (
    "All are listed by help(gb.Recipe) and help(geobiomass.training.TrainingConfig)."
)


@explain_arguments
@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training: network, crops, loss, augmentation, split.

    Parameters
    ----------
    name : str
        Shown in reports and saved in the model's settings.
    encoder : str
        Any timm model with a feature pyramid.
    decoder_channels : tuple of int
        Channels of the decoder's levels, coarse to fine.
    levels : "crop" or "all"
        "crop": levels of the encoder whose features are smaller than 8 x 8 pixels in a
        crop are left out, with their decoder channels, if the deepest ones are smaller
        than 4 x 4: maps of deeper levels would not be as their validation. "all": none.
    pretrained : bool or str
        Initial weights of the encoder: False, True (from timm's hub) or a local file,
        of which all are loaded, or none and an error.
    frozen : float
        Share of the epochs, from the first one on, in which the encoder keeps its
        pretrained weights and norm statistics; 1: all epochs, of all stages. A first
        convolution that was repeated for another number of bands learns.
    self_supervised : int
        Epochs before those of `training`, in which the network learns the images
        without labels: it reconstructs pixels and months that are hidden from it. All
        images are used but those that validate or calibrate.
    crop : int or None
        Side of the random crops to train on, pixels; None takes whole chips.
    crops : int or None
        Samples of an epoch at least: crops are drawn, or chips are taken, several
        times in an epoch. None: as many crops as cover the labelled blocks, none of
        them with more crops than labels. An epoch ends with validation and a
        checkpoint, which take longer than its steps where there are few labels.
    crop_sampling : "even" or "biomass"
        "even": an epoch has each chip, or block of a scene, as often as its area asks
        for. "biomass": as many crops, and more of them of tall forest: in proportion to
        1 / sqrt(share of the chips or blocks at least as tall), by the 90th percentile
        of their labels, and at most 8 times as many as of the lowest.
    scaling : "robust" or "biomassters"
        Scaling of the bands. "robust": from the 5th and 95th percentile to -1.645 and
        1.645. "biomassters": from the minima and maxima that the BioMassters winner
        used to 0 and 1.
    missing : "validity", "renormalise" or "zero"
        Input for a band without a value in a month that has other bands: see
        :class:`geobiomass.network.AttentionUNet`. Months without any value take no
        part in any case.
    static_levels : "finest", "coarsest" or "both"
        Levels of the network whose features static layers of a cube are added to, once
        months are pooled. A cube without static layers trains as before.
    month_term : bool
        Whether the attention knows the month of the year.
    loss : "chip_rmse", "chip_huber", "huber", "mse" or "beta_nll"
        "chip_rmse": the root mean squared error of a chip, averaged over chips.
        "chip_huber": the same, but errors above `huber_delta` count linearly, so that
        damaged labels do not dominate. "huber" and "mse": Huber's robust loss and the
        mean squared error, over all pixels of a batch equally. "beta_nll": the network
        also predicts the standard deviation of its error, the layer ``agb_spread`` of
        maps; the loss is the Gaussian negative log-likelihood, weighed by the standard
        deviation. An interval is then calibrated in units of the spread.
    balance : float
        Weights of labels in the loss, and in the validation loss: their density to the
        power of minus this, so that what is rare counts more; 0: all equally, 1: all
        ranges of biomass equally. docs/training.md says how the density is measured.
    tail_correction : bool
        Whether the map, and the raw ends of its interval, pass through a rising curve
        that is learnt on the held-out part. It lowers the bias of tall forest, and may
        raise the error there by 1 % at most; docs/training.md says how.
    ceiling : float or None
        Labels of this value or more, Mg/ha, are treated as `tail` says; None: none.
    tail : "drop" or "clip"
        "drop": labels at the ceiling or above are left out of the loss, as damaged.
        "clip": they count as the ceiling, and predictions above it as correct.
    huber_delta : float
        Mg/ha: "chip_huber" and "huber" square the errors up to this value.
    turns : bool
        Random flips and quarter turns.
    rotation : float
        Probability that a sample is rotated, by any angle up to 45 degrees.
    month_dropout : float
        Probability that a sample loses months, each with probability 0.3, in training.
    pattern_dropout : float
        Probability that a sample loses the optical bands in the months that one of the
        BioMassters data's six patterns lacks.
    pass_dropout : float
        Probability that a sample loses one radar pass in some months.
    validation_fraction : float
        Share of the chips, or of the blocks of a scene, that is held out if no
        validation is given.
    fold : int
        The number of that part: 0 to 9 if the fraction is 0.1.
    block : int or None
        Side of the blocks that a scene is split into, pixels; None: twice `crop`.
    groups : str or None
        A coordinate along ``chip`` (a region, a flight): its chips stay together in
        the split. They are one exchangeable group in the calibration of an interval, if
        there are enough groups.
    cache : int
        Bytes: data that takes no more is read once and kept in memory; more is read
        again in every epoch, and prefetched.
    read_ahead : int
        Bytes that batches may take, those in use and those prefetched; there are three
        at least, even if they take more.
    month_group : int or None
        Months of a sample that are encoded together in training; None: all. Smaller
        groups take less memory and up to 50 % more time, because each group is encoded
        again in the backward pass. docs/benchmarks.md states the memory.
    damaged : "raise" or "skip"
        For a chip or a part of a scene that cannot be read: raise an error, or leave
        it out with a warning. ``model.damaged`` lists what was left out.
    interval : float or None
        Coverage, such as 0.9: also learn an interval that contains this share of the
        pixels, and calibrate it on chips or blocks that neither train nor validate.
    calibration_fraction : float
        Share of the chips or blocks that calibrate; with an interval `fold` is the
        number of this part. If the interval needs more chips, or more of their
        `groups`, more are taken, and the blocks of a scene are made smaller.
    label_errors : bool
        Whether labels weigh by their standard errors, ``agb_se`` of the cube: 1 /
        (tau^2 + se^2), with the variance tau^2 that is not explained. In the loss, or
        in what is fitted by pixel; in the errors of the validation and of ``evaluate``;
        and in the calibration of an interval.
    label_shift : int
        Pixels, 0 to 2, by which labels may be off, as footprints are: in training a
        label is compared with the pixels around it that match it. 0: with its own.
    domain_cells : int
        Cells of 16 x 16 pixels of training data that are kept at the end, for the
        model's map of applicability; 0 keeps none.
    remember_labels : bool
        Whether the model and its maps keep hashes of the places of the labels, so that
        ``model.learnt_from``, ``adapt`` and totals can tell which plots trained it.
        False for confidential plots: a place that is guessed can be tested.
    learner : "blend", estimator of scikit-learn, or None
        What learns by pixel, in place of a network: trees and a kernel, or
        the user's own regressor. None: a network, which the settings above describe.
    trees : int, optional
        Extra trees of a learner by pixel: by default 100 for 100 to 999 labels, else
        200.
    neighbourhoods : tuple of int
        Sides of the squares around a pixel whose mean and spread are features of a
        learner by pixel, odd numbers of pixels.
    monthly : bool
        Whether each band of each calendar month is a feature of a learner by pixel,
        besides statistics over the year.
    most_labels : int
        Labels that a learner by pixel learns from at most, drawn at random.
    stages : tuple of Stage
        Further stages after `training`, each from the last weights and the optimiser
        state of the one before. Another number of ``epochs`` keeps the proportions of
        the stages.
    training : TrainingConfig
        Epochs, batch size, optimiser, precision, devices, seed, checkpoints.
    """

    name: str = "default"
    encoder: str = "tf_efficientnetv2_b0"
    decoder_channels: tuple[int, ...] = (256, 128, 96, 64, 48)
    levels: Literal["crop", "all"] = "crop"
    pretrained: bool | str = False
    frozen: float = 0.0
    self_supervised: int = 0
    crop: int | None = 128
    crops: int | None = None
    crop_sampling: Literal["even", "biomass"] = "even"
    scaling: Literal["robust", "biomassters"] = "robust"
    missing: Missing = "validity"
    static_levels: StaticLevels = "both"
    month_term: bool = False
    loss: Literal["chip_rmse", "chip_huber", "huber", "mse", "beta_nll"] = "chip_rmse"
    balance: float = 0.0
    tail_correction: bool = False
    ceiling: float | None = 1000.0
    tail: Literal["drop", "clip"] = "drop"
    huber_delta: float = 100.0
    turns: bool = True
    rotation: float = 0.0
    month_dropout: float = 0.2
    pattern_dropout: float = 0.1
    pass_dropout: float = 0.1
    validation_fraction: float = 0.1
    fold: int = 0
    block: int | None = None
    groups: str | None = None
    cache: int = 2 * 2**30
    read_ahead: int = 2**30
    month_group: int | None = None
    damaged: Literal["raise", "skip"] = "raise"
    interval: float | None = None
    calibration_fraction: float = 0.2
    label_errors: bool = False
    label_shift: int = 0
    domain_cells: int = 3000
    remember_labels: bool = True
    learner: Any = None
    trees: int | None = None
    neighbourhoods: tuple[int, ...] = (3, 7, 15)
    monthly: bool = True
    most_labels: int = 50_000
    stages: tuple[Stage, ...] = ()
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "neighbourhoods", tuple(self.neighbourhoods))
        check_settings(self)
        check_by_pixel(self)
        check_frozen(self)
        check_tall_forest(self)
        if not 0 <= self.fold < self.folds:
            raise ValueError(
                f"fold must be from 0 to {self.folds - 1} where {self._held_by} "
                f"is {getattr(self, self._held_by)}, got {self.fold}."
            )

    @property
    def _held_by(self) -> str:
        """Name of the setting with the share that a fold holds out."""
        calibrated = self.interval is not None
        return "calibration_fraction" if calibrated else "validation_fraction"

    @property
    def folds(self) -> int:
        """Number of parts that can be held out, one at a time."""
        part: float = getattr(self, self._held_by)
        return round(1 / part) if part else 1

    @property
    def by_pixel(self) -> bool:
        """Whether a learner by pixel is trained, and not a network."""
        return self.learner is not None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the network's outputs; an interval's ends are not yet calibrated."""
        if self.loss == "beta_nll":
            return ("agb", "agb_spread")
        ends = ("agb_lower_raw", "agb_upper_raw")
        return ("agb", *ends) if self.interval is not None else ("agb",)

    @property
    def ends_with_everything(self) -> bool:
        """Whether the last stage also trains on the data held out before."""
        return bool(self.stages) and self.stages[-1].everything

    def with_changes(self, **changes: Any) -> Recipe:
        """Return this recipe with some settings changed, its own or its training's.

        Parameters
        ----------
        **changes
            Settings by name.

        Raises
        ------
        ValueError
            If a name is neither a setting of a recipe nor of TrainingConfig.
        """
        ours = {f.name for f in dataclasses.fields(self)}
        theirs = {f.name for f in dataclasses.fields(TrainingConfig)}
        for name in changes:
            if name not in ours | theirs:
                what = "a setting of a recipe"
                also = ("validation", "folds", "at_once", "announce", "client")
                raise ValueError(unknown_name(name, ours | theirs, what, _LISTED, also))
        training = {k: v for k, v in changes.items() if k in theirs}
        own = {k: v for k, v in changes.items() if k in ours}
        base = own.pop("training", self.training)
        if "epochs" in training and "warmup_epochs" not in training:
            # A short run warms up for half of its epochs: a longer warm-up is an error.
            training["warmup_epochs"] = min(base.warmup_epochs, training["epochs"] / 2)
        if "epochs" in training and "stages" not in own:
            share = training["epochs"] / base.epochs
            own["stages"] = tuple(
                dataclasses.replace(stage, epochs=max(1, round(share * stage.epochs)))
                for stage in self.stages
            )
        own["training"] = dataclasses.replace(base, **training)
        return dataclasses.replace(self, **own)


# Settings that are saved only where they have another value: earlier releases did not
# have them, and a model of theirs is saved as it was.
LATER = (
    *("label_errors", "label_shift", "remember_labels"),
    *("crop_sampling", "balance", "tail_correction", "static_levels"),
)
# Learners by pixel came with these, and have always been saved with them.
_LATER = ("frozen", "self_supervised", "crops", *LATER)


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a network's recipe, as ``config.json`` has them."""
    settings = dataclasses.asdict(recipe)
    if settings["levels"] == "all":
        del settings["levels"]  # as it was saved before any were left out
    for name in _LATER:
        if settings[name] == getattr(Recipe, name):
            del settings[name]
    for name in BY_PIXEL:  # of no meaning for a network
        del settings[name]
    settings["training"]["folder"] = None  # a path of the machine that trained
    return settings


def recipe_from_dict(settings: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a saved model, from its settings in ``config.json``."""
    training = dict(settings["training"])
    if isinstance(training.get("monitor"), list):
        training["monitor"] = tuple(training["monitor"])
    # JSON has lists where a recipe has tuples.
    return Recipe(
        # Recipes were saved without levels before any were left out.
        **{"levels": "all"}
        | dict(settings)
        | {
            "decoder_channels": tuple(settings["decoder_channels"]),
            "neighbourhoods": tuple(settings.get("neighbourhoods", (3, 7, 15))),
            "stages": tuple(Stage(**stage) for stage in settings.get("stages", ())),
            "training": TrainingConfig(**training),
        }
    )


def _winners_stage(name: str, everything: bool = False) -> Stage:
    """Return a shorter stage of the winner; its last rate is max(rate / 10, 5e-5)."""
    return Stage(
        name=name,
        epochs=100,
        learning_rate=1e-4,
        final_learning_rate=5e-5,
        schedule_by="epoch",
        everything=everything,
    )


RECIPES: dict[str, Recipe] = {
    "default": Recipe(
        training=TrainingConfig(
            epochs=100, batch_size=8, warmup_epochs=1.0, moving_average=0.999
        )
    ),
    # Trains within minutes on two cores: for demonstrations and tests of a pipeline.
    "quick": Recipe(
        name="quick",
        encoder="resnet10t",
        decoder_channels=(64, 48, 32, 24, 16),
        levels="all",  # measured: on crops of 32 and 64 its maps are sound with all
        crop=64,
        missing="zero",
        month_dropout=0.0,
        pattern_dropout=0.0,
        pass_dropout=0.0,
        training=TrainingConfig(
            epochs=20, batch_size=8, learning_rate=2e-3, warmup_epochs=1.0
        ),
    ),
    # Trees and a kernel by pixel: for plots and footprints, in seconds.
    "pixels": Recipe(
        name="pixels",
        learner="blend",
        crop=None,
        # Each label is predicted by trees that did not see it: no part is held out.
        validation_fraction=0.0,
        month_dropout=0.0,
        pattern_dropout=0.0,
        pass_dropout=0.0,
    ),
    # The winner of BioMassters in all its stages, except that missing months are left
    # out; docs/design.md has its scores.
    "biomassters": Recipe(
        name="biomassters",
        encoder="tf_efficientnetv2_l.in21k",
        decoder_channels=(384, 368, 352, 336, 320),
        levels="all",
        crop=None,
        scaling="biomassters",
        missing="zero",
        ceiling=400.0,
        rotation=0.7,
        month_dropout=0.5,
        pattern_dropout=0.0,
        pass_dropout=0.0,
        training=TrainingConfig(
            epochs=800,
            batch_size=8,
            learning_rate=1e-3,
            weight_decay=1e-2,
            schedule_by="epoch",
            final_learning_rate=1e-4,
            gradient_clip=5.0,
        ),
        stages=(
            _winners_stage("cool-down"),
            _winners_stage("all-chips", everything=True),
            _winners_stage("all-chips-again", everything=True),
        ),
    ),
}

# A network for few labels: that of "quick" without the levels that a crop of 32 is too
# small for. docs/benchmarks.md has what was tried and what it gained.
RECIPES["sparse"] = RECIPES["quick"].with_changes(
    name="sparse", levels="crop", crop=32, epochs=70
)


def find_recipe(recipe: str | Recipe, **changes: Any) -> Recipe:
    """Return a recipe, given by name or as it is, with changes.

    Raises
    ------
    ValueError
        If the name is unknown or a change is not a setting.
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            near = difflib.get_close_matches(recipe, RECIPES, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"recipe must be one of {sorted(RECIPES)} or a Recipe, got {recipe!r}."
                f"{hint}"
            )
        recipe = RECIPES[recipe]
    check_kind(recipe, changes)
    return recipe.with_changes(**changes)
