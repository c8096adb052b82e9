"""A STAC item of a map: its footprint, its input and its model.

STAC 1.1 with the extensions projection 2.0.0, raster 1.1.0, processing 1.1.0, file
2.1.0 (for a GeoTIFF) and, if the model's path is given, machine learning model 1.4.0:
the versions that pystac reads.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from datetime import UTC
from datetime import datetime as Datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geobiomass.cube.grid import transform_of
from geobiomass.cube.quantity import AGB
from geobiomass.cube.store import is_local
from geobiomass.data.label_places import LABEL_PLACES
from geobiomass.metadata.footprint import MapFacts, facts_of_map
from geobiomass.metadata.provenance import Provenance, provenance
from geobiomass.metadata.record import folder_fingerprint
from geobiomass.metadata.times import parse_times
from geobiomass.training.files import sha256_of_file, write_whole
from geobiomass.training.given_paths import path_text
from geobiomass.training.json_files import read_json
from geobiomass.training.packages import need
from geobiomass.training.setting_names import explain_arguments

if TYPE_CHECKING:
    import pystac
    import xarray as xr

_EXTENSION = "https://stac-extensions.github.io/{}/schema.json"
PROJECTION, RASTER, PROCESSING, FILE, MODEL = (
    _EXTENSION.format(name)
    for name in (
        *("projection/v2.0.0", "raster/v1.1.0", "processing/v1.1.0"),
        *("file/v2.1.0", "mlm/v1.4.0"),
    )
)
_SPDX = re.compile(r"[\w.+-]+")
_RELEASE = re.compile(r"\d+\.\d+\.\d+")


@explain_arguments
def write_stac_item(
    map_path: str | Path,
    path: str | Path | None = None,
    *,
    model: str | Path | None = None,
    href: str | None = None,
    collection: Any = None,
    datetime: Any = None,
    id: str | None = None,
) -> Path:
    """Write a STAC item that describes a map, from the map's own metadata.

    Parameters
    ----------
    map_path : str or Path
        A finished map of a scene on a disk, ``.tif`` or ``.zarr``.
    path : str or Path, optional
        Path of the item; by default next to the map, ``map.json``. An item of the
        same id is replaced.
    model : str or Path, optional
        The folder of the saved model, or its address: the item then describes it by
        the machine learning model extension. A folder on this machine must contain
        the model that made the map.
    href : str, optional
        The address at which the map is published; by default its path relative to
        the item.
    collection : pystac.Collection, optional
        The item's collection; it must have an address.
    datetime : str, date, datetime, datetime64 or Timestamp, or two of them, optional
        Time of the images, or of the first and the last one; by default the period of
        the map's input. Without a time zone: UTC. Text is of ISO 8601,
        ``("2023-07-01", "2023-08-31")``; a day at the end lasts until its last second,
        and a month, ``"2023-07"``, is all of it.
    id : str, optional
        By default the map's name without its ending.

    Returns
    -------
    Path
        The item.

    Raises
    ------
    MissingPackageError
        If pystac is not installed: ``pip install 'geobiomass[stac]'``.
    FileNotFoundError
        If there is no map.
    FileExistsError
        If `path` exists and is not an item of that id.
    DiskError, InUseError
        If the item cannot be written, or another process writes it.
    ValueError
        If the map has no provenance, is not finished, has no georeference or no known
        time, `datetime` is no date, or `model` is not the map's model.

    Notes
    -----
    The geometry is the bounding box of valid pixels in the map's reference system,
    with 20 points per side, in longitude and latitude. The item contains no absolute
    path of this machine; a model's folder is named relative to the item.

    References
    ----------
    .. [1] https://github.com/radiantearth/stac-spec/tree/v1.1.0/item-spec
    .. [2] https://github.com/stac-extensions/mlm/tree/v1.4.0

    Examples
    --------
    >>> import geobiomass as gb
    >>> gb.write_stac_item("map.tif", model="model/")  # doctest: +SKIP
    """
    need("A STAC item", "stac", "pystac")
    import pystac

    map_path = Path(path_text(map_path, "A map"))
    path = map_path.with_suffix(".json") if path is None else Path(path)
    known = provenance(map_path)
    times = _times(known, datetime)
    facts = facts_of_map(map_path)
    name = map_path.stem if id is None else id
    _check_replaceable(path, name)
    item = pystac.Item(
        id=name,
        geometry=facts.geometry,
        bbox=facts.bbox,
        datetime=times[0] if len(times) == 1 else None,
        start_datetime=times[0] if len(times) > 1 else None,
        end_datetime=times[-1] if len(times) > 1 else None,
        properties=_properties(known, facts),
        stac_extensions=[PROJECTION, RASTER, PROCESSING],
    )
    asset = _asset(map_path, facts, href or _relative(map_path, path), _what(known))
    item.add_asset("map", asset)
    if map_path.is_file():
        item.stac_extensions.append(FILE)
    if model is not None:
        _add_model(item, known, model, path)
    if collection is not None:
        item.set_collection(collection)
    for link in _scene_links(known):
        item.add_link(link)
    _write(path, item.to_dict(include_self_link=False, transform_hrefs=False))
    return path


def check_item_can_be_written(template: xr.Dataset, map_path: Any) -> None:
    """Check, before a map is computed, that its item can be written.

    Parameters
    ----------
    template : xarray.Dataset
        The lazy map, with its provenance.
    map_path : str, Path or Store
        Destination of the map.

    Raises
    ------
    MissingPackageError, ValueError
        As :func:`write_stac_item` raises them.
    """
    import rioxarray  # noqa: F401  (the .rio accessor)

    need("A STAC item", "stac", "pystac")
    if not isinstance(map_path, str | Path) or not is_local(map_path):
        raise ValueError(
            "stac_item needs a map on a disk, got "
            f"{map_path!s}; copy the map and use gb.write_stac_item(..., href=)."
        )
    if transform_of(template) is None or template.rio.crs is None:
        raise ValueError(
            "stac_item needs a scene with a reference system and a regular grid; set "
            "it with cube.rio.write_crs('EPSG:...'). Chips have no georeference."
        )
    _times(provenance(template), None)


def _times(known: Provenance, given: Any) -> list[Datetime]:
    """Return the time of the images, or of the first and the last one."""
    if given is None:
        source = known["input"]
        if "time_coverage_start" not in source or "time_coverage_end" not in source:
            raise ValueError(
                "The years of the map's input are not known; pass them, "
                "gb.write_stac_item(map, datetime=(first, last))."
            )
        first = Datetime.fromisoformat(source["time_coverage_start"])
        last = Datetime.fromisoformat(source["time_coverage_end"])
        given = (first, last.replace(hour=23, minute=59, second=59))
    return parse_times(given)


def _check_replaceable(path: Path, name: str) -> None:
    """Check that a path is free, or has an earlier item of the same map."""
    if not path.exists():
        return
    try:
        there = read_json(path)
        ours = there["type"] == "Feature" and there["id"] == name
    except (ValueError, KeyError, TypeError, OSError):
        ours = False
    if not ours:
        raise FileExistsError(
            f"{path} exists and is not the STAC item {name!r}; choose another path."
        )


# --- the map ------------------------------------------------------------------


def _properties(known: Provenance, facts: MapFacts) -> dict[str, Any]:
    used, notes = known["software"], known.get("notes") or {}
    properties: dict[str, Any] = {
        "title": f"{_what(known)}, {known['input'].get('title', 'map')}",
        "created": Datetime.now(UTC).isoformat(timespec="seconds"),
        "proj:code": facts.code,
        "proj:shape": list(facts.shape),
        "proj:transform": list(facts.transform),
        "proj:bbox": list(facts.bounds),
        "processing:level": "L4",
        "processing:lineage": _lineage(known),
        # A catalogue has many items; the places of labels are in the map alone.
        "geobiomass:provenance": known.to_dict(but=LABEL_PLACES),
    }
    if facts.code is None:
        properties["proj:wkt2"] = facts.wkt
    if used:
        last = used[-1]
        properties["processing:software"] = last["packages"] | {
            "python": last["python"]
        }
    if "licence" in notes:
        plain = _SPDX.fullmatch(notes["licence"])
        properties["license"] = notes["licence"] if plain else "other"
    if "contact" in notes:
        properties["providers"] = [{"name": notes["contact"], "roles": ["producer"]}]
    return properties


def _what(known: Provenance) -> str:
    """Return what the map shows, as the first words of a title."""
    what = str((known["model"].get("target") or vars(AGB))["long_name"])
    return what[:1].upper() + what[1:]


def _lineage(known: Provenance) -> str:
    """Describe the map's origin in a sentence."""
    model, source = known["model"], known["input"]
    # Texts in files on disk, which stay as they are: "nobody noted", "not noted".
    trained = (model.get("training") or {}).get("title", "data that nobody noted")
    return (
        f"Predicted by {model.get('class', 'a model')} {model['fingerprint'][:12]}, "
        f"trained on {trained}, from {source.get('title', 'a cube without a title')}"
        f" ({source.get('source', 'source not noted')})."
    )


def _asset(map_path: Path, facts: MapFacts, href: str, title: str) -> pystac.Asset:
    import pystac

    extra: dict[str, Any] = {
        "bands": [
            {
                name: value
                for name, value in layer.items()
                if name != "spatial_resolution"
            }
            for layer in facts.layers
        ],
        "raster:bands": [
            {name: value for name, value in layer.items() if name != "description"}
            for layer in facts.layers
        ],
    }
    if map_path.is_file():
        extra |= {
            "file:size": map_path.stat().st_size,
            "file:checksum": _multihash(map_path),
        }
    return pystac.Asset(
        href,
        title=title,
        media_type=pystac.MediaType.COG if map_path.is_file() else _ZARR,
        roles=["data"],
        extra_fields=extra,
    )


_ZARR = "application/vnd.zarr; version=3"


def _multihash(path: Path) -> str:
    """Return a file's SHA-256 as a multihash: 0x12 is SHA-256, 0x20 its bytes."""
    return "1220" + sha256_of_file(path)


def _relative(target: Path, item: Path) -> str:
    found = Path(os.path.relpath(target.resolve(), item.resolve().parent)).as_posix()
    return found if found.startswith("../") else f"./{found}"


# What a map's provenance says may come from anywhere, and browsers follow links.
_ADDRESS = re.compile(r"(?:https?|s3|gs)://[^\s<>\"'`\x00-\x1f\\]+")


def _scene_links(known: Provenance) -> list[pystac.Link]:
    """Return links to the items of the scenes whose addresses are known."""
    import pystac

    groups = [
        group
        for month in (known["input"].get("scenes") or {}).values()
        for group in month
        if _ADDRESS.fullmatch(str(group.get("at", "")))
    ]
    return [
        pystac.Link(
            pystac.RelType.DERIVED_FROM,
            f"{group['at']}/{name}",
            media_type=pystac.MediaType.GEOJSON,
            title=name,
        )
        for group in groups
        for name in group.get("ids", ())
    ]


# --- the model ----------------------------------------------------------------


def _add_model(
    item: pystac.Item, known: Provenance, model: str | Path, path: Path
) -> None:
    """Add the model that made the map, by the machine learning model extension."""
    import pystac

    facts, tile = known["model"], known["settings"].get("tile", -1)
    href = str(model)
    if is_local(model):
        _check_model(Path(model), facts["fingerprint"])
        href = _relative(Path(model), path)
    asset = pystac.Asset(
        href,
        title="The model's folder: weights, settings, card",
        roles=["mlm:model"],
        extra_fields={
            "mlm:artifact_type": "safetensors.torch.save_file",
            # The model's input refers to these bands by name.
            "raster:bands": [{"name": band} for band in facts["bands"]],
        },
    )
    item.add_asset("model", asset)
    item.stac_extensions.append(MODEL)
    item.properties |= _model_properties(known, facts, tile)


def _check_model(folder: Path, fingerprint: str) -> None:
    found = folder_fingerprint(folder)
    if found != fingerprint:
        raise ValueError(
            f"model must be the one that made the map, {fingerprint[:12]}..., got "
            f"{found[:12]}... in {folder}."
        )


def _model_properties(
    known: Provenance, facts: Mapping[str, Any], tile: int
) -> dict[str, Any]:
    recipe = facts.get("recipe") or {}
    units = (facts.get("target") or vars(AGB))["units"]
    properties: dict[str, Any] = {
        "mlm:name": f"geobiomass-{facts['fingerprint'][:12]}",
        "mlm:architecture": _architecture(facts),
        "mlm:tasks": ["regression"],
        "mlm:framework": "PyTorch",
        "mlm:total_parameters": facts["parameters"],
        "mlm:input": [_input_of(facts, tile)],
        "mlm:output": [_output_of(name, tile, units) for name in facts["outputs"]],
        "mlm:hyperparameters": {
            f"map.{name}": value for name, value in known["settings"].items()
        }
        | {f"training.{name}": value for name, value in recipe.items()},
    }
    for used in known["software"][:1]:
        if release := _RELEASE.match(used["packages"]["torch"]):
            properties["mlm:framework_version"] = release[0]
    if "pretrained" in recipe:
        encoder = (facts.get("network") or {}).get("encoder", "the encoder")
        pretrained = recipe["pretrained"] is not False
        properties["mlm:pretrained"] = pretrained
        source = f"weights of {encoder}" if pretrained else None
        properties["mlm:pretrained_source"] = source
    return properties


def _architecture(facts: Mapping[str, Any]) -> str:
    members = facts.get("members")
    if members is not None:
        return f"mean of {len(members)}: {'; '.join(map(_architecture, members))}"
    network = facts["network"]
    return " ".join(network[n] for n in ("class", "encoder") if n in network)


def _input_of(facts: Mapping[str, Any], tile: int) -> dict[str, Any]:
    bands, scaling = facts["bands"], facts.get("normalisation") or {}
    described: dict[str, Any] = {
        "name": "monthly images",
        "description": "Physical values: dB of radar, reflectance x 10^4; NaN where "
        "missing. The network scales them itself.",
        "bands": bands,
        "input": {
            "shape": [-1, -1, len(bands), tile, tile],
            "dim_order": ["batch", "time", "bands", "height", "width"],
            "data_type": "float32",
        },
        "resize_type": None,
    }
    if set(bands) <= set(scaling):
        described["value_scaling"] = [
            {"type": "z-score", "mean": one["shift"], "stddev": one["scale"]}
            for one in map(scaling.__getitem__, bands)
        ]
    return described


def _output_of(name: str, tile: int, units: str) -> dict[str, Any]:
    return {
        "name": name,
        "description": units,
        "tasks": ["regression"],
        "result": {
            "shape": [-1, tile, tile],
            "dim_order": ["batch", "height", "width"],
            "data_type": "float32",
        },
    }


# --- writing ------------------------------------------------------------------


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Write the item, whole or not at all."""
    write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
