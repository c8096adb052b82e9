"""Provenance as text: the lines that `geobiomass info` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from geobiomass.data.label_places import LABEL_PLACES
from geobiomass.summary import Table, month_names

Facts = dict[str, str | Table]

NOT_RECORDED = "not recorded"

FIRST_WEIGHTS = (
    *("pretrained", "self-supervised", "frozen", "tail correction", "adapted"),
)
"""Names of what a provenance says of the weights before the labels, and after."""


def facts_of(note: Mapping[str, Any]) -> Facts:
    """Return headings and texts of a map's provenance."""
    settings, region = note.get("settings") or {}, note.get("region")
    facts: Facts = {
        **_model(note["model"]),
        **_input(note.get("input") or {}),
        "settings": ", ".join(
            _setting(k, v) for k, v in settings.items() if not isinstance(v, Mapping)
        ),
        "region": "whole" if region in (None, "whole") else _short(str(region), 80),
        "software": "; then ".join(_software(one) for one in note["software"])
        or NOT_RECORDED,
    }
    facts |= remembered(note)
    checked = (note.get("check") or {}).get("result", "unknown")
    if checked not in ("unknown", "off"):
        facts["input check"] = checked
    notes = "; ".join(f"{k}: {v}" for k, v in (note.get("notes") or {}).items())
    return facts | ({"notes": notes} if notes else {})


def main_facts_of(note: Mapping[str, Any]) -> Facts:
    """Return the most important headings and texts of a map's provenance."""
    return {
        name: text
        for name, text in facts_of(note).items()
        if name not in ("bands", "months", "scenes") and not name.startswith("input,")
    }


def training_in_words(data: Mapping[str, Any]) -> str:
    """Describe a model's training data in one line, with the held-out part."""
    training, held = data["training"], data["validation"]
    title = f"{data['title']}: " if "title" in data else ""
    unit = "chips" if data["kind"] == "chips" else "blocks of a scene"
    text = title + part_in_words(training, unit)
    if data.get("months"):
        text += f", {' '.join(month_names(data['months']))}"
    return text + (f"; {held['places']:,} held out" if held else "; none held out")


def remembered(known: Mapping[str, Any]) -> Facts:
    """Return how many places of labels the provenance of a model or map remembers."""
    parts = (known.get(LABEL_PLACES) or {}).get("parts")
    if not parts:
        return {}
    count, cell = sum(part["count"] for part in parts), max(p["cell"] for p in parts)
    what = "pixels" if cell == 1 else f"cells of up to {cell} x {cell} pixels"
    return {"labels": f"{count:,} {what} remembered"}


def part_in_words(part: Mapping[str, Any], unit: str) -> str:
    """Describe the places, labels and pixels of training or held-out data.

    Parameters
    ----------
    part : mapping
        "places", "pixels" and "labels": the pixels that have a label, which models of
        early versions do not record.
    unit : str
        What the places are.
    """
    text = f"{part['places']:,} {unit}, "
    if part.get("labels") in (None, part["pixels"]):  # each pixel has a label
        return f"{text}{part['pixels']:,} pixels"
    return f"{text}{part['labels']:,} labels in {part['pixels']:,} pixels"


# --- the model ----------------------------------------------------------------


def _model(model: Mapping[str, Any]) -> Facts:
    members = model.get("members")
    facts: Facts = {
        "model": f"{model.get('class', 'model')} {_short(model['fingerprint'])}",
        "bands": " ".join(model["bands"]),
    }
    if members is None:
        facts |= _training(model)
    else:
        facts["model"] = f"{facts['model']}, mean of {len(members)}"
        for number, member in enumerate(members, 1):
            known = _training(member)
            facts[f"member {number}"] = "; ".join(
                [f"{member['class']} {_short(member['fingerprint'])}"]
                + [f"{name}: {text}" for name, text in known.items()]
            )
    if "target" in model:
        target = model["target"]
        facts["target"] = f"{target['name']}, {target['long_name']}, {target['units']}"
    facts["calibration"] = _calibration(model.get("calibration"))
    facts["applicability"] = _applicability(model.get("applicability"))
    return facts


def _calibration(known: Mapping[str, Any] | None) -> str:
    if known is None:
        return "none"
    try:
        # Only now: a map without intervals is described without.
        from geobiomass.statistics.conformal import Calibration

        return str(Calibration.from_dict(known))
    except (TypeError, ValueError):  # another version wrote it in another form
        return ", ".join(map(str, known))


def _applicability(known: Mapping[str, Any] | None) -> str:
    if known is None:
        return "none"
    if "members" in known:
        return "; ".join(map(_applicability, known["members"]))
    if not {"cells", "cell_pixels", "places"} <= set(known):
        return ", ".join(map(str, known))
    return (
        f"compared with {known['cells']:,} cells of {known['cell_pixels']} pixels from "
        f"{known['places']:,} chips or blocks"
    )


def _training(model: Mapping[str, Any]) -> Facts:
    network = model.get("network") or {}
    recipe, data = model.get("recipe"), model.get("training")
    named = [network.get("class"), network.get("encoder")]
    facts: Facts = {}
    if network:
        size = f"{model['parameters']:,} weights"
        facts["network"] = f"{' '.join(str(name) for name in named if name)}, {size}"
    if recipe and "learner" in recipe:
        facts["recipe"] = (
            f"{recipe['name']}, learner {recipe['learner']}, seed {recipe['seed']}"
        )
    elif recipe:
        facts["recipe"] = (
            f"{recipe['name']}, loss {recipe['loss']}, {recipe['epochs']} epochs, "
            f"seed {recipe['seed']}"
        )
    if recipe and "label_shift" in recipe:
        facts["recipe"] = (
            f"{facts['recipe']}, labels off by up to {recipe['label_shift']} pixels"
        )
    facts |= {name: model[name] for name in FIRST_WEIGHTS if name in model}
    facts["trained on"] = NOT_RECORDED
    if data:
        facts["trained on"] = (
            f"{training_in_words(data)}; fingerprint {_short(data['fingerprint'])}"
        )
    units = (model.get("target") or {}).get("units", "Mg/ha")
    facts["held-out error"] = _errors(model.get("errors"), units)
    return facts


def _errors(row: Mapping[str, Any] | None, units: str) -> str:
    if not row:
        return "not measured"
    named = {"average_rmse": "average RMSE", "pixel_rmse": "pixel RMSE"}
    names = named | {"mae": "MAE", "bias": "bias"}
    errors = [
        f"{title} {row[name]:.{1 if units == 'Mg/ha' else 2}f}"
        for name, title in names.items()
        if row.get(name) is not None
    ]
    return f"{', '.join(errors)} {units}"


# --- the input ----------------------------------------------------------------


def _input(source: Mapping[str, Any]) -> Facts:
    if not source:
        return {"input": NOT_RECORDED}
    known = source.get("fingerprint")
    fingerprint = f"fingerprint {_short(known)}" if known else "not fingerprinted"
    facts: Facts = {"input": f"{source.get('title', 'untitled')}; {fingerprint}"}
    if "months" in source:
        facts["months"] = " ".join(month_names(source["months"]))
    if "time_coverage_start" in source:
        start, end = source["time_coverage_start"], source["time_coverage_end"]
        facts["period"] = f"{start} to {end}"
    for name in ("source", "licence", "attribution"):
        if name in source:
            facts[f"input, {name}"] = str(source[name])
    if layers := source.get("static layers"):
        facts["static layers"] = ", ".join(
            f"{name} of {each['source']}" if "source" in each else name
            for name, each in layers.items()
        )
    if source.get("scenes"):
        facts["scenes"] = _scenes(source["scenes"])
    return facts


def _scenes(by_month: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Count the scenes by month and collection."""
    rows = [
        {"month": month, "of": of, "scenes": count}
        for month, groups in by_month.items()
        for of, count in _counts(groups)
    ]
    frame = pd.DataFrame(rows, columns=["month", "of", "scenes"])
    counts = frame.pivot_table(
        index="month", columns="of", values="scenes", aggfunc="sum", fill_value=0
    )
    counts = counts.reindex(list(by_month), fill_value=0).astype(int)
    counts.columns.name = None
    return Table(counts, "counts; to_dict() names them", fold="by month")


def _counts(groups: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    for group in groups:
        names = [group.get("collection", "files")]
        if "baseline" in group:
            names.append(f"baseline {group['baseline']}")
        yield ", ".join(names), len(group.get("ids", ())) or group.get("count", 0)


# --- the rest -----------------------------------------------------------------


def _setting(name: str, value: Any) -> str:
    plain = {True: "yes", False: "no", None: "by default"}
    shown = plain[value] if value is None or isinstance(value, bool) else value
    return f"{name.replace('_', ' ')} {_short(str(shown), 40)}"


def _software(one: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{k} {v}" for k, v in one["packages"].items())
    return f"{packages}, Python {one['python']}, {one['system']}, {one['device']}"


def _short(text: str, length: int = 12) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
