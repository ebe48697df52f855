"""No network that the schema allows ends its process, or gets other gradients than in 64-bit: see
walk.py and models/conv.py.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from models.walk import compare
from xceptlab.config.schema import ModelConfig
from xceptlab.models.build import build
from xceptlab.models.conv import Conv2d

WALK = Path(__file__).with_name("walk.py")


@pytest.mark.parametrize(
    ("what", "threads", "isa"),
    [
        ("layers", "1", "AVX2"),
        ("layers", "2", "AVX2"),
        ("layers", "1", ""),
        ("layers", "2", ""),
        ("networks", "1", "AVX2"),
    ],
)
def test_no_width_stem_segments_or_size_corrupts_memory(what, threads, isa):
    # the CPUs that users have: oneDNN has other kernels for each
    limit = {"ONEDNN_MAX_CPU_ISA": isa} if isa else {}
    command = [sys.executable, "-X", "faulthandler", str(WALK), what, threads]
    done = subprocess.run(
        command, env=os.environ | limit, capture_output=True, text=True, timeout=600
    )
    last = (done.stdout.splitlines() or ["nothing"])[-1]
    assert done.returncode == 0, f"exit code {done.returncode} at {last}: {done.stderr[-2000:]}"


@pytest.mark.parametrize("inputs", [8, 9, 12, 15, 16, 24])
@pytest.mark.parametrize("size", [2, 4, 8, 9, 16])
def test_layers_that_worked_keep_their_bits(inputs, size):
    torch.manual_seed(0)
    ours = Conv2d(inputs, 24, 1, stride=2, bias=False)
    plain = nn.Conv2d(inputs, 24, 1, stride=2, bias=False)
    plain.load_state_dict(ours.state_dict())
    x, found = torch.randn(16, inputs, size, size), []
    for layer in (ours, plain):
        layer.to(memory_format=torch.channels_last)
        images = x.to(memory_format=torch.channels_last, copy=True).requires_grad_()
        y = layer(images)
        y.backward(torch.ones_like(y))
        found.append((y, images.grad, layer.weight.grad))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


class Narrow(nn.Module):
    """As a narrow model of timm: strided 1x1 convolutions of few channels beside others."""

    def __init__(self, num_classes: int = 3, **_: object) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.skip = nn.Conv2d(4, 8, 1, stride=2)
        self.grouped = nn.Conv2d(8, 8, 1, stride=2, groups=8)
        self.wide = nn.Conv2d(8, 16, 1)
        self.last = nn.Conv2d(16, 4, 1, stride=2)
        self.head = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.head(self.last(self.wide(self.grouped(self.skip(self.stem(x))))).mean((2, 3)))


def test_narrow_models_of_timm_have_our_layer_where_torchs_own_fails(monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: Narrow(**options))
    torch.manual_seed(0)
    plain = Narrow()
    torch.manual_seed(0)
    network = build(ModelConfig(timm="resnet18"), 3)
    ours = [name for name, module in network.named_modules() if isinstance(module, Conv2d)]
    assert ours == ["skip"]
    assert network.state_dict().keys() == plain.state_dict().keys()
    assert all(
        torch.equal(network.state_dict()[name], value) for name, value in plain.state_dict().items()
    )
    compare(network, torch.randn(61, 3, 32, 32), 1e-4)
    with torch.no_grad():
        images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
        torch.testing.assert_close(network(images), plain.double()(images))


def test_where_no_gradient_is_wanted_the_layer_is_torchs_own(monkeypatch):
    """So an exported network has no trace of it."""
    monkeypatch.setattr(nn.functional, "pad", None)
    layer, images = Conv2d(4, 8, 1, stride=2), torch.randn(1, 4, 8, 8)
    with pytest.raises(TypeError):
        layer(images)
    with torch.no_grad():
        found = layer(images)
        assert torch.equal(found, nn.Conv2d.forward(layer, images))
