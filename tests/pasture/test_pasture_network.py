import math

import pytest
import timm
import torch
from pasture_files import one_thread
from safetensors.torch import save_file

from pasture.network import PastureNetwork, add_up

TINY = "test_vit"  # 0.3 million parameters, patches of 16
LARGE = "vit_large_patch16_dinov3"


def make(stream: str = "single", backbone: str = TINY, **settings) -> PastureNetwork:
    torch.manual_seed(0)
    return PastureNetwork(backbone, stream, **settings).eval()


def draw(height: int = 32, width: int = 64, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    size = (count, 3, height, width)
    return torch.randint(256, size, dtype=torch.uint8, generator=generator)


@pytest.fixture(autouse=True)
def _threads():
    with one_thread():
        yield


@pytest.mark.parametrize("stream", ["single", "dual"])
@pytest.mark.parametrize("backbone", [TINY, "resnet10t", "vit_tiny_patch16_224"])
def test_photos_to_grams(backbone, stream):
    network = make(stream, backbone)
    for training in (True, False):
        grams = network.train(training)(draw())
        assert grams.shape == (2, 5)
        assert grams.dtype == torch.float32
        assert bool((grams >= 0).all())


def test_bytes_and_fractions_are_the_same_photo():
    network = make()
    torch.testing.assert_close(network(draw()), network(draw() / 255))


def test_pixels_are_normalised_as_imagenet():
    network = make()
    seen = []
    network.backbone.forward_features = lambda image: (
        seen.append(image) or (torch.zeros(len(image), 5, 64))
    )
    network(torch.full((1, 3, 32, 32), 0.5))
    expected = [(0.5 - m) / d for m, d in ((0.485, 0.229), (0.456, 0.224))]
    torch.testing.assert_close(seen[0][0, :2, 0, 0], torch.tensor(expected))


def heads_see(network: PastureNetwork, image: torch.Tensor) -> torch.Tensor:
    seen = []
    hook = network.heads[4].register_forward_pre_hook(lambda _, a: seen.append(a[0]))
    network(image)
    hook.remove()
    return seen[0]


def test_patch_tokens_are_averaged():
    network = make()
    image = (draw() / 255 - network.mean) / network.deviation
    tokens = network.backbone.forward_features(image)  # one class token, 2 x 4 patches
    assert tokens.shape == (2, 9, 64)
    torch.testing.assert_close(heads_see(network, draw()), tokens[:, 1:].mean(1))


def test_dual_stream_joins_the_features_of_left_and_right():
    one, two = make("single"), make("dual")
    two.backbone.load_state_dict(one.backbone.state_dict())
    image = draw()
    left, right = (heads_see(one, image[..., part]) for part in half(image))
    torch.testing.assert_close(heads_see(two, image), torch.cat([left, right], 1))


def half(image: torch.Tensor) -> tuple[slice, slice]:
    middle = image.shape[-1] // 2
    return slice(0, middle), slice(middle, None)


def test_dual_stream_adds_up_in_evaluation_mode_only():
    network = make("dual")
    green, dead, clover, matter, total = network(draw()).unbind(1)
    assert matter.equal(green + clover)
    assert total.equal(matter + dead)
    green, dead, clover, matter, total = network.train()(draw()).unbind(1)
    assert not torch.allclose(matter, green + clover, rtol=0.01)
    assert not torch.allclose(total, matter + dead, rtol=0.01)


def test_other_outputs_are_no_sums():
    network = make("dual", targets=3)
    grams = network(draw())
    assert grams.shape == (2, 3)
    network = make("dual", sums=False)
    green, _, clover, matter, _ = network(draw()).unbind(1)
    assert not torch.allclose(matter, green + clover, rtol=0.01)


def test_halves_may_attend_to_each_other():
    network = make("dual", fusion="attention")
    plain = make("dual")
    assert heads_see(network, draw()).shape == heads_see(plain, draw()).shape
    other = draw()
    _, right = half(other)
    other[..., right] = 255 - other[..., right]
    for net, apart in ((plain, True), (network, False)):
        before, after = (heads_see(net, image)[:, :64] for image in (draw(), other))
        assert torch.allclose(before, after, atol=1e-5) == apart
    # A single stream has no other half to attend to.
    names = {name for name, _ in make("single", fusion="attention").named_parameters()}
    assert names == {name for name, _ in make("single").named_parameters()}


def test_sums_do_not_change_their_parts():
    grams = torch.tensor([[1.0, 2.0, 3.0, 9.0, 9.0]])
    assert add_up(grams).tolist() == [[1, 2, 3, 4, 6]]


@pytest.mark.parametrize(("stream", "features"), [("single", 64), ("dual", 128)])
def test_heads_have_their_layers(stream, features):
    network = make(stream)
    count = sum(value.numel() for value in network.heads.parameters())
    head = (features * 512 + 512) + (512 * 128 + 128) + (128 + 1)
    assert count == 5 * head
    kinds = [type(layer).__name__ for layer in network.heads[0]]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Linear"]
    assert network.heads[0][2].p == 0.3


@pytest.mark.parametrize(("name", "tensors"), [("", 318), ("_qkvb", 366)])
def test_four_fifths_of_dinov3_large_are_frozen(name, tensors):
    with torch.device("meta"):
        network = PastureNetwork(f"{LARGE}{name}.lvd1689m", "dual")
    named = list(network.backbone.named_parameters())
    assert len(named) == tensors
    learning = [name for name, value in named if value.requires_grad]
    assert learning[0] == "blocks.19.norm1.bias"
    assert len(named) - len(learning) == math.floor(0.8 * tensors)
    assert all(value.requires_grad for value in network.heads.parameters())
    assert network.heads[0][0].in_features == 2048
    network.check_size(1024, 2048)


@pytest.mark.parametrize(
    ("freeze", "frozen"), [(0, 0), (1, 100), (0.29, 29), (0.555, 55)]
)
def test_the_first_tensors_are_frozen(freeze, frozen, monkeypatch):
    plain = torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(50)))
    plain.num_features = 1
    monkeypatch.setattr("pasture.network._build_backbone", lambda *_: plain)
    network = PastureNetwork(freeze=freeze)
    learning = [value.requires_grad for value in network.backbone.parameters()]
    assert learning == [False] * frozen + [True] * (100 - frozen)


@pytest.mark.parametrize(
    ("stream", "height", "width", "message"),
    [
        ("single", 40, 64, "multiples of 16 and 16 pixels, got 40 x 64"),
        ("dual", 32, 48, "multiples of 16 and 32 pixels, got 32 x 48"),
        ("single", 0, 64, "got 0 x 64"),
    ],
)
def test_a_size_that_is_no_multiple_of_patches_is_refused(
    stream, height, width, message
):
    network = make(stream)
    with pytest.raises(ValueError, match=message):
        network.check_size(height, width)
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(1, 3, height, width))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stream": "triple"}, 'stream .* "single" or "dual", got \'triple\''),
        ({"sums": True, "targets": 3}, "targets .* 5 where two are sums, got 3"),
        ({"fusion": "sum"}, 'fusion .* "concat" or "attention", got \'sum\''),
        ({"targets": 0}, "targets .* 1 or more, got 0"),
        ({"freeze": 1.2}, "freeze .* from 0 to 1, got 1.2"),
        ({"backbone": "vit_tiny_patch61"}, "'vit_tiny_patch61'; .*vit_tiny_patch16"),
        ({"backbone": "resnet18.unknown"}, r"'resnet18.unknown'; .*resnet18\.a1_in1k"),
        ({"backbone": "mixer_s32_224"}, "any size, got 'mixer_s32_224'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PastureNetwork(**({"backbone": TINY} | settings))


# --- weights from a file ---


@pytest.fixture
def weights():
    torch.manual_seed(7)
    return timm.create_model(TINY, num_classes=10).state_dict()


def test_weights_come_from_a_local_file(weights, tmp_path):
    save_file(weights, tmp_path / "model.safetensors")
    network = make(pretrained=tmp_path / "model.safetensors")
    assert "head.weight" in weights
    for name, value in network.backbone.state_dict().items():
        assert value.equal(weights[name]), name
    assert not make().backbone.pos_embed.equal(weights["pos_embed"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"norm.bias": None},
            r"norm\.bias, which is \(64,\) in the backbone and missing",
        ),
        (
            {"extra.bias": torch.ones(1)},
            r"extra\.bias, which is missing in the backbone",
        ),
        (
            {"norm.bias": torch.ones(3)},
            r"norm\.bias, which is \(64,\) .* \(3,\) in the file",
        ),
    ],
)
def test_weights_of_another_network_are_refused(weights, tmp_path, change, message):
    kept = {
        name: value for name, value in (weights | change).items() if value is not None
    }
    save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        make(pretrained=str(tmp_path / "model.safetensors"))


def test_weights_must_be_a_safetensors_file(weights, tmp_path):
    torch.save(weights, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"safetensors file, got .*model\.pth"):
        make(pretrained=tmp_path / "model.pth")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        make(pretrained=tmp_path / "nowhere.safetensors")
