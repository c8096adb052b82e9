"""Names of settings and arguments that users type: near names, and other names."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import ParamSpec, TypeVar, cast

__all__ = ["explain_arguments", "other_name", "unknown_name"]

Params = ParamSpec("Params")
Result = TypeVar("Result")

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
    "out_dir run_dir logdir directory out output path",
    "resume restart continue_training",
    "keep_best save_top_k top_k",
    "progress verbose show_progress progress_bar bar quiet",
    "encoder backbone model_name architecture arch",
    "pretrained weights pretrained_weights init_weights",
    "crop crop_size patch_size image_size img_size input_size chip_size window tile "
    "tile_size",
    "block block_size blocksize",
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
    "root data_dir image_dir base folder dir",
    "table csv path file photos",
    "flips tta augment hflip",
    "jitter color_jitter colour_jitter",
    "overwrite force replace",
    "jobs n_jobs num_workers workers threads",
    "client cluster scheduler",
    "blend alpha weight share",
    "interval confidence level alpha",
    "strata stratum stratification",
    "stratum strata",
    "freeze frozen freeze_backbone",
)
_GROUPS = tuple(tuple(line.split()) for line in _SAME)


def other_name(name: str, known: Iterable[str]) -> str | None:
    """Return the name in `known` that means what `name` means elsewhere, if any."""
    names = set(known)
    for group in _GROUPS:
        if name in group:
            for other in group:
                if other in names and other != name:
                    return other
    return None


def unknown_name(name: str, known: Iterable[str], what: str, listed: str) -> str:
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
    """
    names = sorted(known)
    meant = other_name(name.lower().replace("-", "_"), names)
    near = difflib.get_close_matches(name.lower(), names, n=3)
    hints = [meant] if meant else []
    hints += [one for one in near if one != meant]
    if hints:
        return f"{name!r} is not {what}; did you mean {' or '.join(hints)}? {listed}"
    return f"{name!r} is not {what}, which are {', '.join(names)}. {listed}"


def explain_arguments(function: Callable[Params, Result]) -> Callable[Params, Result]:
    """Let a function name the argument that a wrong one is called here.

    Sister functions, or other libraries, call an argument by another name. Python says
    only that it is unexpected.
    """
    parameters = inspect.signature(function).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return function  # it has its own answer
    names = [
        one.name
        for one in parameters
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        and one.name != "self"
    ]

    @functools.wraps(function)
    def explained(*args: Params.args, **kwargs: Params.kwargs) -> Result:
        for name in kwargs:
            if name not in names:
                arguments = f"Its arguments are {', '.join(names)}."
                what = f"an argument of {function.__name__}"
                raise TypeError(unknown_name(name, names, what, arguments))
        return function(*args, **kwargs)

    # Warnings count the frames to the caller's line (stacklevel), and leave out those
    # of importlib's bootstrap, by the name of their file. This frame is left out in the
    # same way. Python 3.12 has skip_file_prefixes for it, which 3.11 lacks.
    plain = cast(FunctionType, explained)
    plain.__code__ = plain.__code__.replace(
        co_filename="<importlib _bootstrap: arguments>"
    )
    return explained
