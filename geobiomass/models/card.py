"""The card of a model: Markdown for reviewers, with data for the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from geobiomass.cube.quantity import AGB, Quantity
from geobiomass.evaluation.metrics import LABEL_ERROR, WITHOUT_LABEL_ERROR
from geobiomass.models.choice_record import choice_section
from geobiomass.models.map_error import MapError
from geobiomass.models.summary import map_names
from geobiomass.models.training_card import interrupted_sentence, training_section
from geobiomass.outside_text import as_code, as_markdown
from geobiomass.statistics.conformal import Calibration

_MONTHS = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)

# A bin with fewer pixels than one chip of BioMassters is too small to judge.
_FEW_PIXELS = 256 * 256
Facts = Mapping[str, Any]


def model_card(settings: Facts, provenance: Facts, load_call: str) -> str:
    """Return the card of one model: YAML for the Hugging Face Hub, then Markdown.

    Parameters
    ----------
    settings : mapping
        As :attr:`geobiomass.BiomassRegressor.settings` returns them.
    provenance : mapping
        As :func:`.describe_training` returns it; may be empty.
    load_call : str
        The call that loads the model.
    """
    sections = [
        _what(settings),
        _input(settings, provenance),
        training_section(settings, provenance),
        _errors(settings, provenance),
        *choice_section(provenance),
        *_adaptation(settings, provenance),
        *_interval(settings),
        _limits(settings, provenance),
        _loading(load_call),
    ]
    target = Quantity.of_settings(settings)
    return _with_front_matter("\n\n".join(sections) + "\n", provenance, target)


def ensemble_card(
    members: Sequence[tuple[Facts, Facts]],
    outputs: Sequence[str],
    load_call: str,
    settings: Facts = MappingProxyType({}),
) -> str:
    """Return the card of an ensemble.

    Parameters
    ----------
    members : sequence of (mapping, mapping)
        Settings and provenance of each.
    outputs : sequence of str
        Names of the maps.
    load_call : str
        The call that loads the ensemble.
    settings : mapping
        The ensemble's settings: ``calibration``, if there is one.
    """
    target = Quantity.of_settings({"outputs": outputs, **settings})
    units, rows = as_markdown(target.units), []
    for number, (_, provenance) in enumerate(members, 1):
        overall = (provenance.get("validation") or {}).get("all") or {}
        rmse, bias = overall.get("average_rmse"), overall.get("bias")
        rows.append(f"| member-{number} | {_figure(rmse)} | {_figure(bias)} |")
    sections = [
        f"# {_title(target)} from monthly satellite images, {len(members)} models",
        f"The mean of {len(members)} models. Each has its own card in its "
        f"folder. Maps: {_maps(outputs, settings)}, in {units}.",
        f"| model | average RMSE on what it held out, {units} | bias |\n|---|---|---|\n"
        + "\n".join(rows),
        *interrupted_sentence(settings),
        *choice_section(members[0][1] if members else {}),
        "The mean is usually closer to the ground truth than its members. Only data "
        "that none of them was trained on shows by how much.",
        *_interval(settings),
        _loading(load_call),
    ]
    return _with_front_matter("\n\n".join(sections) + "\n", {}, target)


def _title(target: Quantity) -> str:
    if target.is_biomass:
        return "Above-ground biomass"
    words = as_markdown(target.long_name)
    return words[:1].upper() + words[1:]


def _maps(outputs: Sequence[str], settings: Facts) -> str:
    return ", ".join(map(as_markdown, map_names(outputs, settings)))


def _with_front_matter(text: str, provenance: Facts, target: Quantity) -> str:
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    overall = (provenance.get("validation") or {}).get("all") or {}
    units = target.units
    labels = {"average_rmse": f"average RMSE, {units}", "bias": f"bias, {units}"}
    results = [
        EvalResult(
            task_type="image-to-image",
            dataset_type="held-out",
            dataset_name=(provenance.get("data") or {}).get("title", "held-out data"),
            metric_type=metric,
            metric_name=label,
            metric_value=round(overall[metric], 3),
        )
        for metric, label in labels.items()
        if overall.get(metric) is not None
    ]
    data = ModelCardData(
        library_name="geobiomass",
        tags=[
            target.short.replace(" ", "-"),
            *("forest", "remote-sensing", "sentinel-1", "sentinel-2"),
        ],
        model_name="geobiomass" if results else None,
        eval_results=results or None,
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))


def _interval(settings: Facts) -> list[str]:
    """Return the section about the interval, if there is one."""
    if settings.get("calibration") is None:
        return []
    calibration = Calibration.from_dict(settings["calibration"])
    held = f"{100 * calibration.interval:.4g} %"
    new, unit = "chips or blocks", "chips or blocks"
    if calibration.kind == "groups":
        new, unit = f"groups by {as_markdown(repr(calibration.groups))}", "groups"
    promise = (
        f"In new {new} that are exchangeable with those of the calibration (the same "
        f"kind of forest, sensors and years), about {held} of the pixels are within "
        f"the interval, by class of predicted "
        f"{as_markdown(Quantity.of_settings(settings).short)}"
    )
    if calibration.folds:
        promise += (
            "; as each model was calibrated on its own fold and the map is their mean, "
            "this is what is seen, not what is proven"
        )
    units = as_markdown(Quantity.of_settings(settings).units)
    spreads = "spread" in calibration.base and "quantiles" not in calibration.base
    margin = "margin, spreads" if spreads else f"margin, {units}"
    head = f"| predicted, {units} | {unit} | pixels | {margin} |"
    rows = [
        f"| {as_markdown(name)} | {row['units']:.0f} | {row['pixels']:,.0f} | "
        f"{row['margin']:.2f} |"
        for name, row in calibration.table.iterrows()
    ]
    return [
        f"## Interval\n\nA {as_markdown(calibration)}. {promise}. For other data there "
        "is no guarantee.\n\n" + "\n".join([head, "|---" * 4 + "|", *rows])
    ]


def _what(settings: Facts) -> str:
    target = Quantity.of_settings(settings)
    what = (
        "the density of above-ground dry biomass, in Mg/ha (tonnes per hectare)"
        if target.is_biomass
        else as_markdown(f"{target.long_name}, in {target.units}")
    )
    return (
        f"# {_title(target)} from monthly satellite images\n\nMaps {what}, "
        "pixel by pixel, from a year of satellite images. Maps: "
        f"{_maps(settings['outputs'], settings)}. {_how(settings['network'])}"
    )


def _how(network: Facts) -> str:
    """Return how maps are made, in one sentence."""
    if "learner" not in network:
        layers = ", ".join(map(as_code, network.get("static", [])))
        static = f" with the static layers {layers} after it," if layers else ""
        return (
            f"Encoder {as_code(network['encoder'])}, attention over the months,"
            f"{static} U-Net decoder."
        )
    sides = network["features"]["neighbourhoods"]
    around = ""
    if sides:
        around = (
            f", with mean and spread of squares of {', '.join(map(str, sides))} "
            "pixels around it"
        )
    if layers := network["features"].get("layers"):
        around += f", and from the static layers {', '.join(map(as_code, layers))}"
    if network.get("own"):
        missing = ""
        if network["own"]["impute"]:
            missing = " A missing feature counts as the median of training."
        learner = f"by {as_code(network['own']['name'])} of scikit-learn"
        return f"Each pixel {learner}, from its own months{around}.{missing}"
    if network.get("inner"):
        encoder = as_code(network["inner"]["encoder"])
        around += f", and from the map of a network (encoder {encoder})"
    kinds = ", ".join(f"{n} trees of {kind}" for kind, n in network["kinds"].items())
    if rows := network.get("rows"):
        kinds += f", and a kernel ridge regression on {rows} labels"
    return f"Each pixel by {kinds}, from its own months{around}."


def _input(settings: Facts, provenance: Facts) -> str:
    scaling = (provenance.get("normalisation") or {}).get("bands") or {}
    by_pixel = "learner" in settings["network"]
    lines = [
        "## Input",
        f"{settings['months']} months{_months(provenance)}; months may be missing. "
        "Bands, in this order, matched by name (dB for Sentinel-1, reflectance x "
        "10^4 for Sentinel-2, percent for CLP); missing values are NaN:",
    ]
    if by_pixel:
        names = ", ".join(map(as_markdown, settings["bands"]))
        return "\n\n".join([*lines, names])
    rows = ["| band | shift | scale |", "|---|---|---|"]
    for band in settings["bands"]:
        known = scaling.get(band, {})
        values = f"{_figure(known.get('shift'))} | {_figure(known.get('scale'))}"
        rows.append(f"| {as_markdown(band)} | {values} |")
    return "\n\n".join([*lines, "\n".join(rows)]) + (
        "\n\nThe model scales physical values itself: (value - shift) / scale."
    )


def _months(provenance: Facts) -> str:
    months = (provenance.get("data") or {}).get("months")
    return f" ({' '.join(_MONTHS[m - 1] for m in months)})" if months else ""


def _adaptation(settings: Facts, provenance: Facts) -> list[str]:
    """Return the section about the plots that a model was adapted with, if it was."""
    known = provenance.get("adaptation")
    if not known:
        return []
    units = as_markdown(Quantity.of_settings(settings).units)
    rows = [
        f"| {as_markdown(row['stage'])} | {_figure(row['rmse'])} | "
        f"{_figure(row['standard_error'])} | {_figure(row['bias'])} |"
        for row in known["compared"]
    ]
    first = (known["errors of the first model"] or {}).get("all") or {}
    text = (
        f"The map of the model above is corrected by {known['plots']:,} plots "
        f"({known['labels']:,} labelled pixels) of other ground. Correction: "
        f"{as_markdown(known['correction'])}, the simplest within one standard error "
        "of the best on plots that it was fitted without. The errors above and the "
        "interval are those of the plots"
    )
    if first.get("average_rmse") is not None:
        text += (
            "; on its own ground the first model had an average RMSE of "
            f"{_figure(first['average_rmse'])} {units}"
        )
    head = f"| correction | RMSE, {units} | standard error | bias |"
    return [
        f"## Adaptation\n\n{text}. Fingerprint of the plots' cube: "
        f"`{known['fingerprint'][:16]}`.\n\n"
        + "\n".join([head, "|---" * 4 + "|", *rows])
    ]


def _errors(settings: Facts, provenance: Facts) -> str:
    table = provenance.get("validation")
    stages = (settings.get("recipe") or {}).get("stages") or ()
    if not table and any(stage["everything"] for stage in stages):
        return (
            "## Error\n\nNot measured: the last stages trained on what the first ones "
            "held out. The errors of the first stages are in `history.csv`."
        )
    if not table:
        return "## Error\n\nNot measured: nothing was held out."
    columns = {
        "pixels": "pixels",
        "average_rmse": "average RMSE",
        "pixel_rmse": "pixel RMSE",
        "mae": "MAE",
        "bias": "bias",
    }
    units = as_markdown(Quantity.of_settings(settings).units)
    where = "On data held out of training"
    if (provenance.get("learner") or {}).get("held out") == "out of fold":
        where = (
            "Out of fold: each label is predicted by what was fitted without its chip, "
            "block or group"
        )
    head = f"| observed, {units} | {' | '.join(columns.values())} |"
    rows = [
        f"| {name} | {' | '.join(_figure(row[column]) for column in columns)} |"
        for name, row in table.items()
    ]
    return (
        f"## Error\n\n{where}, {units}. Average RMSE: of each "
        "sample, then averaged. Pixel RMSE: over all pixels together. Bias: predicted "
        "minus observed.\n\n"
        + "\n".join([head, "|---" * (len(columns) + 1) + "|", *rows])
        + _error_without_labels(table.get("all") or {}, units)
        + _error_of_maps(settings)
    )


def _error_without_labels(overall: Facts, units: str) -> str:
    """Return the paragraph about the errors of labels, if they are known."""
    own, rest = overall.get(LABEL_ERROR), overall.get(WITHOUT_LABEL_ERROR)
    if own is None or rest is None:
        return ""
    clipped = ""
    if rest == 0:
        clipped = (
            " **It is 0 because the labels are said to be less exact than they are "
            "seen to be.**"
        )
    return (
        "\n\nThe differences above are those of the map and of the labels, whose "
        f"standard errors are {own:.2f} {units} in the quadratic mean. If the two are "
        f"independent, the pixel RMSE of the map itself is {rest:.2f}.{clipped}"
    )


def _error_of_maps(settings: Facts) -> str:
    """Return the paragraph about maps of held-out places, if they were measured."""
    if settings.get("map_error") is None:
        return ""
    error = MapError.from_dict(settings["map_error"])
    problem = "" if error.problem is None else f" **{error.problem}**"
    return f"\n\nMaps of held-out places: {error}.{problem}"


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def _limits(settings: Facts, provenance: Facts) -> str:
    points = [
        "Outside of the training area, or in another kind of forest, the error is not "
        "known; compare with field plots before use.",
        "With other sensors, processing levels or units than those named above.",
        "A sum over pixels is not an unbiased estimate for an area: combine the map "
        "with a probability sample of plots.",
    ]
    units = as_markdown(Quantity.of_settings(settings).units)
    points += _weak_bins(provenance.get("validation") or {}, units)
    recipe = settings.get("recipe") or {}
    ceiling = recipe.get("ceiling")
    if ceiling is not None and recipe.get("tail") != "clip":
        points.append(
            f"Labels of {ceiling:g} {units} and more were left out of the loss, so the "
            f"map is too low {'in denser forest' if units == AGB.units else 'there'}."
        )
    if (provenance.get("data") or {}).get("kind") == "chips":
        points.append(
            "Chips were held out one by one: if their neighbours were trained on, the "
            "error above is too small."
        )
    return "## Where not to trust it\n\n" + "\n".join(f"- {point}" for point in points)


def _weak_bins(table: Facts, units: str) -> list[str]:
    bins = {name: row for name, row in table.items() if name != "all"}
    few = [name for name, row in bins.items() if row["pixels"] < _FEW_PIXELS]
    points = []
    if few:
        points.append(
            f"At {', '.join(few)} {units}: fewer than {_FEW_PIXELS:,} pixels were held "
            "out, too few to know the error."
        )
    for name, row in bins.items():
        bias, observed = row["bias"], row["observed"]
        if bias is not None and observed and abs(bias) > 0.25 * observed:
            side = "high" if bias > 0 else "low"
            digits = 0 if abs(bias) >= 10 or units == AGB.units else 2
            points.append(
                f"At {name} {units} it is too {side} by {abs(bias):.{digits}f} {units} "
                "on average."
            )
    return points


def _loading(load_call: str) -> str:
    return (
        "## Use\n\n```python\nimport geobiomass as gb\n\n"
        f"model = {load_call}\n"
        'model.predict_to("map.tif", gb.open_cube("scene.zarr"))\n```\n\n'
        "Weights are safetensors, settings JSON: nothing here runs code."
    )
