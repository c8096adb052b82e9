"""Time of a training step, part by part, relative to a plain form of the network.

The plain form encodes every month, missing ones as zeros, takes float32 images, copies
feature maps for the attention, and uses the defaults of torch. A row switches on one
part only; a row with "+" keeps all previous parts.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from geobiomass.network import AttentionUNet
from geobiomass.network.missing import months_with_values
from geobiomass.network.month_attention import MonthAttention, pool_months
from geobiomass.recipes.recipe import RECIPES
from geobiomass.training.losses import chip_rmse_loss
from tables import Row, show

# Months with optical images in BioMassters, September to August.
PATTERNS = (
    *("111011111111", "000000111111", "111111111111"),
    *("111001111111", "110001111111", "000000011111"),
)
MISSING, STEP = -32768, 0.01  # int16 codes: value of missing data, and unit
LAST = torch.channels_last


@dataclass(frozen=True)
class Parts:
    """The optimised parts; the others are plain."""

    packed: bool = False
    attention: bool = False
    channels_last: bool = False
    bf16: bool = False
    int16: bool = False
    compiled: bool = False
    month_group: int | None = None


NAMES = {
    "packed": "months packed",
    "attention": "attention without copies",
    "channels_last": "channels last",
    "int16": "int16 to the device",
    "bf16": "bf16",
}


class PlainUNet(nn.Module):
    """The network in its simplest form, with parts to switch on.

    Parameters
    ----------
    network : AttentionUNet
        The network with the weights; in the winner's form, without flags or calendar.
    parts : Parts
        The optimised parts.
    """

    shift: Tensor
    scale: Tensor
    target_shift: Tensor
    target_scale: Tensor

    def __init__(self, network: AttentionUNet, parts: Parts) -> None:
        super().__init__()
        self.parts = parts
        self.encoder: nn.Module = copy.deepcopy(network.encoder)
        self.attention = copy.deepcopy(network.attention)
        self.decoder: nn.Module = copy.deepcopy(network.decoder)
        self.head = copy.deepcopy(network.head)
        for name, buffer in network.named_buffers(recurse=False):
            if name != "season":
                self.register_buffer(name, buffer.clone())
        self.load_state_dict(network.state_dict())

    def forward(self, image: Tensor) -> Tensor:
        """Predict, (batch, month, band, y, x) -> (batch, output, y, x)."""
        months = image.shape[:2]
        there = months_with_values(image) if self.parts.packed else None
        image = image.flatten(0, 1) if there is None else image[there]
        scaled = (image - self.shift[:, None, None]) / self.scale[:, None, None]
        scaled = scaled.nan_to_num(nan=0.0)
        if self.parts.channels_last:
            scaled = scaled.contiguous(memory_format=LAST)
        if there is None:
            there = torch.ones(months, dtype=torch.bool, device=image.device)
        pool = self._pool_packed if self.parts.attention else self._pool_plain
        levels = zip(self.attention, self.encoder(scaled), strict=True)
        pooled = [pool(cast(MonthAttention, m), level, there) for m, level in levels]
        raw = self.head(self.decoder([scaled[:0], *pooled])).float()
        scale, shift = self.target_scale, self.target_shift
        return cast(Tensor, raw * scale[:, None, None] + shift[:, None, None])

    def _pool_plain(
        self, module: MonthAttention, level: Tensor, there: Tensor
    ) -> Tensor:
        full = level.reshape(-1, *level.shape[1:])
        if self.parts.packed:
            full = level.new_zeros(there.numel(), *level.shape[1:])
            full[there.flatten()] = level
        features = full.reshape(*there.shape, *level.shape[1:])
        rows = features.permute(0, 1, 3, 4, 2).contiguous()
        scores: Tensor = module.score(rows).permute(0, 1, 4, 2, 3)
        absent = ~there[:, :, None, None, None]
        weights = scores.masked_fill(absent, -torch.inf).softmax(dim=1)
        return (features * weights).sum(dim=1)

    def _pool_packed(
        self, module: MonthAttention, level: Tensor, there: Tensor
    ) -> Tensor:
        pooled = pool_months(level, module.scores(level), there.sum(dim=1).tolist())
        return pooled if self.parts.channels_last else pooled.contiguous()


@dataclass
class Contender:
    """A network in training, with the times of its steps."""

    name: str
    parts: Parts
    network: nn.Module
    seconds: list[float] = field(default_factory=list)
    peak: int = 0

    def __post_init__(self) -> None:
        self.device = next(self.network.parameters()).device
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=1e-4)
        if self.parts.compiled:
            encoder: Any = torch.compile(cast(nn.Module, self.network.encoder))
            self.network.encoder = encoder

    def on_host(self, codes: Tensor) -> Tensor:
        """Return the batch to send to the device: codes, or decoded values."""
        return codes if self.parts.int16 else decoded(codes)

    def step(self, sent: Tensor, target: Tensor) -> float:
        """Train one step on a batch of :meth:`on_host`; return the loss."""
        image = sent.to(self.device, non_blocking=True)
        if self.parts.int16:
            image = decoded(image)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.parts.bf16):
            prediction = self.network(image)
        loss: Any = chip_rmse_loss(prediction, target.to(self.device))
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(loss.detach())

    def timed(self, codes: Tensor, target: Tensor) -> None:
        """Train one step and record its time.

        On a CPU it is the CPU time of the only thread, with decoding, so that other
        programs do not count. On a GPU it starts with the transfer, because a data
        loader decodes at the same time.
        """
        if self.device.type == "cpu":
            begin = time.thread_time()
            self.step(self.on_host(codes), target)
            self.seconds.append(time.thread_time() - begin)
            return
        sent = self.on_host(codes).pin_memory()
        torch.cuda.reset_peak_memory_stats(self.device)
        torch.cuda.synchronize(self.device)
        begin = time.perf_counter()
        self.step(sent, target)
        torch.cuda.synchronize(self.device)
        self.seconds.append(time.perf_counter() - begin)
        self.peak = torch.cuda.max_memory_allocated(self.device)


def decoded(codes: Tensor) -> Tensor:
    """Convert codes to float32, NaN where missing."""
    return (codes * STEP).masked_fill_(codes == MISSING, torch.nan)


def network_of(recipe: str) -> AttentionUNet:
    """Return a recipe's network in the winner's form, 15 bands, seeded."""
    torch.manual_seed(0)
    chosen = RECIPES[recipe]
    network = AttentionUNet(15, chosen.encoder, chosen.decoder_channels)
    network.target_shift.fill_(60.0)
    network.target_scale.fill_(70.0)
    return network.train()


def batch_of(size: int, batch: int, patterns: Sequence[str], seed: int = 0) -> Any:
    """Return codes (batch, 12, 15, y, x) int16, missing by pattern, and labels."""
    draw = torch.Generator().manual_seed(seed)
    shape = (batch, 12, 15, size, size)
    # Labels can be learnt: the bands contain a smooth map with noise.
    coarse = torch.rand(batch, 1, 8, 8, generator=draw)
    target = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    noise = torch.randn(shape, generator=draw)
    codes = ((2 * target[:, None] - 1 + noise) * 100).to(torch.int16)
    for sample in range(batch):
        for month, letter in enumerate(patterns[sample % len(patterns)]):
            if letter == "0":
                codes[sample, month] = MISSING
    return codes, target * 200


def contenders_of(recipe: str, device: str, names: Sequence[str]) -> list[Contender]:
    """Return the plain form, each part alone, all parts in turn, and the library."""
    network = network_of(recipe)
    rows = [("plain", Parts())]
    rows += [(NAMES[n], replace(Parts(), **{n: True})) for n in names]
    kept = Parts()
    for number, name in enumerate(names):
        kept = replace(kept, **{name: True})
        if number:
            rows.append((f"+ {NAMES[name]}", kept))
    made = [Contender(n, p, PlainUNet(network, p).to(device)) for n, p in rows]
    for parts in (replace(kept, bf16=False), kept):
        numbers = "bf16" if parts.bf16 else "float32"
        ours = copy.deepcopy(network).to(device)
        made.append(Contender(f"geobiomass, {numbers}", parts, ours))
    return made


def time_steps(recipe: str, size: int, rounds: int, device: str, batch: int) -> None:
    contenders = contenders_of(recipe, device, list(NAMES))
    mixes = {"12 of 12": ("1" * 12,), "six patterns": PATTERNS}
    found: dict[str, dict[str, list[float]]] = {c.name: {} for c in contenders}
    for mix, patterns in mixes.items():
        codes, target = batch_of(size, batch, patterns)
        for each in contenders:
            each.step(each.on_host(codes), target)
            each.seconds = []
        for number in range(rounds):
            for each in contenders[:: -1 if number % 2 else 1]:
                each.timed(codes, target)
        for each in contenders:
            found[each.name][mix] = each.seconds
    rows: list[Row] = []
    for each in contenders:
        row: Row = {"step": each.name}
        for mix, own in found[each.name].items():
            pairs = zip(found["plain"][mix], own, strict=True)
            row[f"{mix}, s"] = min(own)
            row[f"{mix}, x plain"] = statistics.median(p / o for p, o in pairs)
        rows.append(row | ({"peak GB": each.peak / 1e9} if each.peak else {}))
    show(
        f"A training step, {recipe}, {batch} x 12 x 15 x {size} x {size}", rows, **STYLE
    )


STYLE: dict[str, Any] = {"markdown": False}


def compare_losses(recipe: str, size: int, steps: int, device: str) -> None:
    """Train from the same weights on complete data; print how far losses diverge."""
    network = network_of(recipe)
    shaken = copy.deepcopy(network)
    with torch.no_grad():
        for weight in shaken.parameters():
            weight.mul_(1 + 1e-6 * torch.randn_like(weight))
    ours = Parts(int16=True)
    runs = [
        Contender("plain", Parts(), PlainUNet(network, Parts())),
        Contender("plain, weights off by 1e-6", Parts(), PlainUNet(shaken, Parts())),
        Contender("plain, bf16", Parts(bf16=True), PlainUNet(network, Parts())),
        Contender("geobiomass, float32", ours, copy.deepcopy(network)),
        Contender("geobiomass, bf16", replace(ours, bf16=True), network),
    ]
    losses: dict[str, list[float]] = {}
    for each in runs:
        each.network.to(device)
        losses[each.name] = [
            each.step(each.on_host(codes), target)
            for codes, target in (
                batch_of(size, 4, ("1" * 12,), seed) for seed in range(steps)
            )
        ]
    rows: list[Row] = []
    for name, own in losses.items():
        off = [abs(a / b - 1) for a, b in zip(own, losses["plain"], strict=True)]
        row: Row = {"run": name, "first loss": own[0], "last loss": own[-1]}
        rows.append(row | {"greatest relative difference": max(off)})
    show(f"Loss over {steps} steps, all months there", rows, **STYLE)


# --- memory -----------------------------------------------------------------------


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A counter of the bytes of live tensors, computed or not."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count its new tensors."""
        made = func(*args, **(kwargs or {}))
        for one in torch.utils._pytree.tree_leaves(made):
            if isinstance(one, Tensor):
                self._note(one.untyped_storage())
        return made

    def _note(self, storage: Any) -> None:
        key = id(storage)
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen[key] = weakref.ref(storage, partial(self._gone, key, size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _gone(self, key: int, size: int, reference: object) -> None:
        del self._seen[key]
        self.now -= size


def memory_of(
    recipe: str, size: int, batch: int, group: int | None, bf16: bool
) -> tuple[int, int]:
    """Return the bytes between the passes and at the peak, with all months present.

    Weights, gradients and both moments of AdamW are counted; the working memory of
    kernels is not. Nothing is computed.
    """
    with FakeTensorMode(), Live() as live:
        network = network_of(recipe)
        network.month_group = group
        optimiser = torch.optim.AdamW(network.parameters(), foreach=False)
        weights = [w for w in network.parameters() if w.requires_grad]
        moments = [torch.zeros_like(w) for w in weights for _ in "ab"]
        images = torch.zeros(batch * 12, 15, size, size)
        images = images.contiguous(memory_format=LAST)
        live.peak = live.now
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            prediction = network._decode(
                images, network._encode_and_pool(images, [12] * batch, None)
            )
        between = live.now
        prediction.square().mean().backward()  # type: ignore[no-untyped-call]
        del moments, optimiser
    return between, live.peak


def show_memory(recipe: str, size: int, batch: int) -> None:
    rows: list[Row] = []
    for group, bf16 in ((None, False), *((g, True) for g in (None, 6, 4, 3, 2, 1))):
        between, peak = memory_of(recipe, size, batch, group, bf16)
        row: Row = {"month_group": str(group), "numbers": "bf16" if bf16 else "float32"}
        rows.append(row | {"between passes, GB": between / 1e9, "peak, GB": peak / 1e9})
    show(f"Memory, {recipe}, {batch} x 12 x 15 x {size} x {size}", rows, **STYLE)


def time_compiled(recipe: str, size: int, batch: int, rounds: int, device: str) -> None:
    """Print the cost and the gain of torch.compile for the encoder."""
    network = network_of(recipe)
    codes, target = batch_of(size, batch, ("1" * 12,))
    parts = Parts(int16=True)
    eager = Contender("eager", parts, copy.deepcopy(network).to(device))
    begin = time.perf_counter()
    compiled = Contender("compiled", replace(parts, compiled=True), network.to(device))
    compiled.step(codes, target)
    first = time.perf_counter() - begin
    for _ in range(rounds):
        eager.timed(codes, target)
        compiled.timed(codes, target)
    pairs = zip(eager.seconds, compiled.seconds, strict=True)
    gain = statistics.median(a / b for a, b in pairs)
    rows: list[Row] = [
        {
            "encoder": "eager",
            "step, s": min(eager.seconds),
            "x eager": 1.0,
            "first, s": None,
        },
        {"encoder": "compiled", "step, s": min(compiled.seconds), "x eager": gain}
        | {"first, s": first},
    ]
    show(f"torch.compile, {recipe}", rows, **STYLE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", choices=sorted(RECIPES))
    parser.add_argument("--size", type=int, help="side of an image, pixels")
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, default=30, help="steps of the loss curves"
    )
    parser.add_argument("--only", nargs="+", default=["speed", "loss", "memory"])
    parser.add_argument(
        "--quick", action="store_true", help="tiny data, to test that it runs"
    )
    parser.add_argument("--markdown", action="store_true")
    given = parser.parse_args()
    STYLE["markdown"] = given.markdown
    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe = given.recipe or ("biomassters" if device == "cuda" else "default")
    size = given.size or (256 if device == "cuda" else 128)
    rounds, steps, full = given.rounds, given.steps, ("biomassters", 256, 8)
    if given.quick:
        recipe, size, rounds, steps, full = "quick", 32, 1, 2, ("quick", 64, 2)
    torch.set_num_threads(1)
    if "speed" in given.only:
        time_steps(recipe, size, rounds, device, given.batch)
    if "loss" in given.only:
        compare_losses("quick", 64 if size >= 64 else size, steps, device)
    if "memory" in given.only:
        show_memory(*full)
    if "compile" in given.only:
        time_compiled(recipe, size, given.batch, rounds, device)


if __name__ == "__main__":
    main()
