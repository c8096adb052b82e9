"""Recording a map's provenance: model, training data, input, settings, software.

The record has no date and no path: the same map has the same record, on any machine at
any time.
"""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from geobiomass.cube.plain_attributes import mapping_in
from geobiomass.cube.quantity import AGB
from geobiomass.cube.static_layers import SOURCES, STATIC, units_of_layers
from geobiomass.data.label_places import LABEL_PLACES
from geobiomass.learner.pixel_network import PixelNetwork
from geobiomass.learner.saved_network import any_network_of_settings
from geobiomass.maps.origin import PROVENANCE
from geobiomass.metadata.text import FIRST_WEIGHTS
from geobiomass.network.weight_packages import find_package
from geobiomass.training.files import sha256_of
from geobiomass.training.json_files import parse_json
from geobiomass.training.model_folder import (
    CONFIG,
    WEIGHTS,
    WRONG_SETTINGS,
    broken,
    member_folders,
    package_versions,
    read_config,
)

FORMAT = 1
MOST_SCENES = 1000
"""Scenes listed by name at most; of more, only their number and a hash."""

_MOST_ITEMS = 256  # of a list: a calibration or a mask may contain long tables
_INPUT_ATTRIBUTES = (
    *("title", "source", "licence", "attribution", "composite", "cloud_mask"),
    *("time_coverage_start", "time_coverage_end", "source_fingerprint"),
)
_NO_SETTINGS = {"model", "bands", "input", "grid", "region"}


def note_provenance(
    target: xr.Dataset,
    model: Any,
    cube: xr.Dataset,
    made_with: Mapping[str, Any],
    region: Any = None,
    notes: Mapping[str, str] | None = None,
    checked: Mapping[str, Any] | None = None,
    held_out: bool = False,
) -> None:
    """Write a map's provenance to its attributes.

    Parameters
    ----------
    target : xarray.Dataset
        The map, lazy or not; gets the attribute ``geobiomass_provenance``.
    model : Predictor
        The model that predicts the map.
    cube : xarray.Dataset
        Its input.
    made_with : mapping
        All that the values depend on, the map's attribute ``made_with``; without
        "input" and "grid" if they were not computed.
    region : Region, optional
        The region that the map is limited to.
    notes : mapping of str to str, optional
        The user's additions: licence, contact.
    checked : mapping, optional
        Whether the input looked like the training data, and what did not.
    held_out : bool
        Whether each pixel is by a model that did not see its label: then the places of
        labels are left out.
    """
    note: dict[str, Any] = {
        "format": FORMAT,
        "model": model_facts(model, made_with.get("model")),
        "input": input_facts(cube, made_with),
        "settings": {k: v for k, v in made_with.items() if k not in _NO_SETTINGS},
        "region": "whole" if region is None else compact(region.shapes),
        "check": dict(checked or {"result": "unknown"}),
        "software": [software()],
        "notes": check_notes(notes),
    }
    if layers := getattr(model, "static_layers", ()):
        note["input"]["static layers"] = _layers(cube, layers)
    # Once, of all members of an ensemble together.
    places = None if held_out else getattr(model, "label_places", None)
    if places is not None:
        ground = str(cube.attrs.get("synthetic", ""))
        note[LABEL_PLACES] = places.on_ground(ground).to_dict()
    target.attrs[PROVENANCE] = json.dumps(note, allow_nan=False)


def check_notes(notes: Mapping[str, str] | None) -> dict[str, str]:
    """Check a user's additions to a map's provenance and return them.

    Raises
    ------
    ValueError
        If they are not texts by name.
    """
    for name, text in (notes or {}).items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise ValueError(
                "notes must be texts by name, such as {'contact': 'maps@example.org'}"
                f", got {name!r}: {text!r}."
            )
    return dict(notes or {})


def weights_fingerprint(network: nn.Module) -> str:
    """Return the hash of a network's weights and their names, 64 hexadecimal digits."""
    return _fingerprint(network.state_dict().items())


def folder_fingerprint(folder: Path) -> str:
    """Return the fingerprint of the weights in a model's folder.

    It equals :func:`weights_fingerprint` of the loaded network: tensors are hashed
    in the order of the network's state, which is built without memory for weights.

    Parameters
    ----------
    folder : Path
        Folder of a saved model or ensemble.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    ModelError
        If the folder or one of its files is missing or damaged.
    """
    return _fingerprint(_stored_weights(folder))


def _fingerprint(weights: Iterable[tuple[str, Tensor]]) -> str:
    return sha256_of(
        part
        for name, tensor in weights
        for part in (name, tensor.detach().cpu().contiguous().numpy().tobytes())
    )


def _stored_weights(folder: Path, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    config = read_config(folder)
    try:
        settings = config["settings"]
        if config["class"] == "Ensemble":
            for number, member in enumerate(member_folders(folder, settings)):
                yield from _stored_weights(member, f"{prefix}members.{number}.")
            return
        with torch.device("meta"):
            names = list(any_network_of_settings(settings["network"]).state_dict())
    except WRONG_SETTINGS as error:
        raise broken(folder / CONFIG, error) from error
    try:
        weights = load_file(folder / WEIGHTS)
        for name in names:
            yield prefix + name, weights[name]
    except (OSError, KeyError, SafetensorError) as error:
        raise broken(folder / WEIGHTS, error) from error


def software() -> dict[str, Any]:
    """Return the versions of packages and the kind of machine of this process."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    # Package metadata lacks the version of a checkout that is not installed.
    ours = {"geobiomass": sys.modules["geobiomass"].__version__}
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": "cpu" if gpu is None else f"cuda, {gpu}",
        "packages": package_versions() | ours,
    }


# --- the model ----------------------------------------------------------------


def model_facts(model: Any, fingerprint: str | None = None) -> dict[str, Any]:
    """Return facts of a model and its training, as JSON values.

    Parameters
    ----------
    model : Predictor
        A regressor or an ensemble.
    fingerprint : str, optional
        Fingerprint of its weights, if already known.
    """
    network = model.network
    facts: dict[str, Any] = {
        "class": type(model).__name__,
        "fingerprint": fingerprint or weights_fingerprint(network),
        "bands": list(model.bands),
        "outputs": list(model.outputs),
        "months": model.months,
        "parameters": _count(network),
        "calibration": _of(model, "calibration"),
        "applicability": _of(model, "domain"),
    }
    target = getattr(model, "target", AGB)
    if target.settings != AGB.settings:
        facts["target"] = dataclasses.asdict(target)
    if hasattr(model, "models"):
        return facts | {"members": [model_facts(member) for member in model.models]}
    made = getattr(model, "provenance", None) or {}
    return (
        facts
        | {
            "network": {"class": type(network).__name__}
            | compact(getattr(network, "settings", {})),
            "recipe": _recipe(getattr(model, "recipe", None)),
            "training": made.get("data"),
            "errors": (made.get("validation") or {}).get("all"),
            "normalisation": (made.get("normalisation") or {}).get("bands"),
            "trained_with": made.get("environment"),
        }
        | {name: made[name] for name in FIRST_WEIGHTS if made.get(name)}
    )


def _count(network: nn.Module) -> int:
    """Return the number of weights; a learner by pixel learnt values of other kinds."""
    return sum(
        module.parameter_count
        if isinstance(module, PixelNetwork)
        else sum(weight.numel() for weight in module.parameters(recurse=False))
        for module in network.modules()
    )


def _of(model: Any, name: str) -> Any:
    """Return an attribute of a model as JSON values, None if it has none."""
    known = getattr(model, name, None)
    return None if known is None else compact(known.to_dict())


def _recipe(recipe: Any) -> dict[str, Any] | None:
    if recipe is None:
        return None
    # A path to a file of weights belongs to the machine that trained the model.
    pretrained = recipe.pretrained
    known = isinstance(pretrained, bool) or find_package(pretrained) is not None
    shift = {"label_shift": recipe.label_shift} if recipe.label_shift else {}
    if recipe.by_pixel:
        own = not isinstance(recipe.learner, str)
        learner = type(recipe.learner).__name__ if own else recipe.learner
        return {
            "name": recipe.name,
            "learner": learner,
            "trees": recipe.trees,  # None: by the number of labels
            "seed": recipe.training.seed,
            **shift,
        }
    return {
        "name": recipe.name,
        "loss": recipe.loss,
        "epochs": recipe.training.epochs,
        "seed": recipe.training.seed,
        "pretrained": pretrained if known else "a file",
        **shift,
    }


def compact(value: Any) -> Any:
    """Return a value as JSON values; a long list as its length and its hash."""
    if isinstance(value, Mapping):
        return {str(name): compact(one) for name, one in value.items()}
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        value = value.tolist()
    if isinstance(value, list | tuple):
        plain = [compact(one) for one in value]
        if _leaves(plain) <= _MOST_ITEMS:
            return plain
        return {"items": len(plain), "sha256": sha256_of(json.dumps(plain))}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def _leaves(value: Any) -> int:
    return sum(map(_leaves, value)) if isinstance(value, list) else 1


# --- the input ----------------------------------------------------------------


def input_facts(cube: xr.Dataset, made_with: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that a cube contains about itself, as JSON values."""
    known = [made_with.get(name) for name in ("input", "grid")]
    text = None if None in known else " ".join(map(str, known))
    facts: dict[str, Any] = {
        "fingerprint": text and sha256_of(text),
        "kind": "chips" if "chip" in cube.dims else "scene",
        "size": {str(dim): int(size) for dim, size in cube["image"].sizes.items()},
        "months": [int(month) for month in cube["month"].values],
    }
    facts |= {n: str(cube.attrs[n]) for n in _INPUT_ATTRIBUTES if n in cube.attrs}
    if "scenes" in cube.attrs:
        facts["scenes"] = _scenes(
            parse_json(cube.attrs["scenes"], "The attribute scenes", dict)
        )
    return facts


def _layers(cube: xr.Dataset, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return units and source of the static layers that a model reads."""
    units = units_of_layers(cube[STATIC])
    sources = mapping_in(cube[STATIC].attrs.get(SOURCES)) or {}
    return {
        name: {"units": units[name]}
        | ({"source": str(sources[name])} if name in sources else {})
        for name in names
    }


def _scenes(by_month: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the scenes by month; of very many their number and a hash."""
    groups = [group for month in by_month.values() for group in month]
    if sum(len(group["ids"]) for group in groups) <= MOST_SCENES:
        return by_month
    return {
        month: [_counted(group) for group in found] for month, found in by_month.items()
    }


def _counted(group: Mapping[str, Any]) -> dict[str, Any]:
    ids = group["ids"]
    rest = {name: value for name, value in group.items() if name != "ids"}
    return rest | {"count": len(ids), "sha256": sha256_of("\n".join(ids))}
