"""The network: the winner's parameters, and laws 1 and 2."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from geobiomass.network import AttentionUNet, MonthAttention
from geobiomass.network.encoder_input import standardise
from geobiomass.network.missing import Missing
from geobiomass.network.month_attention import seasons
from geobiomass.network.wrappers import InMonths


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(bands: int = 3, outputs: int = 1, **settings: Any) -> AttentionUNet:
    torch.manual_seed(0)
    network = AttentionUNet(bands, "resnet10t", (16, 12, 8, 8, 8), outputs, **settings)
    for attention in network.attention:  # as if the months of the year mattered
        if attention.season is not None:
            nn.init.normal_(attention.season.weight)
    # Statistics as after some training, so that batch norm is not the identity.
    network.train()
    for _ in range(2):
        calendar = None if network.calendar is None else [6, 7, 8]
        network(torch.randn(2, 3, bands, 32, 32), calendar=calendar)
    return network.eval()


@pytest.mark.slow
def test_the_winners_setting_has_the_winners_parameters() -> None:
    network = AttentionUNet()
    assert parameters(network.encoder) == 116_415_968
    assert [parameters(level) for level in network.attention] == [
        1_153,
        4_353,
        9_601,
        51_073,
        412_161,
    ]
    assert parameters(network.decoder) == 13_943_508
    assert parameters(network.head) == 2_881
    assert parameters(network) == 130_840_698


NETWORK = small()
PASSES = (0, 1, 1)
KINDS = {
    "zero": NETWORK,
    "validity": small(passes=PASSES, missing="validity"),
    "renormalise": small(missing="renormalise"),
    "month term": small(passes=PASSES, missing="validity", calendar=(6, 7, 8, 9)),
}


def plain_attention(module: MonthAttention, x: np.ndarray, present: np.ndarray):
    """The attention of one pixel after another, in float64 numpy, from its formula."""
    norm = module.score[1]
    weight = {
        n: p.detach().double().numpy() for n, p in module.score.named_parameters()
    }
    batch, months, channels, height, width = x.shape
    out = np.zeros((batch, channels, height, width))
    for b, i, j in np.ndindex(batch, height, width):
        scores = np.full(months, -np.inf)
        for m in range(months):
            if not present[b, m]:
                continue
            h = weight["0.weight"] @ x[b, m, :, i, j] + weight["0.bias"]
            h = (h - h.mean()) / np.sqrt(h.var() + norm.eps)
            h = h * weight["1.weight"] + weight["1.bias"]
            h = np.array([0.5 * v * (1 + math.erf(v / np.sqrt(2))) for v in h])
            scores[m] = (weight["3.weight"] @ h + weight["3.bias"])[0]
        if present[b].any():
            share = np.exp(scores - scores.max())
            share /= share.sum()
            for m in np.flatnonzero(present[b]):
                out[b, :, i, j] += share[m] * x[b, m, :, i, j]
    return out


@given(
    st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=3)
)
def test_attention_is_a_weighted_sum_over_the_months_present(
    pattern: list[list[bool]],
) -> None:
    torch.manual_seed(1)
    module = MonthAttention(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    present = torch.tensor(pattern)
    features = torch.randn(len(pattern), 4, 5, 2, 3)
    expected = plain_attention(module, features.double().numpy(), present.numpy())
    features[~present] = torch.nan  # what is absent must not matter
    found = module(features, present)
    torch.testing.assert_close(
        found.double(), torch.from_numpy(expected), atol=1e-5, rtol=1e-5
    )
    weights = module.weights(features.nan_to_num(), present)
    assert (weights[~present] == 0).all()
    torch.testing.assert_close(
        weights.sum(1).squeeze(1)[:, 0, 0], present.any(1).float(), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(0, 2**16), st.sampled_from([torch.nan, torch.inf, -torch.inf]))
def test_missing_means_missing(kind: str, seed: int, junk: float) -> None:
    # Law 1: a month, a band of a month (a pass), and pixels.
    draw = torch.Generator().manual_seed(seed)
    network = KINDS[kind]
    image = torch.randn(2, 4, 3, 32, 32, generator=draw)
    present = torch.rand(2, 4, generator=draw) < 0.6
    missing = torch.rand(2, 4, 3, 32, 32, generator=draw) < 0.2
    missing[:, 1, 1:] = True
    with torch.inference_mode():
        one = network(image.masked_fill(missing, torch.nan), present)
        other = image.masked_fill(missing, junk)
        other[~present] = torch.randn(3, 32, 32, generator=draw) * 1e6
        two = network(other, present)
    assert one.isfinite().all()
    assert torch.equal(one, two)


def test_a_month_without_values_takes_no_part_and_costs_nothing() -> None:
    image = torch.randn(1, 4, 3, 32, 32)
    image[0, 2] = torch.nan
    seen: list[int] = []
    hook = NETWORK.encoder.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].shape[0])
    )
    with torch.inference_mode():
        with_empty = NETWORK(image)
        without = NETWORK(image[:, [0, 1, 3]])
        asked_for = NETWORK(image, torch.ones(1, 4, dtype=torch.bool))
    hook.remove()
    assert seen == [3, 3, 3]
    torch.testing.assert_close(with_empty, without, atol=1e-6, rtol=1e-5)
    assert torch.equal(with_empty, asked_for)


def test_a_month_with_one_value_of_one_band_takes_part() -> None:
    image = torch.randn(1, 4, 3, 32, 32)
    image[0, 2] = torch.nan
    image[0, 2, 2, 5, 7] = 1.0  # of the last band, as where a pass is missing
    seen: list[int] = []
    hook = NETWORK.encoder.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].shape[0])
    )
    with torch.inference_mode():
        found, without = NETWORK(image), NETWORK(image[:, [0, 1, 3]])
    hook.remove()
    assert seen == [4, 3]
    assert not torch.equal(found, without)


def test_absent_months_cost_no_attention_either() -> None:
    image = torch.randn(2, 4, 3, 32, 32)
    image[:, 2] = torch.nan
    image[0, 3] = torch.nan
    seen: list[int] = []
    hook = (
        NETWORK.attention[0]
        .score[2]
        .register_forward_hook(
            lambda module, inputs, output: seen.append(inputs[0].shape[0])
        )
    )
    with torch.inference_mode():
        NETWORK(image)
    hook.remove()
    assert seen == [5]


@pytest.mark.slow
def test_groups_of_months_learn_what_they_would_without_a_second_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(3)
    network = AttentionUNet(
        3, "tf_efficientnetv2_b0", (16, 12, 8, 8, 8), calendar=range(1, 7)
    )
    image = torch.randn(2, 6, 3, 64, 64)
    image[0, 1], image[1, 4:] = torch.nan, torch.nan
    found = []
    for again in (True, False):
        if not again:
            run = lambda encode, *inputs, **settings: encode(*inputs)  # noqa: E731
            monkeypatch.setattr("geobiomass.network.encoder_decoder.checkpoint", run)
        trained = copy.deepcopy(network).train()
        trained.month_group = 2
        trained(image).square().mean().backward()
        found.append(trained)
    once, twice = ([p.grad for p in each.parameters()] for each in found)
    assert all(a is b or torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    # Batch norm has counted every group once: three in the encoder.
    buffers = [dict(each.named_buffers()) for each in found]
    assert all(torch.equal(buffers[0][name], buffers[1][name]) for name in buffers[0])
    assert buffers[0]["encoder.bn1.num_batches_tracked"] == 3


@pytest.mark.slow
def test_groups_of_months_change_nothing_where_batch_norm_is_settled() -> None:
    network, grouped = small(), small()
    image = torch.randn(2, 5, 3, 32, 32)
    image[0, 3] = torch.nan
    grouped.month_group = 2
    seen: list[int] = []
    grouped.encoder.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].shape[0])
    )
    one, other = network(image), grouped(image)
    assert seen == [3, 3, 3]  # nine images, in three groups
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    one.sum().backward()
    other.sum().backward()
    for a, b in zip(network.parameters(), grouped.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, atol=1e-3, rtol=1e-3)


def test_training_and_maps_work_in_the_same_order_of_memory() -> None:
    network = small()
    orders: list[bool] = []
    for module in (network.encoder, *network.decoder.blocks):
        module.register_forward_pre_hook(
            lambda module, inputs: orders.append(
                inputs[0].is_contiguous(memory_format=torch.channels_last)
            )
        )
    for mode in (network.train(), network.eval()):
        mode(torch.randn(2, 3, 3, 64, 64))
    assert len(orders) == 12
    assert all(orders)


def test_bf16_does_not_round_the_prediction_to_steps() -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = NETWORK(torch.randn(1, 2, 3, 64, 64))
    assert found.dtype == torch.float32
    assert len(found.unique()) > 3000  # of 4,096; in bf16 a few hundred


def test_networks_of_double_precision_work_too() -> None:
    network, image = small().eval(), torch.randn(1, 2, 3, 32, 32)
    with torch.inference_mode():
        single, double = network(image), network.double()(image.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=1e-4)


def test_the_image_is_left_as_it_is() -> None:
    image = torch.randn(1, 2, 3, 32, 32)
    image[0, 0, 1, 5:9] = torch.nan
    before = image.clone()
    small()(image)
    torch.testing.assert_close(image, before, rtol=0, atol=0, equal_nan=True)


def test_a_pass_that_is_missing_is_told_from_one_that_is_average() -> None:
    image = torch.randn(1, 4, 3, 32, 32)
    image[:, 1, 1:] = 0.0  # what a missing value becomes once it is scaled
    lacking = image.clone()
    lacking[:, 1, 1:] = torch.nan
    with torch.inference_mode():
        for kind, network in KINDS.items():
            same = torch.equal(network(image), network(lacking))
            assert same == (kind == "zero")


def test_what_the_encoder_sees_of_missing_values() -> None:
    image = torch.full((1, 1, 3, 32, 32), 2.0)
    image[..., 0, :4, :] = torch.nan  # of the first pass; the second has bands 1 and 2
    image[..., 1, 4:8, :] = torch.nan  # of the second, which has another band
    image[..., 1:, 8:12, :] = torch.nan
    seen: dict[str, torch.Tensor] = {}
    for kind in ("validity", "renormalise"):
        hook = KINDS[kind].encoder.register_forward_hook(
            lambda module, inputs, output, kind=kind: seen.update({kind: inputs[0][0]})
        )
        with torch.inference_mode():
            KINDS[kind](image)
        hook.remove()
    rows = [0, 4, 8, 12]  # one of each kind of row
    expected = [[0, 2, 2, 2], [2, 0, 0, 2], [2, 2, 0, 2]]
    flags = [[1, 0, 0, 0], [0, 0, 1, 0]]
    found = seen["validity"][:, rows, 0].tolist()
    assert found == expected + flags
    times = torch.tensor([1.5, 1.5, 3.0, 1.0])
    assert torch.equal(seen["renormalise"][:, rows, 0], torch.tensor(expected) * times)


@pytest.mark.parametrize("missing", ["zero", "validity", "renormalise"])
def test_missing_values_are_zero_after_scaling(missing: Missing) -> None:
    months = torch.full((1, 2, 1, 3), 7.0)
    months[0, :, 0, 1] = torch.tensor([torch.nan, torch.inf])
    months[0, 1, 0, 2] = torch.nan
    shift, scale = torch.tensor([3.0, 5.0]), torch.tensor([2.0, 4.0])
    found = standardise(months, shift, scale, missing, (0, 0))
    last = 4.0 if missing == "renormalise" else 2.0  # one of two bands is there
    assert found[0, :2, 0].tolist() == [[2.0, 0.0, last], [0.5, 0.0, 0.0]]


def test_beyond_the_edge_nothing_is_there() -> None:
    padded = torch.full((1, 2, 3, 64, 64), torch.nan)
    padded[..., :40, :50] = torch.randn(1, 2, 3, 40, 50)
    with torch.inference_mode():
        for network in (KINDS["validity"], KINDS["renormalise"]):
            found = network(padded[..., :40, :50])
            assert torch.equal(found, network(padded)[..., :40, :50])


def test_the_month_of_the_year_counts_and_not_the_order() -> None:
    network = KINDS["month term"]
    image = torch.randn(1, 4, 3, 32, 32)
    with torch.inference_mode():
        found = network(image)
        assert torch.equal(found, network(image, calendar=(6, 7, 8, 9)))
        assert not torch.equal(found, network(image, calendar=(9, 8, 7, 6)))
        turned = network(image.flip(1), calendar=(9, 8, 7, 6))
        torch.testing.assert_close(turned, found, atol=1e-5, rtol=1e-5)
        weights = network.month_weights(image, calendar=(9, 8, 7, 6))
        assert not torch.equal(weights, network.month_weights(image))
        wrapped = InMonths(network, (9, 8, 7, 6))(image)
        assert torch.equal(wrapped, network(image, calendar=(9, 8, 7, 6)))


def test_an_absent_month_does_not_move_the_others_in_the_year() -> None:
    network, image = KINDS["month term"], torch.randn(1, 4, 3, 32, 32)
    present = torch.tensor([[True, False, True, True]])
    with torch.inference_mode():
        alone = network(image[:, [0, 2, 3]], calendar=(6, 8, 9))
        assert torch.equal(network(image, present), alone)


def test_before_training_the_month_of_the_year_changes_nothing() -> None:
    torch.manual_seed(0)
    network = AttentionUNet(3, "resnet10t", (8,) * 5, calendar=(1, 2)).eval()
    image = torch.randn(1, 2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(network(image), network(image, calendar=(7, 8)))


def test_the_year_is_a_circle_of_twelve_different_months() -> None:
    waves = seasons(range(1, 13))
    assert waves.shape == (12, 4)
    apart = torch.cdist(waves, waves) + 9 * torch.eye(12)
    assert apart.min() > 0.5
    torch.testing.assert_close(seasons([0]), seasons([12]), atol=1e-6, rtol=0)


def test_encoding_the_months_there_equals_encoding_all_and_masking() -> None:
    # Law 2, against the plain form: every month encoded, absent ones as zeros.
    image = torch.randn(2, 5, 3, 64, 32)
    present = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 1, 1]], dtype=torch.bool)
    with torch.inference_mode():
        found = NETWORK(image, present)
        levels = NETWORK.encoder(
            image.where(present[..., None, None, None], 0.0).flatten(0, 1)
        )
        pooled = [
            attention(level.unflatten(0, (2, 5)), present)
            for attention, level in zip(NETWORK.attention, levels, strict=True)
        ]
        raw = NETWORK.head(NETWORK.decoder([image[:, 0], *pooled]))
    torch.testing.assert_close(found, raw, atol=1e-5, rtol=1e-5)


def test_nothing_at_all_gives_finite_numbers_and_gradients() -> None:
    network = small()
    prediction = network(torch.full((2, 3, 3, 32, 32), torch.nan))
    assert prediction.isfinite().all()
    prediction.sum().backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)


def test_missing_pixels_give_no_nan_gradients() -> None:
    network = small().train()
    image = torch.randn(2, 3, 3, 32, 32)
    image[0, 1] = torch.nan
    image[1, :, 0, :5] = torch.inf
    network(image).square().mean().backward()
    learning = [p for p in network.parameters() if p.requires_grad]
    # One without a gradient would stop training on several processes.
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learning)


@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (32, 64), (100, 100)])
def test_any_height_and_width(shape: tuple[int, int]) -> None:
    with torch.inference_mode():
        assert NETWORK(torch.randn(1, 2, 3, *shape)).shape == (1, 1, *shape)


@pytest.mark.parametrize(
    ("encoder", "levels"),
    [
        ("mobilenetv3_small_050", 5),
        ("tf_efficientnetv2_b0", 5),
        ("convnext_atto", 4),  # its first level has a stride of 4
    ],
)
def test_any_pyramid_is_an_encoder(encoder: str, levels: int) -> None:
    network = AttentionUNet(3, encoder, (16,) * levels).train()
    prediction = network(torch.randn(2, 2, 3, 64, 96))
    assert prediction.shape == (2, 1, 64, 96)
    prediction.square().mean().backward()
    learning = [p for p in network.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in learning)


def test_statistics_scale_bands_and_outputs() -> None:
    network, plain = small(), small()
    image = torch.randn(1, 2, 3, 32, 32) * 100 + 50
    network.set_statistics([50, 40, 30], [100, 90, 80], [63.0], [70.0])
    shift = torch.tensor([50.0, 40, 30])[:, None, None]
    scale = torch.tensor([100.0, 90, 80])[:, None, None]
    with torch.inference_mode():
        found, raw = network(image), plain((image - shift) / scale)
    torch.testing.assert_close(found, raw * 70 + 63)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_pretrained_weights_from_a_local_file(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(5)
    donor = timm.create_model("resnet10t", pretrained=False)
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(donor.state_dict(), path)
    else:
        save_file(donor.state_dict(), path)
    network = AttentionUNet(3, "resnet10t", (16, 12, 8, 8, 8), pretrained=path)
    found = network.encoder.state_dict()
    there = donor.state_dict()
    assert torch.equal(found["layer1.0.conv1.weight"], there["layer1.0.conv1.weight"])


def test_the_attention_can_be_looked_at() -> None:
    image = torch.randn(1, 3, 3, 32, 32)
    image[0, 0] = torch.nan
    with torch.inference_mode():
        weights = NETWORK.month_weights(image)
    assert weights.shape == (1, 3, 16, 16)
    assert (weights[:, 0] == 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(1, 16, 16))


def bad_calls() -> list[tuple[type, str, object]]:
    image = torch.zeros(1, 2, 3, 32, 32)
    wrong: list[tuple[object, str]] = [
        (
            lambda: NETWORK(image[0]),
            r"must be \(batch, month, 3 bands, y, x\), got \(2",
        ),
        (lambda: NETWORK(image[:, :, :2]), "3 bands"),
        (lambda: NETWORK(image, torch.ones(1, 3, dtype=torch.bool)), r"got \(1, 3\)"),
        (lambda: NETWORK(image, torch.ones(1, 2)), "float32"),
        (lambda: AttentionUNet(3, "resnet_ten"), "'resnet_ten' is not a timm model"),
        (lambda: AttentionUNet(3, "resnet10t", (8, 8)), "5 values"),
        (
            lambda: AttentionUNet(3, "vit_tiny_patch16_224", (8,) * 12),
            "growing strides",
        ),
        (
            lambda: AttentionUNet(3, "resnet10t", (8,) * 5, pretrained="no.pth"),
            "no.pth",
        ),
        (lambda: small(passes=(0, 1)), "passes must have a number for each of 3 bands"),
        (lambda: small(missing="mean"), "missing must be .*, got 'mean'"),
        (lambda: small(calendar=(0, 1)), r"1 to 12, got \[0, 1\]"),
        (
            lambda: KINDS["month term"](image),
            r"image's 2 steps, got \(6, 7, 8, 9\); give network\(image, calendar=",
        ),
        (lambda: small().set_statistics([0, 0], [1, 1]), "shift must have 3 values"),
        (
            lambda: small().set_statistics([0] * 3, [1, 0, 1]),
            "scale must be above zero",
        ),
    ]
    return [(ValueError, said, call) for call, said in wrong]


@pytest.mark.parametrize(("error", "said", "call"), bad_calls())
def test_bad_input_says_what_is_wrong(error: type, said: str, call) -> None:
    with pytest.raises(error, match=said):
        call()
