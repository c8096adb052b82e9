"""The record of a training: data, scaling, errors on held-out data, environment.

``model.provenance`` holds it, ``config.json`` keeps it, the card shows it.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from geobiomass.cube import DamagedError
from geobiomass.cube.grid import Grid, transform_of
from geobiomass.cube.quantity import AGB, Quantity
from geobiomass.data.label_places import LabelPlaces
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.learnt_pixels import PlaceCollector
from geobiomass.data.loader import ChipLoader, decode_batch
from geobiomass.data.reader import Reader, Sample
from geobiomass.evaluation.label_errors import MEASURED, tally_for
from geobiomass.evaluation.metrics import Bins
from geobiomass.network import AttentionUNet
from geobiomass.network.encoder_input import UNKNOWN
from geobiomass.recipes.label_weights import LabelWeights
from geobiomass.recipes.recipe import Recipe
from geobiomass.training.files import sha256_of
from geobiomass.training.model_folder import package_versions

EQUAL = "equal; their standard errors are known, and label_errors=True weighs them"
"""In the record of a model whose labels have errors that did not weigh."""
NOT_TAKEN = "equal; the learner takes no sample_weight, so that errors do not weigh"
"""In the record of a model whose own estimator cannot weigh labels."""


def describe_training(
    data: LabelledCube,
    network: AttentionUNet,
    training: ChipLoader,
    validation: ChipLoader | None = None,
    device: str = "cpu",
    places: TrainedPlaces | None = None,
    weigh: bool = False,
) -> dict[str, Any]:
    """Return the record of a training, for ``model.provenance``.

    Parameters
    ----------
    data : LabelledCube
        The training data before the split, with the bands of the network.
    network : AttentionUNet
        Trained, with its scaling.
    training : ChipLoader
        The training samples.
    validation : ChipLoader, optional
        The samples that were held out. The network runs over them once.
    device : str
        The device for that run.
    places : TrainedPlaces, optional
        Collects the places of the labels, which are read here.
    weigh : bool
        Whether held-out labels weigh by their standard errors, if they have any.

    Returns
    -------
    dict
        Plain values, ready for JSON. "data": a fingerprint of pixels and labels, size,
        months, samples, CRS and bounds. "bands". "normalisation": shift and scale by
        band and output. "validation": metrics by bin of observed biomass, as
        :meth:`geobiomass.BiomassRegressor.evaluate` defines them but over the
        crops that were held out; None without any. "environment": versions of
        packages, machine. "pretrained": what was loaded into the encoder before, where
        the recipe named a file of weights.

    Raises
    ------
    CubeError
        If held-out data cannot be read and the data loader does not skip it.
    """
    table = (
        None
        if validation is None
        else validation_by_bin(network, validation, device, data.target, weigh)
    )
    places = places or TrainedPlaces(data)
    return {
        "data": _describe_data(data, training, validation, places),
        "bands": list(data.bands),
        "normalisation": _normalisation(network, data.bands),
        "validation": None if table is None else metrics_by_bin(table),
        "environment": environment_of(device),
    } | _first_weights(network)


class TrainedPlaces:
    """Collector of the places of all labels that have a part in a training.

    Parameters
    ----------
    data : LabelledCube
        The training data.
    held : LabelledCube, optional
        Another cube that validates.
    """

    def __init__(self, data: LabelledCube, held: LabelledCube | None = None) -> None:
        self.training = PlaceCollector(data.cube)
        self.validation = self.training
        if held is not None:
            self.validation = PlaceCollector(held.cube)

    def places(self) -> LabelPlaces | None:
        """Return the places; None where those of one cube are not known."""
        several = dict.fromkeys([self.training, self.validation])
        return LabelPlaces.joined(one.places() for one in several)


def add_labels(
    collector: PlaceCollector, reader: Reader, samples: Sequence[Sample]
) -> int:
    """Add the labels of samples to those collected; return how many there are."""
    return sum(_labels_in(reader, sample, collector) for sample in samples)


def _first_weights(network: AttentionUNet) -> dict[str, str]:
    """Return what was loaded into the encoder before training, of a file of weights."""
    loaded = getattr(network.encoder, "pretrained_from", None)
    return {} if loaded is None else {"pretrained": str(loaded)}


def validation_by_bin(
    network: AttentionUNet,
    loader: ChipLoader,
    device: str = "cpu",
    target: Quantity = AGB,
    weigh: bool = False,
) -> pd.DataFrame:
    """Compare a network's maps of held-out samples with their labels.

    Parameters
    ----------
    network : AttentionUNet
        Its mode and device are the same afterwards.
    loader : ChipLoader
        The held-out samples; they are read once, batch by batch.
    device : str
        The device of the network for that.
    target : Quantity
        What the network predicts.
    weigh : bool
        Whether labels weigh by their standard errors, if they have any.

    Returns
    -------
    pandas.DataFrame
        As :meth:`geobiomass.BiomassRegressor.evaluate` returns it; a sample of the
        loader counts as a chip.
    """
    known = loader.reader.has_errors
    tally = tally_for(Bins(target=target), known, weigh)
    if known:
        loader = loader.with_errors()
    with evaluating(network, device), torch.inference_mode():
        for codes, arrangement, labels in loader.epoch(0):
            (image,), truth = decode_batch((codes.to(device), arrangement), labels)
            calendar = arrangement.decoder.calendar
            own = network.calendar is not None
            maps = network(image, calendar=calendar if own else None)
            for predicted, observed in zip(maps[:, 0], truth, strict=True):
                layers = observed.double().numpy()
                errors = layers[1] if known else None
                tally.add(predicted.cpu().double().numpy(), layers[0], errors=errors)
    return tally.table()


def note_weights(
    model: Any, weights: LabelWeights | None, known: bool, taken: bool = True
) -> None:
    """Note in a model's record whether the errors of labels, if known, weighed."""
    if known:
        found: Any = EQUAL
        if weights is not None:
            facts = weights.to_dict() | {MEASURED: "weighed"}
            found = facts if taken else NOT_TAKEN
        model.provenance = {**model.provenance, "weights of labels": found}


def note_shift(model: Any, recipe: Recipe, **found: int) -> None:
    """Note in a model's record by how much labels could be off, if they could."""
    if recipe.label_shift:
        facts = {"pixels": recipe.label_shift, **found}
        model.provenance = {**model.provenance, "shift of labels": facts}


@contextmanager
def evaluating(network: AttentionUNet, device: str) -> Iterator[None]:
    """Set evaluation mode and a device within the `with` statement."""
    mode, before = network.training, network.shift.device
    network.eval().to(device)
    try:
        yield
    finally:
        network.to(before).train(mode)


def metrics_by_bin(table: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """Return a table of metrics as JSON has it: by bin, None for NaN.

    Parameters
    ----------
    table : pandas.DataFrame
        As :meth:`geobiomass.BiomassRegressor.evaluate` returns it.
    """
    return {
        str(name): {str(column): _number(value) for column, value in row.items()}
        for name, row in table.to_dict("index").items()
    }


def _number(value: Any) -> float | None:
    if isinstance(value, int | np.integer):
        return int(value)
    return float(value) if math.isfinite(value) else None


def _describe_data(
    data: LabelledCube,
    training: ChipLoader,
    validation: ChipLoader | None,
    places: TrainedPlaces,
) -> dict[str, Any]:
    cube = data.cube
    facts = {
        "fingerprint": data.fingerprint,
        "kind": "chips" if "chip" in cube.dims else "scene",
        "size": {str(dim): int(size) for dim, size in cube.sizes.items()},
        "months": [int(month) for month in cube["month"].values],
        "training": _describe_loader(training, places.training),
        "validation": None
        if validation is None
        else _describe_loader(validation, places.validation),
    }
    for name in ("title", "source", "licence"):
        if name in cube.attrs:
            facts[name] = str(cube.attrs[name])
    return facts | georeference_of(cube)


def _describe_loader(loader: ChipLoader, places: PlaceCollector) -> dict[str, Any]:
    samples = sorted(set(loader.samples), key=repr)
    names = [loader.reader.name_of(sample) for sample in samples]
    return {
        "places": len(samples),
        "pixels": sum(sample.window.height * sample.window.width for sample in samples),
        "labels": add_labels(places, loader.reader, samples),
        "names": sha256_of("\n".join(names)),
    }


def _labels_in(reader: Reader, sample: Sample, places: PlaceCollector) -> int:
    """Count the pixels of a sample with a label; one that cannot be read has none."""
    try:
        labelled = np.isfinite(reader.labels(sample))
    except DamagedError:  # model.damaged names it
        return 0
    places.add(sample, labelled)
    return int(labelled.sum())


def georeference_of(cube: xr.Dataset) -> dict[str, Any]:
    """Return the reference system and the bounds of a scene; of chips nothing."""
    if "chip" in cube.dims or not {"y", "x"} <= set(cube.coords):
        return {}
    import rioxarray  # noqa: F401  (the .rio accessor)

    crs, transform = cube.rio.crs, transform_of(cube)
    facts: dict[str, Any] = {"crs": None if crs is None else crs.to_string()}
    if transform is not None:
        facts["bounds"] = list(Grid.of(cube).bounds)
    return facts


def _normalisation(network: AttentionUNet, bands: tuple[str, ...]) -> dict[str, Any]:
    found = {
        "formula": "(value - shift) / scale",
        "bands": _scaling(bands, network.shift, network.scale),
        "target": {
            "shift": network.target_shift.tolist(),
            "scale": network.target_scale.tolist(),
        },
    }
    fusion = getattr(network, "fusion", None)  # not of networks of all classes
    if fusion is not None:
        layers = _scaling(fusion.names, fusion.shift, fusion.scale)
        found["static layers"] = layers
    return found


def _scaling(
    names: Sequence[str], shift: torch.Tensor, scale: torch.Tensor
) -> dict[str, Any]:
    # A band that the network takes as missing has no scale.
    return {
        name: {"shift": a, "scale": b if b < UNKNOWN else None}
        for name, a, b in zip(names, shift.tolist(), scale.tolist(), strict=True)
    }


def environment_of(device: str) -> dict[str, Any]:
    """Return Python, machine and packages that a training depends on."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "device": f"{device}, {name}",
        "packages": package_versions(),
    }
