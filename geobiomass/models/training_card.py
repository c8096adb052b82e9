"""The section of a model's card on how the model was trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geobiomass.cube.quantity import Quantity
from geobiomass.evaluation.label_errors import MEASURED
from geobiomass.metadata.text import part_in_words, remembered
from geobiomass.outside_text import as_code, as_markdown

Facts = Mapping[str, Any]


def training_section(settings: Facts, provenance: Facts) -> str:
    """Return the section of a card on how the model was trained, as Markdown."""
    recipe, data = settings.get("recipe"), provenance.get("data")
    text = ["## Training", *interrupted_sentence(settings)]
    if recipe is None and not data:
        return "## Training\n\nThe origin of the weights is not recorded."
    if recipe is not None and recipe.get("learner"):
        text += _learnt_by_pixel(recipe, provenance)
    elif recipe is not None:
        training = recipe["training"]
        text.append(
            f"Recipe {as_code(recipe['name'])}: loss {recipe['loss']}, crops of "
            f"{recipe['crop'] or 'whole chips'}, batch {training['batch_size']}, "
            f"{training['epochs']} epochs, learning rate {training['learning_rate']}, "
            f"seed {training['seed']}. All settings are in `config.json`."
        )
    if provenance.get("pretrained"):
        text.append(f"The encoder began with {provenance['pretrained']}.")
    if provenance.get("self-supervised"):
        text.append(f"Self-supervised start: {provenance['self-supervised']}.")
    if provenance.get("weights of labels"):
        text.append(_weights_in_words(provenance["weights of labels"], settings))
    if provenance.get("shift of labels"):
        text.append(_shift_in_words(provenance["shift of labels"]))
    if provenance.get("frozen"):
        text.append(f"Frozen in training: {provenance['frozen']}.")
    text += _tall_forest(recipe or {}, provenance)
    if data:
        text.append(_data_in_words(data))
        for words in remembered(provenance).values():
            text.append(
                f"Labels: {words}, as hashes of their places. "
                "`model.learnt_from(plots)` tells which plots trained the model."
            )
        environment = provenance["environment"]
        versions = ", ".join(f"{k} {v}" for k, v in environment["packages"].items())
        text.append(
            f"Made on {environment['device']} with Python {environment['python']}, "
            f"{versions}."
        )
    return "\n\n".join(text)


def _tall_forest(recipe: Facts, provenance: Facts) -> list[str]:
    """Return sentences on what was done for tall forest, if anything was."""
    text = []
    if recipe.get("crop_sampling", "even") != "even":
        text.append("Chips, or blocks, of tall forest were drawn more often.")
    if provenance.get("balance of labels"):
        text.append(f"Weights of labels: {provenance['balance of labels']}.")
    if provenance.get("tail correction"):
        text.append(
            f"Correction of the tail: {provenance['tail correction']}. Errors below "
            "are of corrected maps of those labels, and so slightly too small."
        )
    return text


def _weights_in_words(found: Facts | str, settings: Facts) -> str:
    if isinstance(found, str):
        return f"Weights of labels: {found}."
    units = as_markdown(Quantity.of_settings(settings).units)
    text = (
        f"Weights of labels: {found['formula']}, where se is a label's standard error "
        f"and tau is {found['tau']:.4g} {units}, the part that is left unexplained; "
        f"from {found['least']:.2g} to {found['most']:.2g}"
    )
    if found["without an error"]:
        text += (
            f". {found['without an error']:,} of {found['labels']:,} labels have no "
            "error and get the median of the others"
        )
    if MEASURED not in found:
        return f"{text}. Errors below, and intervals, weigh all labels equally."
    return (
        f"{text}. The errors below, and the interval if there is one, weigh labels in "
        "the same way, each with its own tau; the choice of the epoch weighs all "
        "labels equally."
    )


def _shift_in_words(found: Facts) -> str:
    pixels = found["pixels"]
    text = (
        f"Labels may be off by {pixels} pixel{'s' * (pixels > 1)}, along y and along "
        "x: in training "
    )
    if "moved" in found:
        text += (
            "each is learnt with the pixels around it, by how well they match; "
            f"{found['moved']:,} of {found['labels']:,} match another one better"
        )
    else:
        text += "those of a crop are shifted together, to where they match best"
    return f"{text}. Errors below, and intervals, are of the labels' own pixels."


def _learnt_by_pixel(recipe: Facts, provenance: Facts) -> list[str]:
    """Return what a learner by pixel was fitted on, and its parts."""
    known = provenance.get("learner") or {}
    text = f"Recipe {as_code(recipe['name'])}: learner "
    text += f"{as_code(recipe['learner'])}, seed {recipe['training']['seed']}"
    if known:
        text += f"; learnt from {known['labels']:,} of {known['labels found']:,} labels"
        for what in ("at the ceiling", "without an image"):
            if known[what]:
                text += f", {known[what]:,} left out {what}"
    found = [f"{text}. All settings are in `config.json`."]
    steps = known.get("steps") or []
    if steps:
        rows = [
            f"| {as_markdown(step['stage'])} | "
            f"{'-' if step['rmse'] is None else format(step['rmse'], '.4g')} | "
            f"{step['share']:.2f} |"
            for step in steps
        ]
        found.append(
            "\n".join(["| part | out-of-fold RMSE | share |", "|---|---|---|", *rows])
        )
    return found


def interrupted_sentence(settings: Facts) -> list[str]:
    """Return the sentence on a training that did not end, if it did not."""
    where = settings.get("interrupted")
    return [f"**Not fully trained**: the training was {where}."] if where else []


def _data_in_words(data: Facts) -> str:
    title = f"{as_markdown(data['title'])}: " if "title" in data else ""
    trained, held = data["training"], data["validation"]
    unit = "chips" if data["kind"] == "chips" else "blocks of a scene"
    text = f"{title}{part_in_words(trained, unit)}"
    if held:
        text += f"; {part_in_words(held, 'samples')}, held out"
    if data.get("bounds"):
        bounds = ", ".join(f"{edge:.10g}" for edge in data["bounds"])
        text += f"; {bounds} in {as_markdown(data['crs'] or 'no reference system')}"
    return f"{text}. Fingerprint of the data: `{data['fingerprint'][:16]}`."


__all__ = ["interrupted_sentence", "training_section"]
