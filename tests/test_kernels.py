"""The Triton kernels that wait for a GPU to be measured are right to rounding, in Triton's
interpreter.
"""

import os
import subprocess
import sys

import pytest

from conftest import ROOT

pytest.importorskip("triton", reason="triton comes with torch on Linux")

CHECK = """
import sys

import torch
from torch.nn import functional as F

from _kernels import depthwise, depthwise_backward, max_pool, max_pool_backward


def error(found, exact):
    return float((found.double() - exact).norm() / exact.norm())


def check(images, channels, height, width, dtype, tolerance):
    x = torch.randn(images, channels, height, width).to(dtype)  # not channels last, which they must not mind
    dy = torch.randn_like(x)
    weight = torch.randn(channels, 1, 3, 3).to(dtype)
    scale, shift = torch.randn(channels), torch.randn(channels)
    exact_x, exact_weight = x.double(), weight.double().requires_grad_()
    z = (exact_x * scale.double().view(1, -1, 1, 1) + shift.double().view(1, -1, 1, 1)).requires_grad_()
    exact = F.conv2d(z.relu(), exact_weight, padding=1, groups=channels)
    exact.backward(dy.double())
    tile = 4, 8, 16
    assert error(depthwise(x, weight, scale, shift, tile), exact) < tolerance
    dz, dw, sums, sums_x = depthwise_backward(x, dy, weight, scale, shift, tile)
    assert error(dz, z.grad) < tolerance
    assert error(dw, exact_weight.grad) < 1e-6
    assert error(sums, z.grad.sum((0, 2, 3))) < 1e-6
    assert error(sums_x, (z.grad * exact_x).sum((0, 2, 3))) < 1e-6
    pad = height % 2
    padded = F.pad(x.double(), (pad, 1, pad, 1), value=-1e30).requires_grad_()
    exact = F.max_pool2d(padded, 3, 2)
    y, place = max_pool(x, pad, tuple(exact.shape[2:]), 32, 16)
    assert torch.equal(y.double(), exact)
    gradient = torch.randn(y.shape).to(dtype)
    exact.backward(gradient.double())
    inner = padded.grad[:, :, pad : pad + height, pad : pad + width]
    assert error(max_pool_backward(gradient, place, pad, (height, width), 32, 16), inner) < tolerance


torch.manual_seed(0)
check(2, 20, 9, 7, torch.float32, 1e-6)
check(1, 3, 6, 5, torch.bfloat16, 4e-3)
"""


def test_they_agree_with_float64_for_odd_sizes_and_channels():
    environment = dict(os.environ, TRITON_INTERPRET="1", PYTHONPATH=str(ROOT / "benchmarks"))
    done = subprocess.run(
        [sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
