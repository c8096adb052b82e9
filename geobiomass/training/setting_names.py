"""Names of settings and arguments that users type: near names, and other names."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import Any, TypeVar, cast

__all__ = ["check_arguments", "explain_arguments", "other_name", "other_names"]
__all__ += ["unknown_name"]

Explained = TypeVar("Explained", bound=Callable[..., Any])

# Names of one thing, in this package's functions and in other libraries. A name that a
# function does not have is looked up here, and the one that it has is named.
_SAME = (
    "learning_rate lr max_lr base_lr eta",
    "final_learning_rate min_lr lr_min eta_min",
    "weight_decay wd l2 decay",
    "batch_size batch bs train_batch_size per_device_train_batch_size minibatch",
    "epochs epoch n_epochs num_epochs max_epochs nb_epochs iterations",
    "warmup_epochs warmup warmup_steps",
    "schedule lr_scheduler scheduler lr_schedule",
    "gradient_clip grad_clip clip_grad gradient_clip_val max_grad_norm clip",
    "precision dtype amp fp16 bf16 mixed_precision",
    "accelerator device gpu cuda",
    "devices gpus num_gpus n_gpus processes",
    "seed random_state random_seed rng",
    "moving_average ema ema_decay",
    "folder checkpoint checkpoints checkpoint_dir ckpt_path output_dir save_dir "
    "out_dir run_dir logdir directory dir out output path root filename file model_dir",
    "path filename file_name file filepath folder out output output_path destination "
    "dst store url uri",
    "save_directory folder path output_dir",
    "resume restart continue_training",
    "keep_best save_top_k top_k",
    "progress verbose show_progress progress_bar bar quiet",
    "encoder backbone model_name architecture arch",
    "pretrained weights pretrained_weights init_weights",
    "frozen freeze freeze_encoder freeze_backbone frozen_epochs",
    "self_supervised self_supervised_epochs ssl pretrain_epochs pretraining",
    "crops n_crops crops_per_epoch samples_per_epoch",
    "crop crop_size patch_size image_size img_size input_size chip_size window tile "
    "tile_size",
    "block block_size blocksize tile tile_size",
    "tile tile_size window window_size patch_size crop",
    "height img_height image_height",
    "width img_width image_width",
    "stream streams",
    "targets target labels label y",
    "target agb label labels y",
    "column observed field value value_column attribute agb",
    "observed column field value value_column attribute agb",
    "bounds bbox area aoi geometry region extent",
    "region area bounds bbox aoi geometry mask",
    "regions region areas zones polygons",
    "time datetime dates date_range months",
    "resolution res pixel_size spacing gsd",
    "crs epsg srs projection",
    "folds n_splits cv k n_folds kfold",
    "n_splits folds cv k n_folds",
    "validation val validation_split val_split validation_fraction holdout held_out",
    "groups group group_by",
    "photos images data table df",
    "root data_dir image_dir base folder dir path data",
    "files paths path filenames folder rasters images",
    "items search collection features query",
    "cube data dataset ds scene image images chips xarray",
    "map_path map path maps",
    "map agb maps prediction predictions predicted raster biomass path cube",
    "data cube dataset ds array",
    "values map agb prediction predicted data biomass",
    "model regressor ensemble estimator network",
    "models members regressors estimators",
    "members models regressors",
    "first before map1 start_map old a maps map",
    "second after map2 end_map new b",
    "predicted prediction predictions estimated y_pred yhat map values",
    "predictions predicted prediction table",
    "scores table metrics evaluation",
    "table scores metrics calibration",
    "thing path cube model object obj map",
    "labels plots agb label table points footprints shots targets",
    "plots labels points ground_plots field_plots samples table",
    "measured observed truth y_true reference photos labels",
    "observed measured truth y_true reference target labels agb",
    "residuals errors error_model variogram",
    "agb target labels label y biomass",
    "nodata no_data fill_value nan missing na_value _FillValue agb_nodata",
    "agb_nodata nodata label_nodata",
    "month months calendar dates",
    "months month calendar dates time n_months",
    "bands band channels band_names variables",
    "at position location point pixel xy lonlat",
    "chip chips chip_id id index",
    "chips chip ids names",
    "radius buffer distance footprint",
    "buffer radius distance gap",
    "count folds n_splits n_folds cv k kfold number",
    "by on group_by groups method strategy",
    "dtype precision type encoding",
    "quantum scale_factor step",
    "chunks chunk_size chunksize",
    "block chunks chunk chunk_size",
    "storage_options options credentials fsspec fs_kwargs",
    "size shape n pixels width",
    "max_cloud cloud_cover clouds cloud max_clouds",
    "archive catalog catalogue endpoint provider api collection",
    "composite aggregation reducer aggregate median",
    "units unit",
    "unit units per",
    "minimum min_coverage min_pixels coverage",
    "samples n_samples number n count",
    "most n n_samples samples maximum limit",
    "title name label",
    "limits vmin vmax clim range limit",
    "limit limits vmax max",
    "ax axis axes",
    "axes axs ax",
    "columns ncols cols n_columns",
    "layers layer variables bands",
    "opacity alpha",
    "interval coverage confidence level quantiles",
    "confidence interval level alpha significance ci",
    "bootstrap n_boot bootstraps replicates",
    "carbon_fraction carbon cf",
    "threshold minimum cutoff",
    "estimator method",
    "probability prob weights inclusion_probability",
    "name names id label region_name column",
    "variable var band layer",
    "workers n_jobs jobs num_workers threads n_workers",
    "at_once n_jobs jobs workers parallel num_workers",
    "announce callback callbacks on_start",
    "settings config recipe",
    "datetime time date",
    "href url link",
    "photos predictions",
    "test unlabelled target_photos",
    "start initial init checkpoint",
    "last keep_last average",
    "seeds tries n_tries trials iterations",
    "table csv path file photos",
    "flips tta augment hflip",
    "jitter color_jitter colour_jitter",
    "overwrite force replace",
    "jobs n_jobs num_workers workers threads",
    "validation_fraction val_fraction val_split test_size",
    "client cluster scheduler",
    "blend alpha weight share",
    "strata stratum stratification",
    "stratum strata",
    "freeze frozen freeze_backbone",
)
_GROUPS = tuple(tuple(line.split()) for line in _SAME)


def other_name(name: str, known: Iterable[str]) -> str | None:
    """Return the name in `known` that means what `name` means elsewhere, if any."""
    names, name = set(known), name.lower().replace("-", "_")
    for group in _GROUPS:
        if name in group:
            for other in group:
                if other in names and other != name:
                    return other
    return None


def other_names(name: str, known: Iterable[str]) -> list[str]:
    """Return the names in `known` that another name may mean, the likeliest first."""
    names, plain = sorted(known), name.lower().replace("-", "_")
    meant = other_name(plain, names)
    # Where one is known to mean the same, others need to be spelled nearly so.
    near = difflib.get_close_matches(plain, names, n=3, cutoff=0.8 if meant else 0.6)
    return ([meant] if meant else []) + [one for one in near if one != meant]


def unknown_name(
    name: str, known: Iterable[str], what: str, listed: str, also: Iterable[str] = ()
) -> str:
    """Return a sentence on a name that is unknown: near ones, and where all are.

    Parameters
    ----------
    name
        What the user typed.
    known
        All names.
    what
        What it should be: "a setting of a recipe".
    listed
        A sentence on where all names are listed.
    also
        Names that are taken beside them, by the function that has these settings.
    """
    names = sorted(known)
    # A name of the same thing counts more than one with similar letters.
    meant = [one for one in (other_name(name, names), other_name(name, also)) if one]
    near = other_names(name, [*names, *also])
    hints = [*dict.fromkeys([*meant, *near])]
    if hints:
        return f"{name!r} is not {what}; did you mean {' or '.join(hints)}? {listed}"
    return f"{name!r} is not {what}, which are {', '.join(names)}. {listed}"


def check_arguments(function: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Check the names of arguments.

    Parameters
    ----------
    function
        The function's name.
    given, known
        Names of the arguments that it gets, and of those that it has.

    Raises
    ------
    TypeError
        If it has no argument of a name; it says which one may be meant, and lists all.
    """
    for name in given:
        if name not in known:
            listed = f"Its arguments are {', '.join(known)}."
            if not known:
                listed = "It has no arguments."
            raise TypeError(
                unknown_name(name, known, f"an argument of {function}", listed)
            )


def explain_arguments(thing: Explained) -> Explained:
    """Let a function name the argument that a wrong one is called here.

    Sister functions, or other libraries, call an argument by another name. Python says
    only that it is unexpected. Of a class, all its own methods are explained.
    """
    if isinstance(thing, type):
        for name, value in list(vars(thing).items()):
            method = getattr(value, "__func__", value)
            if isinstance(method, FunctionType) and _is_public(name, method):
                label = thing.__name__ if name == "__init__" else name
                explained: Any = _explained(method, label)
                if isinstance(value, classmethod | staticmethod):
                    explained = type(value)(explained)
                setattr(thing, name, explained)
        return cast(Explained, thing)
    return cast(Explained, _explained(cast(FunctionType, thing), thing.__name__))


def _is_public(name: str, method: FunctionType) -> bool:
    return (name == "__init__" or not name.startswith("_")) and not hasattr(
        method, "__wrapped__"
    )


def _explained(function: FunctionType, label: str) -> FunctionType:
    parameters = list(inspect.signature(function).parameters.values())
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return function  # it has its own answer
    names = [
        one.name
        for one in parameters
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        and one.name not in ("self", "cls")
    ]

    @functools.wraps(function)
    def explained(*args: Any, **kwargs: Any) -> Any:
        check_arguments(label, kwargs, names)
        return function(*args, **kwargs)

    # Warnings count the frames to the caller's line (stacklevel), and leave out those
    # of importlib's bootstrap, by the name of their file. This frame is left out in the
    # same way. Python 3.12 has skip_file_prefixes for it, which 3.11 lacks.
    plain = cast(FunctionType, explained)
    plain.__code__ = plain.__code__.replace(
        co_filename="<importlib _bootstrap: arguments>"
    )
    return plain
