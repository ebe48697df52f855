"""No network that the schema allows ends its process, or gets other gradients than in 64-bit: see walk.py and models/conv.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from xceptlab.models.conv import Conv2d

WALK = Path(__file__).with_name("walk.py")


@pytest.mark.parametrize(
    ("what", "threads", "isa"),
    [("layers", "1", "AVX2"), ("layers", "2", "AVX2"), ("layers", "1", ""), ("layers", "2", ""), ("networks", "1", "AVX2")],
)
def test_no_width_stem_segments_or_size_corrupts_memory(what, threads, isa):
    limit = {"ONEDNN_MAX_CPU_ISA": isa} if isa else {}  # the CPUs that users have: oneDNN has other kernels for each
    command = [sys.executable, "-X", "faulthandler", str(WALK), what, threads]
    done = subprocess.run(command, env=os.environ | limit, capture_output=True, text=True, timeout=600)
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


def test_where_no_gradient_is_wanted_the_layer_is_torchs_own(monkeypatch):
    """So an exported network has no trace of it."""
    monkeypatch.setattr(nn.functional, "pad", None)
    with torch.no_grad():
        Conv2d(4, 8, 1, stride=2)(torch.randn(1, 4, 8, 8))
