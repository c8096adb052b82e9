"""The network: a pretrained backbone, pooled features, and a small head per target.

It follows public solutions of the CSIRO Image2Biomass competition (Kaggle, 2025).
Input are photos, output are grams, or other units of the targets. Buffers contain the
normalisation of pixels; the settings contain the scale of the targets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geobiomass.network.pretrained import load_pretrained, weights_path

__all__ = ["Fusion", "PastureNetwork", "Stream", "add_up"]

Stream = Literal["single", "dual"]
Fusion = Literal["concat", "attention"]

# Mean and standard deviation of ImageNet's pixels: red, green, blue, 0 to 1.
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


def add_up(grams: Tensor) -> Tensor:
    """Replace green dry matter and total by the sums of their parts.

    Parameters
    ----------
    grams
        (..., 5): green, dead, clover, green dry matter, total.

    Returns
    -------
    Tensor
        (..., 5): green, dead, clover unchanged, then green + clover and green + clover
        + dead.
    """
    green, dead, clover = grams[..., :3].unbind(-1)
    matter = green + clover
    return torch.stack([green, dead, clover, matter, matter + dead], -1)


class _HalvesAttention(nn.Module):
    """Multi-head attention between the pooled features of the two halves of a photo.

    Layer normalisation, attention, then a residual connection, as in the blocks of a
    vision transformer. The output has the shape of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        heads = next(n for n in (8, 4, 2, 1) if channels % n == 0)
        self.norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, halves: Tensor) -> Tensor:
        """Compute (batch, half, channel) from (batch, half, channel)."""
        normed = self.norm(halves)
        seen, _ = self.attention(normed, normed, normed, need_weights=False)
        mixed: Tensor = halves + seen
        return mixed


class PastureNetwork(nn.Module):
    """A network from photos of pasture to grams: one backbone, one head per target.

    Parameters
    ----------
    backbone
        Any timm model that takes images of any size: a vision transformer, whose patch
        tokens are averaged, or a convolutional network, pooled as for its own
        classifier.
    stream
        "single" sees the photo as a whole. "dual" sees its left and right halves with
        the same weights, and joins their features.
    targets
        Number of outputs, with one head each: Linear to 512, ReLU, Dropout, Linear to
        128, ReLU, Linear to 1, Softplus.
    freeze
        Share of the backbone's parameter tensors that are not trained: the first ones
        in the order of registration.
    pretrained
        Weights of the backbone. False: random. True: timm's, downloaded. A path: a
        safetensors file with timm's parameter names. The weights of DINOv3 are under
        Meta's own licence.
    fusion
        How "dual" joins the halves. "concat" concatenates their features. "attention"
        first applies multi-head attention between the halves, which improved the
        competition's winning solution.
    sums
        In evaluation mode, predict only the first three outputs and add up the other
        two (`add_up`). The default is True for "dual" with five targets.
    scale
        What an output of 1 means in the unit of each target, as `set_scale` takes it.
        None: not known yet; predictions are then in units of 1, and training sets it.

    Raises
    ------
    ValueError
        A setting is out of its range, the backbone is unknown or takes only one size,
        or the file has the weights of another backbone.
    FileNotFoundError
        The weights file does not exist.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        backbone: str = "vit_large_patch16_dinov3.lvd1689m",
        stream: Stream = "single",
        targets: int = 5,
        freeze: float = 0.8,
        pretrained: bool | str | Path = False,
        fusion: Fusion = "concat",
        sums: bool | None = None,
        scale: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if sums is None:
            sums = stream == "dual" and targets == 5
        _check_settings(stream, targets, freeze, fusion, sums)
        self.settings: dict[str, Any] = {
            "backbone": backbone,
            "stream": stream,
            "targets": targets,
            "freeze": freeze,
            "fusion": fusion,
            "sums": sums,
            "scale": None,
        }
        self.halves = 2 if stream == "dual" else 1
        self._sums = sums
        self.backbone = _build_backbone(backbone, pretrained)
        channels = int(getattr(self.backbone, "head_hidden_size", 0))
        channels = channels or int(self.backbone.num_features)  # type: ignore[arg-type]
        attends = fusion == "attention" and stream == "dual"
        self.fusion = _HalvesAttention(channels) if attends else nn.Identity()
        self.heads = nn.ModuleList(
            _head(self.halves * channels) for _ in range(targets)
        )
        self.positive = nn.Softplus()
        for name, values in (("mean", _MEAN), ("deviation", _DEVIATION)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1))
        # No buffer: checkpoints and weights of earlier releases would lack it. The
        # settings keep it.
        self._scale = torch.ones(targets)
        self._standardised = False
        if scale is not None:
            self.set_scale(scale)
        parameters = list(self.backbone.parameters())
        # The small number corrects rounding: without it 0.29 of 100 would be 28.
        for value in parameters[: math.floor(freeze * len(parameters) + 1e-9)]:
            value.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """Predict grams.

        Parameters
        ----------
        image
            (batch, 3, height, width) RGB, uint8 or float from 0 to 1.

        Returns
        -------
        Tensor
            (batch, targets) float32 of 0 or more, in the targets' unit; without their
            scale within `standardised`.

        Raises
        ------
        ValueError
            Height or width is not a multiple of the backbone's patch size.
        """
        self.check_size(*image.shape[-2:])
        if not image.is_floating_point():
            image = image / 255
        image = (image - self.mean) / self.deviation
        # (batch, 3, y, x) -> (halves * batch, 3, y, x / halves)
        parts = torch.cat(image.chunk(self.halves, dim=-1))
        # (halves * batch, channel) -> (batch, halves, channel)
        features = torch.stack(self._pool(parts).chunk(self.halves), dim=1)
        features = self.fusion(features).flatten(1)
        raw = torch.cat([head(features) for head in self.heads], dim=1)
        grams: Tensor = self.positive(raw.float())
        if not self._standardised:
            grams = grams * self._scale.to(grams.device)
        return grams if self.training or not self._sums else add_up(grams)

    def set_scale(self, scale: float | Sequence[float]) -> None:
        """Set what an output of 1 means in the unit of each target.

        Parameters
        ----------
        scale
            A positive number for all targets, or one for each. The targets of a network
            that adds up have the same.

        Raises
        ------
        ValueError
            A number is not positive, or there is not one for each target.
        """
        count = int(self.settings["targets"])
        values = [scale] * count if isinstance(scale, int | float) else [*scale]
        fits = len(values) == count and all(0 < value < math.inf for value in values)
        if not fits or (self._sums and len(set(values)) > 1):
            one = ", all the same," if self._sums else ""
            raise ValueError(
                f"scale of PastureNetwork must be {count} positive numbers{one} got "
                f"{scale!r}"
            )
        self.settings["scale"] = [float(value) for value in values]
        self._scale = torch.tensor(values, dtype=torch.float32)

    @property
    def is_scaled(self) -> bool:
        """Whether the scale of the targets is set."""
        return self.settings["scale"] is not None

    @contextmanager
    def standardised(self) -> Iterator[None]:
        """Leave outputs divided by their scale within the `with` statement.

        Training compares them with targets that are divided by it too, and takes the
        same course for any unit.
        """
        self._standardised = True
        try:
            yield
        finally:
            self._standardised = False

    def _pool(self, image: Tensor) -> Tensor:
        features = self.backbone.forward_features(image)  # type: ignore[operator]
        if features.ndim != 3:
            pooled: Tensor = self.backbone.forward_head(features, pre_logits=True)  # type: ignore[operator]
            return pooled
        # (batch, token, channel); class and register tokens come first.
        prefix = getattr(self.backbone, "num_prefix_tokens", 0)
        mean: Tensor = features[:, prefix:].mean(1)
        normed: Tensor = getattr(self.backbone, "fc_norm", nn.Identity())(mean)
        return normed

    def check_size(self, height: int, width: int) -> None:
        """Check that a photo's size is a multiple of the backbone's patch size.

        Raises
        ------
        ValueError
            It is not; the message names the size and the required multiples.
        """
        embed = getattr(self.backbone, "patch_embed", None)
        rows, columns = getattr(embed, "patch_size", (1, 1))
        columns *= self.halves
        if height < 1 or width < 1 or height % rows or width % columns:
            raise ValueError(
                f"height and width of photos for {self.settings['backbone']} "
                f"({self.settings['stream']}) must be multiples of {rows} and "
                f"{columns} pixels, got {height} x {width}"
            )


def _check_settings(
    stream: str, targets: int, freeze: float, fusion: str, sums: bool
) -> None:
    expected = {
        "stream": (stream in ("single", "dual"), '"single" or "dual"', stream),
        "targets": (
            targets == 5 if sums else targets >= 1,
            "5 where two are sums" if sums else "1 or more",
            targets,
        ),
        "fusion": (
            fusion in ("concat", "attention"),
            '"concat" or "attention"',
            fusion,
        ),
        "freeze": (0 <= freeze <= 1, "from 0 to 1", freeze),
    }
    for name, (holds, text, value) in expected.items():
        if not holds:
            raise ValueError(f"{name} of PastureNetwork must be {text}, got {value!r}")


def _head(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, 512),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(512, 128),
        nn.ReLU(),
        nn.Linear(128, 1),
    )


def _build_backbone(name: str, pretrained: bool | str | Path) -> nn.Module:
    import timm

    base, _, tag = name.partition(".")
    tagged = not tag or name in timm.list_pretrained(f"{base}.*")
    if not timm.is_model(base) or not tagged:
        near = timm.list_models(f"{base[:8]}*") or ["resnet18"]
        if timm.is_model(base):
            near = timm.list_pretrained(f"{base}.*") or [base]
        raise ValueError(
            f"backbone of PastureNetwork must be a model of timm, got {name!r}; "
            f"similar names: {', '.join(near[:5])}"
        )
    about = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {}
    if about is not None and about.fixed_input_size:
        options["dynamic_img_size"] = True
    try:
        backbone: nn.Module = timm.create_model(
            name, pretrained=pretrained is True, num_classes=0, **options
        )
    except TypeError as error:
        if "dynamic_img_size" not in str(error):
            raise
        raise ValueError(
            f"backbone of PastureNetwork must take images of any size, got {name!r}, "
            "which takes only one; choose a plain vision transformer or a "
            "convolutional network"
        ) from error
    if not isinstance(pretrained, bool):
        _fill(backbone, weights_path(pretrained), name, options)
    return backbone


def _fill(backbone: nn.Module, path: Path, name: str, options: dict[str, Any]) -> None:
    """Load all weights of a backbone; a classifier in the file is ignored."""
    import timm

    if path.is_file() and path.suffix != ".safetensors":
        raise ValueError(
            "pretrained of PastureNetwork must be True, False or a safetensors file, "
            f"got {path}"
        )
    with torch.device("meta"):
        full = timm.create_model(name, **options)
    load_pretrained(backbone, path, full, "backbone")
