"""The settings of a map: names, types, defaults and documentation, in one place.

``predict``, ``predict_to``, ``predict_chips_to``, ``plan``, ``evaluate`` and the
commands all take the settings of :class:`MapSettings`. Without torch, so that
``geobiomass predict --help`` needs no network.
"""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict, TypeVar, cast, get_type_hints

from geobiomass.tiles import Blend, Lattice
from geobiomass.training.setting_names import check_arguments

Precision = Literal["float32", "bf16", "auto"]
Check = Literal["warn", "raise", "off"]

IN_ORDER = ("tile", "overlap", "block", "batch_size", "flips", "region")
"""Settings that may be given by position, in this order, as in earlier releases."""


class MapOptions(TypedDict, total=False):
    """The settings of a map as keywords, for editors and type checkers.

    Each is documented in :class:`MapSettings`, which has the same names and types.
    """

    tile: int
    overlap: int
    block: int
    batch_size: int | None
    flips: bool
    region: Any
    turns: bool
    blend: Blend
    precision: Precision
    memory: int | None
    check: Check


@dataclass(frozen=True)
class MapSettings:
    """The settings of a map.

    The first sentence of each entry is also the help of the command's option.

    Parameters
    ----------
    tile : int
        Side of a tile, the square that the network sees at once, in pixels.
    overlap : int
        Pixels that neighbouring tiles share.
    block : int
        Side of a block, in pixels. A block is computed, written and resumed as a
        whole. It has no influence on values.
    batch_size : int, optional
        Tiles in a batch. By default 1 on the CPU; on a GPU the largest number that
        its memory holds, up to 16.
    flips : bool
        Average over the image and its flips left-right, up-down and both.
    region : optional
        Map only this region of a scene. Bounds (left, bottom, right, top) in the
        scene's coordinate reference system, GeoJSON, or a geopandas object. Pixels
        outside are NaN and cost nothing.
    turns : bool
        Average over quarter turns. There are four, or with `flips` all eight
        orientations.
    blend : "smooth" or "crop"
        Method for the pixels that tiles share. "smooth": tiles fade into each
        other over the overlap. "crop": each pixel comes from one tile, cut in the
        middle of the overlap.
    precision : "float32", "bf16" or "auto"
        Precision of the network's multiplications. "auto" is bf16 where the CPU or
        GPU has it: faster, with differences of some parts in a thousand. With
        float32 a GPU's map agrees with a CPU's to 1e-5.
    memory : int, optional
        Bytes for parallel passes of the network on the CPU. By default half of
        what the process may use. It has no influence on values.
    check : "warn", "raise" or "off"
        Check of a small sample of the input against the training data. "warn": one
        warning with the bands that do not look like it; bands in another unit, or an
        order of magnitude off, are refused. "raise": refuse all that is not like it,
        and what cannot be checked. "off": do not look, as `plan` never does. It has
        no influence on values.

    Raises
    ------
    ValueError
        If a setting is out of its range.
    """

    tile: int = 256
    overlap: int = 64
    block: int = 1024
    batch_size: int | None = None
    flips: bool = False
    region: Any = None
    turns: bool = False
    blend: Blend = "smooth"
    precision: Precision = "float32"
    memory: int | None = None
    check: Check = "warn"

    def __post_init__(self) -> None:
        for name in ("tile", "block", "batch_size", "memory"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number above 0, got {value}.")
        Lattice(1, 1, self.tile, self.overlap, blend=self.blend)  # checks these three
        if self.precision not in ("float32", "bf16", "auto"):
            raise ValueError(
                f"precision must be 'float32', 'bf16' or 'auto', got "
                f"{self.precision!r}."
            )
        if self.check not in ("warn", "raise", "off"):
            raise ValueError(
                f"check must be 'warn', 'raise' or 'off', got {self.check!r}."
            )


@functools.cache
def setting_docs() -> dict[str, tuple[str, str]]:
    """Return the type and the text of each setting by name, from the docstring."""
    section = inspect.cleandoc(MapSettings.__doc__ or "").split("----------\n")[1]
    section = section.split("\n\n")[0]
    entries = re.findall(r"^(\w+) : (.*)\n((?:^ .*\n?)+)", section, re.MULTILINE)
    return {name: (kind, textwrap.dedent(text).strip()) for name, kind, text in entries}


def setting_parameters(in_order: Sequence[str] = ()) -> list[inspect.Parameter]:
    """Return the settings as parameters of a signature, with types and defaults.

    Parameters
    ----------
    in_order : sequence of str
        Settings that come first and may be given by position; others need a name.
    """
    types = get_type_hints(MapOptions)
    defaults = {field.name: field.default for field in fields(MapSettings)}
    names = [*in_order, *(name for name in defaults if name not in in_order)]
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD
            if name in in_order
            else inspect.Parameter.KEYWORD_ONLY,
            default=defaults[name],
            annotation=types[name],
        )
        for name in names
    ]


Method = TypeVar("Method", bound=Callable[..., Any])


def takes_map_settings(
    in_order: Sequence[str] = IN_ORDER,
) -> Callable[[Method], Method]:
    """Return a decorator for methods that take the settings of a map.

    The method spells ``*in_order: int | None, **settings: Unpack[MapOptions]``, which
    is what editors and type checkers see. The decorator hands over all settings by
    name, refuses unknown ones, and writes names, defaults and documentation of the
    settings into what ``help(method)`` shows.

    Parameters
    ----------
    in_order : sequence of str
        Settings that may be given by position.
    """

    def decorate(method: Method) -> Method:
        signature = _with_settings(inspect.signature(method), in_order)

        @functools.wraps(method)
        def call(*args: Any, **named: Any) -> Any:
            known = [name for name in signature.parameters if name != "self"]
            check_arguments(method.__name__, named, known)
            return method(**signature.bind(*args, **named).arguments)

        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__doc__ = _with_setting_docs(method.__doc__ or "", signature)
        return cast(Method, call)

    return decorate


def _with_settings(
    signature: inspect.Signature, in_order: Sequence[str]
) -> inspect.Signature:
    """Replace ``*in_order`` and ``**settings`` by the settings themselves."""
    own, settings = list(signature.parameters.values()), setting_parameters(in_order)
    by_name, by_position = (
        inspect.Parameter.KEYWORD_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    return signature.replace(
        parameters=[
            *(p for p in [*own, *settings] if p.kind is by_position),
            *(p for p in [*settings, *own] if p.kind is by_name),
        ]
    )


def _with_setting_docs(text: str, signature: inspect.Signature) -> str:
    """Replace the entry ``**settings`` of a docstring by an entry for each setting."""
    text = inspect.cleandoc(text)
    head, found, rest = text.partition("**settings\n")
    if not found:
        return text
    # The entry's own text is for readers of the source, who look up the class.
    rest = re.sub(r"\A(?:    .*\n)+", "", rest)
    docs = setting_docs()
    entries = [
        f"{name} : {docs[name][0]}\n{textwrap.indent(docs[name][1], '    ')}\n"
        for name in signature.parameters
        if name in docs
    ]
    return head + "".join(entries) + rest
