"""The network: the paper's numbers, and what the variants share."""

import dataclasses
import itertools
from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xceptlab import register
from xceptlab.config.schema import ModelConfig
from xceptlab.models.build import build, channels_last
from xceptlab.models.cost import changes, cost, table
from xceptlab.models.separable import ACTIVATIONS, SeparableConv2d
from xceptlab.models.xception import MaxPool, Xception

SMALL = {"width": 0.125, "middle_blocks": 1}


@pytest.mark.parametrize(
    ("changes", "parameters", "macs"),
    [
        ({}, 22_855_952, 8_357_403_496),
        ({"order": "pointwise_first"}, 22_873_808, 8_383_857_448),
        ({"residual": "none"}, 21_878_880, 8_125_858_664),
        ({"intermediate": "relu"}, 22_855_952, 8_357_403_496),
        ({"intermediate_norm": True}, 22_855_952 + 46_096, 8_357_403_496),
        ({"residual": "identity_only"}, 21_878_880, 8_125_858_664),
        ({"residual": "projection_only"}, 22_855_952, 8_357_403_496),
        ({"intermediate": "elu"}, 22_855_952, 8_357_403_496),
        (
            {"order": "pointwise_first", "intermediate_norm": True},
            22_873_808 + 50_064,
            8_383_857_448,
        ),
        (
            {"padding": "symmetric", "dropout": 0.5, "init": "timm", "bn_eps": 1e-5},
            22_855_952,
            8_357_403_496,
        ),
        ({"stem": "cifar"}, 22_855_952, 33_521_100_792),
        ({"width": 0.5}, 6_292_444, 2_127_705_876),
        ({"order": "pointwise_first", "segments": 2}, 121_988_648, 47_347_905_856),
        ({"order": "pointwise_first", "segments": 1}, 221_328_776, 86_470_598_560),
        ({"order": "pointwise_first", "segments": 4}, 72_318_584, 27_786_559_504),
        ({"order": "pointwise_first", "segments": 8}, 47_483_552, 18_005_886_328),
        ({"convolution": "regular"}, 179_071_688, 68_818_345_696),
        ({"fc": (4096, 4096)}, 50_077_968, 8_384_617_320),
        ({"middle_blocks": 0}, 9_944_144, 3_708_855_592),
        ({"middle_blocks": 32}, 61_591_376, 22_303_047_208),
        ({"timm": "legacy_xception"}, 22_855_952, 8_357_403_496),
        ({"timm": "inception_v3"}, 23_834_568, 5_713_216_096),
    ],
)
def test_parameters_and_macs_at_299(changes, parameters, macs):
    assert cost(ModelConfig(**changes), 1000, 299) == (parameters, macs)


def test_parameters_with_batchnorm_statistics():
    with torch.device("meta"):
        network = Xception(ModelConfig())
    statistics = sum(
        b.numel() for name, b in network.named_buffers() if not name.endswith("num_batches_tracked")
    )
    assert sum(p.numel() for p in network.parameters()) + statistics == 22_910_480


def test_feature_maps_have_the_papers_sizes():
    shapes = {row.name: row.shape for row in table(ModelConfig(), 1000, 299)}
    assert shapes["entry.stem.norm1"] == (32, 149, 149)
    assert shapes["entry.stem"] == (64, 147, 147)
    assert shapes["entry.block1"] == (128, 74, 74)
    assert shapes["entry.block2"] == (256, 37, 37)
    assert shapes["entry.block3"] == shapes["middle.7"] == (728, 19, 19)
    assert shapes["exit.block"] == (1024, 10, 10)
    assert shapes["exit"] == (2048,)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_small_images_with_the_small_stem(size):
    network = Xception(ModelConfig(**SMALL, stem="cifar"), classes=7).eval()
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 7)
    assert network.features(torch.zeros(2, 3, size, size)).shape == (2, 256)


def test_an_image_that_is_too_small_is_refused():
    """And the smallest that is taken is named: 6 pixels become 2, and the second convolution needs
    3.
    """
    with pytest.raises(
        ValueError,
        match=r"data\.size: 6 does not fit this network \(.*\); the smallest that does is 7",
    ):
        table(ModelConfig(), 1000, 6)
    with pytest.raises(
        ValueError, match=r"data\.size: 299 does not fit .*; the smallest that does is 224"
    ):
        table(ModelConfig(timm="vit_tiny_patch16_224"), 1000, 299)


@pytest.mark.parametrize("size", [7, 8, 19, 74])
def test_same_pooling_is_tensorflows(size):
    """TensorFlow pads ceil(n / 2) windows of 3 evenly, the odd pixel at the end."""
    x = torch.randn(2, 3, size, size + 1, generator=torch.Generator().manual_seed(0))
    pads = []
    for n in (size + 1, size):
        total = max((-(-n // 2) - 1) * 2 + 3 - n, 0)
        pads += [total // 2, total - total // 2]
    want = F.max_pool2d(F.pad(x, pads, value=float("-inf")), 3, stride=2)
    assert torch.equal(MaxPool("same")(x), want)
    assert torch.equal(MaxPool("symmetric")(x), F.max_pool2d(x, 3, stride=2, padding=1))


@pytest.mark.parametrize("order", ["depthwise_first", "pointwise_first"])
@pytest.mark.parametrize("intermediate", ["none", "relu", "elu", "gelu", "silu"])
def test_a_separable_convolution_is_its_two_convolutions(order, intermediate):
    torch.manual_seed(0)
    layer = SeparableConv2d(4, 6, ModelConfig(order=order, intermediate=intermediate))
    x = torch.randn(2, 4, 5, 5)
    activation = {
        "none": lambda y: y,
        "relu": F.relu,
        "elu": F.elu,
        "gelu": F.gelu,
        "silu": F.silu,
    }[intermediate]
    if order == "depthwise_first":
        want = F.conv2d(
            activation(F.conv2d(x, layer.depthwise.weight, padding=1, groups=4)),
            layer.pointwise.weight,
        )
    else:
        want = F.conv2d(
            activation(F.conv2d(x, layer.pointwise.weight)),
            layer.depthwise.weight,
            padding=1,
            groups=6,
        )
    assert torch.allclose(layer(x), want, atol=1e-6)


def test_the_schema_and_the_network_know_the_same_activations():
    # or the name of a registered one
    built_in, _ = get_args(ModelConfig.__dataclass_fields__["intermediate"].type)
    assert set(ACTIVATIONS) == set(get_args(built_in))


@pytest.mark.parametrize("segments", [1, 2, 4, "all"])
def test_segments_are_groups_of_channels(segments):
    torch.manual_seed(0)
    layer = SeparableConv2d(4, 8, ModelConfig(order="pointwise_first", segments=segments))
    x = torch.randn(2, 4, 5, 5)
    mixed, groups = F.conv2d(x, layer.pointwise.weight), 8 if segments == "all" else segments
    want = [
        F.conv2d(part, w, padding=1)
        for part, w in zip(
            mixed.chunk(groups, 1), layer.depthwise.weight.chunk(groups), strict=True
        )
    ]
    assert torch.allclose(layer(x), torch.cat(want, 1), atol=1e-6)


def test_segments_that_do_not_divide_say_where_and_what_would():
    with pytest.raises(
        ValueError,
        match=r"3 does not divide the 128 channels of entry.block1.units.0; what divides every layer's: 1, 2, 4, 8 or all",
    ):
        cost(ModelConfig(order="pointwise_first", segments=3), 1000, 299)


def test_normalisation_stands_between_the_convolutions_before_the_activation():
    layer = SeparableConv2d(4, 6, ModelConfig(intermediate="relu", intermediate_norm=True)).eval()
    torch.nn.init.constant_(layer.intermediate_norm.bias, -1)
    x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    middle = F.relu(layer.intermediate_norm(layer.depthwise(x)))
    assert torch.equal(layer(x), layer.pointwise(middle))


def test_a_timm_model_starts_by_its_seed_and_leaves_the_generator_alone():
    config = ModelConfig(timm="resnet10t")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (build(config, classes=3, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["fc.weight"], c["fc.weight"])
    d = build(ModelConfig(timm="resnet10t", dropout=0.5), classes=3, seed=1).state_dict()
    assert all(torch.equal(a[name], d[name]) for name in a)


@pytest.mark.parametrize(
    "changes", [{}, {"fc": (32,)}, {"timm": "legacy_xception"}, {"timm": "resnet10t"}], ids=str
)
def test_dropout_acts_before_the_classifier_in_training(changes):
    """timm's Xception once threw its dropout's result away."""
    network = build(ModelConfig(**SMALL | changes, dropout=0.5), classes=3).eval()
    classifier = network.classifier if hasattr(network, "classifier") else network.fc
    seen = []
    classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network(x)
        for module in network.modules():
            module.training = not isinstance(module, torch.nn.BatchNorm2d)
        network(x)
    dropped = (seen[1] == 0) & (seen[0] != 0)
    assert 0.3 < dropped.sum() / (seen[0] != 0).sum() < 0.7
    assert torch.allclose(seen[1][~dropped], 2 * seen[0][~dropped], rtol=1e-4)


def test_a_timm_name_that_does_not_exist_suggests_the_nearest():
    with pytest.raises(
        ValueError, match=r"timm has no model 'inception_v33'; did you mean inception_v3\?"
    ):
        build(ModelConfig(timm="inception_v33"), classes=3)


def test_the_relu_at_the_head_of_a_block_leaves_the_skips_input_alone():
    """An in-place one would change it, as in several ports."""
    network = Xception(ModelConfig(**SMALL), classes=3).eval()
    block = network.middle[0]
    x = torch.randn(1, 91, 6, 6, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    out = block(x)
    assert torch.equal(x, before)
    assert torch.equal(out, block.units(before) + before)


VARIANTS = [
    {},
    {"residual": "none"},
    {"order": "pointwise_first"},
    {"intermediate": "relu"},
    {"middle_blocks": 3},
    {"residual": "none", "intermediate": "elu"},
    {"stem": "cifar"},
    {"width": 0.25},
    {"intermediate_norm": True},
    {"residual": "identity_only"},
    {"residual": "projection_only"},
    {"order": "pointwise_first", "segments": 2, "divisor": 2},
    {"convolution": "regular"},
    {"fc": (32,)},
    {"padding": "symmetric", "dropout": 0.5, "bn_eps": 1e-5, "bn_momentum": 0.1},
]
"""All but ``init``, whose meaning is to start otherwise."""


@pytest.mark.parametrize(("one", "other"), itertools.combinations(VARIANTS, 2))
def test_modules_shared_by_name_and_shape_start_equal(one, other):
    a, b = (
        Xception(ModelConfig(**SMALL | changes), classes=5, seed=3).state_dict()
        for changes in (one, other)
    )
    shared = [name for name in a.keys() & b.keys() if a[name].shape == b[name].shape]
    assert len(shared) > 5
    for name in shared:
        assert torch.equal(a[name], b[name]), name


def test_seeds_and_modules_start_different():
    a, b = (
        Xception(ModelConfig(**SMALL | {"middle_blocks": 2}), classes=5, seed=seed)
        for seed in (0, 1)
    )
    assert not torch.equal(a.classifier.weight, b.classifier.weight)
    assert not torch.equal(
        a.middle[0].units[0].separable.pointwise.weight,
        a.middle[1].units[0].separable.pointwise.weight,
    )


def test_initial_weights_are_keras_defaults():
    """Glorot uniform: the variance of a layer's weights is 2 / (fan in + fan out); biases are 0."""
    network = Xception(ModelConfig(), classes=1000)
    weight = network.middle[0].units[0].separable.pointwise.weight
    assert weight.var().item() == pytest.approx(2 / (728 + 728), rel=0.02)
    assert weight.abs().max().item() <= (6 / (728 + 728)) ** 0.5
    assert network.classifier.bias.abs().max() == 0


def test_changes_between_module_trees():
    base = table(ModelConfig(), 1000, 299)
    without = changes(base, table(ModelConfig(residual="none"), 1000, 299))
    assert "- entry.block1.skip Sequential" in without
    assert len(without) == 12
    assert (
        changes(base, table(ModelConfig(bn_eps=1e-5), 1000, 299))[0]
        == "~ entry.stem.norm1 eps=0.001 -> eps=1e-05"
    )
    activation = changes(base, table(ModelConfig(intermediate="relu"), 1000, 299))
    assert all(line.endswith("separable.intermediate Identity -> ReLU") for line in activation[:3])
    assert changes(base, base) == []


SHOWN = {
    "order": "pointwise_first", "intermediate": "elu", "intermediate_norm": True, "residual": "projection_only", "width": 0.5,
    "convolution": "regular", "divisor": 16, "timm": "resnet10t", "middle_blocks": 2, "stem": "cifar", "fc": (32,),
    "dropout": 0.5, "padding": "symmetric", "bn_eps": 1e-5, "bn_momentum": 0.1,
}  # fmt: skip


def test_every_field_shows_in_the_module_tree():
    """But what decides the initial weights, and ``match``, which decides the width; ``segments``
    needs another order.

    Other families, with options, are the user's (tests/test_extending.py).
    """
    unseen = {"init", "weights", "weights_digest", "match", "segments", "family", "options"}
    assert SHOWN.keys() == {f.name for f in dataclasses.fields(ModelConfig)} - unseen

    def small(**changes):
        return table(ModelConfig(**SMALL | changes), 10, 64)

    assert [
        name for name, value in SHOWN.items() if not changes(small(), small(**{name: value}))
    ] == []
    pointwise, four = (small(order="pointwise_first", divisor=4, segments=n) for n in ("all", 4))
    assert (
        "~ middle.0.units.0.separable.depthwise groups=92 92x1x3x3 -> groups=4 92x23x3x3"
        in changes(pointwise, four)
    )


OTHERWISE = {
    "order": "pointwise_first",
    "intermediate": "relu",
    "intermediate_norm": True,
    "residual": "none",
    "convolution": "regular",
    "width": 0.5,
    "divisor": 8,
    "middle_blocks": 2,
    "stem": "imagenet",
    "fc": (16,),
    "padding": "symmetric",
    "bn_eps": 0.1,
    "bn_momentum": 0.3,
}
"""Another value of each key that Xception may not read."""


@pytest.mark.parametrize(
    "changes", [{"convolution": "regular"}, {"timm": "resnet10t"}], ids=["regular", "timm"]
)
def test_keys_that_a_network_is_said_not_to_read_change_nothing_in_it_and_others_do(changes):
    """Widths have other weights, constants other descriptions: what a table of modules shows."""
    config = ModelConfig(stem="cifar", width=0.125, middle_blocks=1, **changes)
    unread = config.keys_without_effect()
    for name, value in OTHERWISE.items():
        if name in changes:
            continue
        other = dataclasses.replace(config, **{name: value})
        same = repr(build(config, 10)) == repr(build(other, 10))
        assert same == (f"model.{name}" in unread), name
    assert set(unread) - {f"model.{name}" for name in OTHERWISE} <= {"model.segments", "model.init"}
    assert ModelConfig().keys_without_effect() == {}


def test_weights_are_laid_out_as_torch_does_it_and_those_of_five_dimensions_stay():
    ours, torchs = (build(ModelConfig(**SMALL), 10) for _ in range(2))
    channels_last(ours)
    torchs.to(memory_format=torch.channels_last)
    for a, b in zip(ours.parameters(), torchs.parameters(), strict=True):
        assert a.stride() == b.stride()
    weights = channels_last(torch.nn.Conv3d(2, 4, 3)).weight
    assert weights.is_contiguous()


def test_the_products_of_attention_are_counted():
    model = ModelConfig(timm="pit_ti_224")
    _, macs = cost(model, 10, 224)
    assert macs == 698_806_016


@pytest.mark.parametrize("name", ["resnet10t.c3_in1k", "resnet10t.tagg"])
def test_a_tag_of_published_weights_is_refused_as_all_weights_are_drawn(name):
    message = f"model.timm: '{name}' is not allowed; it must be resnet10t, without the tag"
    with pytest.raises(ValueError, match=message):
        ModelConfig(timm=name)


class Gated(nn.Module):
    """An activation with parameters of every kind that a constructor may set or draw."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(1, 1, 3, padding=1)
        self.gate = nn.Linear(1, 1)
        self.drawn = nn.Parameter(torch.randn(3))
        self.register_buffer("mask", torch.rand(3))
        self.scale = nn.Parameter(torch.full((1,), 0.25))
        nn.init.zeros_(self.line.bias)


@pytest.fixture
def gated(monkeypatch):
    """The name of a registered activation with parameters."""
    monkeypatch.setattr(register, "_entries", {})
    register.activation("gated", version=1)(Gated)
    return "gated"


def test_a_registered_activation_starts_by_the_seed_and_the_layers_name(gated):
    config = ModelConfig(**SMALL | {"middle_blocks": 2}, intermediate=gated)
    variants = [{}, {"middle_blocks": 1}, {"residual": "none"}, {"fc": (8,)}, {"init": "timm"}]
    first = build(config, 5, seed=3).state_dict()
    inner = [name for name in first if ".intermediate." in name and ".gate." not in name]
    assert len(inner) > 20
    for variant in variants:
        torch.rand(1)
        again = build(dataclasses.replace(config, **variant), 5, seed=3).state_dict()
        assert all(torch.equal(again[name], first[name]) for name in inner if name in again)
    other = build(config, 5, seed=4).state_dict()
    place = "middle.{}.units.0.separable.intermediate"
    for name in ("line.weight", "gate.weight", "drawn", "mask"):
        one, two = (f"{place.format(i)}.{name}" for i in (0, 1))
        assert not torch.equal(first[one], other[one]), name
        assert not torch.equal(first[one], first[two]), name
    # What the constructor sets stays, but for 2d convolutions and linear layers.
    assert first[f"{place.format(0)}.scale"] == 0.25
    assert first[f"{place.format(0)}.line.bias"] == 0
    assert first[f"{place.format(0)}.gate.bias"] == 0


@pytest.mark.parametrize("intermediate", ["none", "gated"])
def test_building_leaves_torchs_generator_alone(gated, intermediate):
    before = torch.get_rng_state()
    build(ModelConfig(**SMALL, intermediate=intermediate, fc=(8,)), 5)
    assert torch.equal(torch.get_rng_state(), before)
