"""What test_native.py runs in processes of their own, since what it looks for ends a process:
``python walk.py layers|networks``.

Gradients in 32-bit are held against those in 64-bit, which another library computes: whatever
corrupts memory without ending the process shows in them. Prints each case before it is tried.
"""

import itertools
import sys

import torch
from torch import Tensor, nn

from xceptlab.config.schema import ModelConfig
from xceptlab.models.build import build
from xceptlab.models.conv import Conv2d

NETWORKS = [
    *(
        {"width": width}
        for width in (
            0.016,
            1 / 32,
            3 / 64,
            1 / 16,
            3 / 32,
            0.117,
            1 / 8,
            3 / 16,
            1 / 4,
            1 / 2,
            1.0,
        )
    ),
    *({"width": width, "divisor": 8} for width in (0.016, 1 / 16, 1 / 8)),
    *(
        {"width": width, "order": "pointwise_first", "segments": n, "divisor": 4}
        for width in (1 / 32, 1 / 8)
        for n in (1, 2, 4)
    ),
    *({"width": width, "residual": "projection_only"} for width in (1 / 32, 1 / 16)),
    *({"width": 1 / 16, "residual": residual} for residual in ("none", "identity_only")),
    *({"width": width, "convolution": "regular"} for width in (1 / 32, 1 / 8)),
    {
        "width": 1 / 16,
        "order": "pointwise_first",
        "intermediate": "relu",
        "intermediate_norm": True,
    },
    {"width": 1 / 16, "fc": (3,), "padding": "symmetric"},
]
IMAGES = {"cifar": ((8, 61), (9, 5), (64, 2)), "imagenet": ((37, 5),)}
"""By stem: sizes and numbers of images."""


def gradients(network: nn.Module, images: Tensor) -> list[Tensor]:
    network.zero_grad()
    logits = network(images.to(memory_format=torch.channels_last))
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).reshape(logits.shape)
    (logits * weights).mean().backward()
    return [parameter.grad.double().flatten() for parameter in network.parameters()]


def compare(network: nn.Module, images: Tensor, tolerance: float) -> None:
    """Two backward passes, each of which has to agree with the one in 64-bit."""
    network = network.to(memory_format=torch.channels_last)
    found = [torch.cat(gradients(network, images)) for _ in range(2)]
    exact = torch.cat(gradients(network.double(), images.double()))
    for one in found:
        error = (one - exact).norm() / exact.norm()
        assert error < tolerance, f"the gradient differs by {error:.2g} of its norm"


def layers() -> None:
    """The layer alone, on sizes and shares of threads at which oneDNN's own one is known to fail
    with AVX2 or AVX-512.
    """
    for inputs, outputs, (size, images) in itertools.product(
        range(1, 18), (1, 24), ((16, 61), (96, 3), (9, 3))
    ):
        print(inputs, outputs, size, images, flush=True)
        compare(
            Conv2d(inputs, outputs, 1, stride=2, bias=False),
            torch.randn(images, inputs, size, size),
            1e-4,
        )


def networks() -> None:
    for variant, stem in itertools.product(NETWORKS, IMAGES):
        for size, images in IMAGES[stem][: 1 if variant["width"] > 0.13 else None]:
            print(variant, stem, size, images, flush=True)
            network = build(ModelConfig(stem=stem, middle_blocks=1, **variant), 3)
            compare(network, torch.randn(images, 3, size, size), 0.1)


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(int(sys.argv[2]))
    {"layers": layers, "networks": networks}[sys.argv[1]]()
