"""Weights of an encoder from a file: all of them, or an error that names what differs.

The file has timm's names, or those of the encoder itself, below any prefixes and inside
any of the dictionaries that trainers write (``state_dict``, ``model.backbone.``, ...).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geobiomass.network.weight_packages import with_names_of_timm

Weights = Mapping[str, Tensor]

_DEPTH = 4  # of dictionaries in a checkpoint
_RGB = 3  # channels of the images that timm's weights were trained on
_NAMED = 5  # names in a message
_DIGITS = 16  # of a checksum
# Places of averaged weights, which are those that trainers evaluate.
_AVERAGED = re.compile(r"ema|averag|teacher|swa", re.IGNORECASE)


@dataclass(frozen=True)
class Loaded:
    """What was read of a file of weights.

    Parameters
    ----------
    file : str
        Its name.
    tensors : int
        Number of tensors that were loaded: all of the encoder.
    place : str
        Dictionaries of the file, and the prefix of names, that they were found below;
        "" at its top.
    left_out : int
        Number of other tensors in the file, such as a classifier.
    channels : tuple of int, optional
        Channels of the first convolution in the file and in the encoder, where they
        differ.
    first : str
        Name of that convolution's weight in the encoder.
    sha256 : str
        Checksum of the file.
    trained_on : str
        The data that the weights were trained on, where that is known.
    """

    file: str
    tensors: int
    place: str
    left_out: int
    channels: tuple[int, int] | None = None
    first: str = ""
    sha256: str = ""
    trained_on: str = ""

    def __str__(self) -> str:
        """Return a sentence."""
        text = f"{self.tensors} tensors of {self.file}"
        if self.trained_on:
            text += f", trained on {self.trained_on}"
        if self.place:
            text += f" below {self.place!r}"
        if self.channels is not None:
            text += (
                f"; the first convolution was repeated from {self.channels[0]} to "
                f"{self.channels[1]} channels"
            )
        if self.left_out:
            text += f"; {self.left_out} others left out"
        return text + (f"; SHA-256 {self.sha256[:_DIGITS]}" if self.sha256 else "")


def load_pretrained(
    module: nn.Module,
    path: Path,
    full: nn.Module,
    what: str = "encoder",
    trained_on: str = "",
) -> Loaded:
    """Load all weights of a timm model from a file, or raise.

    Parameters
    ----------
    module : torch.nn.Module
        The model, which is changed in place.
    path : Path
        A safetensors file, or a checkpoint of tensors and plain values.
    full : torch.nn.Module
        The whole timm model that `module` is a part of, with its classifier; on the
        meta device. The file may have its other weights too.
    what : str
        Name of the module in messages.
    trained_on : str
        The data that the weights were trained on, to tell it.

    Returns
    -------
    Loaded
        What was found. Names below a prefix or in a dictionary, a first convolution of
        another number of channels, and other parts that were left out are told in one
        warning. A classifier is left out without a warning.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, is of another network, has values that are not finite,
        or fits at several places.
    """
    content = read_file(path)
    fits = [_Fit.of(module, full, *found) for found in _candidates(module, content)]
    whole = [fit for fit in fits if not fit.problems]
    if not whole:
        translated = _translated(content, full)
        if translated is not None:
            fit = _Fit.of(module, full, "", "", translated)
            whole = [] if fit.problems else [fit]
            fits = fits or [fit]
    if not whole:
        raise _refusal(path, what, fits, module)
    chosen = _choose(whole, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    about = {"sha256": digest, "trained_on": trained_on}
    return chosen.load(module, path, what, _count(content), about)


def weights_path(given: object) -> Path:
    """Return the path of a file of weights.

    Raises
    ------
    ValueError
        If it is no path.
    """
    if isinstance(given, str | os.PathLike):
        return Path(given)
    raise ValueError(
        "pretrained must be a file of weights, True or False, got a "
        f"{type(given).__name__}."
    )


def read_file(path: Path) -> Any:
    """Read a safetensors file, or a checkpoint of tensors and plain values.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or contains anything else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file with weights at {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                return load_file(path)
            except SafetensorError as error:
                raise ValueError(str(error)) from error
        # Checkpoints of timm contain the arguments of the command.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        KeyError,
        ValueError,
        OSError,
    ) as error:
        raise ValueError(
            f"{path} must be a safetensors file, or a checkpoint of tensors and plain "
            f"values (.pth, .pt, .ckpt), got one that cannot be read "
            f"({_first_line(error)}); copy it again, or write its tensors with "
            "safetensors.torch.save_file"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


# --- where the weights are in the file ---------------------------------------------


def _mappings(content: Any, place: str = "", depth: int = 0) -> Iterator[Any]:
    """Yield each dictionary with tensors, with its place, from the top down."""
    if not isinstance(content, Mapping) or depth > _DEPTH:
        return
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for key, value in named.items():
        yield from _mappings(value, f"{place}{key} > ", depth + 1)


def _count(content: Any) -> int:
    return sum(len(tensors) for _, tensors in _mappings(content))


def _candidates(
    module: nn.Module, content: Any
) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
    """Yield place, prefix and tensors where names of the module are, the best first."""
    own = {_flat(name) for name in module.state_dict()}
    found: list[tuple[int, int, tuple[str, str, dict[str, Tensor]]]] = []
    for place, tensors in _mappings(content):
        counts: Counter[str] = Counter()
        for name in tensors:
            for prefix, rest in _splits(name):
                counts[prefix] += _flat(rest) in own
        for prefix, count in counts.items():
            if count:
                below = {
                    name.removeprefix(prefix): value
                    for name, value in tensors.items()
                    if name.startswith(prefix)
                }
                found.append((-count, len(found), (place, prefix, below)))
    for _, _, each in sorted(found, key=lambda one: one[:2]):
        yield each


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Yield each way to split a name into a prefix that ends with a dot, and a rest."""
    parts = name.split(".")
    for count in range(len(parts)):
        prefix = "".join(f"{part}." for part in parts[:count])
        yield prefix, ".".join(parts[count:])


def _flat(name: str) -> str:
    # timm's pyramids call "stages.0" of the whole model "stages_0".
    return name.replace(".", "_")


def _translated(content: Any, full: nn.Module) -> dict[str, Tensor] | None:
    """Return weights of the authors of an architecture under timm's names, or None.

    timm has a function for that beside most models that need it.
    """
    import sys

    home = sys.modules.get(type(full).__module__)
    rename: Callable[..., Any] | None = getattr(home, "checkpoint_filter_fn", None)
    for _, tensors in _mappings(content):
        try:
            if rename is not None:
                return dict(rename(dict(tensors), full))
            if (found := with_names_of_timm(tensors, full)) is not None:
                return found
        except (
            *(KeyError, IndexError, AttributeError, TypeError),
            *(ValueError, AssertionError, RuntimeError),
        ):
            continue  # not the authors' file: the caller says what differs
    return None


# --- whether they are the module's -------------------------------------------------


@dataclass(frozen=True)
class _Fit:
    """Tensors of a file below one prefix, compared with a module's."""

    place: str
    weights: dict[str, Tensor]
    """By the module's names."""
    problems: list[tuple[str, object, object]]
    """Names that differ, with the shapes in the module and in the file."""
    count: int
    channels: tuple[int, int] | None
    first: str
    """The convolution of these channels."""

    @classmethod
    def of(
        cls,
        module: nn.Module,
        full: nn.Module,
        place: str,
        prefix: str,
        tensors: Weights,
    ) -> _Fit:
        own = module.state_dict()
        known = {_flat(name) for name in full.state_dict()} | set(map(_flat, own))
        theirs = {_flat(name): value for name, value in tensors.items()}
        first = _first_convolutions(full)
        weights: dict[str, Tensor] = {}
        problems: list[tuple[str, object, object]] = []
        channels, repeated = None, ""
        for name, ours in own.items():
            value = theirs.get(_flat(name))
            if value is None:
                # Counters of batch norm: early files lack them, predictions do not
                # depend on them.
                if not name.endswith("num_batches_tracked"):
                    problems.append((name, tuple(ours.shape), "missing"))
                continue
            adapted = value
            if value.shape != ours.shape and _flat(name) in first:
                adapted = _repeated(value, ours)
                if adapted is not value:
                    channels = value.shape[1], ours.shape[1]
                    repeated = name
            if adapted.shape != ours.shape:
                problems.append((name, tuple(ours.shape), tuple(value.shape)))
            elif value.is_floating_point() != ours.is_floating_point():
                problems.append((name, ours.dtype, value.dtype))
            elif value.is_meta:
                problems.append((name, "values", "a shape without values"))
            weights[name] = adapted
        problems += [
            (name, "missing", tuple(value.shape))
            for name, value in tensors.items()
            if _flat(name) not in known
        ]
        count = sum(_flat(name) in theirs for name in own)
        place += prefix
        return cls(place, weights, problems, count, channels, repeated)

    def load(
        self,
        module: nn.Module,
        path: Path,
        what: str,
        tensors: int,
        about: Mapping[str, str],
    ) -> Loaded:
        """Load the weights, and tell what is not plain about them."""
        own = module.state_dict()
        # In the type of the network, in which a large number may become infinite.
        weights = {
            name: value.to(own[name].dtype) for name, value in self.weights.items()
        }
        _check_values(weights, path)
        module.load_state_dict({**own, **weights})
        count = len(self.weights)
        place = self.place.removesuffix(" > ")
        left_out = tensors - count
        found = Loaded(
            path.name, count, place, left_out, self.channels, self.first, **about
        )
        if place or self.channels is not None:
            warnings.warn(f"pretrained {what}: {found}", stacklevel=5)
        return found


def _check_values(weights: Weights, path: Path) -> None:
    """Check that weights are those of a network that was trained.

    Raises
    ------
    ValueError
        If a value is not finite, a variance is negative, or all weights are 0.
    """
    for name, value in weights.items():
        if not value.is_floating_point():
            continue
        if not bool(value.isfinite().all()):
            bad = int((~value.isfinite()).sum())
            raise ValueError(
                f"weights in {path} must be finite, got {bad} of {value.numel()} "
                f"values of {name} that are not; choose an earlier checkpoint"
            )
        if name.endswith("running_var") and bool((value < 0).any()):
            raise ValueError(
                f"variances in {path} must not be negative, got {float(value.min()):g} "
                f"in {name}; choose an earlier checkpoint"
            )
    kernels = [value for value in weights.values() if value.ndim > 1]
    if kernels and not any(bool(value.any()) for value in kernels):
        raise ValueError(
            f"weights in {path} must have values, got 0 in all {len(kernels)} tensors "
            "of more than one dimension; choose another checkpoint"
        )


def _first_convolutions(full: nn.Module) -> set[str]:
    about = getattr(full, "pretrained_cfg", None) or {}
    named = about.get("first_conv") or ()
    names = (named,) if isinstance(named, str) else tuple(named)
    return {_flat(f"{name}.weight") for name in names}


def _repeated(value: Tensor, ours: Tensor) -> Tensor:
    """Return a convolution of RGB images for another number of bands, as timm does."""
    if value.ndim != 4 or value.shape[1] != _RGB:
        return value
    from timm.models import adapt_input_conv

    adapted: Tensor = adapt_input_conv(ours.shape[1], value)
    return adapted


def _choose(fits: list[_Fit], path: Path) -> _Fit:
    """Return the place to load from, where several have the whole module."""
    different = [fits[0]]
    for fit in fits[1:]:
        if not any(_equal(fit.weights, other.weights) for other in different):
            different.append(fit)
    averaged = [fit for fit in different if _AVERAGED.search(fit.place)]
    if len(different) == 1:
        return different[0]
    if len(averaged) == 1:
        return averaged[0]
    raise ValueError(
        f"weights in {path} must be of one network, got {len(different)} that fit, "
        f"below {_joined(fit.place.removesuffix(' > ') for fit in different)}; write "
        "one of them to a file of its own"
    )


def _equal(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) for name, value in one.items()
    )


def _refusal(path: Path, what: str, fits: list[_Fit], module: nn.Module) -> ValueError:
    """Return the error of a file that does not fit anywhere."""
    own = module.state_dict()
    total = sum(not name.endswith("num_batches_tracked") for name in own)
    if not fits:
        names = _joined(name for name in own)
        return ValueError(
            f"weights in {path} must be those of the {what}, got none of its {total} "
            f"tensors ({names}); choose the {what} that the file was made for"
        )
    best = max(fits, key=lambda fit: fit.count)
    (name, ours, theirs), *others = best.problems
    more = f" (and {len(others)} more: {_joined(n for n, *_ in others)})"
    below = f" below {best.place!r}" if best.place else ""
    return ValueError(
        f"weights in {path} must be those of the {what}, got {name}, which is {ours} "
        f"in the {what} and {theirs} in the file{below}{more if others else ''}; "
        f"{best.count} of {len(own)} names are the same. Choose the {what} that the "
        "file was made for"
    )


def _joined(names: Iterable[str]) -> str:
    listed = list(names)
    more = ", ..." if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more
