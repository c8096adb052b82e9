"""The end of writing a cube: counts and statistics, then one write that shows it.

Each step may be repeated. What must not happen twice, adding the counts of new chips to
those of the old ones, is one write: the name of the new histogram and the state that
belongs to it are one set of attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.codecs import whole_files
from geobiomass.cube.encoding import Encoding
from geobiomass.cube.losses import CLIPPED, Losses
from geobiomass.cube.missing_values import TAKEN
from geobiomass.cube.plain_attributes import as_json, mapping_in
from geobiomass.cube.publishing import mark_finished, publish
from geobiomass.cube.same_call import written_from
from geobiomass.cube.schema import is_chips
from geobiomass.cube.sealing import publish_sealed, seal_part, write_seal
from geobiomass.cube.static_layers import PIXELS
from geobiomass.cube.statistics import BandTally
from geobiomass.cube.store import LAYER_STATISTICS, STATISTICS, WRITTEN_FROM
from geobiomass.cube.store_objects import ROOT, list_names
from geobiomass.cube.store_seal import FINISHING, UNFINISHED
from geobiomass.cube.write_record import Record, forget_array, forget_record, put
from geobiomass.cube.write_target import Target, along_chips

if TYPE_CHECKING:
    import zarr

_TALLY, _LAYER_TALLY = "tally", "layer_tally"
_HISTOGRAM = "histogram"
"""Name of the histograms in ``statistics`` of a cube that nothing was appended to."""


def finish(cube: xr.Dataset, target: Target) -> None:
    """Write counts and statistics; the group's own metadata last, in one write."""
    group, record = target.group, target.record
    if target.first:
        finish_append(cube, target)
        return
    if record is not None:
        _put_histogram(group, _HISTOGRAM, target)
        statistics: Any = group["statistics"]
        statistics.attrs.put(_states(target))
        _put_counts(cube, target, record)
        attrs = dict(group.attrs)
        attrs |= _tables(target)
        attrs[WRITTEN_FROM] = written_from(target.encoding, False)
        # From here on the record is not needed.
        group.attrs.put(attrs | {FINISHING: True})
    forget_record(group)
    publish(group, dict(group.attrs))
    write_seal(group)
    mark_finished(group, (UNFINISHED, FINISHING))


def finish_append(cube: xr.Dataset, target: Target) -> None:
    """Add the counts of new chips, once, and show them to readers in one write."""
    group, record = target.group, target.record
    # The checksums of old chips stay: what is damaged of them is not sealed again.
    stays = seal_part(group, partial(_changes, target, set(along_chips(cube))))
    statistics: Any = group["statistics"]
    before = str(statistics.attrs.get(_HISTOGRAM, _HISTOGRAM))
    if not target.counted:
        name = f"{_HISTOGRAM}_{target.first + cube.sizes['chip']}"
        _put_histogram(group, name, target)
        old = {
            k: statistics.attrs[k]
            for k in (_HISTOGRAM, _TALLY, _LAYER_TALLY)
            if k in statistics.attrs
        }
        statistics.attrs.put(
            {
                **_states(target),
                _HISTOGRAM: name,
                "append": {"fingerprint": target.encoding.fingerprint, "before": old},
            }
        )
    else:
        known = statistics.attrs["append"]["before"]
        before = str(known.get(_HISTOGRAM, _HISTOGRAM))
    if record is not None:
        _put_counts(cube, target, record)
        forget_record(group)
    kept = dict(group.attrs)
    kept |= _tables(target)
    kept[WRITTEN_FROM] = written_from(target.encoding, True)
    publish_sealed(
        group,
        kept,
        without=f"statistics/{before}",
        kept=stays,
        tidy=partial(tidy_append, group),
    )


def _changes(target: Target, along: set[str], file: str) -> bool:
    """Return whether an append changes a file of the cube, or adds it."""
    name, _, key = file.partition("/")
    if file == ROOT or (name != "statistics" and name not in along):
        return False
    array = target.arrays.get(name)
    if array is None or not key.startswith("c/"):
        return True
    chips = (array.shards or array.chunks)[0]
    return (int(key.split("/")[1]) + 1) * chips > target.first


def tidy_append(group: zarr.Group) -> None:
    """Delete what an append that is shown to readers does not need any more."""
    statistics: Any = group["statistics"]
    append = statistics.attrs.get("append")
    forget_record(group)
    if append is None:
        return
    current = str(statistics.attrs.get(_HISTOGRAM, _HISTOGRAM))
    folder = str((group.store_path / "statistics").path)
    for name in list_names(group.store, folder):
        if name.startswith(_HISTOGRAM) and name != current:
            forget_array(group, f"statistics/{name}")
    statistics.attrs.put({k: v for k, v in statistics.attrs.items() if k != "append"})


def tally_there(
    group: zarr.Group, bands: list[str], layers: Sequence[str], encoding: Encoding
) -> tuple[BandTally, BandTally]:
    """Return the counts of the chips that a cube has, of bands and of static layers.

    Where this append has added its own already, they are in it; those of another one,
    which was not shown to readers, are left out.
    """
    attrs = dict(cast(Any, group["statistics"]).attrs)
    append = attrs.get("append")
    if append is not None and not is_counted(group, encoding):
        shown = mapping_in(group.attrs.get(WRITTEN_FROM)) or {}
        if shown.get("fingerprint") != append["fingerprint"]:
            attrs = dict(append["before"])
            cast(Any, group["statistics"]).attrs.put(attrs)
    tally = encoding.tally(bands)
    name = str(attrs.get(_HISTOGRAM, _HISTOGRAM))
    histogram = np.asarray(cast(Any, group[f"statistics/{name}"]))
    tally.restore(histogram[: len(bands)], cast(Any, attrs[_TALLY]))
    of_layers = BandTally(layers)
    if layers:
        of_layers.restore(histogram[len(bands) :], cast(Any, attrs[_LAYER_TALLY]))
    return tally, of_layers


def is_counted(group: zarr.Group, encoding: Encoding) -> bool:
    """Return whether the statistics have the counts of this append already."""
    append: Any = cast(Any, group["statistics"]).attrs.get("append")
    return append is not None and append["fingerprint"] == encoding.fingerprint


def _states(target: Target) -> dict[str, Any]:
    """Return what restores the counts beside the histogram, JSON values."""
    states = {_TALLY: target.tally.state()}
    return states | ({_LAYER_TALLY: target.layers.state()} if target.layers else {})


def _tables(target: Target) -> dict[str, str]:
    """Return the tables of statistics as attributes of the cube."""
    tables = {STATISTICS: _as_text(target.tally)}
    return tables | (
        {LAYER_STATISTICS: _as_text(target.layers)} if target.layers else {}
    )


def _put_histogram(group: zarr.Group, name: str, target: Target) -> None:
    """Write the counts of bands and, in the rows below, of static layers."""
    values = np.concatenate([target.tally.histogram, target.layers.histogram])
    with whole_files():
        cast(Any, group["statistics"]).create_array(
            name, data=values, chunks=(1, values.shape[1]), overwrite=True
        )


def _put_counts(cube: xr.Dataset, target: Target, record: Record) -> None:
    """Write what the record holds, and what the new chips add along their dimension."""
    group, first = target.group, target.first
    names = ["chip"] if is_chips(cube) else ["row", "column"]
    counts = np.asarray(record.written)
    put(group, "statistics/present", counts, first, [*names, "month", "band"])
    if "agb" in cube:
        put(group, "statistics/labelled", np.asarray(record.labelled), first, names)
    if first:
        for name, array in target.arrays.items():
            cast(Any, group[name]).resize(array.shape)
        for name, values in _values_along_chips(cube).items():
            put(group, name, values, first, [])
    _put_losses(group, target.losses, target.shown_losses)


def _put_losses(group: zarr.Group, losses: Losses, shown: dict[str, str]) -> None:
    """Write the numbers of values that were changed as attributes of the image."""
    image = cast(Any, group["image"])
    for which, name in ((0, TAKEN), (1, CLIPPED)):
        words, known = losses.in_words(which), shown.get(name, "")
        wanted = "; ".join(filter(None, (known, words)))
        if wanted != str(image.attrs.get(name, "")):
            image.attrs[name] = wanted


def _values_along_chips(cube: xr.Dataset) -> dict[str, npt.NDArray[Any]]:
    """Return ids, groups, dates and other values of chips, as they are stored."""
    names = [name for name in along_chips(cube) if name not in PIXELS]
    return {
        n: xr.conventions.encode_cf_variable(cube[n].variable).values for n in names
    }


def _as_text(tally: BandTally) -> str:
    """Return the table of statistics as JSON text; NaN becomes null."""
    table = tally.table()
    values = [[None if v != v else v for v in row] for row in table.to_numpy().tolist()]
    kept = {"bands": [*table.index], "columns": [*table.columns], "values": values}
    return as_json(kept)
