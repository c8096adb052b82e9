"""Export of models for use without this package: ``torch.export`` and ONNX.

The exported form takes images in physical units, NaN where missing, as the model
does. It encodes all months of all samples, because a graph cannot skip absent months.
They then take no part in the attention, so the map is the same.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from geobiomass.cube.quantity import AGB
from geobiomass.learner.adapted_network import AdaptedNetwork
from geobiomass.learner.pixel_network import PixelNetwork
from geobiomass.learner.stack_network import StackNetwork
from geobiomass.network import AttentionUNet
from geobiomass.network.month_attention import MonthAttention
from geobiomass.network.static_planes import packed_batch, static_layers_of
from geobiomass.network.wrappers import Ensemble
from geobiomass.training.files import output_file
from geobiomass.training.own_files import check_own_file
from geobiomass.training.packages import need

__all__ = ["FORMATS", "Exported", "export_network"]

FORMATS = (".pt2", ".onnx")
"""Endings of the files that models are exported to."""

# Has every operator that is used here, since 2023.
_OPSET = 18


class Exported(nn.Module):
    """Exportable form of a network; it shares the weights.

    Parameters
    ----------
    network : AttentionUNet
        With its scaling.
    months : int
        Number of months of the images.

    Raises
    ------
    ValueError
        If a month-of-year term was made for another number of months.
    """

    def __init__(self, network: AttentionUNet, months: int) -> None:
        super().__init__()
        if network.calendar is not None and len(network.calendar) != months:
            raise ValueError(
                f"months must be {len(network.calendar)}, those of the network's "
                f"month-of-year term, got {months}."
            )
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Predict maps.

        Parameters
        ----------
        image : Tensor
            (batch, month, band, y, x) float32, physical units, NaN where missing; with
            static layers after the months, if the network reads any.

        Returns
        -------
        Tensor
            (batch, output, y, x), Mg/ha.
        """
        network = self.network
        image, static = network._parted(image)
        # Without a branch on values, which a graph cannot have.
        image = image.masked_fill(network.unknown[:, None, None], torch.nan)
        present = image.isfinite().flatten(2).any(dim=2)
        # The network scales in place; masking has copied the caller's image.
        months = network.encoder_input(image.flatten(0, 1))
        season = None if network.calendar is None else network.season
        pooled = [
            self._pool(cast(MonthAttention, attention), level, present, season)
            for attention, level in zip(
                network.attention, network.encoder(months), strict=True
            )
        ]
        pooled = network._joined(pooled, static)
        raw: Tensor = network.head(network.decoder([months[:0], *pooled]))
        return network.maps_of(raw[..., : image.shape[-2], : image.shape[-1]])

    @staticmethod
    def _pool(
        attention: MonthAttention,
        level: Tensor,
        present: Tensor,
        season: Tensor | None,
    ) -> Tensor:
        """Pool (batch x month, channel, y, x) to (batch, channel, y, x)."""
        batch, months = present.shape
        if season is not None:
            season = season.expand(batch, months, season.shape[-1]).flatten(0, 1)
        scores = attention.scores(level, season)
        scores = scores.reshape(batch, months, *scores.shape[1:])
        absent = ~present[:, :, None, None, None]
        # Without any month all scores are minus infinity, and the shares are NaN.
        shares = scores.masked_fill(absent, -torch.inf).softmax(dim=1).nan_to_num(0.0)
        return (level.reshape(batch, months, *level.shape[1:]) * shares).sum(dim=1)


def exportable(network: nn.Module, months: int) -> nn.Module:
    """Return the exportable form of a network or an ensemble.

    Raises
    ------
    ValueError
        If the network is of another package.
    """
    if isinstance(network, AttentionUNet):
        return Exported(network, months)
    if isinstance(network, PixelNetwork):
        if network.own is not None:
            raise ValueError(
                "learner to export must be the blend of trees and a kernel, "
                f"got {network.own.name}, an estimator of your own; export that with "
                "skl2onnx, or train with learner='blend'."
            )
        if len(network.calendar) != months:
            raise ValueError(
                f"months must be {len(network.calendar)}, those of the learner's "
                f"calendar, got {months}."
            )
        if isinstance(network, StackNetwork):
            return _around(network, Exported(network.inner, months))
        return network
    if isinstance(network, AdaptedNetwork):
        calendar = network.calendar
        if calendar is not None and len(calendar) != months:
            raise ValueError(
                f"months must be {len(calendar)}, those of the cube that the model was "
                f"adapted with, got {months}."
            )
        return _around(network, exportable(network.inner, months))
    if isinstance(network, Ensemble):
        members = [exportable(member, months) for member in network.members]
        return Ensemble(
            members,
            network.bands,
            network.spread,
            layers=network.layers,
            static_layers=network.static_layers,
        )
    raise ValueError(
        "network to export must be an AttentionUNet or an ensemble of them, got a "
        f"{type(network).__name__}; export that with torch.export itself."
    )


class WithStatic(nn.Module):
    """Exportable form of a network that reads static layers: they are a second input.

    Parameters
    ----------
    network : torch.nn.Module
        The exportable form that takes them after the months.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, static: Tensor) -> Tensor:
        """Predict maps.

        Parameters
        ----------
        image : Tensor
            (batch, month, band, y, x) float32, physical units, NaN where missing.
        static : Tensor
            (batch, layer, y, x) float32, physical units, NaN where missing.

        Returns
        -------
        Tensor
            (batch, output, y, x), in the units of the target.
        """
        return cast(Tensor, self.network(packed_batch(image, static)))


def _around(network: nn.Module, inner: nn.Module) -> nn.Module:
    """Return a network with another one inside; its own stays where it is."""
    made = copy.copy(network)
    made._modules = {**network._modules, "inner": inner}
    return made


def export_network(
    network: nn.Module,
    path: str | Path,
    *,
    months: int,
    bands: int,
    outputs: Sequence[str],
    units: str = AGB.units,
    height: int = 256,
    width: int = 256,
) -> Path:
    """Write a network as a graph that runs without this package.

    A model that learnt static layers takes them as a second input, ``static``: (batch,
    layer, y, x), in the order that the file notes as ``static_layers``. A batch may
    have any number of images; months, bands, height and width are fixed
    to the values given here.

    Parameters
    ----------
    network : torch.nn.Module
        An AttentionUNet, or an ensemble of them; it is not changed.
    path : str or Path
        ``.pt2`` for ``torch.export.load``, ``.onnx`` for ONNX. An earlier export is
        replaced once the new one is complete.
    units : str
        Units of what it predicts, which the file notes.
    months, bands : int
        Numbers of months and bands of the images.
    outputs : sequence of str
        Names of the maps, written to the file's metadata.
    height, width : int
        Size of the images, pixels.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If `path` has another ending, a size is below one pixel, the folder does not
        exist, or the network is of another package.
    FileExistsError
        If `path` is no earlier export.
    ModuleNotFoundError
        If ONNX is not installed; the message has the command.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(
            f"A model is exported to a file that ends in .pt2 or .onnx, got "
            f"{str(path)!r}; choose one of the two endings."
        )
    if min(months, bands, height, width) < 1:
        raise ValueError(
            "months, bands, height and width must be at least 1, got "
            f"{(months, bands, height, width)}."
        )
    if not path.parent.is_dir():
        raise ValueError(f"The folder {path.parent} does not exist; make it first.")
    # Both formats name the notes at the end of the file.
    check_own_file(
        path, "exported model", lambda _, end: b"outputs" in end and b"units" in end
    )
    onnx = path.suffix == ".onnx"
    if onnx:
        need("Export to ONNX", "export", "onnx", "onnxscript")
    # Two samples: with one, torch.export would fix the batch size to one.
    examples = {"image": torch.zeros(2, months, bands, height, width)}
    notes = {"outputs": ",".join(outputs), "units": units}
    if layers := static_layers_of(network):
        examples["static"] = torch.zeros(2, len(layers), height, width)
        notes["static_layers"] = ",".join(layers)
    batch = torch.export.Dim("batch")
    with _quiet(), _on_cpu(network), torch.no_grad():
        form = exportable(network, months)
        program = torch.export.export(
            (WithStatic(form) if layers else form).eval(),
            tuple(examples.values()),
            dynamic_shapes=tuple({0: batch} for _ in examples),
            strict=False,
        )
        with output_file(path, path.suffix) as part:
            if onnx:
                _write_onnx(program, examples, part, notes)
            else:
                torch.export.save(program, part, extra_files=notes)
    return path


def _write_onnx(
    program: Any, examples: dict[str, Tensor], path: Path, notes: dict[str, str]
) -> None:
    with contextlib.redirect_stdout(io.StringIO()):  # the exporter prints its steps
        written: Any = torch.onnx.export(
            program,
            tuple(examples.values()),
            input_names=list(examples),
            output_names=["maps"],
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    written.model.metadata_props.update(notes)
    # A file of ONNX holds up to 2 GB; the largest recipe's weights take 0.6 GB.
    written.save(path, external_data=False)


@contextlib.contextmanager
def _on_cpu(network: nn.Module) -> Iterator[None]:
    """Put the network on the CPU in evaluation mode; a .pt2 can be moved later."""
    before, mode = next(network.parameters()).device, network.training
    network.cpu().eval()
    try:
        yield
    finally:
        network.to(before).train(mode)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' warnings about their own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield
